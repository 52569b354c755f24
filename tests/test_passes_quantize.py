"""The passes that choose, insert and use quantization, apart from exactness: choices, refusals, imported QDQ models."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
from ir_text import checked, invented
from small_graphs import (
    GRAPHS,
    TO_QDQ,
    Feeds,
    Graph,
    feeds_of,
    onnxruntime_outputs,
    outputs,
    passed,
    run_passes,
    sqnr,
    stages,
)

from qcompiler.arithmetic.requantize import short_multiplier
from qcompiler.errors import CalibrationError, ModelError
from qcompiler.frontends.onnx_import import import_graph
from qcompiler.frontends.onnx_load import normalize
from qcompiler.ir.q_conv import ConvOp
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.quant_types import UniformType, flipped
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import body, defining, integers, location_names, main, quantized
from qcompiler.model import Model
from qcompiler.passes import choose_scheme
from qcompiler.passes.calibrate import load_statistics

LOWER = "integerize,legalize,fold-zero-point,plan-layout,cse,dce"


def op_at(model: Model, place: str, name: str = ""):  # type: ignore[no-untyped-def]
    return next(op for op in body(model.module).ops if place in location_names(op) and (not name or op.name == name))


def quantize_everything(proto: onnx.ModelProto, pipeline: str = TO_QDQ, seed: int = 1) -> tuple[Model, list[Feeds]]:
    feeds = feeds_of(proto, seed=seed)
    with mock.patch.object(choose_scheme, "border", lambda module, gains, inner: (0.0, set(gains))):
        return passed(import_graph(proto), pipeline, feeds), feeds


# ------------------------------------------------------------------------------------------------------------- choices


def relu_and_two_sided() -> onnx.ModelProto:
    g = Graph(x=(1, 3, 8, 8))
    y = g("Relu", g("Conv", "x", g.weight(4, 3, 3, 3)))
    return g.proto(g("Conv", y, g.weight(2, 4, 1, 1)))


@pytest.mark.parametrize(
    ("policy", "symmetric", "of_relu"),
    [("auto", False, 0), ("symmetric", True, 128), ("mixed", True, 0), ("affine", False, 0)],
)
def test_policies(policy: str, symmetric: bool, of_relu: int) -> None:
    """The input is two-sided, but its range is not centred."""
    pipeline = TO_QDQ.replace("choose-scheme", f"choose-scheme{{policy={policy}}}")
    model, _ = quantize_everything(relu_and_two_sided(), pipeline)
    first = next(op for op in body(model.module).ops if op.name == "q.quantize")
    zero = quantized(first.results[0]).zero_point
    assert (zero == 128) == symmetric
    assert quantized(op_at(model, "relu1.node", "q.quantize").results[0]).zero_point == of_relu
    assert first.properties["q.why"].data.startswith("symmetric: " if symmetric else "affine: ")


@pytest.mark.parametrize("method", ["minmax", "moving-average", "percentile", "entropy", "mse"])
def test_methods(method: str) -> None:
    proto = relu_and_two_sided()
    model, feeds = quantize_everything(proto, TO_QDQ.replace("calibrate", f"calibrate{{method={method}}}"))
    assert method in op_at(model, "relu1.node", "q.quantize").properties["q.why"].data
    reference = [onnxruntime_outputs(proto, f) for f in feeds]
    assert sqnr(reference, outputs(passed(model, LOWER), feeds), "conv2") > (10 if method == "moving-average" else 20)


def test_weights_per_channel_and_per_tensor() -> None:
    for option, axis in (("true", 0), ("false", None)):
        pipeline = TO_QDQ.replace("choose-scheme", f"choose-scheme{{per-channel={option}}}")
        model, _ = quantize_everything(relu_and_two_sided(), pipeline)
        kinds = [
            quantized(op.results[0]) for op in body(model.module).ops if op.name == "q.constant" and "i8" in str(op)
        ]
        weights = [k for k in kinds if k.storage == "i8"]
        assert len(weights) == 2
        assert all(k.axis == axis and (k.qmin, k.qmax) == (-127, 127) and not k.zero_points.any() for k in weights)


def test_statistics_are_kept_in_the_store() -> None:
    proto = relu_and_two_sided()
    feeds = feeds_of(proto)
    model = passed(import_graph(proto), "canonicalize,calibrate", feeds)
    found = load_statistics(model.store, "x")
    assert found is not None
    assert (found.minimum, found.maximum) == (min(f["x"].min() for f in feeds), max(f["x"].max() for f in feeds))
    assert load_statistics(model.store, "nothing") is None


def test_a_module_without_statistics_is_refused() -> None:
    graph = stages("conv")
    model = passed(graph.imported, "calibrate", graph.feeds)
    bare = Model(model.module, ConstantStore({k: a for k, a in model.store.items() if "calibration" not in k}))
    with pytest.raises(CalibrationError, match=r"no statistics of '.*'; run calibrate on this module first"):
        passed(bare, "choose-scheme")


def test_dead_channels_and_large_biases_are_noted() -> None:
    g = Graph(x=(1, 3, 6, 6))
    w = g.rng.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)
    w[1] = 0
    w[2] *= 1e-9
    y = g("Conv", "x", g.constant(w), g.constant([0.0, 1.0, 5.0, 0.0]))
    proto = g.proto(g("Conv", y, g.weight(2, 4, 1, 1)))
    feeds = feeds_of(proto)
    model = import_graph(proto)
    with mock.patch.object(choose_scheme, "border", lambda module, gains, inner: (0.0, set(gains))):
        context = run_passes(model, f"{TO_QDQ},{LOWER}", feeds)
    assert any("onnx.Conv 'conv0.node': the weight scale of 2 of 4 channels was widened" in n for n in context.notes)
    reference = [onnxruntime_outputs(proto, f) for f in feeds]
    assert sqnr(reference, outputs(model, feeds), "conv1") > 30


def test_a_concat_of_unlike_ranges_keeps_types_apart() -> None:
    for name, shared in (("concat", True), ("concat-unlike", False)):
        ops = [op for op in body(stages(name).integer.module).ops if op.name in ("q.concat", "q.lut")]
        assert ("q.lut" not in [op.name for op in ops]) == shared


def test_correct_bias_removes_the_mean_error() -> None:
    g = Graph(x=(1, 4, 10, 10))
    y = g("Conv", "x", g.weight(6, 4, 1, 1, scale=1.0), g.weight(6))
    proto = g.proto(g("Conv", g("Relu", y), g.weight(3, 6, 3, 3)), y)
    feeds = [{"x": f["x"] + 4} for f in feeds_of(proto)]  # a mean far from 0
    reference = [onnxruntime_outputs(proto, f)["conv0"] for f in feeds]
    errors = []
    with mock.patch.object(choose_scheme, "border", lambda module, gains, inner: (0.0, set(gains))):
        for middle in ("", "correct-bias,"):
            model = passed(import_graph(proto), TO_QDQ.replace("insert-qdq", f"{middle}insert-qdq"), feeds)
            found = [f["conv0"] for f in outputs(model, feeds)]
            error = np.concatenate(found).astype(np.float64) - np.concatenate(reference)
            errors.append(np.abs(error.mean(axis=(0, 2, 3))).mean())
    assert errors[1] < 0.7 * errors[0]


# ------------------------------------------------------------------------------------------- to and in integers


def test_a_gemm_and_matmul_of_weights_become_integer_without_a_bias() -> None:
    assert [op.name for op in body(stages("gemm").integer.module).ops].count("q.matmul") == 1


def test_quantize_of_another_type_is_a_table() -> None:
    text = """\
module attributes {q.stage = "qdq"} {
  func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
    %0 = "q.quantize"(%x) : (tensor<4xf32>) -> tensor<4x!quant.uniform<u8:f32, 1.0e-01:100>>
    %1 = "q.dequantize"(%0) : (tensor<4x!quant.uniform<u8:f32, 1.0e-01:100>>) -> tensor<4xf32>
    %2 = "q.quantize"(%1) : (tensor<4xf32>) -> tensor<4x!quant.uniform<i8:f32, 2.5e-01:-7>>
    %3 = "q.dequantize"(%2) : (tensor<4x!quant.uniform<i8:f32, 2.5e-01:-7>>) -> tensor<4xf32>
    func.return %3 : tensor<4xf32>
  }
}
"""
    model = Model(checked(text))
    after = passed(model, "integerize")
    names = [op.name for op in body(after.module).ops]
    assert names == ["q.quantize", "q.constant", "q.lut", "q.dequantize", "func.return"]
    feeds = [{"input0": np.array([-5.04, 0, 3.3, 30], np.float32)}]
    assert np.array_equal(outputs(model, feeds)[0]["output0"], outputs(after, feeds)[0]["output0"])


def test_padding_outside_of_the_range_stays_float() -> None:
    for fill in (float("-inf"), 1e6, float("nan")):
        text = """\
module attributes {q.stage = "qdq"} {
  func.func @main(%x: tensor<2xf32>) -> tensor<4xf32> {
    %p = "q.constant"() {value = dense_resource<p> : tensor<2xi64>} : () -> tensor<2xi64>
    %v = "q.constant"() {value = dense_resource<v> : tensor<f32>} : () -> tensor<f32>
    %0 = "q.quantize"(%x) : (tensor<2xf32>) -> tensor<2x!quant.uniform<u8:f32, 1.0e-01:100>>
    %1 = "q.dequantize"(%0) : (tensor<2x!quant.uniform<u8:f32, 1.0e-01:100>>) -> tensor<2xf32>
    %2 = "onnx.Pad"(%1, %p, %v) : (tensor<2xf32>, tensor<2xi64>, tensor<f32>) -> tensor<4xf32>
    %3 = "q.quantize"(%2) : (tensor<4xf32>) -> tensor<4x!quant.uniform<u8:f32, 1.0e-01:100>>
    %4 = "q.dequantize"(%3) : (tensor<4x!quant.uniform<u8:f32, 1.0e-01:100>>) -> tensor<4xf32>
    func.return %4 : tensor<4xf32>
  }
}
"""
        store = ConstantStore({"p": np.array([1, 1]), "v": np.array(fill, np.float32)})
        after = passed(Model(checked(text), store), "integerize")
        assert "onnx.Pad" in [op.name for op in body(after.module).ops]


def test_a_sum_far_smaller_than_its_operands_stays_float() -> None:
    text = """\
module attributes {q.stage = "qdq"} {
  func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {
    %0 = "q.quantize"(%x) : (tensor<2xf32>) -> tensor<2x!quant.uniform<u8:f32, 1.0e+00:100>>
    %1 = "q.dequantize"(%0) : (tensor<2x!quant.uniform<u8:f32, 1.0e+00:100>>) -> tensor<2xf32>
    %5 = "q.dequantize"(%0) : (tensor<2x!quant.uniform<u8:f32, 1.0e+00:100>>) -> tensor<2xf32>
    %2 = "onnx.Sub"(%1, %5) : (tensor<2xf32>, tensor<2xf32>) -> tensor<2xf32>
    %3 = "q.quantize"(%2) : (tensor<2xf32>) -> tensor<2x!quant.uniform<u8:f32, 1.0e-08>>
    %4 = "q.dequantize"(%3) : (tensor<2x!quant.uniform<u8:f32, 1.0e-08>>) -> tensor<2xf32>
    func.return %4 : tensor<2xf32>
  }
}
"""
    model = Model(checked(text))
    after = passed(model, "integerize")
    assert "onnx.Sub" in [op.name for op in body(after.module).ops]
    assert not outputs(after, [{"input0": np.ones(2, np.float32)}])[0]["output0"].any()


def test_ops_that_stay_float_say_why() -> None:
    model = stages("attention").integer
    norm = next(op for op in body(model.module).ops if op.name == "onnx.LayerNormalization")
    assert norm.attributes["q.float"].data == "LayerNormalization has no integer form"  # type: ignore[attr-defined]


MATMUL = """\
module attributes {{q.stage = "integer"}} {{
  func.func @main(%x: tensor<1x{k}x!a>, %y: tensor<{k}x1x!a>) -> tensor<1x1x!a> {{
    %w = "q.constant"() {{value = dense_resource<w> : tensor<{k}x1xi8>}} : () -> tensor<{k}x1xi8>
    %b = "q.constant"() {{value = dense_resource<b> : tensor<1xi32>}} : () -> tensor<1xi32>
    %m = "q.constant"() {{value = dense_resource<m> : tensor<1xf64>}} : () -> tensor<1xf64>
    %0 = "q.matmul"(%x, {right}, %b, %m) {{a_zero_point = 0 : i64, b_zero_point = 0 : i64, clamp = array<i64: 0, 255>,
      rounding = "fp32"}} : (tensor<1x{k}x!a>, {kind}, tensor<1xi32>, tensor<1xf64>) -> tensor<1x1x!a> loc("wide")
    func.return %0 : tensor<1x1x!a>
  }}
}}
"""


@pytest.mark.parametrize(
    ("right", "largest", "fits", "what"),
    [("%w", 127, 66311, "the accumulator of channel 0"), ("%y", 255, 33025, "the accumulator")],
)
def test_accumulators_that_could_leave_int32_are_refused(right: str, largest: int, fits: int, what: str) -> None:
    for k, allowed in ((fits, True), (fits + 1, False)):
        kind = f"tensor<{k}x1xi8>" if right == "%w" else f"tensor<{k}x1x!a>"
        text = "!a = !quant.uniform<u8:f32, 1.0e-01>\n" + MATMUL.format(k=k, right=right, kind=kind)
        arrays = {"w": np.full((k, 1), 127, np.int8), "b": np.zeros(1, np.int32), "m": np.full(1, 1e-6)}
        assert (255 * largest * k < 2**31) == allowed
        model = Model(checked(text), ConstantStore(arrays))
        if allowed:
            passed(model, "fold-zero-point")
        else:
            message = f"q.matmul 'wide': {what} can reach {255 * largest * k}, beyond int32"
            with pytest.raises(ModelError, match=re.escape(message)):
                passed(model, "fold-zero-point")


def test_flipped_types() -> None:
    kind = UniformType.make("u8", 0.5, 3)
    assert flipped(kind) == UniformType.make("i8", 0.5, -125)
    assert flipped(flipped(kind)) == kind
    narrow = UniformType.make("i8", 0.5, 0, storage_range=(-127, 127))
    assert flipped(narrow) == UniformType.make("u8", 0.5, 128, storage_range=(1, 255))


def test_legalize_leaves_weights_and_the_interface_alone() -> None:
    graph = stages("residual-block")
    after = passed(graph.integer, "legalize{storage=i8 rounding=fixed}")
    text = after.text()
    assert "quant.uniform<u8" not in text
    assert "fp32" not in text
    assert main(after.module).function_type == main(graph.integer.module).function_type


def test_legalize_shortens_multipliers_to_bytes_for_fixed2() -> None:
    graph = stages("residual-block")
    after = passed(graph.integer, "legalize{rounding=fixed2}")
    for model, shortened in ((graph.integer, False), (passed(graph.integer, "legalize"), False), (after, True)):
        constants = [defining(op.multiplier, ConstantOp) for op in body(model.module).ops if isinstance(op, ConvOp)]
        multipliers = [model.store[constant.resource] for constant in constants if constant]
        assert multipliers
        assert all(np.array_equal(m, short_multiplier(m)) == shortened for m in multipliers)


@pytest.mark.parametrize(
    ("operation", "multiplier"),
    [
        (
            '"q.mul"(%x, %x) {clamp = array<i64: 0, 255>, rounding = "fp32"} : (tensor<1x4x1x!a>, tensor<1x4x1x!a>)'
            " -> tensor<1x4x1x!y>",
            "12\\d{9}\\.",
        ),
        (
            '"q.mean"(%x) {axes = array<i64: 1>, clamp = array<i64: 0, 255>, rounding = "fp32"} : (tensor<1x4x1x!a>)'
            " -> tensor<1x1x1x!y>",
            "1\\d{10}\\.",
        ),
        (
            '"q.average_pool"(%x) {kernel = array<i64: 2>, strides = array<i64: 1>, pads = array<i64: 1, 0>, '
            'count_include_pad = false, rounding = "fp32", clamp = array<i64: 0, 255>, layout = "NHWC"} : '
            "(tensor<1x4x1x!a>) -> tensor<1x4x1x!y>",
            "[78]\\d{10}\\.",
        ),
    ],
)
def test_rounding_forms_that_cannot_express_a_multiplier(operation: str, multiplier: str) -> None:
    result = operation.rpartition("-> ")[2]
    text = f"""\
!a = !quant.uniform<u8:f32, 1.6e-01>
!y = !quant.uniform<u8:f32, 2.0e-12>
module attributes {{q.stage = "integer"}} {{
  func.func @main(%x: tensor<1x4x1x!a>) -> {result} {{
    %0 = {operation} loc("here")
    func.return %0 : {result}
  }}
}}
"""
    model = Model(checked(text))
    assert passed(model, "legalize{storage=i8}").text() != model.text()
    for rounding in ("fixed", "fixed2"):
        with pytest.raises(ModelError, match=rf"multiplier {multiplier}[\d.]* is 2\^30 or more: .* another"):
            passed(model, f"legalize{{rounding={rounding}}}")


def test_plan_layout_leaves_no_transposes_between_convolutions() -> None:
    after = passed(stages("residual-block").integer, "plan-layout")
    ops = list(body(after.module).ops)
    assert all(op.properties["layout"].data == "NHWC" for op in ops if "layout" in op.properties)  # type: ignore[attr-defined]
    transposes = [integers(op.properties["perm"]) for op in ops if op.name == "q.transpose"]
    assert transposes == [(0, 2, 3, 1)]  # of the input


# ------------------------------------------------------------------------------------------- imported QDQ models


def quantized_by_onnxruntime(proto: onnx.ModelProto, feeds: Iterable[Feeds], **options: object) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> Feeds | None:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(proto, before)
        quantize_static(before, after, Reader(), quant_format=QuantFormat.QDQ, **options)  # type: ignore[arg-type]
        return onnx.load(after)


def imported(proto: onnx.ModelProto) -> Model:
    normalized = normalize(proto)
    return import_graph(normalized.proto, normalized.arrays)


def scales_of(proto: onnx.ModelProto) -> set[float]:
    arrays = {i.name: onnx.numpy_helper.to_array(i) for i in proto.graph.initializer}
    nodes = [n for n in proto.graph.node if n.op_type == "QuantizeLinear"]
    return {float(s) for n in nodes for s in arrays[n.input[1]].reshape(-1)}


FROM_ONNXRUNTIME = [
    "conv",
    "conv-depthwise",
    "gemm",
    "matmul-bias-rank-3",
    "hard-swish",
    "concat",
    "split",
    "max-pool",
    "attention",
    "residual-block",
]


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("name", FROM_ONNXRUNTIME)
def test_models_quantized_by_onnxruntime(name: str, signed: bool) -> None:
    """The imported integers are onnxruntime's own, but for single units at ties and in softmax and means."""
    from onnxruntime.quantization import QuantType

    proto = GRAPHS[name]()
    feeds = feeds_of(proto)
    kind = QuantType.QInt8 if signed else QuantType.QUInt8
    model = quantized_by_onnxruntime(proto, feeds, per_channel=True, activation_type=kind, weight_type=QuantType.QInt8)
    qdq = passed(imported(model), "import-qdq,canonicalize")
    found = {
        float(s)
        for op in body(qdq.module).ops
        if op.name == "q.quantize"
        for s in quantized(op.results[0]).scales.reshape(-1)
    }
    assert found == scales_of(model)
    integer = passed(qdq, LOWER)
    left = {op.name for op in body(integer.module).ops if op.name.startswith("onnx.")}
    assert left <= {"onnx.LayerNormalization", "onnx.BatchNormalization"}
    reference = [onnxruntime_outputs(model, f) for f in feeds]
    assert sqnr(reference, outputs(integer, feeds), next(iter(reference[0]))) > 38


def qdq_proto(input_type: int, output_type: int, other_scale: float = 0.1) -> onnx.ModelProto:
    """Convolution of an image given as uint8 or float, its result given as uint8 or float."""
    g = Graph()
    helper, P = onnx.helper, onnx.TensorProto
    for name, value in (("sx", 0.1), ("sy", 0.05), ("so", other_scale)):
        g.weights[name] = np.array(value, np.float32)
    g.weights["z"] = np.array(7, np.uint8)
    g.weights["w"] = g.rng.integers(-127, 127, (2, 3, 1, 1)).astype(np.int8)
    g.weights["sw"] = np.array([0.01, 0.02], np.float32)
    g.weights["zw"] = np.zeros(2, np.int8)
    nodes = [] if input_type == P.UINT8 else [helper.make_node("QuantizeLinear", ["x", "sx", "z"], ["qx"])]
    nodes += [
        helper.make_node("DequantizeLinear", ["x" if input_type == P.UINT8 else "qx", "so", "z"], ["dx"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["dw"], axis=0),
        helper.make_node("Conv", ["dx", "dw"], ["c"], name="conv"),
        helper.make_node("QuantizeLinear", ["c", "sy", "z"], ["y" if output_type == P.UINT8 else "qy"]),
    ]
    if output_type == P.FLOAT:
        nodes.append(helper.make_node("DequantizeLinear", ["qy", "sy", "z"], ["y"]))
    graph = helper.make_graph(
        nodes,
        "qdq",
        [helper.make_tensor_value_info("x", input_type, (1, 3, 4, 4))],
        [helper.make_tensor_value_info("y", output_type, (1, 2, 4, 4))],
        [onnx.numpy_helper.from_array(a, n) for n, a in g.weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("output_type", [onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8])
@pytest.mark.parametrize("input_type", [onnx.TensorProto.FLOAT, onnx.TensorProto.UINT8])
@pytest.mark.parametrize("scale", [0.1, 0.07])
def test_quantized_inputs_outputs_and_unlike_pairs(input_type: int, output_type: int, scale: float) -> None:
    proto = qdq_proto(input_type, output_type, scale)
    rng = np.random.default_rng(3)
    whole = rng.integers(0, 256, (1, 3, 4, 4)).astype(np.uint8)
    feeds = {"x": whole if input_type == onnx.TensorProto.UINT8 else rng.normal(0, 5, whole.shape).astype(np.float32)}
    expected = onnxruntime_outputs(proto, feeds)["y"]
    model = passed(imported(proto), f"import-qdq,canonicalize,{LOWER}")
    assert "q.conv" in [op.name for op in body(model.module).ops]
    found = outputs(model, [feeds])[0]["y"]
    assert found.dtype == expected.dtype
    unit = 1 if output_type == onnx.TensorProto.UINT8 else 0.05
    difference = np.abs(found.astype(np.float64) - expected) / unit
    assert difference.max() < 1.001
    assert (difference > 0.5).mean() <= 0.05


def test_weights_behind_a_quantize_are_stored() -> None:
    g = Graph(x=(1, 3, 4, 4))
    g.weights |= {"s": np.array([0.01, 0.02], np.float32), "z": np.zeros(2, np.int8)}
    g.weights |= {"sx": np.array(0.1, np.float32), "zx": np.array(9, np.uint8)}
    w = g.weight(2, 3, 1, 1)
    stored = g("DequantizeLinear", g("QuantizeLinear", w, "s", "z", axis=0), "s", "z", axis=0)
    x = g("DequantizeLinear", g("QuantizeLinear", "x", "sx", "zx"), "sx", "zx")
    y = g("Conv", x, stored)
    proto = g.proto(g("DequantizeLinear", g("QuantizeLinear", y, "sx", "zx"), "sx", "zx"))
    model = passed(import_graph(proto), "import-qdq,canonicalize,integerize")
    assert [op.name for op in body(model.module).ops if "onnx" in op.name] == []
    expected = np.clip(np.rint(g.weights[w] / g.weights["s"].reshape(2, 1, 1, 1)), -128, 127)
    conv = next(op for op in body(model.module).ops if op.name == "q.conv")
    assert np.array_equal(model.store[conv.operands[1].owner.resource], expected)  # type: ignore[union-attr]


def test_scales_that_are_no_constants_stay_operands() -> None:
    text = """\
func.func @main(%x: tensor<4xf32>, %s: tensor<f32>) -> tensor<4xf32> {
  %c = "q.constant"() {value = dense_resource<c> : tensor<f32>} : () -> tensor<f32>
  %z = "q.constant"() {value = dense_resource<z> : tensor<f32>} : () -> tensor<f32>
  %0 = "onnx.QuantizeLinear"(%x, %s) : (tensor<4xf32>, tensor<f32>) -> tensor<4xui8>
  %1 = "onnx.DequantizeLinear"(%0, %s) : (tensor<4xui8>, tensor<f32>) -> tensor<4xf32>
  func.return %1 : tensor<4xf32>
}
"""
    module = checked(text)
    model = passed(Model(module, invented(module)), "import-qdq")
    names: Sequence[str] = [op.name for op in body(model.module).ops]
    assert names == ["q.quantize_linear", "q.dequantize_linear", "func.return"]
