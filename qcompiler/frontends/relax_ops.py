"""What each Relax operator is in ONNX: one table, from its name to the function that emits the nodes of a call.

Each function returns the name of the ONNX value that stands for the call, or a tuple of names where the call gives a
tuple. One that meets attributes it has no nodes for raises `NotUnderstood`, and the call stays in Relax.
"""

# TVM's expressions have no attributes and operators for a type checker.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from onnx import helper
from tvm.ir import Call, Expr, GenericConst, Tuple
from tvm.tirx import FloatImm, IntImm

from qcompiler.frontends.relax_emit import Emitter, Value, dtype_of, require, shape_of

Rule = Callable[[Emitter, Call], Value]


def _ints(values: Sequence[Any]) -> list[int]:
    return [int(value) for value in values]


def _pads(values: Sequence[Any], rank: int) -> list[int]:
    pads = _ints(values)
    return pads * 2 if len(pads) == rank else pads * 2 * rank if len(pads) == 1 else pads


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


# ------------------------------------------------------------------------------------- convolutions, products, pools


def _layout(call: Call, data: str, kernel: str | None = None) -> None:
    found = call.attrs.data_layout if kernel else call.attrs.layout
    require(found == data and call.attrs.out_layout in ("", data), f"layout {found}")
    require(kernel is None or call.attrs.kernel_layout == kernel, "layout of the weights")
    result = str(call.attrs.out_dtype) if kernel else ""
    require(result in ("", "None", "void", str(dtype_of(call.args[0]))), f"results of type {result}")


def _conv(data: str, kernel: str) -> Rule:
    def rule(emitter: Emitter, call: Call) -> Value:
        _layout(call, data, kernel)
        rank = len(data) - 2
        return emitter.node(
            "Conv",
            *map(emitter.of, call.args),
            kernel_shape=shape_of(call.args[1])[2:],
            strides=_ints(call.attrs.strides),
            pads=_pads(call.attrs.padding, rank),
            dilations=_ints(call.attrs.dilation),
            group=int(call.attrs.groups),
        )

    return rule


def _conv_transpose(data: str, kernel: str) -> Rule:
    def rule(emitter: Emitter, call: Call) -> Value:
        _layout(call, data, kernel)
        return emitter.node(
            "ConvTranspose",
            *map(emitter.of, call.args),
            kernel_shape=shape_of(call.args[1])[2:],
            strides=_ints(call.attrs.strides),
            pads=_pads(call.attrs.padding, len(data) - 2),
            output_padding=_ints(call.attrs.output_padding),
            dilations=_ints(call.attrs.dilation),
            group=int(call.attrs.groups),
        )

    return rule


def _pool(kind: str, layout: str) -> Rule:
    def rule(emitter: Emitter, call: Call) -> Value:
        _layout(call, layout)
        attributes = call.attrs
        return emitter.node(
            kind,
            emitter.of(call.args[0]),
            kernel_shape=_ints(attributes.pool_size),
            strides=_ints(attributes.strides),
            pads=_pads(attributes.padding, len(layout) - 2),
            dilations=_ints(attributes.dilation),
            ceil_mode=int(attributes.ceil_mode),
            count_include_pad=int(attributes.count_include_pad) if kind == "AveragePool" else None,
        )

    return rule


def _adaptive_average(layout: str) -> Rule:
    def rule(emitter: Emitter, call: Call) -> Value:
        _layout(call, layout)
        x, given, wanted = emitter.of(call.args[0]), shape_of(call.args[0])[2:], shape_of(call)[2:]
        if all(extent == 1 for extent in wanted):
            return emitter.node("GlobalAveragePool", x)
        require(all(n % m == 0 for n, m in zip(given, wanted, strict=True)), "windows of unequal size")
        window = [n // m for n, m in zip(given, wanted, strict=True)]
        return emitter.node("AveragePool", x, kernel_shape=window, strides=window)

    return rule


def _matmul(emitter: Emitter, call: Call) -> Value:
    kind = dtype_of(call.args[0])
    require(kind == dtype_of(call.args[1]) == dtype_of(call), "a product of mixed types")
    return emitter.node("MatMul", *map(emitter.of, call.args))


# --------------------------------------------------------------------------------------------------- normalizations


def _batch_norm(emitter: Emitter, call: Call) -> Value:
    attributes = call.attrs
    require(not attributes.training, "batch normalization in training; apply DecomposeOpsForInference for inference")
    require(int(attributes.axis) == 1, f"axis {attributes.axis}")
    x, gamma, beta, mean, variance = map(emitter.of, call.args)
    channels = shape_of(call.args[1])
    gamma = gamma if attributes.scale else emitter.constant(np.ones(channels, np.float32))
    beta = beta if attributes.center else emitter.constant(np.zeros(channels, np.float32))
    y = emitter.node("BatchNormalization", x, gamma, beta, mean, variance, epsilon=float(attributes.epsilon))
    return y, mean, variance


def _trailing(call: Call) -> int:
    """The first of the axes of a normalization, which have to be the last ones."""
    rank = len(shape_of(call.args[0]))
    axes = sorted(axis % rank for axis in _ints(call.attrs.axes))
    require(axes == list(range(axes[0], rank)), f"axes {axes} of {rank}")
    return axes[0]


def _layer_norm(emitter: Emitter, call: Call) -> Value:
    axis = _trailing(call)
    return emitter.node("LayerNormalization", *map(emitter.of, call.args), axis=axis, epsilon=float(call.attrs.epsilon))


def _rms_norm(emitter: Emitter, call: Call) -> Value:
    rank, first = len(shape_of(call.args[0])), _trailing(call)
    x, weight = map(emitter.of, call.args)
    axes = emitter.constant(list(range(first, rank)))
    mean = emitter.node("ReduceMean", emitter.node("Mul", x, x), axes, keepdims=1)
    root = emitter.node("Sqrt", emitter.node("Add", mean, emitter.constant(float(call.attrs.epsilon))))
    return emitter.node("Mul", emitter.node("Div", x, root), weight)


def _per_channel(call: Call) -> None:
    rank = len(shape_of(call.args[0]))
    require(int(call.attrs.channel_axis) % rank == 1, f"channels on axis {call.attrs.channel_axis}")
    axes = sorted(axis % rank for axis in _ints(call.attrs.axes))
    require(axes == list(range(2, rank)), f"axes {axes} of {rank}")


def _group_norm(emitter: Emitter, call: Call) -> Value:
    _per_channel(call)
    groups, epsilon = int(call.attrs.num_groups), float(call.attrs.epsilon)
    return emitter.node("GroupNormalization", *map(emitter.of, call.args), num_groups=groups, epsilon=epsilon)


def _instance_norm(emitter: Emitter, call: Call) -> Value:
    _per_channel(call)
    return emitter.node("InstanceNormalization", *map(emitter.of, call.args), epsilon=float(call.attrs.epsilon))


# ----------------------------------------------------------------------------------------------------- one element


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


# -------------------------------------------------------------------------------------------------------- movement


def _fields(call: Call) -> list[Expr]:
    require(isinstance(call.args[0], Tuple), "a tuple that is not written out")
    return list(call.args[0])


def _concat(emitter: Emitter, call: Call) -> Value:
    return emitter.node("Concat", *map(emitter.of, _fields(call)), axis=int(call.attrs.axis or 0))


def _stack(emitter: Emitter, call: Call) -> Value:
    axis = int(call.attrs.axis or 0) % len(shape_of(call))
    axes = emitter.constant([axis])
    return emitter.node("Concat", *(emitter.node("Unsqueeze", emitter.of(f), axes) for f in _fields(call)), axis=axis)


def _split(emitter: Emitter, call: Call) -> Value:
    rank = len(shape_of(call.args[0]))
    axis = int(call.attrs.axis) % rank
    sizes = []
    for kind in call.ty.fields:
        require(kind.shape is not None, "parts of unknown size")
        sizes.append(int(kind.shape[axis]))
    require(min(sizes) > 0, "an empty part")
    return emitter.nodes_of(
        "Split", len(sizes), emitter.of(call.args[0]), emitter.constant(np.array(sizes, np.int64)), axis=axis
    )


def _strided_slice(emitter: Emitter, call: Call) -> Value:
    x, *numbers = call.args
    require(
        all(isinstance(group, Tuple) and all(isinstance(v, IntImm) for v in group) for group in numbers),
        "a slice whose bounds are computed",
    )
    axes, first, last, *steps = ([int(v) for v in group] for group in numbers)
    steps = steps[0] if steps else [1] * len(axes)
    given = (emitter.constant(np.array(values, np.int64)) for values in (first, last, axes, steps))
    return emitter.node("Slice", emitter.of(x), *given)


def _take(emitter: Emitter, call: Call) -> Value:
    axis, rank = call.attrs.axis, len(shape_of(call.args[0]))
    require(axis is not None or rank == 1, "take from all axes")
    return emitter.node("Gather", *map(emitter.of, call.args), axis=0 if axis is None else int(axis))


def _permute(emitter: Emitter, call: Call) -> Value:
    rank = len(shape_of(call.args[0]))
    axes = list(reversed(range(rank))) if call.attrs.axes is None else [a % rank for a in _ints(call.attrs.axes)]
    return emitter.node("Transpose", emitter.of(call.args[0]), perm=axes)


def _flip(emitter: Emitter, call: Call) -> Value:
    numbers = ([-1], [np.iinfo(np.int64).min], [int(call.attrs.axis)], [-1])
    return emitter.node("Slice", emitter.of(call.args[0]), *map(emitter.constant, numbers))


def _expand(emitter: Emitter, call: Call) -> Value:
    return emitter.node("Expand", emitter.of(call.args[0]), emitter.constant(shape_of(call)))


def _tile(emitter: Emitter, call: Call) -> Value:
    repeats, rank = _ints(call.attrs.repeats), len(shape_of(call.args[0]))
    require(len(repeats) <= rank, "tiling along new axes")
    repeats = [1] * (rank - len(repeats)) + repeats
    return emitter.node("Tile", emitter.of(call.args[0]), emitter.constant(repeats))


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _pad(emitter: Emitter, call: Call) -> Value:
    mode = _PAD_MODES.get(call.attrs.pad_mode)
    require(mode, f"mode {call.attrs.pad_mode}")
    widths = _ints(call.attrs.pad_width)
    value = emitter.constant(np.array(float(call.attrs.pad_value), dtype_of(call)))
    return emitter.node(
        "Pad", emitter.of(call.args[0]), emitter.constant(widths[0::2] + widths[1::2]), value, mode=mode
    )


_NEAREST = {"round": "round_prefer_ceil", "": "floor"}


def _resize2d(emitter: Emitter, call: Call) -> Value:
    attributes = call.attrs
    require(attributes.layout == "NCHW", f"layout {attributes.layout}")
    mode = {"nearest_neighbor": "nearest", "linear": "linear"}.get(attributes.method)
    require(mode, f"method {attributes.method}")
    coordinates = attributes.coordinate_transformation_mode
    require(coordinates in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"), coordinates)
    rounding = str(attributes.rounding_method)
    return emitter.node(
        "Resize",
        emitter.of(call.args[0]),
        "",
        "",
        emitter.constant(shape_of(call)),
        mode=mode,
        coordinate_transformation_mode=coordinates,
        nearest_mode=_NEAREST.get(rounding, rounding) if mode == "nearest" else None,
    )


# ------------------------------------------------------------------------------------------------ sums, new tensors


def _reduce(kind: str) -> Rule:
    def rule(emitter: Emitter, call: Call) -> Value:
        axis, rank = call.attrs.axis, len(shape_of(call.args[0]))
        axes = list(range(rank)) if axis is None else _ints(axis)
        return emitter.node(kind, emitter.of(call.args[0]), emitter.constant(axes), keepdims=int(call.attrs.keepdims))

    return rule


def _variance(emitter: Emitter, call: Call) -> Value:
    x, rank = emitter.of(call.args[0]), len(shape_of(call.args[0]))
    axes = emitter.constant(list(range(rank)) if call.attrs.axis is None else _ints(call.attrs.axis))
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


# ----------------------------------------------------------------------------------------------------- quantization


def _parameters(emitter: Emitter, call: Call, stored: np.dtype) -> tuple[str, str, int | None]:
    """Scale, zero point and axis as ONNX wants them; Relax lets a zero point be an array beside a scalar scale."""
    _, scale, zero_point = call.args
    require(
        isinstance(scale, GenericConst | FloatImm) and isinstance(zero_point, GenericConst | IntImm),
        "scale or zero point are computed",
    )
    scales, zeros = (
        np.asarray(e.value.numpy() if isinstance(e, GenericConst) else e.value) for e in (scale, zero_point)
    )
    axis = int(call.attrs.axis) % max(len(shape_of(call)), 1)
    if zeros.size == 1 or (scales.size == 1 and (zeros == zeros.flat[0]).all()):
        zeros = zeros.reshape(-1)[:1]
    if scales.size == 1 and zeros.size == 1:
        scales, zeros = scales.reshape(()), zeros.reshape(())
    else:
        count = shape_of(call)[axis]
        scales, zeros = np.broadcast_to(scales, [count]), np.broadcast_to(zeros, [count])
    low, high = (-(1 << 31), (1 << 31) - 1) if stored == np.int32 else (np.iinfo(stored).min, np.iinfo(stored).max)
    require(((zeros >= low) & (zeros <= high)).all(), f"zero points outside {stored}")
    return (
        emitter.constant(scales.astype(np.float32)),
        emitter.constant(zeros.astype(stored)),
        axis if scales.ndim else None,
    )


def _quantize(emitter: Emitter, call: Call) -> Value:
    stored = dtype_of(call)
    require(stored.kind in "iu", f"quantization to {stored}")
    scale, zero, axis = _parameters(emitter, call, stored)
    return emitter.node("QuantizeLinear", emitter.of(call.args[0]), scale, zero, axis=axis)


def _dequantize(emitter: Emitter, call: Call) -> Value:
    stored = dtype_of(call.args[0])
    require(stored.kind in "iu" and dtype_of(call) == np.float32, f"{dtype_of(call)} from {stored}")
    scale, zero, axis = _parameters(emitter, call, stored)
    return emitter.node("DequantizeLinear", emitter.of(call.args[0]), scale, zero, axis=axis)


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
    **{f"relax.{name}": _plain(kind) for name, kind in _SAME.items()},
    **{f"relax.{name}": _reshape for name in ("reshape", "flatten", "squeeze", "expand_dims", "nn.batch_flatten")},
    **{f"relax.{name}": _reduce(f"Reduce{name.capitalize()}") for name in ("mean", "sum", "max", "min", "prod")},
    "relax.divide": _of_floats("Div"),
    "relax.power": _of_floats("Pow"),
    "relax.nn.conv1d": _conv("NCW", "OIW"),
    "relax.nn.conv2d": _conv("NCHW", "OIHW"),
    "relax.nn.conv1d_transpose": _conv_transpose("NCW", "IOW"),
    "relax.nn.conv2d_transpose": _conv_transpose("NCHW", "IOHW"),
    "relax.nn.max_pool1d": _pool("MaxPool", "NCW"),
    "relax.nn.max_pool2d": _pool("MaxPool", "NCHW"),
    "relax.nn.avg_pool1d": _pool("AveragePool", "NCW"),
    "relax.nn.avg_pool2d": _pool("AveragePool", "NCHW"),
    "relax.nn.adaptive_avg_pool1d": _adaptive_average("NCW"),
    "relax.nn.adaptive_avg_pool2d": _adaptive_average("NCHW"),
    "relax.matmul": _matmul,
    "relax.nn.batch_norm": _batch_norm,
    "relax.nn.layer_norm": _layer_norm,
    "relax.nn.rms_norm": _rms_norm,
    "relax.nn.group_norm": _group_norm,
    "relax.nn.instance_norm": _instance_norm,
    "relax.nn.gelu_tanh": _plain("Gelu", approximate="tanh"),
    "relax.nn.leakyrelu": lambda e, call: e.node("LeakyRelu", e.of(call.args[0]), alpha=float(call.attrs.alpha)),
    "relax.nn.silu": _silu,
    "relax.nn.softplus": _softplus,
    "relax.nn.prelu": _prelu,
    "relax.nn.softmax": lambda e, call: e.node("Softmax", e.of(call.args[0]), axis=int(call.attrs.axis)),
    "relax.nn.log_softmax": lambda e, call: e.node("LogSoftmax", e.of(call.args[0]), axis=int(call.attrs.axis)),
    "relax.nn.pad": _pad,
    "relax.clip": _clip,
    "relax.square": _square,
    "relax.rsqrt": _rsqrt,
    "relax.astype": _astype,
    "relax.concat": _concat,
    "relax.stack": _stack,
    "relax.split": _split,
    "relax.strided_slice": _strided_slice,
    "relax.take": _take,
    "relax.permute_dims": _permute,
    "relax.flip": _flip,
    "relax.broadcast_to": _expand,
    "relax.tile": _tile,
    "relax.image.resize2d": _resize2d,
    "relax.variance": _variance,
    "relax.argmax": _arg("ArgMax"),
    "relax.argmin": _arg("ArgMin"),
    "relax.shape_of": _shape,
    "relax.shape_to_tensor": lambda emitter, call: emitter.of(call.args[0]),
    "relax.zeros": _filled(0),
    "relax.ones": _filled(1),
    "relax.full": _filled(None),
    "relax.quantize": _quantize,
    "relax.dequantize": _dequantize,
}
"""Relax operator to the function that emits its nodes."""
