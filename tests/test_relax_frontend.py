"""Relax functions become models: every operator of the table against TVM's own results, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import pytest
import tvm
from small_graphs import GRAPHS, feeds_of, onnxruntime_outputs
from tvm import relax, te, tirx
from tvm.ir import Expr
from tvm.relax.frontend.onnx import from_onnx
from tvm.relax.op import image, nn

import qcompiler
from qcompiler.errors import ModelError
from qcompiler.frontends.relax import export_relax, import_relax
from qcompiler.frontends.relax_ops import RULES
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.values import body

op = relax.op


def const(*shape: int, low: float = -1.0, dtype: str = "float32") -> Expr:
    values = np.random.default_rng(len(shape)).uniform(low, 1, shape)
    return relax.const(values.astype(dtype), dtype)


def number(value: float, dtype: str = "float32") -> Expr:
    return relax.const(np.array(value, dtype), dtype)


def batch_norm(x: Expr) -> Expr:
    gamma, beta, mean, variance = (const(4, low=low) for low in (0.5, -1, -1, 0.5))
    return relax.TupleGetItem(nn.batch_norm(x, gamma, beta, mean, variance, axis=1, training=False), 0)


def _above_one(x: Expr) -> Expr:
    return op.add(op.abs(x), number(1.5))


def _below_one(x: Expr) -> Expr:
    return op.multiply(op.tanh(x), number(0.9))


def _apply(name: str, x: Expr, prepare: Callable[[Expr], Expr] = lambda x: x) -> Expr:
    return getattr(op, name)(prepare(x))


def _apply_to_two(name: str, x: Expr) -> Expr:
    return getattr(op, name)(x, op.abs(const(4, 1, 8)))


IMAGE = (1, 4, 6, 8)
PLAIN = ("abs", "ceil", "cos", "cosh", "erf", "exp", "floor", "sigmoid", "sign", "sin", "sinh", "tanh", "negative")
PLAIN += ("square", "isnan", "isinf")
INVERSE = ("acos", "asin", "asinh", "atan", "atanh", "tan")
BINARY = ("add", "subtract", "multiply", "divide", "maximum", "minimum")
BINARY += ("greater", "greater_equal", "less", "less_equal", "equal")
CASES: dict[str, tuple[tuple[int, ...], Callable[[Expr], Expr]]] = {
    **{name: (IMAGE, partial(_apply, name)) for name in PLAIN},
    **{name: (IMAGE, partial(_apply, name, prepare=_above_one)) for name in ("log", "sqrt", "rsqrt", "acosh")},
    **{name: (IMAGE, partial(_apply, name, prepare=_below_one)) for name in INVERSE},
    **{name: (IMAGE, partial(_apply_to_two, name)) for name in BINARY},
    "power": (IMAGE, lambda x: op.power(op.abs(x), number(1.5))),
    "logical": (IMAGE, lambda x: op.logical_not(op.logical_or(op.less(x, number(-1)), op.greater(x, number(1))))),
    "logical_and": (IMAGE, lambda x: op.logical_and(op.less(x, number(1)), op.greater(x, number(-1)))),
    "where": (IMAGE, lambda x: op.where(op.less(x, number(0)), op.exp(x), x)),
    "clip": (IMAGE, lambda x: op.clip(x, -0.5, 0.75)),
    "astype": (IMAGE, lambda x: op.astype(op.multiply(x, number(9)), "int32")),
    "relu": (IMAGE, nn.relu),
    "leakyrelu": (IMAGE, lambda x: nn.leakyrelu(x, 0.2)),
    "gelu": (IMAGE, nn.gelu),
    "gelu_tanh": (IMAGE, nn.gelu_tanh),
    "selu": (IMAGE, nn.selu),
    "silu": (IMAGE, nn.silu),
    "softplus": (IMAGE, lambda x: nn.softplus(x, 1.0, 20.0)),
    "prelu": (IMAGE, lambda x: nn.prelu(x, const(4), axis=1)),
    "softmax": (IMAGE, lambda x: nn.softmax(x, axis=1)),
    "log_softmax": (IMAGE, lambda x: nn.log_softmax(x, axis=-1)),
    "conv1d": ((2, 4, 9), lambda x: nn.conv1d(x, const(6, 2, 3), strides=2, padding=[1, 2], groups=2)),
    "conv2d": (IMAGE, lambda x: nn.conv2d(x, const(6, 4, 3, 2), strides=[2, 1], padding=[1, 0, 0, 2], dilation=[1, 2])),
    "conv1d_transpose": ((1, 4, 7), lambda x: nn.conv1d_transpose(x, const(4, 3, 3), strides=2, padding=1)),
    "conv2d_transpose": (
        IMAGE,
        lambda x: nn.conv2d_transpose(x, const(4, 3, 3, 3), strides=[2, 2], padding=[1, 1], output_padding=[1, 0]),
    ),
    "max_pool1d": ((1, 4, 9), lambda x: nn.max_pool1d(x, 3, 2, padding=1)),
    "max_pool2d": (IMAGE, lambda x: nn.max_pool2d(x, [3, 2], [2, 2], padding=[1, 0], ceil_mode=True)),
    "avg_pool1d": ((1, 4, 9), lambda x: nn.avg_pool1d(x, 3, 2, padding=1)),
    "avg_pool2d": (IMAGE, lambda x: nn.avg_pool2d(x, [3, 3], [1, 2], padding=[1, 1], count_include_pad=True)),
    "adaptive_avg_pool1d": ((1, 4, 9), lambda x: nn.adaptive_avg_pool1d(x, 3)),
    "adaptive_avg_pool2d": (IMAGE, lambda x: nn.adaptive_avg_pool2d(x, [3, 2])),
    "adaptive_avg_pool2d of all": (IMAGE, lambda x: nn.adaptive_avg_pool2d(x, 1)),
    "batch_norm": (IMAGE, batch_norm),
    "layer_norm": (IMAGE, lambda x: nn.layer_norm(x, const(6, 8), const(6, 8), axes=[-2, -1])),
    "rms_norm": (IMAGE, lambda x: nn.rms_norm(x, const(8), axes=[-1])),
    "group_norm": (IMAGE, lambda x: nn.group_norm(x, const(4), const(4), 2, 1, [2, 3])),
    "instance_norm": (IMAGE, lambda x: nn.instance_norm(x, const(4), const(4), 1, [2, 3])),
    "pad": (IMAGE, lambda x: nn.pad(x, [0, 0, 0, 1, 2, 3, 4, 5], pad_value=0.25)),
    "pad reflect": (IMAGE, lambda x: nn.pad(x, [0, 0, 0, 0, 2, 3, 1, 2], pad_mode="reflect")),
    "pad replicate": (IMAGE, lambda x: nn.pad(x, [0, 0, 0, 0, 2, 3, 1, 2], pad_mode="replicate")),
    "batch_flatten": (IMAGE, nn.batch_flatten),
    "matmul": ((2, 3, 8), lambda x: op.matmul(x, const(8, 5))),
    "linear": ((2, 3, 8), lambda x: op.linear(x, const(5, 8), const(5))),
    "concat": (IMAGE, lambda x: op.concat([x, op.exp(x), x], 2)),
    "stack": (IMAGE, lambda x: op.stack([x, op.exp(x)], -1)),
    "split": (IMAGE, lambda x: relax.TupleGetItem(op.split(x, [1, 3], 2), 1)),
    "split in equal parts": (IMAGE, lambda x: relax.TupleGetItem(op.split(x, 2, -1), 1)),
    "strided_slice": (IMAGE, lambda x: op.strided_slice(x, [3, 1], [7, 0], [1, 3], [-1, 2])),
    "take": (IMAGE, lambda x: op.take(x, number([2, 0, 1], "int64"), axis=2)),
    "permute_dims": (IMAGE, lambda x: op.permute_dims(x, [0, 2, -1, 1])),
    "permute_dims of all": (IMAGE, op.permute_dims),
    "flip": (IMAGE, lambda x: op.flip(x, 3)),
    "reshape": (IMAGE, lambda x: op.reshape(x, (2, -1, 8))),
    "flatten": (IMAGE, op.flatten),
    "squeeze": (IMAGE, lambda x: op.squeeze(x, [0])),
    "expand_dims": (IMAGE, lambda x: op.expand_dims(x, [1, -1])),
    "broadcast_to": ((1, 8), lambda x: op.broadcast_to(x, (4, 3, 8))),
    "tile": (IMAGE, lambda x: op.tile(x, (2, 1))),
    "resize2d nearest": (
        IMAGE,
        lambda x: image.resize2d(
            x, (12, 16), method="nearest_neighbor", coordinate_transformation_mode="asymmetric", rounding_method="floor"
        ),
    ),
    "resize2d": (IMAGE, lambda x: image.resize2d(x, (11, 5), method="linear")),
    "mean": (IMAGE, lambda x: op.mean(x, [2, 3], keepdims=True)),
    "sum": (IMAGE, lambda x: op.sum(x, [-1])),
    "max": (IMAGE, lambda x: op.max(x, 1)),
    "min": (IMAGE, lambda x: op.min(x)),
    "prod": (IMAGE, lambda x: op.prod(x, [1])),
    "variance": (IMAGE, lambda x: op.variance(x, [1, 2], keepdims=True)),
    "argmax": (IMAGE, lambda x: op.argmax(x, 1, keepdims=True)),
    "argmin": (IMAGE, lambda x: op.argmin(x, -1)),
    "zeros": (IMAGE, lambda x: op.add(x, op.zeros((4, 1, 1), "float32"))),
    "ones": (IMAGE, lambda x: op.add(x, op.ones((8,), "float32"))),
    "full": (IMAGE, lambda x: op.add(x, op.full((6, 1), number(0.3), "float32"))),
    "shape_of": (IMAGE, lambda x: op.take(op.shape_to_tensor(op.shape_of(x)), number([1], "int64"), axis=0)),
    "quantize": (
        IMAGE,
        lambda x: op.dequantize(
            op.quantize(x, number(0.03), number(3, "int8"), out_dtype="int8"), number(0.03), number(3, "int8")
        ),
    ),
    "quantize channels": (
        IMAGE,
        lambda x: op.dequantize(
            op.quantize(x, const(4, low=0.5), number([1, 2, 3, 4], "uint8"), axis=1, out_dtype="uint8"),
            number([0.1, 0.2, 0.3, 0.4]),
            number([1, 2, 3, 4], "uint8"),
            axis=1,
        ),
    ),
}
"""A shape, and the function of an input of that shape."""


def module_of(shape: tuple[int, ...], make: Callable[[Expr], Expr]) -> tvm.IRModule:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(shape, "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            result = builder.emit_output(builder.normalize(make(x)))
        builder.emit_func_output(result)
    return builder.get()


@cache
def expected() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Input and TVM's result of each case; one module, so that it is built once."""
    builder = relax.BlockBuilder()
    for number_, (shape, make) in enumerate(CASES.values()):
        x = relax.Var("x", relax.TensorType(shape, "float32"))
        with builder.function(f"case{number_}", [x]):
            builder.emit_func_output(builder.emit(builder.normalize(make(x))))
    quick = {"kind": "llvm", "opt-level": 0}
    machine = relax.VirtualMachine(relax.build(builder.get(), tvm.target.Target(quick)), tvm.cpu())
    found = {}
    for number_, (name, (shape, _)) in enumerate(CASES.items()):
        x = np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)
        found[name] = x, machine[f"case{number_}"](tvm.runtime.tensor(x)).numpy()
    return found


@pytest.mark.parametrize("name", CASES)
def test_operators_compute_what_they_do_in_tvm(name: str) -> None:
    x, wanted = expected()[name]
    (found,) = qcompiler.interpret(import_relax(module_of(*CASES[name])), {"x": x}).values()
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)


def test_every_operator_of_the_table_has_a_case() -> None:
    used = set()

    def visit(expr: Expr) -> None:
        if isinstance(expr, tvm.ir.Call) and isinstance(expr.op, tvm.ir.Op):
            used.add(expr.op.name)

    for case in CASES.values():
        relax.analysis.post_order_visit(module_of(*case)["main"], visit)
    assert set(RULES) <= used


def test_functions_in_place_of_operators_are_recognized_by_what_they_compute() -> None:
    """`maximum` and `minimum` of a Clip, padding, and any name for them."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((1, 2, 5), "float32"))

    def compute(x: te.Tensor, y: te.Tensor) -> te.Tensor:
        return te.compute((1, 2, 5), lambda a, b, c: te.max(tirx.exp(x[a, b, c]) - y[b, 0], 0.5), "unheard_of")

    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_te(compute, x, const(2, 1))
            y = builder.emit_te(tvm.topi.nn.pad, y, [0, 1, 2], [0, 0, 3], 1.25)
            y = builder.emit_output(y)
        builder.emit_func_output(y)
    module = builder.get()
    feeds = {"x": np.random.default_rng(2).normal(0, 1, (1, 2, 5)).astype(np.float32)}
    machine = relax.VirtualMachine(relax.build(module, "llvm"), tvm.cpu())
    wanted = machine["main"](tvm.runtime.tensor(feeds["x"])).numpy()
    (found,) = qcompiler.interpret(import_relax(module), feeds).values()
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


def refused_functions() -> dict[str, Callable[[te.Tensor], te.Tensor]]:
    return {
        "a reduction": lambda x: tvm.topi.sum(x, 1, keepdims=True),
        "read elsewhere": lambda x: te.compute((2, 5), lambda a, b: x[a, 4 - b]),
        "several stages": lambda x: tvm.topi.exp(tvm.topi.sum(x, 1)),
        "that computes": lambda x: te.compute((2, 5), lambda a, b: tirx.popcount(x[a, b].astype("int32"))),
        "a border where": lambda x: te.compute(
            (2, 7), lambda a, b: tirx.if_then_else(b < 5, x[a, b - 1], tirx.const(0.0))
        ),
    }


@pytest.mark.parametrize("reason", refused_functions())
def test_functions_that_compute_something_else_are_refused(reason: str) -> None:
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((2, 5), "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit_te(refused_functions()[reason], x))
    with pytest.raises(ModelError, match=f"is not understood: .*{reason}"):
        import_relax(builder.get())


REFUSED: dict[str, Callable[[Expr], Expr]] = {
    "the operator relax.round": op.round,
    "layout NHWC": lambda x: nn.max_pool2d(x, [1, 1], layout="NHWC"),
    "batch normalization in training": lambda x: relax.TupleGetItem(
        nn.batch_norm(x, const(4), const(4), const(4), const(4), axis=1, training=True), 0
    ),
    "windows of unequal size": lambda x: nn.adaptive_avg_pool2d(x, [4, 8]),
    "relax.divide of int32": lambda x: op.divide(op.astype(x, "int32"), number(2, "int32")),
    "scale or zero point are computed": lambda x: op.quantize(x, op.max(x), number(0, "int8"), out_dtype="int8"),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_calls_without_counterpart_are_refused(reason: str) -> None:
    with pytest.raises(ModelError, match=f"is not understood: {reason}"):
        import_relax(module_of(IMAGE, REFUSED[reason]))


def test_unknown_functions_and_shapes_are_refused() -> None:
    with pytest.raises(ModelError, match="no Relax function 'f'; it has main"):
        import_relax(module_of(IMAGE, nn.relu), "f")
    x = relax.Var("x", relax.TensorType((tirx.Var("n", "int64"), 4), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(nn.relu(x)))
    with pytest.raises(ModelError, match=r"parameter 'x'.* no tensor of known shape"):
        import_relax(builder.get())


@pytest.mark.parametrize("name", ["conv-clip", "residual-block", "attention", "gather", "inputs-and-outputs"])
def test_models_to_relax_and_back(name: str) -> None:
    proto = GRAPHS[name]()
    feeds = feeds_of(proto)[0]
    model = import_relax(from_onnx(proto, keep_params_in_input=False))
    again = import_relax(export_relax(model))
    wanted = onnxruntime_outputs(proto, feeds).values()
    for a, b, c in zip(*(qcompiler.interpret(m, feeds).values() for m in (model, again)), wanted, strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(b, c, rtol=1e-4, atol=1e-5)


def test_quantized_modules_become_integers() -> None:
    """What TVM's importer makes of a QDQ model, biases apart from their convolutions, gives the same integers."""
    proto = GRAPHS["residual-block"]()
    samples = feeds_of(proto)
    float_model = import_relax(from_onnx(proto, keep_params_in_input=False))
    quantized = qcompiler.quantize(float_model, samples)
    module = from_onnx(qcompiler.export(quantized), keep_params_in_input=False)
    again = qcompiler.quantize(import_relax(module), None)
    assert not [o for o in body(again.model.module).ops if op_name(o)], "no float operations"
    for feeds in samples:
        a, b = (next(iter(qcompiler.interpret(q, feeds).values())) for q in (quantized, again))
        assert a.tobytes() == b.tobytes()
