"""Values of 16 bits and with one scale a channel through the passes: what may have such types, and the integers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
from small_graphs import Feeds, Graph, assert_equal, feeds_of, onnxruntime_outputs, outputs, passed, sqnr
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FloatAttr, StringAttr, TensorType, f32, f64
from xdsl.ir import Block, SSAValue

import qcompiler
from qcompiler.api import Quantized
from qcompiler.errors import ModelError
from qcompiler.frontends.onnx_import import import_graph
from qcompiler.interpreter import Interpreter, interpret
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.q_conv import ConvOp, MatMulOp
from qcompiler.ir.q_elementwise import ConstantOp, DequantizeOp, QuantizeOp
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.rewriting import verify_module
from qcompiler.ir.text import parse_module, print_module
from qcompiler.ir.values import body, defining, location_names, quantized, shape, value_names
from qcompiler.model import Model
from qcompiler.passes import choose_scheme
from qcompiler.passes.integer_rules import sixteen_bit_obstacle
from qcompiler.pipeline import Stage, set_stage
from qcompiler.verify import verify

WHY = StringAttr("chosen by the test")
NUMBERS = DictionaryAttr({"lo": FloatAttr(-1.5, f64)})

# ----------------------------------------------------------------------------------- graphs with types


def chosen_type(storage: str, samples: np.ndarray) -> UniformType:
    """A type for samples `[n, ...]`: "u8", "u16" affine, "i16" symmetric, "u8@1" from 0 or symmetric per channel."""
    storage, _, axis = storage.partition("@")
    if axis:
        flat = np.moveaxis(samples, 1 + int(axis), 0).reshape(samples.shape[1 + int(axis)], -1)
        zero = 0 if flat.min() >= 0 else 128
        scales = np.maximum(np.abs(flat).max(1), 1e-3) / (255 - zero)
        return UniformType.make(storage, scales, zero, axis=int(axis))
    lo, hi = min(0.0, float(samples.min())), max(0.0, float(samples.max()))
    if storage == "i16":
        return UniformType.make(storage, max(-lo, hi) / 32767)
    scale = (hi - lo) / (2 ** int(storage[1:]) - 1)
    return UniformType.make(storage, scale, round(-lo / scale))


def inserted(value: SSAValue, kind: UniformType, block: Block) -> None:
    """Quantize and dequantize behind a value."""
    users = [use for use in value.uses if not isinstance(use.operation, QuantizeOp)]
    q = QuantizeOp.create(operands=[value], result_types=[TensorType(kind, shape(value))])
    q.properties.update({"q.why": WHY, "q.numbers": NUMBERS})
    dq = DequantizeOp.create(operands=[q.y], result_types=[TensorType(f32, shape(value))])
    if isinstance(value.owner, Block):
        block.insert_ops_before([q, dq], block.first_op)  # type: ignore[arg-type]
    else:
        q.location = dq.location = value.owner.location
        block.insert_ops_after([q, dq], value.owner)
    for use in users:
        use.operation.operands[use.index] = dq.y


def with_types(proto: onnx.ModelProto, feeds: Sequence[Feeds], types: Mapping[str, str]) -> Model:
    """The model at stage QDQ: the named values in these types, weights in i8 per channel, biases in float."""
    model = passed(import_graph(proto), "canonicalize")
    block, interpreter = body(model.module), Interpreter(model)
    runs = [{**feed, **interpreter.run_all(feed)} for feed in feeds]
    values = {name.replace(".node", ""): (name, value) for value, name in value_names(model.module).items()}
    for short, storage in types.items():
        name, value = values[short]
        inserted(value, chosen_type(storage, np.stack([run[name] for run in runs])), block)
    for op in list(block.ops):
        if op_name(op) in ("Conv", "MatMul") and isinstance(op.operands[1].owner, ConstantOp):
            weight = model.store[op.operands[1].owner.resource]
            axis = 0 if op_name(op) == "Conv" else 1
            scales = np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis)) / np.float32(127)
            kind = UniformType.make("i8", scales, axis=axis)
            stored = np.rint(weight / np.expand_dims(scales, [i for i in range(weight.ndim) if i != axis]))
            constant = ConstantOp.of(model.store, "w", stored.astype(np.int8), kind)
            dq = DequantizeOp.create(operands=[constant.y], result_types=[op.operands[1].type])
            block.insert_ops_before([constant, dq], op)
            op.operands[1] = dq.y
    set_stage(model.module, Stage.QDQ)
    verify_module(model.module)
    return model


def channels(g: Graph, *extents: int) -> str:
    """A weight whose output channels differ in size by a factor of 60."""
    factors = np.geomspace(0.02, 1.2, extents[0]).astype(np.float32)
    return g.constant(g.rng.normal(0, 1, extents).astype(np.float32) * factors.reshape(-1, 1, 1, 1))


@dataclass(frozen=True)
class Typed:
    proto: onnx.ModelProto
    types: dict[str, str]
    ops: dict[str, int]
    """How often each of these integer ops has to be there after integerize."""
    decibel: float


def residual_stream() -> Typed:
    g = Graph(x=(2, 4, 7, 9))
    a = g("Conv", "x", g.weight(6, 4, 3, 3), g.weight(6), pads=[1, 1, 1, 1])
    b = g("Conv", "x", g.weight(6, 4, 1, 1))
    total = g("Add", a, b)
    relu = g("Relu", total)
    back = g("Conv", relu, g.weight(6, 6, 1, 1))
    twice = g("Sub", total, back)
    clipped = g("Clip", twice, g.constant(-0.5), g.constant(4.0))
    types = {"x": "u8", a: "i16", b: "i16", total: "i16", relu: "u8", back: "u8", twice: "i16", clipped: "u8"}
    return Typed(g.proto(clipped), types, {"q.conv": 3, "q.add": 1, "q.sub": 1, "q.requantize": 2, "q.lut": 0}, 30)


def gates() -> Typed:
    g = Graph(x=(3, 5, 8), y=(3, 5, 8))
    a, b = g("MatMul", "x", g.weight(8, 10)), g("MatMul", "y", g.weight(8, 10))
    tanh, gate = g("Tanh", a), g("Sigmoid", b)
    product = g("Mul", tanh, gate)
    mean = g("ReduceMean", product, g.ints(1), keepdims=0)
    narrow = g("Mul", tanh, tanh)
    types = {
        "x": "u8",
        "y": "u8",
        a: "i16",
        b: "i16",
        tanh: "i16",
        gate: "u8",
        product: "i16",
        mean: "i16",
        narrow: "u8",
    }
    return Typed(g.proto(mean, narrow), types, {"q.matmul": 2, "q.lut": 3, "q.mul": 1, "q.mean": 1}, 30)


def movements() -> Typed:
    g = Graph(x=(2, 4, 6, 6), y=(2, 4, 6, 6))
    wide = g("Add", "x", "y")
    parts = g("Split", wide, axis=1, num_outputs=2, results=2)
    joined = g("Concat", parts.replace(".0", ".1"), parts, axis=1)
    padded = g("Pad", joined, g.ints(0, 0, 1, 0, 0, 0, 0, 2), mode="edge")
    cut = g("Slice", padded, g.ints(6, 0), g.ints(0, 7), g.ints(2, 3), g.ints(-1, 2))
    larger = g("Resize", cut, "", g.constant([1, 1, 2, 2]), mode="nearest")
    largest = g("MaxPool", larger, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0])
    average = g("AveragePool", larger, kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    chosen = g("Gather", largest, g.ints(3, 0, 1), axis=1)
    flat = g("Reshape", g("Transpose", chosen, perm=[0, 2, 1, 3]), g.ints(2, -1))
    mean = g("GlobalAveragePool", average)
    types = dict.fromkeys((wide, joined, padded, cut, larger, largest, average, chosen, flat, mean), "i16")
    types |= {"x": "u8", "y": "i16", parts.removesuffix(".0"): "i16", f"{parts.removesuffix('.0')}:1": "i16"}
    types[g.nodes[-3].output[0]] = "i16"
    return Typed(g.proto(flat, mean), types, {"q.add": 1, "q.split": 1, "q.lut": 0}, 45)


def depthwise() -> Typed:
    """Everything that may stand in front of a depthwise convolution, with one scale a channel."""
    g = Graph(x=(1, 3, 9, 8), y=(1, 3, 9, 8))
    six = [g.constant(0.0), g.constant(6.0)]

    def filtered(value: str) -> str:
        count = 5 if value != "x" else 3
        return g("Conv", value, g.weight(2 * count, 1, 3, 3), g.weight(2 * count), group=count, pads=[1, 1, 1, 1])

    convs = [g("Conv", "y", channels(g, 5, 3, 1, 1)) for _ in range(4)]
    clipped = g("Clip", convs[0], *six)
    narrow, wide = (g("Mul", value, g("Sigmoid", value)) for value in convs[2:])
    total = g("Relu", g("Add", convs[2], convs[3]))
    pooled = g("MaxPool", convs[2], kernel_shape=[1, 1])
    fronts = ["x", clipped, convs[1], narrow, wide, total, pooled]
    ends = [filtered(value) for value in fronts]
    types = dict.fromkeys(fronts, "u8@1") | dict.fromkeys(ends, "u8") | {"y": "u8", convs[2]: "u8", convs[3]: "i16"}
    ops = {"q.conv": 11, "q.lut": 2, "q.requantize": 3, "q.add": 1, "q.max_pool": 1}
    return Typed(g.proto(*ends), types, ops, 30)


def sequence() -> Typed:
    """One-dimensional images, a wide result of a depthwise convolution, and a constant in front of a matrix product."""
    g = Graph(x=(2, 3, 17))
    wide = g("Conv", "x", g.constant(g.weights[channels(g, 4, 3, 1, 1)].reshape(4, 3, 1)))
    filtered = g("Conv", wide, g.weight(4, 1, 5), group=4, pads=[2, 2])
    averaged = g("AveragePool", filtered, kernel_shape=[2], strides=[2])
    product = g("MatMul", averaged, g.weight(8, 5))
    types = {"x": "u8", wide: "u8@1", filtered: "i16", averaged: "u8", product: "i16"}
    return Typed(g.proto(product), types, {"q.conv": 2, "q.average_pool": 1, "q.matmul": 1}, 35)


def unsigned() -> Typed:
    """The affine 16-bit types of imported models."""
    g = Graph(x=(2, 4, 6, 6), y=(2, 4, 6, 6))
    total = g("Add", "x", "y")
    gate = g("Sigmoid", total)
    pooled = g("MaxPool", total, kernel_shape=[2, 2], strides=[2, 2])
    average = g("AveragePool", gate, kernel_shape=[2, 2], strides=[2, 2])
    product = g("Mul", average, pooled)
    mean = g("GlobalAveragePool", product)
    conv = g("Conv", "y", g.weight(3, 4, 3, 3))
    bits = g("Reshape", conv, g.ints(2, -1))
    types = dict.fromkeys(("x", total, gate, pooled, mean, conv, bits), "u16") | {
        "y": "u8",
        average: "i16",
        product: "u8",
    }
    ops = {"q.add": 1, "q.lut": 1, "q.max_pool": 1, "q.average_pool": 1, "q.mul": 1, "q.mean": 1, "q.conv": 1}
    return Typed(g.proto(mean, bits), types, ops, 30)


GRAPHS: dict[str, Callable[[], Typed]] = {
    f.__name__: f for f in (residual_stream, gates, movements, depthwise, sequence, unsigned)
}


@dataclass(frozen=True)
class Stages:
    typed: Typed
    feeds: list[Feeds]
    qdq: Model
    integer: Model


@cache
def stages(name: str) -> Stages:
    typed = GRAPHS[name]()
    feeds = feeds_of(typed.proto)
    qdq = with_types(typed.proto, feeds, typed.types)
    return Stages(typed, feeds, qdq, passed(qdq, "integerize"))


# -------------------------------------------------------------------------------------------- the passes


@pytest.mark.parametrize("name", GRAPHS)
def test_everything_becomes_integer(name: str) -> None:
    graph = stages(name)
    ops = [op.name for op in body(graph.integer.module).ops]
    assert not [op for op in ops if op.startswith("onnx.") and op != "onnx.none"]
    assert {op: ops.count(op) for op in graph.typed.ops} == graph.typed.ops


@pytest.mark.parametrize("name", GRAPHS)
def test_reasons_travel_with_the_types(name: str) -> None:
    silent = ("q.constant", "q.dequantize", "q.split", "q.resize", "func.return")
    for op in body(stages(name).integer.module).ops:
        if op.name not in silent:
            assert (op.properties["q.why"], op.properties["q.numbers"]) == (WHY, NUMBERS), op.name


@pytest.mark.parametrize("name", GRAPHS)
def test_results_are_close_to_float(name: str) -> None:
    graph = stages(name)
    reference = [onnxruntime_outputs(graph.typed.proto, feeds) for feeds in graph.feeds]
    found = outputs(graph.integer, graph.feeds)
    for output in reference[0]:
        assert sqnr(reference, found, output) > graph.typed.decibel, output


@pytest.mark.parametrize("name", GRAPHS)
def test_exact_passes_keep_every_integer(name: str) -> None:
    graph = stages(name)
    expected = outputs(graph.integer, graph.feeds)
    for pipeline in (
        "legalize{storage=i8}",
        "legalize{storage=u8},fold-zero-point,plan-layout,cse,dce",
        "legalize{storage=i8},fold-zero-point,plan-layout,cse,dce",
    ):
        assert_equal(expected, outputs(passed(graph.integer, pipeline), graph.feeds))


def test_only_multipliers_to_bytes_are_shortened() -> None:
    sizes = set()
    for name in GRAPHS:
        for op in body(passed(stages(name).integer, "legalize{rounding=fixed2}").module).ops:
            if isinstance(op, ConvOp | MatMulOp):
                size = quantized(op.y).dtype.itemsize
                constant = defining(op.multiplier, ConstantOp)
                assert constant and constant.resource.endswith(".short") == (size == 1)
                sizes.add(size)
    assert sizes == {1, 2}


@pytest.mark.parametrize("name", GRAPHS)
def test_text_round_trip(name: str) -> None:
    for pipeline in ("", "legalize,fold-zero-point,plan-layout"):
        model = passed(stages(name).integer, pipeline) if pipeline else stages(name).integer
        text = print_module(model.module)
        again = parse_module(text)
        verify_module(again)
        assert print_module(again) == text


@pytest.mark.parametrize(
    ("name", "legalize"),
    [*((name, "legalize") for name in GRAPHS), ("gates", "legalize{storage=i8 rounding=fixed2}")],
)
def test_host_computes_the_same_integers(name: str, legalize: str, tmp_path: Path) -> None:
    graph = stages(name)
    laid_out = passed(graph.integer, f"{legalize},fold-zero-point,plan-layout,cse,dce")
    bundle = qcompiler.compile(Quantized(laid_out, graph.qdq, "host"), output=tmp_path / "out")
    verification = verify(bundle, graph.feeds[:2], laid_out)
    assert verification.exact, verification.differences


def obstacles(g: Graph, *outputs: str) -> dict[str, str | None]:
    model = import_graph(g.proto(*outputs))
    block = body(model.module)
    values = dict(zip(g.inputs, block.args, strict=True))
    values |= {location_names(op)[-1]: r for op in block.ops if location_names(op) for r in op.results}
    return {name: sixteen_bit_obstacle(value, model.store) for name, value in values.items()}


def test_operands_of_products_and_softmax_have_8_bits() -> None:
    g = Graph(x=(1, 4, 8, 8), y=(1, 4, 8, 8), large=(1, 4, 256, 257))
    conv = g("Conv", "x", g.weight(4, 4, 1, 1))
    total = g("Add", conv, "y")
    soft = g("Softmax", total)
    pooled = g("AveragePool", "large", kernel_shape=[255, 257])
    mean = g("GlobalAveragePool", "large")
    found = obstacles(g, soft, pooled, mean)
    assert found["x"] == "onnx.Conv 'conv0.node' takes operands of 8 bits"
    assert found["y"] is None and found["conv0.node"] is None
    assert found["add1.node"] == "onnx.Softmax 'softmax2.node' takes operands of 8 bits"
    assert found["softmax2.node"] == "Softmax writes 8 bits"
    assert (
        found["large"]
        == "onnx.GlobalAveragePool 'globalaveragepool4.node' sums 65792 elements, of 16 bits too many for int32"
    )


def test_readers_that_stay_float_do_not_hinder() -> None:
    g = Graph(x=(4, 8), v=(8,))
    assert obstacles(g, g("MatMul", "x", "v"))["x"] is None


def test_biases_behind_one_scale_a_channel() -> None:
    """insert-qdq stores the bias of a depthwise convolution in the scales of its own sums."""
    g = Graph(x=(1, 3, 8, 8))
    front = g("Relu", g("Conv", "x", channels(g, 6, 3, 1, 1)))
    end = g("Conv", front, g.weight(12, 1, 3, 3), g.weight(12), group=6)
    proto = g.proto(end)
    feeds = feeds_of(proto)
    with mock.patch.object(choose_scheme, "border", lambda module, gains, inner: (0.0, set(gains))):
        model = passed(import_graph(proto), "canonicalize,calibrate,choose-scheme", feeds)
    relu = next(op for op in body(model.module).ops if op_name(op) == "Relu")
    relu.attributes["q.types"] = ArrayAttr([UniformType.make("u8", np.geomspace(0.001, 0.03, 6), axis=1)])
    integer = passed(model, "insert-qdq,integerize")
    assert "onnx.Conv" not in op_names(integer)
    assert sqnr([onnxruntime_outputs(proto, f) for f in feeds], outputs(integer, feeds), end) > 30


# ------------------------------------------------------------------------------------- what has no integer form


def op_names(model: Model) -> list[str]:
    return [op.name for op in body(model.module).ops]


def test_products_of_16_bits_stay_float() -> None:
    g = Graph(x=(1, 4, 5, 5))
    wide = g("Relu", "x")
    conv = g("Conv", wide, g.weight(4, 4, 1, 1))
    soft = g("Softmax", wide)
    proto = g.proto(conv, soft)
    feeds = feeds_of(proto)
    model = passed(with_types(proto, feeds, {"x": "u8", wide: "i16", conv: "u8", soft: "u8"}), "integerize")
    assert {"onnx.Conv", "onnx.Softmax", "q.lut"} <= set(op_names(model))


def test_a_bound_that_is_not_the_same_integer_for_all_channels_is_applied_in_16_bits() -> None:
    """The channels of the convolution differ in scale, and the bound lies inside the range of some."""
    g = Graph(x=(1, 3, 6, 6))
    conv = g("Clip", g("Conv", "x", channels(g, 4, 3, 1, 1)), g.constant(-0.1), g.constant(np.inf))
    end = g("Conv", conv, g.weight(4, 1, 3, 3), group=4)
    proto = g.proto(end)
    feeds = feeds_of(proto)
    model = passed(with_types(proto, feeds, {"x": "u8", conv: "u8@1", end: "u8"}), "integerize")
    assert op_names(model).count("q.requantize") == 1 and "onnx.Conv" not in op_names(model)
    reference = [onnxruntime_outputs(proto, f) for f in feeds]
    assert sqnr(reference, outputs(model, feeds), end) > 30


def test_channels_with_unlike_zero_points_stay_float() -> None:
    g = Graph(x=(1, 2, 4, 4))
    proto = g.proto(g("Conv", "x", g.weight(2, 1, 3, 3), group=2))
    model = with_types(proto, feeds_of(proto), {"x": "u8@1", "conv0": "u8"})
    text = re.sub(r"(u8:f32:1, \{[\d.e+-]+):\d+", r"\1:7", print_module(model.module))
    model = Model(parse_module(text), model.store)
    assert "onnx.Conv" in op_names(passed(model, "integerize"))


def test_arguments_of_the_function_change_their_storage() -> None:
    text = """
    !u = !quant.uniform<u8:f32:1, {5.0e-01:3, 2.5e-01:3}>
    !t = !quant.uniform<u8:f32:2, {5.0e-01:3, 2.5e-01:3}>
    !w = !quant.uniform<i16:f32, 1.0e-02>
    builtin.module attributes {q.stage = "integer"} {
      func.func @main(%x: tensor<1x2x4x!u>, %y: tensor<1x2x4x!w>) -> (tensor<1x4x2x!t>, tensor<1x2x4xf32>) {
        %0 = "q.transpose"(%x) {perm = array<i64: 0, 2, 1>} : (tensor<1x2x4x!u>) -> tensor<1x4x2x!t>
        %1 = "q.dequantize"(%y) : (tensor<1x2x4x!w>) -> tensor<1x2x4xf32>
        func.return %0, %1 : tensor<1x4x2x!t>, tensor<1x2x4xf32>
      }
    }
    """
    model = Model(parse_module(text))
    signed = passed(model, "legalize{storage=i8}")
    x, y = body(signed.module).args
    assert (quantized(x).storage, quantized(x).zero_point, quantized(y).storage) == ("i8", -125, "i16")
    (first, second), (bytes_in, words_in) = model.outputs, model.inputs
    feeds = {bytes_in: np.arange(8, dtype=np.uint8).reshape(1, 2, 4), words_in: np.full((1, 2, 4), -7, np.int16)}
    before = interpret(model, feeds)
    after = interpret(signed, {**feeds, bytes_in: (feeds[bytes_in] - 128.0).astype(np.int8)})
    assert np.array_equal(before[first].astype(int) - 128, after[first])
    assert np.array_equal(before[second], after[second])
    with pytest.raises(ModelError, match="uint8 values outside of int8"):
        interpret(signed, {**feeds, bytes_in: np.full((1, 2, 4), 200, np.uint8)})
