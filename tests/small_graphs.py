"""Small ONNX graphs of every kind the passes know, and what tests do with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from unittest import mock

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from qcompiler.frontends.onnx_import import import_graph
from qcompiler.interpreter import Interpreter
from qcompiler.ir.opset import OPSET
from qcompiler.model import Model
from qcompiler.passes import choose_scheme
from qcompiler.pipeline import CompilerContext, PassManager, parse

Feeds = dict[str, np.ndarray]

TO_QDQ = "canonicalize,fold-batch-norm,canonicalize,calibrate,choose-scheme,insert-qdq"
"""From the float graph to quantize and dequantize around the ops that are to run in integers."""


class Graph:
    """Builds an ONNX model node by node; calling it adds a node and returns the name of its first result."""

    def __init__(self, seed: int = 0, **inputs: Sequence[int]) -> None:
        self.rng = np.random.default_rng(seed)
        self.inputs = {name: tuple(shape) for name, shape in inputs.items()}
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {}

    def __call__(self, kind: str, *operands: str, results: int = 1, **attributes: object) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        outputs = [name] if results == 1 else [f"{name}.{i}" for i in range(results)]
        self.nodes.append(helper.make_node(kind, operands, outputs, name=f"{name}.node", **attributes))
        return outputs[0]

    def weight(self, *shape: int, scale: float = 0.3) -> str:
        """A random float constant."""
        return self.constant(self.rng.normal(0, scale, shape).astype(np.float32))

    def constant(self, value: object, dtype: type = np.float32) -> str:
        name = f"c{len(self.weights)}"
        self.weights[name] = value if isinstance(value, np.ndarray) else np.asarray(value, dtype)
        return name

    def ints(self, *values: int) -> str:
        return self.constant(list(values), np.int64)

    def proto(self, *outputs: str) -> onnx.ModelProto:
        inputs = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in self.inputs.items()}
        graph = helper.make_graph(
            self.nodes,
            "graph",
            list(inputs.values()),
            [inputs.get(name, onnx.ValueInfoProto(name=name)) for name in outputs],
            [numpy_helper.from_array(a, n) for n, a in self.weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
        return shape_inference.infer_shapes(model, data_prop=True, strict_mode=True)


def feeds_of(proto: onnx.ModelProto, count: int = 4, seed: int = 1) -> list[Feeds]:
    """Random samples for the inputs of a model: normal, with unlike spread and offset for each input."""
    rng = np.random.default_rng(seed)
    weights = {i.name for i in proto.graph.initializer}
    inputs = [v for v in proto.graph.input if v.name not in weights]
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inputs}
    return [
        {
            name: rng.normal(0.25 * i, 1.0 + 0.5 * i, shape).astype(np.float32)
            for i, (name, shape) in enumerate(shapes.items())
        }
        for _ in range(count)
    ]


def onnxruntime_outputs(proto: onnx.ModelProto, feeds: Feeds) -> Feeds:
    """The outputs of onnxruntime without graph optimizations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def run_passes(model: Model, pipeline: str, feeds: Sequence[Feeds] = ()) -> CompilerContext:
    """Applies passes to `model` in place, calibrating on `feeds`."""
    context = CompilerContext(model.store, calibration=feeds or None)
    PassManager(parse(pipeline)).run(model, context)
    return context


def passed(model: Model, pipeline: str, feeds: Sequence[Feeds] = ()) -> Model:
    """A copy of `model` after these passes."""
    result = model.clone()
    run_passes(result, pipeline, feeds)
    return result


def outputs(model: Model, feeds: Sequence[Feeds]) -> list[Feeds]:
    interpreter = Interpreter(model)
    return [interpreter.run(f) for f in feeds]


def assert_equal(before: Sequence[Feeds], after: Sequence[Feeds]) -> None:
    """Every output is the same, bit for bit."""
    for old, new in zip(before, after, strict=True):
        assert old.keys() == new.keys()
        for name, array in old.items():
            assert array.shape == new[name].shape, name
            assert array.dtype == new[name].dtype, name
            assert np.array_equal(array, new[name]), f"{name}: {np.max(np.abs(array - new[name]))}"


def sqnr(reference: Sequence[Mapping[str, np.ndarray]], found: Sequence[Mapping[str, np.ndarray]], name: str) -> float:
    """Signal to quantization noise of one output over all samples, in dB."""
    signal = sum(float(np.sum(np.square(r[name], dtype=np.float64))) for r in reference)
    noise = sum(
        float(np.sum(np.square(r[name].astype(np.float64) - f[name]))) for r, f in zip(reference, found, strict=True)
    )
    return 10 * np.log10(signal / noise) if noise else np.inf


# -------------------------------------------------------------------------------------------------- the graphs


def _conv(x: Sequence[int], w: Sequence[int], *, bias: bool = True, **attributes: object) -> onnx.ModelProto:
    g = Graph(x=x)
    operands = [g.weight(*w), *([g.weight(w[0])] if bias else [])]
    return g.proto(g("Conv", "x", *operands, **attributes))


def _conv_relu(clip: tuple[float, float] | None) -> onnx.ModelProto:
    g = Graph(x=(2, 3, 7, 6))
    y = g("Conv", "x", g.weight(5, 3, 3, 3), g.weight(5), pads=[1, 1, 1, 1])
    y = g("Relu", y) if clip is None else g("Clip", y, g.constant(clip[0]), g.constant(clip[1]))
    return g.proto(g("Conv", y, g.weight(4, 5, 1, 1), g.weight(4)))


def _gemm(**attributes: object) -> onnx.ModelProto:
    g = Graph(x=(3, 16))
    w = g.weight(8, 16) if attributes.get("transB") else g.weight(16, 8)
    return g.proto(g("Gemm", "x", w, g.weight(8), **attributes))


def _matmul_bias(shape: Sequence[int]) -> onnx.ModelProto:
    g = Graph(x=shape)
    y = g("Add", g("MatMul", "x", g.weight(shape[-1], 6)), g.weight(6))
    return g.proto(g("Relu", y))


def _matmul_of_activations() -> onnx.ModelProto:
    g = Graph(a=(2, 3, 5, 8), b=(3, 8, 4))
    return g.proto(g("MatMul", "a", "b"))


def _matmul_batched_weight() -> onnx.ModelProto:
    g = Graph(x=(2, 3, 5, 8))
    return g.proto(g("MatMul", "x", g.weight(3, 8, 4)))


def _binary(kind: str, a: Sequence[int], b: Sequence[int]) -> onnx.ModelProto:
    g = Graph(a=a, b=b)
    return g.proto(g(kind, "a", "b"))


def _binary_constant(kind: str, a: Sequence[int], b: Sequence[int], swap: bool = False) -> onnx.ModelProto:
    g = Graph(a=a)
    operands = ["a", g.weight(*b, scale=1.0)]
    return g.proto(g("Relu", g(kind, *(reversed(operands) if swap else operands))))


def _branches(g: Graph) -> tuple[str, str]:
    """Two convolutions of one image whose results have like ranges."""
    return (
        g("Conv", "x", g.weight(4, 3, 1, 1), g.weight(4)),
        g("Relu", g("Conv", "x", g.weight(6, 3, 3, 3, scale=0.2), g.weight(6), pads=[1, 1, 1, 1])),
    )


def _concat(unlike: bool) -> onnx.ModelProto:
    g = Graph(x=(1, 3, 6, 5))
    left, right = _branches(g)
    if unlike:
        right = g("Mul", right, g.constant([20.0]))
    y = g("Concat", left, right, axis=1)
    return g.proto(g("Conv", y, g.weight(3, 10, 1, 1), g.weight(3)))


def _concat_constant() -> onnx.ModelProto:
    g = Graph(x=(1, 3, 4, 4))
    y = g("Concat", g("Conv", "x", g.weight(4, 3, 1, 1)), g.weight(1, 2, 4, 4, scale=1.0), axis=1)
    return g.proto(g("Conv", y, g.weight(3, 6, 1, 1)))


def _split() -> onnx.ModelProto:
    g = Graph(x=(1, 3, 6, 5))
    y = g("Conv", "x", g.weight(8, 3, 1, 1), g.weight(8))
    first = g("Split", y, g.ints(3, 5), axis=-3, results=2)
    left = g("Conv", first, g.weight(4, 3, 1, 1))
    right = g("Conv", first.replace(".0", ".1"), g.weight(4, 5, 1, 1))
    return g.proto(g("Add", left, right))


def _between_convs(shape: Sequence[int], move: Callable[[Graph, str], str], channels: int) -> onnx.ModelProto:
    """A movement of stored integers between two convolutions."""
    g = Graph(x=shape)
    y = move(g, g("Conv", "x", g.weight(4, shape[1], 1, 1), g.weight(4)))
    return g.proto(g("Conv", y, g.weight(3, channels, 1, 1), g.weight(3)))


def _slice(g: Graph, y: str) -> str:
    return g("Slice", y, g.ints(-1, 1), g.ints(-100, 7), g.ints(2, -1), g.ints(-2, 2))


def _pad(mode: str, *value: float) -> Callable[[Graph, str], str]:
    def make(g: Graph, y: str) -> str:
        operands = [g.ints(0, 0, 1, 2, 0, 1, 2, 0), *(g.constant(v) for v in value)]
        return g("Pad", y, *operands, mode=mode)

    return make


def _reshape(g: Graph, y: str) -> str:
    y = g("Reshape", y, g.ints(1, 4, 2, -1))
    return g("Reshape", g("Transpose", y, perm=[0, 1, 3, 2]), g.ints(1, 8, 3, -1))


def _shuffle_channels() -> onnx.ModelProto:
    """Channels in 3 groups of 2 change places, as between grouped convolutions."""
    g = Graph(x=(2, 3, 5, 4))
    y = g("Relu", g("Conv", "x", g.weight(6, 3, 1, 1), g.weight(6)))
    y = g("Transpose", g("Reshape", y, g.ints(2, 3, 2, 5, 4)), perm=[0, 2, 1, 3, 4])
    y = g("Reshape", y, g.ints(2, 6, 5, 4))
    return g.proto(g("Conv", y, g.weight(6, 1, 3, 3), g.weight(6), group=6, pads=[1, 1, 1, 1]))


def _sum_of_three() -> onnx.ModelProto:
    g = Graph(x=(1, 3, 6, 5))
    terms = [g("Conv", "x", g.weight(4, 3, 1, 1), g.weight(4)) for _ in range(3)]
    return g.proto(g("Sum", *terms))


def _transpose(g: Graph, y: str) -> str:
    return g("Transpose", y, perm=[0, 2, 3, 1])


def _gather(g: Graph, y: str) -> str:
    return g("Gather", y, g.ints(2, -1, 0, 0, 1), axis=1)


def _gather_scalar(g: Graph, y: str) -> str:
    y = g("Gather", y, g.constant(1, np.int64), axis=2)
    return g("Unsqueeze", y, g.ints(2))


def _resize(coordinates: str, nearest: str, scales: Sequence[float]) -> Callable[[Graph, str], str]:
    def make(g: Graph, y: str) -> str:
        attributes = {"coordinate_transformation_mode": coordinates, "nearest_mode": nearest}
        return g("Resize", y, "", g.constant([1.0, 1.0, *scales]), mode="nearest", **attributes)

    return make


def _resize_to(rows: int, columns: int) -> Callable[[Graph, str], str]:
    return lambda g, y: g("Resize", y, "", "", g.ints(1, 4, rows, columns), mode="nearest")


def _pool(kind: str, x: Sequence[int], **attributes: object) -> onnx.ModelProto:
    g = Graph(x=x)
    w = [4, x[1], *[1] * (len(x) - 2)]
    return g.proto(g(kind, g("Conv", "x", g.weight(*w), g.weight(4)), **attributes))


def _mean(axes: Sequence[int], keepdims: int) -> onnx.ModelProto:
    g = Graph(x=(2, 3, 5, 4))
    y = g("Conv", "x", g.weight(4, 3, 1, 1), g.weight(4))
    return g.proto(g("ReduceMean", y, g.ints(*axes), keepdims=keepdims))


def _table(make: Callable[[Graph, str], str]) -> onnx.ModelProto:
    g = Graph(x=(2, 3, 4, 5))
    y = make(g, g("Conv", "x", g.weight(4, 3, 1, 1), g.weight(4)))
    return g.proto(g("Conv", y, g.weight(3, 4, 1, 1), g.weight(3)))


def _silu(g: Graph, y: str) -> str:
    return g("Mul", y, g("Sigmoid", y))


def _gelu(g: Graph, y: str) -> str:
    one = g("Add", g("Erf", g("Div", y, g.constant(2.0**0.5))), g.constant([1.0]))
    return g("Mul", g("Mul", y, one), g.constant(0.5))


def _hard_swish(g: Graph, y: str) -> str:
    six = g("Clip", g("Add", y, g.constant(3.0)), g.constant(0.0), g.constant(6.0))
    return g("Div", g("Mul", y, six), g.constant(6.0))


def _softmax(axis: int) -> onnx.ModelProto:
    g = Graph(x=(2, 12))
    y = g("Reshape", g("Gemm", "x", g.weight(12, 30), g.weight(30)), g.ints(2, 5, 6))
    return g.proto(g("Softmax", y, axis=axis))


def _attention() -> onnx.ModelProto:
    """One head: two products of activations, softmax, and layer normalization left in float."""
    g = Graph(x=(1, 6, 8))
    q, k, v = (g("Add", g("MatMul", "x", g.weight(8, 8)), g.weight(8)) for _ in range(3))
    scores = g("Mul", g("MatMul", q, g("Transpose", k, perm=[0, 2, 1])), g.constant(8**-0.5))
    y = g("MatMul", g("Softmax", scores, axis=-1), v)
    y = g("LayerNormalization", g("Add", "x", y), g.weight(8, scale=1.0), g.weight(8), axis=-1)
    return g.proto(g("Add", g("MatMul", y, g.weight(8, 5)), g.weight(5)))


def _inputs_and_outputs() -> onnx.ModelProto:
    """Two inputs; an output that is read inside, and one that is an input."""
    g = Graph(x=(1, 3, 5, 5), z=(1, 4, 1, 1))
    y = g("Conv", "x", g.weight(4, 3, 3, 3), g.weight(4))
    total = g("Add", y, "z")
    return g.proto(y, total, g("Relu", total), "z")


def _residual_block() -> onnx.ModelProto:
    """Convolutions with batch normalization, a skip connection, pooling, a classifier."""
    g = Graph(x=(1, 3, 12, 12))

    def normalized(y: str, channels: int) -> str:
        variance = g.constant(g.rng.uniform(0.5, 2, channels).astype(np.float32))
        gamma = g.constant(g.rng.uniform(0.5, 1.5, channels).astype(np.float32))
        return g("BatchNormalization", y, gamma, g.weight(channels), g.weight(channels), variance)

    x = g("Relu", normalized(g("Conv", "x", g.weight(8, 3, 3, 3), pads=[1] * 4, strides=[2, 2]), 8))
    y = g("Relu", normalized(g("Conv", x, g.weight(8, 1, 3, 3), pads=[1] * 4, group=8), 8))
    y = normalized(g("Conv", y, g.weight(8, 8, 1, 1)), 8)
    y = g("Relu", g("Add", x, y))
    y = g("Flatten", g("GlobalAveragePool", g("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])))
    return g.proto(g("Softmax", g("Gemm", y, g.weight(5, 8), g.weight(5), transB=1), axis=-1))


_IMAGE = (1, 3, 7, 6)

GRAPHS: dict[str, Callable[[], onnx.ModelProto]] = {
    "conv": lambda: _conv((2, 3, 7, 6), (5, 3, 3, 3)),
    "conv-without-bias": lambda: _conv((1, 3, 7, 6), (5, 3, 1, 1), bias=False),
    "conv-odd-strided": lambda: _conv((1, 5, 11, 9), (7, 5, 3, 5), strides=[2, 3], pads=[0, 2, 1, 1]),
    "conv-groups": lambda: _conv((1, 6, 7, 7), (4, 3, 3, 3), group=2, pads=[1, 1, 1, 1]),
    "conv-depthwise": lambda: _conv((1, 6, 8, 7), (6, 1, 3, 3), group=6, pads=[1, 1, 1, 1], strides=[2, 2]),
    "conv-depth-multiplier": lambda: _conv((1, 3, 6, 6), (6, 1, 3, 3), group=3),
    "conv-dilated": lambda: _conv((1, 3, 12, 11), (4, 3, 3, 3), dilations=[2, 3], pads=[2, 3, 1, 0]),
    "conv-same": lambda: _conv((1, 3, 8, 7), (4, 3, 3, 4), auto_pad="SAME_LOWER", strides=[2, 2]),
    "conv-1d": lambda: _conv((2, 3, 20), (5, 3, 4), strides=[2], pads=[1, 2]),
    "conv-relu": lambda: _conv_relu(None),
    "conv-clip": lambda: _conv_relu((-0.4, 0.7)),
    "gemm": lambda: _gemm(),
    "gemm-transposed": lambda: _gemm(transB=1, alpha=0.5, beta=2.0),
    "matmul-bias": lambda: _matmul_bias((4, 10)),
    "matmul-bias-rank-3": lambda: _matmul_bias((2, 4, 10)),
    "matmul-of-activations": _matmul_of_activations,
    "matmul-batched-weight": _matmul_batched_weight,
    "add": lambda: _binary("Add", (2, 3, 4, 5), (2, 3, 4, 5)),
    "sub-broadcast": lambda: _binary("Sub", (2, 3, 4, 5), (3, 1, 5)),
    "mul-broadcast": lambda: _binary("Mul", (2, 3, 4, 5), (2, 3, 1, 1)),
    "add-constant": lambda: _binary_constant("Add", (2, 3, 4, 5), (3, 1, 1)),
    "sub-from-constant": lambda: _binary_constant("Sub", (2, 3, 4, 5), (5,), swap=True),
    "mul-constant": lambda: _binary_constant("Mul", (2, 3, 4, 5), (1, 3, 4, 5)),
    "add-scalar-relu": lambda: _binary_constant("Add", (2, 3, 4, 5), (1,)),
    "concat": lambda: _concat(False),
    "concat-unlike": lambda: _concat(True),
    "concat-constant": _concat_constant,
    "split": _split,
    "slice-negative-step": lambda: _between_convs(_IMAGE, _slice, 4),
    "pad-constant": lambda: _between_convs(_IMAGE, _pad("constant", 0.25), 5),
    "pad-edge": lambda: _between_convs(_IMAGE, _pad("edge"), 5),
    "pad-reflect": lambda: _between_convs(_IMAGE, _pad("reflect"), 5),
    "reshape": lambda: _between_convs((1, 3, 6, 6), _reshape, 8),
    "transpose": lambda: _between_convs(_IMAGE, _transpose, 7),
    "gather": lambda: _between_convs(_IMAGE, _gather, 5),
    "gather-scalar": lambda: _between_convs(_IMAGE, _gather_scalar, 4),
    "resize-asymmetric": lambda: _between_convs(_IMAGE, _resize("asymmetric", "floor", (2.0, 3.0)), 4),
    "resize-half-pixel": lambda: _between_convs(_IMAGE, _resize("half_pixel", "round_prefer_ceil", (1.7, 0.6)), 4),
    "resize-align-corners": lambda: _between_convs(
        _IMAGE, _resize("align_corners", "round_prefer_floor", (2.0, 2.0)), 4
    ),
    "resize-to-size": lambda: _between_convs(_IMAGE, _resize_to(9, 4), 4),
    "max-pool": lambda: _pool("MaxPool", _IMAGE, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 1, 1]),
    "max-pool-dilated-ceil": lambda: _pool(
        "MaxPool", (1, 3, 10, 9), kernel_shape=[3, 3], strides=[2, 2], dilations=[2, 1], ceil_mode=1
    ),
    "max-pool-1d": lambda: _pool("MaxPool", (1, 3, 11), kernel_shape=[3], strides=[2], ceil_mode=1),
    "average-pool": lambda: _pool("AveragePool", _IMAGE, kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    "average-pool-ceil": lambda: _pool("AveragePool", (1, 3, 8, 9), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "average-pool-with-padding": lambda: _pool(
        "AveragePool", _IMAGE, kernel_shape=[3, 2], pads=[1, 1, 1, 0], count_include_pad=1
    ),
    "average-pool-same": lambda: _pool(
        "AveragePool", _IMAGE, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER"
    ),
    "global-max-pool": lambda: _pool("GlobalMaxPool", _IMAGE),
    "global-average-pool": lambda: _pool("GlobalAveragePool", _IMAGE),
    "reduce-mean": lambda: _mean((2, 3), 0),
    "reduce-mean-kept": lambda: _mean((-1, 1), 1),
    "sigmoid": lambda: _table(lambda g, y: g("Sigmoid", y)),
    "silu": lambda: _table(_silu),
    "gelu": lambda: _table(_gelu),
    "hard-swish": lambda: _table(_hard_swish),
    "hard-swish-op": lambda: _table(lambda g, y: g("HardSwish", y)),
    "leaky-relu": lambda: _table(lambda g, y: g("LeakyRelu", y, alpha=0.1)),
    "thresholded-relu": lambda: _table(lambda g, y: g("ThresholdedRelu", y, alpha=0.3)),
    "softmax": lambda: _softmax(-1),
    "softmax-middle-axis": lambda: _softmax(1),
    "attention": _attention,
    "inputs-and-outputs": _inputs_and_outputs,
    "residual-block": _residual_block,
    "shuffle-channels": _shuffle_channels,
    "sum-of-three": _sum_of_three,
}
"""Name to a function that makes the ONNX model."""


@dataclass(frozen=True)
class Stages:
    """One graph on its way to integers, all of it that can be made integer."""

    proto: onnx.ModelProto
    feeds: list[Feeds]
    reference: list[Feeds]
    """What onnxruntime gives for the float model."""
    imported: Model
    qdq: Model
    integer: Model


@cache
def stages(name: str) -> Stages:
    """The stages of one of GRAPHS; made once, not to be changed."""
    proto = GRAPHS[name]()
    feeds = feeds_of(proto)
    imported = import_graph(proto)
    everything = mock.patch.object(choose_scheme, "border", lambda module, gains, inner: (0.0, set(gains)))
    with everything:  # such small graphs are not worth it
        qdq = passed(imported, TO_QDQ, feeds)
    reference = [onnxruntime_outputs(proto, f) for f in feeds]
    return Stages(proto, feeds, reference, imported, qdq, passed(qdq, "integerize"))
