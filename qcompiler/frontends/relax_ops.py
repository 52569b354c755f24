"""What each Relax operator is in ONNX: one table, from its name to the function that emits the nodes of a call.

Convolutions, pools and normalizations stand in `relax_nn`, movement in `relax_movement`, quantize and dequantize in
`relax_quantized`. Each function returns the name of the ONNX value that stands for the call, or a tuple of names where
the call gives a tuple. One that meets attributes it has no nodes for raises `NotUnderstood`, and the call stays in
Relax.
"""

# TVM's expressions have no attributes and operators for a type checker.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from onnx import helper
from tvm.ir import Call, GenericConst

from qcompiler.frontends import relax_movement, relax_nn, relax_quantized
from qcompiler.frontends.relax_emit import Emitter, Rule, Value, dtype_of, ints, require, shape_of


def _plain(kind: str, **attributes: Any) -> Rule:
    """A node with the call's tensors as inputs."""
    return lambda emitter, call: emitter.node(kind, *map(emitter.of, call.args), **attributes)


def _of_floats(kind: str) -> Rule:
    def rule(emitter: Emitter, call: Call) -> Value:
        require(dtype_of(call).kind == "f", f"{call.op.name} of {dtype_of(call)}")
        return emitter.node(kind, *map(emitter.of, call.args))

    return rule


def _reshape(emitter: Emitter, call: Call) -> Value:
    return emitter.node("Reshape", emitter.of(call.args[0]), emitter.constant(shape_of(call)))


def _clip(emitter: Emitter, call: Call) -> Value:
    kind = dtype_of(call.args[0])
    low, high = (emitter.constant(np.array(bound.value, kind)) for bound in call.args[1:])
    return emitter.node("Clip", emitter.of(call.args[0]), low, high)


def _silu(emitter: Emitter, call: Call) -> Value:
    x = emitter.of(call.args[0])
    return emitter.node("Mul", x, emitter.node("Sigmoid", x))


def _square(emitter: Emitter, call: Call) -> Value:
    x = emitter.of(call.args[0])
    return emitter.node("Mul", x, x)


def _rsqrt(emitter: Emitter, call: Call) -> Value:
    return emitter.node("Reciprocal", emitter.node("Sqrt", emitter.of(call.args[0])))


def _softplus(emitter: Emitter, call: Call) -> Value:
    require(float(call.attrs.beta) == 1 and float(call.attrs.threshold) >= 20, "softplus with other parameters")
    return emitter.node("Softplus", emitter.of(call.args[0]))


def _prelu(emitter: Emitter, call: Call) -> Value:
    x, slope = map(emitter.of, call.args)
    rank, slopes = len(shape_of(call.args[0])), prod(shape_of(call.args[1]))
    extents = [1] * rank
    extents[int(call.attrs.axis) % rank] = slopes
    return emitter.node("PRelu", x, emitter.node("Reshape", slope, emitter.constant(extents)))


def _astype(emitter: Emitter, call: Call) -> Value:
    return emitter.node("Cast", emitter.of(call.args[0]), to=helper.np_dtype_to_tensor_dtype(dtype_of(call)))


def _reduce(kind: str) -> Rule:
    def rule(emitter: Emitter, call: Call) -> Value:
        axis, rank = call.attrs.axis, len(shape_of(call.args[0]))
        axes = list(range(rank)) if axis is None else ints(axis)
        return emitter.node(kind, emitter.of(call.args[0]), emitter.constant(axes), keepdims=int(call.attrs.keepdims))

    return rule


def _variance(emitter: Emitter, call: Call) -> Value:
    x, rank = emitter.of(call.args[0]), len(shape_of(call.args[0]))
    axes = emitter.constant(list(range(rank)) if call.attrs.axis is None else ints(call.attrs.axis))
    centered = emitter.node("Sub", x, emitter.node("ReduceMean", x, axes, keepdims=1))
    return emitter.node("ReduceMean", emitter.node("Mul", centered, centered), axes, keepdims=int(call.attrs.keepdims))


def _arg(kind: str) -> Rule:
    def rule(emitter: Emitter, call: Call) -> Value:
        require(call.attrs.axis is not None, "the index in all of a tensor")
        require(dtype_of(call) == np.int64, f"indices of type {dtype_of(call)}")
        x, kept = emitter.of(call.args[0]), int(call.attrs.keepdims)
        return emitter.node(kind, x, axis=int(call.attrs.axis), keepdims=kept)

    return rule


def _filled(value: int | None) -> Rule:
    """A tensor of one value, that of the last argument if None is given."""

    def rule(emitter: Emitter, call: Call) -> Value:
        if value is not None:
            return emitter.constant(np.full(shape_of(call), value, dtype_of(call)))
        given = call.args[-1]
        require(isinstance(given, GenericConst), "a tensor full of a computed value")
        return emitter.constant(np.full(shape_of(call), given.value.numpy(), dtype_of(call)))

    return rule


def _shape(emitter: Emitter, call: Call) -> Value:
    return emitter.constant(shape_of(call.args[0]))


_SAME = {
    **{name: name.capitalize() for name in ("abs", "ceil", "cos", "cosh", "erf", "exp", "floor", "log", "sigmoid")},
    **{name: name.capitalize() for name in ("acos", "acosh", "asin", "asinh", "atan", "atanh", "sign", "sin", "sinh")},
    **{name: name.capitalize() for name in ("sqrt", "tan", "tanh", "equal", "greater", "less", "where")},
    **{"add": "Add", "subtract": "Sub", "multiply": "Mul", "maximum": "Max", "minimum": "Min", "negative": "Neg"},
    **{"greater_equal": "GreaterOrEqual", "less_equal": "LessOrEqual", "logical_and": "And", "logical_or": "Or"},
    **{"logical_not": "Not", "isnan": "IsNaN", "isinf": "IsInf"},
    **{"nn.relu": "Relu", "nn.selu": "Selu", "nn.gelu": "Gelu"},
}

RULES: dict[str, Rule] = {
    **relax_nn.RULES,
    **relax_movement.RULES,
    **relax_quantized.RULES,
    **{f"relax.{name}": _plain(kind) for name, kind in _SAME.items()},
    **{f"relax.{name}": _reshape for name in ("reshape", "flatten", "squeeze", "expand_dims", "nn.batch_flatten")},
    **{f"relax.{name}": _reduce(f"Reduce{name.capitalize()}") for name in ("mean", "sum", "max", "min", "prod")},
    "relax.divide": _of_floats("Div"),
    "relax.power": _of_floats("Pow"),
    "relax.nn.gelu_tanh": _plain("Gelu", approximate="tanh"),
    "relax.nn.leakyrelu": lambda e, call: e.node("LeakyRelu", e.of(call.args[0]), alpha=float(call.attrs.alpha)),
    "relax.nn.silu": _silu,
    "relax.nn.softplus": _softplus,
    "relax.nn.prelu": _prelu,
    "relax.nn.softmax": lambda e, call: e.node("Softmax", e.of(call.args[0]), axis=int(call.attrs.axis)),
    "relax.nn.log_softmax": lambda e, call: e.node("LogSoftmax", e.of(call.args[0]), axis=int(call.attrs.axis)),
    "relax.clip": _clip,
    "relax.square": _square,
    "relax.rsqrt": _rsqrt,
    "relax.astype": _astype,
    "relax.variance": _variance,
    "relax.argmax": _arg("ArgMax"),
    "relax.argmin": _arg("ArgMin"),
    "relax.shape_of": _shape,
    "relax.shape_to_tensor": lambda emitter, call: emitter.of(call.args[0]),
    "relax.zeros": _filled(0),
    "relax.ones": _filled(1),
    "relax.full": _filled(None),
}
"""Relax operator to the function that emits its nodes."""
