"""Relax's convolutions, products, pools and normalizations in ONNX."""

# TVM's expressions have no attributes and operators for a type checker.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm.ir import Call

from qcompiler.frontends.relax_emit import Emitter, Rule, Value, dtype_of, ints, require, shape_of


def _pads(values: Sequence[Any], rank: int) -> list[int]:
    pads = ints(values)
    return pads * 2 if len(pads) == rank else pads * 2 * rank if len(pads) == 1 else pads


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
            strides=ints(call.attrs.strides),
            pads=_pads(call.attrs.padding, rank),
            dilations=ints(call.attrs.dilation),
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
            strides=ints(call.attrs.strides),
            pads=_pads(call.attrs.padding, len(data) - 2),
            output_padding=ints(call.attrs.output_padding),
            dilations=ints(call.attrs.dilation),
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
            kernel_shape=ints(attributes.pool_size),
            strides=ints(attributes.strides),
            pads=_pads(attributes.padding, len(layout) - 2),
            dilations=ints(attributes.dilation),
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
    axes = sorted(axis % rank for axis in ints(call.attrs.axes))
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
    axes = sorted(axis % rank for axis in ints(call.attrs.axes))
    require(axes == list(range(2, rank)), f"axes {axes} of {rank}")


def _group_norm(emitter: Emitter, call: Call) -> Value:
    _per_channel(call)
    groups, epsilon = int(call.attrs.num_groups), float(call.attrs.epsilon)
    return emitter.node("GroupNormalization", *map(emitter.of, call.args), num_groups=groups, epsilon=epsilon)


def _instance_norm(emitter: Emitter, call: Call) -> Value:
    _per_channel(call)
    return emitter.node("InstanceNormalization", *map(emitter.of, call.args), epsilon=float(call.attrs.epsilon))


RULES: dict[str, Rule] = {
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
}
