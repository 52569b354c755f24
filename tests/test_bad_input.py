"""Bad input through the command line: one clear message, exit code 2, no traceback, nothing half-written.

Every failing command here runs in a folder of its own; what lies in the folder before must lie there afterwards,
byte for byte, and nothing else. Unusual but valid models must compile and compute what onnxruntime computes.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_graphs import Graph, onnxruntime_outputs

import qcompiler
from qcompiler.cli import main
from qcompiler.errors import QCompilerError

F32 = np.float32


def plain() -> onnx.ModelProto:
    """Input x [1, 3, 8, 8]; Conv, Relu, a mean, Gemm."""
    g = Graph(x=(1, 3, 8, 8))
    y = g("Relu", g("Conv", "x", g.weight(4, 3, 3, 3), g.weight(4), pads=[1, 1, 1, 1]))
    y = g("Flatten", g("GlobalAveragePool", y))
    return g.proto(g("Gemm", y, g.weight(4, 5), g.weight(5)))


def samples(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (count, 3, 8, 8)).astype(F32)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data and the bundle of them, to copy from."""
    folder = tmp_path_factory.mktemp("good")
    onnx.save(plain(), folder / "model.onnx")
    np.savez(folder / "data.npz", x=samples())
    code = main(["compile", f"{folder}/model.onnx", "--calibration", f"{folder}/data.npz", "-o", f"{folder}/out"])
    assert code == 0
    return folder


@pytest.fixture
def here(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with copies of model and data; temporary files lie in it as well."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("model.onnx", "data.npz"):
        shutil.copy(good / name, folder)
    monkeypatch.chdir(folder)
    (folder / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    return folder


@pytest.fixture
def here_bundle(good: Path, here: Path) -> Path:
    """`here` with a copy of the bundle, `out`."""
    shutil.copytree(good / "out", here / "out")
    return here


def tree(folder: Path) -> dict[str, bytes | None]:
    """All files and folders below, with the files' content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != ".ses"  # onnxruntime's, in the folder for temporary files
    }


class Fails:
    """Runs a command that must fail as promised, and returns its message."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capfd = capfd

    def __call__(self, *arguments: str) -> str:
        before = tree(self.folder)
        self.capfd.readouterr()
        code = main(arguments)
        captured = self.capfd.readouterr()
        assert code == 2, f"exit code {code}\n{captured.err}"
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("error: ") == 1, "one message"
        assert len(captured.err) < 1500
        assert "Traceback" not in captured.err
        assert tree(self.folder) == before, "nothing written, nothing changed"
        return captured.err


@pytest.fixture
def fails(here: Path, capfd: pytest.CaptureFixture[str]) -> Fails:
    return Fails(here, capfd)


def compiling(*more: str, data: str = "data.npz", out: str = "new") -> list[str]:
    return ["compile", "model.onnx", "--calibration", data, "-o", out, *more]


# ------------------------------------------------------------------------------------------------ ONNX files


def _write(path: str, content: bytes) -> None:
    Path(path).write_bytes(content)


def _edit(change: Callable[[onnx.ModelProto], object]) -> Callable[[], None]:
    """Saves the plain model after a change."""

    def make() -> None:
        model = plain()
        change(model)
        onnx.save(model, "model.onnx")

    return make


def _weight(index: int, value: float) -> Callable[[], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[index]
        array = numpy_helper.to_array(tensor).copy()
        array.flat[1] = value
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return _edit(change)


def _node(**fields: object) -> Callable[[], None]:
    """The plain model with fields of its second node, the Relu, set."""

    def change(model: onnx.ModelProto) -> None:
        for name, value in fields.items():
            if isinstance(value, list):
                del getattr(model.graph.node[1], name)[:]
                getattr(model.graph.node[1], name).extend(value)
            else:
                setattr(model.graph.node[1], name, value)

    return _edit(change)


def _external(content: bytes | None, location: str = "weights.bin") -> Callable[[], None]:
    """The plain model with its first weight in a file that holds `content`."""

    def make() -> None:
        model = plain()
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        _write("model.onnx", model.SerializeToString())
        if content is not None:
            _write("weights.bin", content)

    return make


def _saved(make: Callable[[], onnx.ModelProto]) -> Callable[[], None]:
    return lambda: onnx.save(make(), "model.onnx")


def _bare(node: onnx.NodeProto, shape: tuple[object, ...] = (1, 4), **constants: np.ndarray) -> onnx.ModelProto:
    """One node from x to y, nothing inferred or checked."""
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=node.output[0])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _loop() -> onnx.ModelProto:
    """A loop whose number of rounds is known only at run time."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Relu", ["v"], ["v2"])],
        "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("v", TensorProto.FLOAT, [1, 4])],
        [value("c2", TensorProto.BOOL, []), value("v2", TensorProto.FLOAT, [1, 4])],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "", "x"], ["y"], "rounds", body=body)],
        "graph",
        [value("x", TensorProto.FLOAT, [1, 4]), value("n", TensorProto.INT64, [])],
        [value("y", TensorProto.FLOAT, [1, 4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _batch_norm(variance: float) -> onnx.ModelProto:
    g = Graph(x=(1, 3, 8, 8))
    y = g("Conv", "x", g.weight(4, 3, 1, 1))
    g.nodes.append(
        helper.make_node("BatchNormalization", [y, *(g.constant([v] * 4) for v in (1, 0, 0, variance))], ["y"], "norm")
    )
    return _bare_from(g)


def _bare_from(g: Graph) -> onnx.ModelProto:
    graph = helper.make_graph(
        g.nodes,
        "graph",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in g.inputs.items()],
        [onnx.ValueInfoProto(name=g.nodes[-1].output[0])],
        [numpy_helper.from_array(a, n) for n, a in g.weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _quantized(scale: float, zero_point: np.ndarray) -> onnx.ModelProto:
    g = Graph(x=(1, 3, 8, 8))
    s, z = g.constant(scale), g.constant(zero_point)
    y = g("DequantizeLinear", g("QuantizeLinear", "x", s, z), s, z)
    g("Conv", y, g.weight(4, 3, 1, 1))
    return _bare_from(g)


def _sequence_input(model: onnx.ModelProto) -> None:
    kind = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [1])
    model.graph.input[0].CopyFrom(kind)


MODELS: dict[str, tuple[Callable[[], object], list[str]]] = {
    "missing": (lambda: os.unlink("model.onnx"), ["model.onnx", "No such file"]),
    "empty": (lambda: _write("model.onnx", b""), ["model.onnx", "empty"]),
    "text": (lambda: _write("model.onnx", b"import torch\n" * 50), ["model.onnx", "not an ONNX model"]),
    "noise": (lambda: _write("model.onnx", np.random.default_rng(0).bytes(4096)), ["model.onnx", "ONNX"]),
    "folder": (lambda: (os.unlink("model.onnx"), os.mkdir("model.onnx")), ["model.onnx", "directory"]),
    "half": (lambda: _write("model.onnx", plain().SerializeToString()[:800]), ["model.onnx", "truncated"]),
    "no graph": (_edit(lambda m: m.ClearField("graph")), ["model.onnx", "no graph"]),
    "no outputs": (_edit(lambda m: m.graph.ClearField("output")), ["no graph with outputs"]),
    "no opset": (_edit(lambda m: m.ClearField("opset_import")), ["opset"]),
    "old opset": (_edit(lambda m: setattr(m.opset_import[0], "version", 3)), ["opset 3", "7"]),
    "new opset": (_edit(lambda m: setattr(m.opset_import[0], "version", 999)), ["opset 999", "update"]),
    "unknown op": (_node(op_type="Rectify"), ["Rectify", "relu1.node"]),
    "foreign op": (_node(op_type="Thing", domain="com.example"), ["com.example::Thing", "relu1.node"]),
    "undefined value": (_node(input=["nowhere"]), ["nowhere"]),
    "value defined twice": (_node(output=["conv0"]), ["conv0"]),
    "cycle": (_node(input=["globalaveragepool3"]), ["relu1.node"]),
    "unknown attribute": (
        _edit(lambda m: m.graph.node[1].attribute.add(name="slope", type=1)),
        ["slope", "relu1.node"],
    ),
    "too few operands": (_node(op_type="Add"), ["relu1.node", "Add"]),
    "missing output": (_edit(lambda m: setattr(m.graph.output[0], "name", "nothing")), ["nothing"]),
    "external data missing": (_external(None), ["c0", "weights.bin", "does not exist"]),
    "external data short": (_external(b"1234"), ["c0", "weights.bin", "4 bytes", "432"]),
    "external data outside": (_external(b"", "../weights.bin"), ["c0", "outside"]),
    "weight too short": (
        _edit(lambda m: setattr(m.graph.initializer[0], "raw_data", b"12345678")),
        ["c0", "damaged"],
    ),
    "weight NaN": (_weight(0, np.nan), ["c0", "conv0.node", "NaN"]),
    "weight infinite": (_weight(2, np.inf), ["c2", "gemm4.node", "infinite"]),
    "bias NaN": (_weight(1, np.nan), ["c1", "NaN"]),
    "negative variance": (_saved(lambda: _batch_norm(-1.0)), ["norm"]),
    "weight of wrong shape": (
        _edit(lambda m: m.graph.initializer[0].dims.__setitem__(slice(None), [4, 27, 1, 1])),
        ["conv0.node"],
    ),
    "symbolic shape": (
        _edit(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_param", "rows")),
        ["'x'", "rows", "--shape"],
    ),
    "shape of run-time values": (
        _saved(lambda: _bare(helper.make_node("NonZero", ["x"], ["y"], "which"))),
        ["which"],
    ),
    "loop": (_saved(_loop), ["rounds"]),
    "sequence": (_edit(_sequence_input), ["'x'", "tensor"]),
    "strings": (
        _edit(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.STRING)),
        ["x"],
    ),
    "integers into a float op": (
        _edit(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.INT32)),
        ["conv0.node"],
    ),
    "empty tensor": (
        _edit(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 0)),
        ["x"],
    ),
    "scale of zero": (_saved(lambda: _quantized(0.0, np.array(3, np.uint8))), ["quantizelinear0.node", "scale"]),
    "scale NaN": (_saved(lambda: _quantized(np.nan, np.array(3, np.uint8))), ["NaN"]),
    "negative scale": (_saved(lambda: _quantized(-0.5, np.array(3, np.uint8))), ["quantizelinear0.node", "scale"]),
}


@pytest.mark.parametrize("case", MODELS)
def test_model(case: str, fails: Fails) -> None:
    make, expected = MODELS[case]
    make()
    message = fails(*compiling())
    for words in expected:
        assert words in message


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("x=1x3x9x8", ["'x'", "1x3x8x8"]),
        ("x=1x3x8", ["'x'"]),
        ("picture=1x3x8x8", ["picture", "x"]),
    ],
)
def test_shape_option(fails: Fails, shape: str, expected: list[str]) -> None:
    message = fails(*compiling("--shape", shape))
    for words in expected:
        assert words in message


def test_truncation_anywhere(here: Path) -> None:
    """Wherever the file is cut off, import says so; it never fails otherwise."""
    content = plain().SerializeToString()
    for length in range(0, len(content), 17):
        _write("model.onnx", content[:length])
        with pytest.raises(QCompilerError, match=r"model\.onnx"):
            qcompiler.import_onnx("model.onnx")


def test_damage_anywhere(here: Path) -> None:
    """A file with damaged bytes is imported or refused with a message; nothing else happens."""
    content = plain().SerializeToString()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        _write("model.onnx", bytes(damaged))
        try:
            qcompiler.import_onnx("model.onnx")
        except QCompilerError as error:
            assert "model.onnx" in str(error)
            refused += 1
    assert 20 < refused < 400


# ------------------------------------------------------------------------------------------- calibration data


def _npz(**arrays: object) -> Callable[[], None]:
    return lambda: np.savez("bad.npz", **arrays)  # type: ignore[arg-type]


def _spoilt(index: tuple[int, ...], value: float) -> np.ndarray:
    x = samples()
    x[index] = value
    return x


def _cut() -> None:
    np.savez("bad.npz", x=samples(64))
    content = Path("bad.npz").read_bytes()
    _write("bad.npz", content[: len(content) // 2])


def _flipped() -> None:
    """A stored byte differs from its checksum."""
    np.savez("bad.npz", x=samples(64))
    content = bytearray(Path("bad.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    _write("bad.npz", bytes(content))


def _with_text() -> None:
    with zipfile.ZipFile("bad.npz", "w") as archive:
        archive.writestr("x.npy", "no array")


CALIBRATION: dict[str, tuple[Callable[[], object], list[str]]] = {
    "missing": (lambda: None, ["bad.npz", "o such file"]),
    "no arrays": (_npz(), ["bad.npz", "no arrays"]),
    "no samples": (_npz(x=np.zeros((0, 3, 8, 8), F32)), ["bad.npz", "at least one sample"]),
    "wrong name": (_npz(picture=samples(), label=np.zeros(4)), ["bad.npz", "'x'", "picture"]),
    "wrong shape": (_npz(x=np.zeros((4, 3, 8, 9), F32)), ["bad.npz", "[1, 3, 8, 8]", "[4, 3, 8, 9]"]),
    "channels last": (_npz(x=np.zeros((4, 8, 8, 3), F32)), ["bad.npz", "transpose"]),
    "text": (_npz(x=np.array(["a", "b"])), ["bad.npz", "'x'", "no numbers"]),
    "objects": (_npz(x=np.array([{}, {}], object)), ["bad.npz", "'x'", "no numbers"]),
    "complex": (_npz(x=samples().astype(np.complex64)), ["bad.npz", "'x'", "complex64"]),
    "too large": (_npz(x=samples().astype(np.float64) * 1e300), ["bad.npz", "'x'", "float32"]),
    "NaN": (_npz(x=_spoilt((2, 1, 3, 3), np.nan)), ["bad.npz", "sample 2", "'x'", "NaN"]),
    "infinity": (_npz(x=_spoilt((1, 0, 0, 0), np.inf)), ["bad.npz", "sample 1", "infinity"]),
    "not a zip file": (lambda: _write("bad.npz", b"x" * 100), ["bad.npz"]),
    "empty file": (lambda: _write("bad.npz", b""), ["bad.npz"]),
    "cut off": (_cut, ["bad.npz"]),
    "damaged": (_flipped, ["bad.npz"]),
    "no array inside": (_with_text, ["bad.npz"]),
    "empty folder": (lambda: os.mkdir("bad.npz"), ["bad.npz", "empty folder"]),
    "folder of pictures": (lambda: (os.mkdir("bad.npz"), _write("bad.npz/a.jpg", b"")), ["bad.npz", ".jpg"]),
}


@pytest.mark.parametrize("case", CALIBRATION)
def test_calibration(case: str, fails: Fails) -> None:
    make, expected = CALIBRATION[case]
    make()
    message = fails(*compiling(data="bad.npz"))
    for words in expected:
        assert words in message


def test_no_calibration(fails: Fails) -> None:
    assert "calibration" in fails("compile", "model.onnx", "-o", "new")
    assert "calibration" in fails("opt", "model.onnx", "-p", "canonicalize,calibrate")


def test_calibration_from_python() -> None:
    model = qcompiler.import_onnx
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(plain(), f"{folder}/model.onnx")
        model = qcompiler.import_onnx(f"{folder}/model.onnx")
    cases: list[tuple[object, str]] = [
        ([], "empty"),
        (iter([]), "empty"),
        ([{}], "no arrays"),
        ([{"y": samples(1), "z": samples(1)}], "'x'"),
        ([{"x": samples(3)}], "3 samples"),
        ([samples(1), 5], "found int"),
        (5, "found int"),
    ]
    for calibration, expected in cases:
        with pytest.raises(QCompilerError, match=expected):
            qcompiler.quantize(model, calibration)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--policy", "best"], ["best", "symmetric"]),
        (["--method", "guess"], ["guess", "entropy"]),
        (["--rounding", "up"], ["up", "fixed2"]),
        (["--target", "toaster"], ["toaster", "host"]),
        (["--target", "host:z80"], ["host:z80", "host:avx2"]),
        (["--keep-float", "no_such_node"], ["no_such_node"]),
    ],
)
def test_option(fails: Fails, more: list[str], expected: list[str]) -> None:
    message = fails(*compiling(*more))
    for words in expected:
        assert words in message


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["compile"],
        ["compile", "model.onnx"],
        compiling("--limit", "0"),
        compiling("--limit", "many"),
        compiling("--shape", "x=1x0"),
        compiling("--colour", "red"),
        ["bench", "out", "--repeats", "-1"],
    ],
)
def test_usage(here: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(here)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: qcompiler" in capsys.readouterr().err
    assert tree(here) == before


# --------------------------------------------------------------------------------------------- pipelines, text

PIPELINES: dict[str, list[str]] = {
    "simplify": ["unknown pass 'simplify'", "canonicalize"],
    "canonicalize,,cse": ["does not parse"],
    "canonicalize cse": ["does not parse"],
    "calibrate{method=": ["does not parse"],
    "calibrate{method=magic}": ["magic", "entropy"],
    "calibrate{speed=3}": ["calibrate", "speed"],
    "calibrate{limit=many}": ["calibrate", "many"],
    "integerize": ["integerize", "requires", "qdq", "float"],
    "choose-scheme": ["choose-scheme", "requires", "calibrated"],
    "legalize{storage=u4}": ["legalize"],
}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_pipeline(fails: Fails, pipeline: str) -> None:
    message = fails("opt", "model.onnx", "-p", pipeline, "--calibration", "data.npz", "-o", "new.mlir")
    for words in PIPELINES[pipeline]:
        assert words in message


@pytest.mark.parametrize("case", ["legalize{storage=u4}", "legalize{rounding=up}", "legalize{target=x}"])
def test_pipeline_on_integers(here_bundle: Path, fails: Fails, case: str) -> None:
    (dump,) = (here_bundle / "out" / "ir").glob("*_integerize.mlir")
    message = fails("opt", str(dump), "-p", case)
    assert "legalize" in message


def _module(lines: str) -> str:
    return "builtin.module {\n  func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {\n" + lines + "\n  }\n}\n"


_RETURN = "    func.return %x : tensor<4xf32>"

TEXTS: dict[str, tuple[str, list[str]]] = {
    "empty": ("", ["bad.mlir"]),
    "prose": ("once upon a time\n", ["bad.mlir:1:"]),
    "open end": ("builtin.module {\n", ["bad.mlir:", "unexpected end"]),
    "unknown value": (_module("    func.return %z : tensor<4xf32>"), ["bad.mlir:3:17:", "z"]),
    "unknown op": (
        _module('    %0 = "q.teleport"(%x) : (tensor<4xf32>) -> tensor<4xf32>\n' + _RETURN),
        ["bad.mlir:3:", "teleport"],
    ),
    "unknown type": (
        _module('    %0 = "q.quantize"(%x) : (tensor<4xf32>) -> tensor<4x!quant.nine>\n' + _RETURN),
        ["bad.mlir:3:"],
    ),
    "bad scale": (
        _module('    %0 = "q.quantize"(%x) : (tensor<4xf32>) -> tensor<4x!quant.uniform<u8:f32, -1.0>>\n' + _RETURN),
        ["bad.mlir:3:", "positive scale"],
    ),
    "bad zero point": (
        _module('    %0 = "q.quantize"(%x) : (tensor<4xf32>) -> tensor<4x!quant.uniform<u8:f32, 1.0:300>>\n' + _RETURN),
        ["bad.mlir:3:", "0:255", "300"],
    ),
    "does not verify": (
        _module('    %0 = "q.quantize"(%x) : (tensor<4xf32>) -> tensor<5x!quant.uniform<u8:f32, 1.0>>\n' + _RETURN),
        ["bad.mlir", "q.quantize"],
    ),
    "types differ": (_module("    func.return %x : tensor<5xf32>"), ["bad.mlir:3:"]),
    "no function": ("builtin.module {\n}\n", ["bad.mlir", "function"]),
    "no constants": (
        _module(
            '    %0 = "q.constant"() {value = dense_resource<w> : tensor<4xf32>} : () -> tensor<4xf32>\n' + _RETURN
        ),
        ["bad.mlir", "'w'"],
    ),
    "constant file missing": ("// constants: gone.safetensors\n" + _module(_RETURN), ["gone.safetensors"]),
    "wrong stage": (
        _module(_RETURN).replace("module {", 'module attributes {q.stage = "perfect"} {', 1),
        ["perfect"],
    ),
    "not text": ("\x00\udcff\udcfe", ["bad.mlir"]),
}


@pytest.mark.parametrize("case", TEXTS)
def test_text(case: str, here: Path, fails: Fails) -> None:
    text, expected = TEXTS[case]
    Path("bad.mlir").write_bytes(text.encode(errors="surrogateescape"))
    for arguments in (["opt", "bad.mlir"], ["opt", "bad.mlir", "-o", "new.mlir"], ["inspect", "bad.mlir"]):
        message = fails(*arguments)
        for words in expected:
            assert words in message


def test_damaged_text(here_bundle: Path) -> None:
    """Any line of a dump left out, or cut off, parses or fails with a message that names the file."""
    for name in ("import", "insert-qdq", "dce"):
        (path,) = (here_bundle / "out" / "ir").glob(f"*_{name}.mlir")
        lines = path.read_text().splitlines(keepends=True)
        for number in range(2, len(lines)):
            for kept in ("", lines[number][: len(lines[number]) // 2] + "\n"):
                path.write_text("".join([*lines[:number], kept, *lines[number + 1 :]]))
                try:
                    qcompiler.model.Model.load(path)
                except QCompilerError as error:
                    assert str(path) in str(error)


def test_damaged_constants(here_bundle: Path, fails: Fails) -> None:
    with open("out/ir/000_import.safetensors", "r+b") as file:
        file.truncate(50)
    assert "000_import.safetensors" in fails("opt", "out/ir/000_import.mlir", "-p", "canonicalize")


# ----------------------------------------------------------------------------------------- bundles and running


def _alter(name: str) -> Callable[[], None]:
    def change() -> None:
        content = bytearray(Path("out", name).read_bytes())
        content[len(content) // 2] ^= 1
        _write(f"out/{name}", bytes(content))

    return change


def _manifest(change: Callable[[dict], object]) -> Callable[[], None]:
    def apply() -> None:
        content = json.loads(Path("out/manifest.json").read_text())
        change(content)
        Path("out/manifest.json").write_text(json.dumps(content))

    return apply


BUNDLES: dict[str, tuple[Callable[[], object], list[str]]] = {
    "missing": (lambda: shutil.rmtree("out"), ["out", "not a bundle"]),
    "a file": (lambda: (shutil.rmtree("out"), _write("out", b"")), ["out", "not a bundle"]),
    "no manifest": (lambda: os.unlink("out/manifest.json"), ["manifest.json"]),
    "weights altered": (_alter("weights.bin"), ["weights.bin", "SHA-256"]),
    "library altered": (_alter("libmodel.so"), ["libmodel.so", "SHA-256"]),
    "dump altered": (_alter("ir/005_choose-scheme.mlir"), ["005_choose-scheme.mlir", "SHA-256"]),
    "weights missing": (lambda: os.unlink("out/weights.bin"), ["weights.bin"]),
    "manifest is no JSON": (lambda: _write("out/manifest.json", b"{"), ["manifest.json"]),
    "manifest is a list": (lambda: _write("out/manifest.json", b"[]"), ["manifest.json"]),
    "manifest is not text": (lambda: _write("out/manifest.json", b"\xff\xfe\x00"), ["manifest.json"]),
    "format of the future": (_manifest(lambda m: m.update(format=99)), ["manifest.json", "99"]),
    "field missing": (_manifest(lambda m: m.pop("prefix")), ["manifest.json", "prefix"]),
    "hash missing": (_manifest(lambda m: m["files"].pop("weights.bin")), ["weights.bin"]),
    "file outside": (_manifest(lambda m: m["files"].update({"../data.npz": "0"})), ["data.npz"]),
    "features of another machine": (_manifest(lambda m: m.update(cpu_flags=["antigravity"])), ["antigravity"]),
}


@pytest.mark.parametrize("case", BUNDLES)
def test_bundle(case: str, here_bundle: Path, fails: Fails) -> None:
    make, expected = BUNDLES[case]
    make()
    commands = [["run", "out", "--input", "data.npz", "--output", "y.npz"], ["bench", "out"]]
    if case != "features of another machine":
        commands.append(["compare", "out", "--reference", "model.onnx", "--data", "data.npz"])
    for arguments in commands:
        message = fails(*arguments)
        for words in expected:
            assert words in message


INPUTS: dict[str, tuple[Callable[[], object], list[str]]] = {
    name: CALIBRATION[name]
    for name in ("missing", "no arrays", "no samples", "wrong name", "wrong shape", "text", "NaN", "cut off", "damaged")
}


@pytest.mark.parametrize("case", INPUTS)
def test_input_of_run(case: str, here_bundle: Path, fails: Fails) -> None:
    make, expected = INPUTS[case]
    make()
    _write("y.npz", b"older output")
    for words in expected:
        assert words in fails("run", "out", "--input", "bad.npz", "--output", "y.npz")
    assert "bad.npz" in fails("compare", "out", "--reference", "model.onnx", "--data", "bad.npz")


def test_input_of_run_in_python(good: Path) -> None:
    bundle = qcompiler.load_bundle(good / "out")
    quantized = qcompiler.quantize(qcompiler.import_onnx(good / "model.onnx"), good / "data.npz")
    x = samples(1)
    cases: list[tuple[Mapping[str, np.ndarray], str]] = [
        ({}, "x"),
        ({"y": x}, "x"),
        ({"x": x[0]}, "expected"),
        ({"x": x.astype(np.float64)}, "float64"),
        ({"x": x.astype(np.uint8)}, "uint8"),
        ({"x": np.array("text")}, "expected"),
    ]
    for feeds, expected in cases:
        with pytest.raises(QCompilerError, match=expected):
            bundle.run(feeds)
        if "float64" not in expected and "uint8" not in expected:
            with pytest.raises(QCompilerError, match="x"):
                qcompiler.interpret(quantized, feeds)


def test_reference_of_another_model(here_bundle: Path, fails: Fails) -> None:
    g = Graph(z=(1, 3, 8, 8))
    onnx.save(g.proto(g("Relu", "z")), "other.onnx")
    assert "other.onnx" in fails("compare", "out", "--reference", "other.onnx", "--data", "data.npz")
    assert "other.onnx" in fails("bench", "out", "--reference", "other.onnx")
    _write("other.onnx", b"noise")
    assert "other.onnx" in fails("compare", "out", "--reference", "other.onnx", "--data", "data.npz")
    assert "other.onnx" in fails("bench", "out", "--reference", "other.onnx")


# ----------------------------------------------------------------------------------------------------- output


def test_output_that_is_something_else(here: Path, fails: Fails) -> None:
    """Only a bundle or an empty folder is replaced."""
    os.mkdir("photos")
    _write("photos/a.jpg", b"precious")
    assert "photos" in fails(*compiling(out="photos"))
    assert "model.onnx" in fails(*compiling(out="model.onnx"))
    os.symlink("photos", "link")
    assert "link" in fails(*compiling(out="link"))


@pytest.mark.parametrize("out", ["data.npz/new", "/proc/qcompiler/new", "/dev/null/new", "n" * 300])
def test_output_that_cannot_be_made(here: Path, fails: Fails, out: str) -> None:
    assert out.split("/")[-1] in fails(*compiling(out=out))
    assert "error" in fails("opt", "model.onnx", "-p", "canonicalize", "-o", f"{out}.mlir")
    assert "error" in fails("opt", "model.onnx", "-p", "canonicalize", "--dump-ir", out)


def test_unwritable_folder(here: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails) -> None:
    """As for a user who may not write; a privileged one may write everywhere, so the system's answer is given here."""

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    monkeypatch.setattr(os, "mkdir", refuse)
    assert "Permission denied" in fails(*compiling())


def limited(folder: Path, largest: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that can write no file of more than `largest` bytes, as on a disk that fills up."""
    code = (
        "import resource, sys; from qcompiler.cli import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest}, {largest}))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("largest", [0, 3000, 14_000])
def test_disk_that_fills_up(here_bundle: Path, largest: int) -> None:
    before = tree(here_bundle)
    done = limited(here_bundle, largest, *compiling(out="out"))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stdout == ""
    assert tree(here_bundle) == before, "the older bundle is whole"


def test_disk_that_fills_up_while_running(here_bundle: Path) -> None:
    _write("y.npz", b"older output")
    _write("old.mlir", b"older text")
    before = tree(here_bundle)
    for arguments in (
        ["run", "out", "--input", "data.npz", "--output", "y.npz"],
        ["opt", "model.onnx", "-p", "canonicalize", "-o", "old.mlir"],
    ):
        done = limited(here_bundle, 100, *arguments)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("error: ")
        assert tree(here_bundle) == before


def test_no_linker(here: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails) -> None:
    monkeypatch.setenv("PATH", str(here))
    assert "install" in fails(*compiling())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (compiling(data="nothing.npz"), "nothing.npz"),
        (["opt", "data.npz"], "data.npz"),
        (["run", "model.onnx", "--input", "data.npz", "--output", "y.npz"], "not a bundle"),
        (["inspect", "nothing"], "nothing"),
    ],
)
def test_the_installed_command(here: Path, arguments: list[str], expected: str) -> None:
    before = tree(here)
    command = [sys.executable, "-c", "import sys; from qcompiler.cli import main; sys.exit(main())", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert tree(here) == before


# -------------------------------------------------------------------------------------- unusual, but no error


def _identity() -> onnx.ModelProto:
    g = Graph(x=(1, 4))
    return g.proto(g("Identity", "x"))


def _input_is_output() -> onnx.ModelProto:
    return Graph(x=(1, 4)).proto("x")


def _twice() -> onnx.ModelProto:
    """One value under two output names, and an input handed on."""
    g = Graph(x=(1, 4))
    y = g("Relu", "x")
    return g.proto(y, g("Identity", y), "x")


def _no_quantizable_op() -> onnx.ModelProto:
    g = Graph(x=(2, 8))
    return g.proto(g("LayerNormalization", "x", g.weight(8), g.weight(8)))


def _constant_output() -> onnx.ModelProto:
    g = Graph(x=(1, 4))
    return g.proto(g("Relu", "x"), g("Add", g.weight(3), g.weight(3)))


def _constant_zero_times_input() -> onnx.ModelProto:
    g = Graph(x=(1, 4))
    return g.proto(g("Gemm", g("Mul", "x", g.constant(0.0)), g.weight(4, 3), g.weight(3)))


def _scalar() -> onnx.ModelProto:
    g = Graph(x=())
    return g.proto(g("Add", g("Mul", "x", g.constant(3.0)), g.constant(0.5)))


def _scalar_from_image() -> onnx.ModelProto:
    g = Graph(x=(1, 3, 8, 8))
    y = g("Conv", "x", g.weight(4, 3, 3, 3), g.weight(4))
    return g.proto(g("ReduceMean", y, keepdims=0))


def _unused_input() -> onnx.ModelProto:
    g = Graph(x=(1, 4), z=(7,))
    return g.proto(g("Gemm", "x", g.weight(4, 3), g.weight(3)))


def _empty_dimension() -> onnx.ModelProto:
    g = Graph(x=(1, 4))
    return g.proto(g("Relu", "x"), g("Slice", "x", g.ints(0), g.ints(0), g.ints(1)))


def _zero_weights() -> onnx.ModelProto:
    g = Graph(x=(1, 3, 6, 6))
    zero = g.constant(np.zeros((4, 3, 3, 3), F32))
    return g.proto(g("Conv", "x", zero, g.weight(4)))


def _integers() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"], "sum"), helper.make_node("Neg", ["y"], ["z"], "minus")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.INT32, (1, 4))],
        [helper.make_tensor_value_info("z", TensorProto.INT32, (1, 4))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _odd_names() -> onnx.ModelProto:
    """Names that are no identifiers, that only differ in such characters, and that look like xDSL's own."""
    g = Graph(x=(1, 4))
    names = ["a/b:c d", "a/b:c_d", '"%0', "ü", "1_2"]
    y = "x"
    for name in names:
        g.nodes.append(helper.make_node("Gemm", [y, g.weight(4, 4), g.weight(4)], [name], name=name))
        y = name
    model = _bare_from(g)
    return onnx.shape_inference.infer_shapes(model)


UNUSUAL: dict[str, Callable[[], onnx.ModelProto]] = {
    "identity": _identity,
    "input is output": _input_is_output,
    "one value twice": _twice,
    "no quantizable op": _no_quantizable_op,
    "constant output": _constant_output,
    "nothing left of the input": _constant_zero_times_input,
    "scalar": _scalar,
    "scalar from an image": _scalar_from_image,
    "unused input": _unused_input,
    "zero weights": _zero_weights,
    "integers": _integers,
    "odd names": _odd_names,
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_unusual_model(case: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    proto = UNUSUAL[case]()
    onnx.save(proto, "model.onnx")
    rng = np.random.default_rng(0)
    feeds = []
    for _ in range(4):
        feeds.append({})
        for value in proto.graph.input:
            kind = value.type.tensor_type
            shape = [d.dim_value for d in kind.shape.dim]
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
            feeds[-1][value.name] = np.asarray(rng.normal(0, 3, shape)).astype(dtype)
    np.savez("data.npz", **{name: np.stack([f[name] for f in feeds]) for name in feeds[0]})
    assert main(compiling()) == 0, capfd.readouterr().err
    bundle = qcompiler.load_bundle("new")
    for feed in feeds:
        expected = onnxruntime_outputs(proto, feed)
        found = bundle.run(feed)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
            largest = float(np.abs(array).max(initial=0.0))
            assert np.abs(found[name] - array).max(initial=0.0) <= 0.06 * max(largest, 0.2)
    assert main(["run", "new", "--input", "data.npz", "--output", "y.npz"]) == 0
    assert main(["inspect", "new"]) == 0


def test_empty_result(fails: Fails) -> None:
    onnx.save(_empty_dimension(), "model.onnx")
    np.savez("data.npz", x=np.ones((1, 3, 8, 8), F32))
    message = fails(*compiling())
    assert "slice1.node" in message
    assert "empty" in message


def test_graph_without_nodes_or_inputs(fails: Fails) -> None:
    """An output that nothing computes is an error; one that is a constant makes a bundle of constants."""
    graph = helper.make_graph([], "graph", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), "model.onnx")
    assert "'y'" in fails(*compiling())
    graph.initializer.append(numpy_helper.from_array(np.ones(3, F32), "y"))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), "model.onnx")
    assert main(compiling()) == 0
    assert (qcompiler.load_bundle("new").run({})["y"] == np.ones(3, F32)).all()
