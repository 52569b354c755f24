"""Convolution and matrix product as plain TIR loops: what they compute, for every target and every shape.

The schedules here are the last rule of a target's list: always correct, and vectorized over output channels
if four divides their number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import tirx

from qcompiler.lowering.program import Kernel
from qcompiler.lowering.requantize import requantize_constants, requantize_expression
from qcompiler.lowering.schedules import ACCUMULATE, scheduled_kernel
from qcompiler.lowering.tir import (
    Access,
    Buffer,
    ElementBlock,
    Expr,
    buffer,
    constant_buffers,
    function,
    int32,
)
from qcompiler.lowering.workload import ConvWorkload, MatmulWorkload, Requantize


def generic_conv(workload: ConvWorkload, weights: np.ndarray, bias: np.ndarray) -> Kernel:
    """Any convolution whose activation's halo covers its pads.

    `weights` is int8 `[OC, IC/group, KH, KW]`, `bias` int32 `[OC]`. The constants are the weights as
    `[KH, KW, IC/group, OC]`, the bias, and the requantize parameters.
    """
    group_inputs, group_outputs = workload.ic // workload.group, workload.oc // workload.group
    arrays = (
        np.ascontiguousarray(weights.transpose(2, 3, 1, 0)),
        bias.astype(np.int32),
        *requantize_constants(workload.requantize, workload.oc),
    )
    x = buffer("x", workload.x_shape, workload.x_dtype)
    y = buffer("y", workload.y_shape, workload.requantize.out_dtype)
    constants = constant_buffers(arrays)
    x_rows, y_rows = workload.x_shape[0] // workload.n, workload.y_shape[0] // workload.n
    row = workload.x_halo[0] - workload.pads[0]
    column = workload.x_halo[1] - workload.pads[1]

    def operands(n, h, w, g, c, kh, kw, k) -> list[Access]:
        x_row = n * x_rows + h * workload.strides[0] + kh * workload.dilations[0] + row
        pixel = w * workload.strides[1] + kw * workload.dilations[1] + column
        return [
            (x, [x_row, pixel * workload.ic + g * group_inputs + k]),
            (constants[0], [kh, kw, k, g * group_outputs + c]),
        ]

    def product(**axes: Expr) -> Expr:
        left, right = (_int32_of(access) for access in operands(**axes))
        return left * right

    def result(n, h, w, g, c) -> Access:
        y_row = n * y_rows + h + workload.y_halo[0]
        return y, [y_row, (w + workload.y_halo[1]) * workload.oc + g * group_outputs + c]

    return _kernel(
        rule="generic-conv",
        inputs=[x],
        arrays=arrays,
        constants=constants,
        spatial={
            "n": workload.n,
            "h": workload.oh,
            "w": workload.ow,
            "g": workload.group,
            "c": group_outputs,
        },
        reduction={"kh": workload.kh, "kw": workload.kw, "k": group_inputs},
        operands=operands,
        product=product,
        channel=lambda g, c, **_: g * group_outputs + c,
        result=result,
        requantize=workload.requantize,
    )


def generic_matmul(workload: MatmulWorkload, b: np.ndarray | None, bias: np.ndarray | None) -> Kernel:
    """Any matrix product; `b` is its constant right-hand side, or None if it is the second activation read.

    The constants are `b` if given, the int32 bias `[N]` (zeros if None), and the requantize parameters.
    """
    arrays = (
        *(() if b is None else (np.ascontiguousarray(b),)),
        np.zeros(workload.n, np.int32) if bias is None else bias.astype(np.int32),
        *requantize_constants(workload.requantize, workload.n),
    )
    a = buffer("a", workload.a_shape, workload.a_dtype)
    y = buffer("y", workload.y_shape, workload.requantize.out_dtype)
    constants = constant_buffers(arrays)
    right = buffer("b", workload.b_shape, workload.b_dtype) if b is None else constants[0]
    batch_axes = {f"n{i}": extent for i, extent in enumerate(workload.batch)}

    def operands(m, c, k, **batch: Expr) -> list[Access]:
        outer = list(batch.values())
        return [
            (a, [*_broadcast_indices(outer, workload.a_batch), m, k]),
            (right, [*_broadcast_indices(outer, workload.b_batch), k, c]),
        ]

    def product(**axes: Expr) -> Expr:
        left, right_value = (_int32_of(access) for access in operands(**axes))
        return (left - int32(workload.a_zero_point)) * (right_value - int32(workload.b_zero_point))

    return _kernel(
        rule="generic-matmul",
        inputs=[a, right] if b is None else [a],
        arrays=arrays,
        constants=constants,
        spatial={**batch_axes, "m": workload.m, "c": workload.n},
        reduction={"k": workload.k},
        operands=operands,
        product=product,
        channel=lambda c, **_: c,
        result=lambda m, c, **batch: (y, [*batch.values(), m, c]),
        requantize=workload.requantize,
    )


def _kernel(
    rule: str,
    inputs: Sequence[Buffer],
    arrays: tuple[np.ndarray, ...],
    constants: Sequence[Buffer],
    spatial: dict[str, int],
    reduction: dict[str, int],
    operands: Callable[..., list[Access]],
    product: Callable[..., Expr],
    channel: Callable[..., Expr],
    result: Callable[..., Access],
    requantize: Requantize,
) -> Kernel:
    """The blocks `accumulate` and `requantize`, scheduled; the last constants are bias and parameters.

    `operands`, `product`, `result` and `channel` (the index into the last constants) take all axes by name.
    The innermost spatial axis, `c`, is vectorized.
    """
    bias, *parameters = constants[-2:] if requantize.rounding == "fp32" else constants[-3:]
    acc = buffer("acc", tuple(spatial.values()), "int32")

    def accumulator(**axes: Expr) -> Access:
        return acc, [axes[name] for name in spatial]

    def value(**axes: Expr) -> Expr:
        loaded = [tirx.BufferLoad(parameter, [channel(**axes)]) for parameter in parameters]
        stored = requantize_expression(tirx.BufferLoad(*accumulator(**axes)), loaded, requantize)
        return stored.astype(requantize.out_dtype)

    accumulate = ElementBlock(
        "accumulate",
        spatial,
        reduction,
        write=accumulator,
        reads=lambda **axes: [*operands(**axes), (bias, [channel(**axes)])],
        update=lambda **axes: tirx.BufferLoad(*accumulator(**axes)) + product(**axes),
        initial=lambda **axes: tirx.BufferLoad(bias, [channel(**axes)]),
        order=ACCUMULATE,
    )
    finish = ElementBlock(
        "requantize",
        spatial,
        {},
        write=result,
        reads=lambda **axes: [accumulator(**axes), *((p, [channel(**axes)]) for p in parameters)],
        update=value,
    )
    y, _ = result(**dict.fromkeys(spatial, int32(0)))
    func = function([*inputs, *constants, y], [accumulate, finish], [acc]).mod["main"]
    return scheduled_kernel(func, rule, arrays)


def _int32_of(access: Access) -> Expr:
    return tirx.BufferLoad(*access).astype("int32")


def _broadcast_indices(outer: Sequence[Expr], shape: Sequence[int]) -> list[Expr]:
    aligned = outer[len(outer) - len(shape) :]
    return [int32(0) if extent == 1 else index for index, extent in zip(aligned, shape, strict=True)]
