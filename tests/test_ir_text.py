"""Types, the text of modules, constants beside it, and what other readers of MLIR make of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_text import ALIASES, checked, module_of
from small_graphs import passed, stages
from xdsl.dialects.builtin import FusedLoc, NameLoc, TensorType, UnknownLoc
from xdsl.ir import Attribute
from xdsl.utils.exceptions import VerifyException

from qcompiler.errors import IRError
from qcompiler.ir.onnx_dialect import ELEMENT_TYPES, onnx_ops
from qcompiler.ir.quant_types import UniformType, scale_text
from qcompiler.ir.store import ConstantStore, resource_name
from qcompiler.ir.text import parse_module, print_module
from qcompiler.ir.values import (
    body,
    fused_location,
    input_names,
    location,
    location_names,
    output_names,
    value_names,
)
from qcompiler.model import Model

MLIR_OPT = shutil.which("mlir-opt") or shutil.which("mlir-opt-16") or shutil.which("/usr/lib/llvm-16/bin/mlir-opt")

moderate = settings(max_examples=40, deadline=None)

tiny, huge = np.finfo(np.float32).tiny, np.finfo(np.float32).max
scales = st.floats(float(tiny), float(huge), width=32)
storages = st.sampled_from(["u8", "i8", "u16", "i16", "i32", *(f"{s}{n}" for s in "iu" for n in range(2, 8))])


def round_trip(kind: UniformType) -> UniformType:
    text = f"func.func @main(%x: tensor<2x4x6x{kind}>) {{\n  func.return\n}}\n"
    module = parse_module(text)
    printed = print_module(module)
    assert print_module(parse_module(printed)) == printed
    element = body(module).args[0].type.get_element_type()  # type: ignore[attr-defined]
    assert isinstance(element, UniformType)
    return element


@st.composite
def types(draw: st.DrawFn) -> UniformType:
    storage = draw(storages)
    qmin, qmax = UniformType.make(storage, 1.0).qmin, UniformType.make(storage, 1.0).qmax
    lo = draw(st.integers(qmin, qmax - 1))
    hi = draw(st.integers(lo + 1, qmax))
    form = draw(st.sampled_from(["tensor", "axis", "blocks"]))
    grid = {"tensor": (), "axis": (4,), "blocks": (2, 3)}[form]
    count = int(np.prod(grid))
    values = np.array(draw(st.lists(scales, min_size=count, max_size=count)), np.float32).reshape(grid)
    zeros = np.array(draw(st.lists(st.integers(lo, hi), min_size=count, max_size=count))).reshape(grid)
    place = {"axis": 1} if form == "axis" else {"blocks": {0: 1, 2: 2}} if form == "blocks" else {}
    return UniformType.make(storage, values, zeros, storage_range=(lo, hi), **place)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------- types


@moderate
@given(types())
def test_types_read_back(kind: UniformType) -> None:
    found = round_trip(kind)
    assert found == kind
    assert found.scales.tobytes() == kind.scales.tobytes()
    assert np.array_equal(found.zero_points, kind.zero_points)


@settings(max_examples=300, deadline=None)
@given(scales)
def test_scales_print_the_shortest_text_of_their_float32(scale: float) -> None:
    text = scale_text(scale)
    assert np.float32(float(text)) == np.float32(scale)
    assert re.fullmatch(r"\d\.\d+e[+-]\d\d", text)
    assert len(text) <= len("1.23456789e-01")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (UniformType.make("u8", 0.0186, 114), "!quant.uniform<u8:f32, 1.86e-02:114>"),
        (UniformType.make("i8", 1), "!quant.uniform<i8:f32, 1.0e+00>"),
        (
            UniformType.make("i8", [0.1, 0.2], [0, 3], axis=0, storage_range=(-127, 127)),
            "!quant.uniform<i8<-127:127>:f32:0, {1.0e-01, 2.0e-01:3}>",
        ),
        (
            UniformType.make("u4", [[0.1, 0.2], [0.5, 1]], blocks={0: 1, 1: 32}),
            "!quant.uniform<u4:f32:{0:1, 1:32}, {{1.0e-01, 2.0e-01}, {5.0e-01, 1.0e+00}}>",
        ),
        (UniformType.make("i32", [1e-4], axis=2), "!quant.uniform<i32:f32:2, {1.0e-04}>"),
    ],
)
def test_spelling(kind: UniformType, text: str) -> None:
    assert str(kind) == text


def test_properties_of_types() -> None:
    kind = UniformType.make("i8", [0.5, 0.25], [1, -2], axis=1, storage_range=(-127, 127))
    assert (kind.storage, kind.dtype, kind.qmin, kind.qmax, kind.axis) == ("i8", np.int8, -127, 127, 1)
    assert not kind.per_tensor
    assert kind.grid == (2,)
    assert kind.scales.tolist() == [0.5, 0.25]
    blocked = UniformType.make("u4", np.ones((2, 3)), blocks={0: 1, 1: 2})
    assert (blocked.axis, blocked.blocks, blocked.grid) == (None, {0: 1, 1: 2}, (2, 3))
    single = UniformType.make("u16", 0.5, 9)
    assert (single.scale, single.zero_point, single.per_tensor) == (np.float32(0.5), 9, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("u8", 0.0), "a scale must be finite and positive"),
        (("u8", float("nan")), "a scale must be finite and positive"),
        (("u8", 1.0, 256), "a zero point lies outside the storage range 0:255"),
        (("i8", 1.0, -129), "a zero point lies outside the storage range -128:127"),
        (("i8", [[1.0]]), "expected scales in as many dimensions as there are axes"),
    ],
)
def test_types_that_make_no_sense(arguments: tuple, message: str) -> None:
    with pytest.raises(VerifyException, match=re.escape(message)):
        UniformType.make(*arguments)


@pytest.mark.parametrize(
    ("kind", "position", "message"),
    [
        ("<u1:f32, 1.0>", 1, "expected a storage type i2..i16, u2..u16 or i32, got 'u1'"),
        ("<f8:f32, 1.0>", 1, "expected a storage type"),
        ("<u8:f64, 1.0>", 4, "Expected 'f32'"),
        ("<u8:f32, 1>", 9, "Expected float literal"),
        ("<u8:f32, 0.0>", 9, "expected a finite, positive scale, got 0.0"),
        ("<u8:f32, -1.0>", 9, "expected a finite, positive scale, got -1.0"),
        ("<u8:f32, 1.0e+39>", 9, "expected a finite, positive scale, got 1e+39"),
        ("<u8:f32, 1.0:256>", 12, "expected a zero point in 0:255, got 256"),
        ("<i8<-129:127>:f32, 1.0>", 4, "expected a storage range inside -128:127, got -129:127"),
        ("<i8<5:5>:f32, 1.0>", 4, "expected a storage range inside -128:127, got 5:5"),
        ("<u8:f32:0, {}>", 11, "expected a non-empty, rectangular list of scales"),
        ("<u8:f32:{0:1, 1:2}, {{1.0, 2.0}, {1.0}}>", 20, "expected a non-empty, rectangular list of scales"),
        ("<u8:f32:0, {{1.0, 2.0}}>", 7, "in as many dimensions as there are axes (1), got [1, 2]"),
        ("<u8:f32:{0:1, 1:2}, {1.0, 2.0}>", 7, "in as many dimensions as there are axes (2), got [2]"),
        ("<u8:f32:{0:1, 0:2}, {{1.0, 2.0}}>", 7, "axes that are not negative, each once, got [0, 0]"),
        ("<u8:f32:{0:0}, {1.0}>", 7, "blocks of at least one element, got [0]"),
    ],
)
def test_types_that_do_not_parse(kind: str, position: int, message: str) -> None:
    text = f"// a comment\n!q = !quant.uniform{kind}\nfunc.func @main(%x: tensor<2x!q>) {{\n  func.return\n}}\n"
    with pytest.raises(IRError, match=re.escape(message)) as error:
        parse_module(text, "some/file.mlir")
    assert str(error.value).startswith(f"some/file.mlir:2:{len('!q = !quant.uniform') + 1 + position}: ")
    assert f"!q = !quant.uniform{kind}" in str(error.value)


# --------------------------------------------------------------------------------------------------------- modules


def float_model() -> Model:
    return stages("residual-block").imported


def chosen_model() -> Model:
    graph = stages("residual-block")
    return passed(graph.imported, "canonicalize,calibrate,choose-scheme", graph.feeds)


MODELS = {
    "float": float_model,
    "chosen": chosen_model,
    "qdq": lambda: stages("residual-block").qdq,
    "integer": lambda: stages("residual-block").integer,
    "laid out": lambda: passed(stages("residual-block").integer, "legalize{storage=i8},fold-zero-point,plan-layout"),
    "several inputs and outputs": lambda: stages("inputs-and-outputs").integer,
    "absent operands": lambda: stages("resize-to-size").imported,
}


@pytest.mark.parametrize("name", MODELS)
def test_module_text_is_the_identity(name: str) -> None:
    text = MODELS[name]().text(["a header", "of two lines"])
    assert text.startswith("// a header\n// of two lines\n")
    again = Model(checked(text))
    assert again.text(["a header", "of two lines"]) == text


@pytest.mark.parametrize("name", MODELS)
def test_text_keeps_names_and_locations(name: str) -> None:
    model = MODELS[name]()
    again = Model(parse_module(model.text()))
    assert (again.inputs, again.outputs) == (model.inputs, model.outputs)
    assert list(value_names(again.module).values()) == list(value_names(model.module).values())
    places = [[location_names(op) for op in body(m.module).ops] for m in (model, again)]
    assert places[0] == places[1]
    assert any(places[0])


@pytest.mark.parametrize("name", ["float", "chosen", "qdq", "integer", "laid out"])
def test_types_do_not_make_lines_long(name: str) -> None:
    lines = MODELS[name]().text().splitlines()
    assert max(len(line) for line in lines if not line.startswith("!q")) < 900


def test_long_types_are_aliases_used_everywhere() -> None:
    text = MODELS["qdq"]().text()
    assert text.startswith("!q0 = !quant.uniform<i8<-127:127>:f32:0, {")
    assert text.count("i8<-127:127>:f32:") == len(re.findall(r"^!q\d+ = .*i8<", text, re.MULTILINE))
    assert "x!q0>" in text


def test_aliases_of_the_reader_are_free() -> None:
    module = checked(module_of('"q.quantize"(%x) : (tensor<2x2xf32>) -> tensor<2x2x!c>'))
    assert "!quant.uniform<i8<-127:127>:f32:0, {1.0e-01, 2.0e-01}>" in print_module(module)  # short: written out


def test_locations() -> None:
    text = (
        "func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {\n"
        '  %0 = "onnx.Abs"(%x) : (tensor<2xf32>) -> tensor<2xf32> loc("layer1/abs:0")\n'
        '  %1 = "onnx.Neg"(%0) : (tensor<2xf32>) -> tensor<2xf32> loc(fused["a", "b c"])\n'
        '  %2 = "onnx.Neg"(%1) : (tensor<2xf32>) -> tensor<2xf32>\n'
        "  func.return %2 : tensor<2xf32>\n}\n"
    )
    module = checked(text)
    printed = print_module(module)
    assert print_module(parse_module(printed)) == printed
    assert "loc(unknown)" not in printed
    first, second, third = list(body(module).ops)[:3]
    assert isinstance(first.location, NameLoc)
    assert isinstance(second.location, FusedLoc)
    assert isinstance(third.location, UnknownLoc)
    assert [location_names(op) for op in (first, second, third)] == [("layer1/abs:0",), ("a", "b c"), ()]
    assert fused_location(first, second) == location("layer1/abs:0", "a", "b c")
    assert fused_location(third, third) == third.location
    assert list(value_names(module).values()) == ["input0", "layer1/abs:0", "b c", "onnx.Neg"]


def test_names_of_arguments_and_results() -> None:
    text = (
        'func.func @main(%a: tensor<2xf32> {onnx.name = "x:0"}, %b: tensor<2xf32>) -> '
        '(tensor<2xf32> {onnx.name = "out put"}, tensor<2xf32>) {\n'
        "  func.return %a, %b : tensor<2xf32>, tensor<2xf32>\n}\n"
    )
    module = checked(text)
    assert input_names(module) == ["x:0", "input1"]
    assert output_names(module) == ["out put", "output1"]
    again = parse_module(print_module(module))
    assert (input_names(again), output_names(again)) == (input_names(module), output_names(module))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.mlir:1:1: unexpected end of the text"),
        ("// nothing\n", "f.mlir:2:1: unexpected end of the text"),
        ("func.func @main(%x: tensor<2xf32>) {\n", "f.mlir:2:1: unexpected end of the text"),
        ("func.func @main() {\n  func.return\n}\n}\n", "f.mlir:4:1: Could not parse entire input!"),
        ('func.func @m() {\n  "q.foo"() : () -> ()\n}', "f.mlir:2:10: Operation q.foo is not registered"),
        ('func.func @m() {\n  "onnx.Foo"() : () -> ()\n}', "Operation onnx.Foo is not registered"),
        (
            'func.func @m(%x: tensor<2xf32>) {\n  %0 = "onnx.Abs"(%y) : (tensor<2xf32>) -> tensor<2xf32>\n'
            "  func.return\n}\n",
            "values used but not defined: [%y]",
        ),
        ("func.func @m(%x: tensor<2xq32>) {\n  func.return\n}", "f.mlir:1:27: "),
        ("\x00\x01", "f.mlir:1:1: Unexpected character"),
    ],
)
def test_parse_errors_have_a_place(text: str, message: str) -> None:
    with pytest.raises(IRError) as error:
        parse_module(text, "f.mlir")
    assert str(error.value).startswith("f.mlir:")
    assert message in str(error.value)


def test_a_module_has_one_function() -> None:
    two = "".join(f"func.func @{name}() {{\n  func.return\n}}\n" for name in "ab")
    with pytest.raises(IRError, match="expected a module with one function, found 2"):
        checked(two)


# ------------------------------------------------------------------------------------------------------- constants


def test_save_and_load(tmp_path: Path) -> None:
    model = stages("residual-block").integer
    path = tmp_path / "my model.mlir"
    model.save(path)
    assert path.read_text().startswith("// constants: 'my model.safetensors'\n")
    again = Model.load(path)
    assert again.source == str(path)
    assert print_module(again.module) == print_module(model.module)
    assert again.store.keys() == model.store.keys()
    for name, array in model.store.items():
        assert again.store[name].dtype == array.dtype
        assert np.array_equal(again.store[name], array)


def test_load_errors(tmp_path: Path) -> None:
    model = stages("conv").integer
    path = tmp_path / "m.mlir"
    with pytest.raises(IRError, match=r"m\.mlir: cannot read the module"):
        Model.load(path)
    model.save(path)
    constants = path.with_suffix(".safetensors")
    whole = constants.read_bytes()
    constants.write_bytes(whole[:-5])
    with pytest.raises(IRError, match=r"m\.safetensors: cannot read the constants"):
        Model.load(path)
    constants.unlink()
    with pytest.raises(IRError, match=r"m\.safetensors: cannot read the constants"):
        Model.load(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(IRError, match="cannot read the module"):
        Model.load(path)


def test_constants_must_be_there_and_fit(tmp_path: Path) -> None:
    text = (
        "func.func @main() -> tensor<2xf32> {\n"
        '  %0 = "q.constant"() {value = dense_resource<w> : tensor<2xf32>} : () -> tensor<2xf32> loc("layer")\n'
        "  func.return %0 : tensor<2xf32>\n}\n"
    )
    path = tmp_path / "m.mlir"
    path.write_text(text)
    with pytest.raises(IRError, match=r"q.constant 'layer': the array 'w' is in none of the constant files"):
        Model.load(path)
    ConstantStore({"w": np.zeros(3, np.float32)}).save(tmp_path / "w.safetensors")
    path.write_text("// constants: w.safetensors\n" + text)
    with pytest.raises(
        IRError, match=r"the array 'w' is float32 \[3\] in the constant file; the text says tensor<2xf32>"
    ):
        Model.load(path)


def test_the_store_names_and_protects_arrays() -> None:
    store = ConstantStore()
    assert resource_name("0/w:0") == "_0_w_0"
    first = store.add("a/b", np.zeros(2))
    second = store.add("a/b", np.ones(2))
    assert (first, second) == ("a_b", "a_b.1")
    with pytest.raises(ValueError, match="read-only"):
        store[first][0] = 1
    copied = store.copy()
    copied.add("c", np.zeros(1))
    assert set(store) == {"a_b", "a_b.1"}
    base = np.zeros(4)
    name = store.add("view", base[1:3])
    base[1] = 7
    assert store[name].tolist() == [0, 0]


def test_parsing_twice_keeps_resource_names() -> None:
    text = MODELS["float"]().text()
    assert print_module(parse_module(text)) == print_module(parse_module(text))


# ----------------------------------------------------------------------------------------------- other MLIR readers


@pytest.mark.skipif(MLIR_OPT is None, reason="mlir-opt is not installed (Debian: mlir-16-tools)")
@pytest.mark.parametrize("name", MODELS)
def test_mlir_opt_reads_it(name: str) -> None:
    model = MODELS[name]()
    assert MLIR_OPT is not None
    done = subprocess.run(
        [MLIR_OPT, "--allow-unregistered-dialect", "--mlir-print-debuginfo", "--mlir-print-op-generic"],
        input=model.text(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr[:2000]
    mine, theirs = quantized_types(model.text()), quantized_types(done.stdout)
    assert theirs == mine  # mlir-opt prints scales as doubles: they read back to the same float32


def quantized_types(text: str) -> set[UniformType]:
    """All quantized types in a text, read by this project's parser."""
    bodies = set(re.findall(r"!quant\.uniform<(?:[^<>]|<[^<>]*>)*>", text))
    if not bodies:
        return set()
    arguments = ", ".join(f"%x{i}: tensor<1x1x1x1x{kind}>" for i, kind in enumerate(sorted(bodies)))
    module = parse_module(f"func.func @main({arguments}) {{\n  func.return\n}}\n")
    return {a.type.get_element_type() for a in body(module).args}  # type: ignore[attr-defined]


# ---------------------------------------------------------------------------------------------------- onnx dialect


@pytest.mark.parametrize(
    "operation",
    [
        '"onnx.Relu"(%x) : (tensor<2xf32>) -> tensor<2xf32>',
        '"onnx.Conv"(%x, %w) {pads = array<i64: 1, 1>, group = 1 : i64} : '
        "(tensor<1x2x4xf32>, tensor<3x2x3xf32>) -> tensor<1x3x4xf32>",
        '"onnx.Split"(%x, %s) {axis = 0 : i64} : (tensor<4xf32>, tensor<2xi64>) -> (tensor<1xf32>, tensor<3xf32>)',
        '"onnx.Cast"(%x) {to = 1 : i64} : (tensor<2xi1>) -> tensor<2xf32>',
        '"onnx.Gelu"(%x) {approximate = "tanh"} : (tensor<2xf32>) -> tensor<2xf32>',
    ],
)
def test_onnx_ops_round_trip(operation: str) -> None:
    text = print_module(checked(module_of(operation)))
    assert print_module(checked(text)) == text


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        (
            '"onnx.Relu"(%x) {alpha = 1.0e+00 : f32} : (tensor<2xf32>) -> tensor<2xf32>',
            "onnx.Relu: unknown attribute 'alpha', expected one of: no attributes",
        ),
        (
            '"onnx.Elu"(%x) {alfa = 1.0e+00 : f32} : (tensor<2xf32>) -> tensor<2xf32>',
            "onnx.Elu: unknown attribute 'alfa', expected one of: alpha",
        ),
        ('"onnx.Elu"(%x) {alpha = 1 : i64} : (tensor<2xf32>) -> tensor<2xf32>', "alpha"),
        ('"onnx.Cast"(%x) : (tensor<2xf32>) -> tensor<2xf32>', "to"),
        ('"onnx.Relu"(%x, %x) : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>', "expected 1 to 1 inputs, got 2"),
        ('"onnx.Add"(%x) : (tensor<2xf32>) -> tensor<2xf32>', "expected 2 to 2 inputs, got 1"),
        ('"onnx.Relu"(%x) : (tensor<2xf32>) -> (tensor<2xf32>, tensor<2xf32>)', "expected 1 to 1 outputs, got 2"),
        ('"onnx.Sin"(%x) : (tensor<2xi32>) -> tensor<2xi32>', "input may not have element type i32"),
        (
            '"onnx.Add"(%x, %y) : (tensor<2xf32>, tensor<2xi64>) -> tensor<2xf32>',
            "B has element type i64, expected f32",
        ),
        ('"onnx.Add"(%x, %y) : (tensor<2xf32>, none) -> tensor<2xf32>', "input B is not optional"),
    ],
)
def test_onnx_ops_are_verified(operation: str, message: str) -> None:
    with pytest.raises(IRError, match=re.escape(message)):
        checked(module_of(operation))


def test_absent_operands() -> None:
    text = (
        "func.func @main(%x: tensor<2xf32>, %m: tensor<f32>) -> tensor<2xf32> {\n"
        '  %n = "onnx.none"() : () -> none\n'
        '  %0 = "onnx.Clip"(%x, %n, %m) : (tensor<2xf32>, none, tensor<f32>) -> tensor<2xf32>\n'
        "  func.return %0 : tensor<2xf32>\n}\n"
    )
    clip = list(body(checked(text)).ops)[1]
    assert clip.input("min") is None  # type: ignore[attr-defined]
    assert clip.input("max") is clip.operands[2]  # type: ignore[attr-defined]
    assert onnx_ops()["Conv"].SLOTS == {"X": 0, "W": 1, "B": 2}
    assert "Upsample" not in onnx_ops()  # deprecated in this opset


def test_every_onnx_type_has_an_element_type() -> None:
    kinds: list[Attribute] = list(ELEMENT_TYPES.values())
    assert len(set(kinds)) == len(kinds)
    for kind in kinds:
        text = f"{ALIASES}func.func @main(%x: {TensorType(kind, [2])}) {{\n  func.return\n}}\n"
        assert body(checked(text)).args[0].type == TensorType(kind, [2])
