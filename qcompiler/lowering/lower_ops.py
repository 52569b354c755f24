"""Lowering of every integer op: which kernel on which views. One function an op, by class."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
from xdsl.ir import Operation, SSAValue

from qcompiler.arithmetic.conv import acc_bound
from qcompiler.arithmetic.grouped import grouped_bound
from qcompiler.arithmetic.pool import average_multiplier, pool_counts
from qcompiler.arithmetic.softmax import softmax_table
from qcompiler.errors import PipelineError
from qcompiler.ir.q_base import limits
from qcompiler.ir.q_conv import ConvOp, MatMulOp
from qcompiler.ir.q_elementwise import AddOp, DequantizeOp, LutOp, MulOp, QuantizeOp, RequantizeOp, SubOp
from qcompiler.ir.q_grouped import GroupedMatMulOp
from qcompiler.ir.q_movement import (
    ConcatOp,
    GatherOp,
    MaxPoolOp,
    PadOp,
    ReshapeOp,
    ResizeOp,
    SliceOp,
    SplitOp,
    TransposeOp,
)
from qcompiler.ir.q_reduce import AveragePoolOp, MeanOp, SoftmaxOp
from qcompiler.ir.values import describe, dtype_of, integer, integers, quantized, shape, string
from qcompiler.lowering import compute_elementwise, compute_movement, compute_pool, compute_softmax
from qcompiler.lowering.lower import Lowering, fused_transpose, is_fused, spatial_pads, transposed_source
from qcompiler.lowering.lower_runtime import RUNTIME_RULES
from qcompiler.lowering.workload import ConvWorkload, MatmulWorkload, Requantize

_Rule = Callable[[Lowering, Operation], None]


def lower_op(to: Lowering, op: Operation) -> None:
    """Adds the steps of one integer op."""
    if not is_fused(op):
        _RULES[type(op)](to, op)


def _requantize(op: Operation, y: SSAValue, multiplier: np.ndarray | float) -> Requantize:
    """How the results of an op with a `rounding` are made from its accumulator."""
    kind = quantized(y)
    real = np.atleast_1d(np.asarray(multiplier, np.float64))
    rounding = string(op.properties["rounding"])
    return Requantize(rounding, real, kind.zero_point, limits(op, y), str(kind.dtype))  # type: ignore[arg-type]


def _quantize(to: Lowering, op: QuantizeOp) -> None:
    transpose = fused_transpose(op.y)
    kind = quantized(op.y)
    target: Operation = op if transpose is None else transpose
    y = to.result(target.results[0])
    perm = None if transpose is None else integers(transpose.perm)
    axis = kind.axis if perm is None or kind.axis is None else perm.index(kind.axis)
    x = to.views[op.x]
    kernel = compute_elementwise.quantize_kernel(
        x,
        y,
        _flat(kind.scales),
        _flat(kind.zero_points),
        (kind.qmin, kind.qmax),
        to.spec,
        axis=axis,
        perm=perm,
    )
    to.step(target, kernel, op.x)


def _flat(values: np.ndarray) -> np.ndarray | float:
    return values if values.ndim else values.item()


def _dequantize(to: Lowering, op: DequantizeOp) -> None:
    transpose = transposed_source(op)
    source = op.x if transpose is None else transpose.x
    kind = quantized(op.x)
    x, y = to.operand(source), to.result(op.y)
    if isinstance(x, np.ndarray):
        raise PipelineError(f"{describe(op)} reads a constant; fold it before lowering")
    perm = None if transpose is None else integers(transpose.perm)
    kernel = compute_elementwise.dequantize_kernel(
        x, y, _flat(kind.scales), _flat(kind.zero_points), to.spec, axis=kind.axis, perm=perm
    )
    to.step(op, kernel, source)


def _conv(to: Lowering, op: ConvOp) -> None:
    if integer(op.x_zero_point) != 0:
        raise PipelineError(f"{describe(op)} has an unfolded zero point; run fold-zero-point before lowering")
    weights, bias = to.array(op.w), to.array(op.bias)
    zeros = 0 if op.w_zero_point is None else to.array(op.w_zero_point)
    centred = weights.astype(np.int64) - np.reshape(zeros, (-1, 1, 1, 1))
    if np.any(zeros):
        weights = centred.astype(np.int16)
    kind, x, y = quantized(op.x), to.views[op.x], to.result(op.y)
    pads = spatial_pads(op)
    n, h, w, c = x.shape
    workload = ConvWorkload(
        n=n,
        h=h,
        w=w,
        ic=c,
        oc=weights.shape[0],
        kh=weights.shape[2],
        kw=weights.shape[3],
        strides=_pair(integers(op.strides)),
        dilations=_pair(integers(op.dilations)),
        pads=pads,
        group=integer(op.group),
        x_dtype=x.dtype,
        x_halo=x.halo,
        y_halo=y.halo,
        pad_value=integer(op.pad_value),
        requantize=_requantize(op, op.y, to.array(op.multiplier)),
        acc_bound=int(acc_bound(centred, kind.qmin, kind.qmax, 0, 0, bias).max(initial=0)),
    )
    to.step(op, to.kernels.conv_kernel(workload, weights, bias, to.spec), op.x)


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    vertical, horizontal = values
    return vertical, horizontal


def _matmul(to: Lowering, op: MatMulOp) -> None:
    a, b = shape(op.a), shape(op.b)
    constant = to.constant(op.b)
    kinds = quantized(op.a)
    zero_a, zero_b = integer(op.a_zero_point), integer(op.b_zero_point)
    bias = to.array(op.bias)
    b_dtype = str(dtype_of(op.b))
    if constant is not None and (zero_b or op.b_zero_points is not None):
        zeros = zero_b if op.b_zero_points is None else to.array(op.b_zero_points)
        constant, zero_b, b_dtype = (constant.astype(np.int64) - zeros).astype(np.int16), 0, "int16"
    if constant is not None and constant.ndim == 2:
        rows = constant.astype(np.int64).T
        bound = int(acc_bound(rows, kinds.qmin, kinds.qmax, zero_a, 0, bias).max(initial=0))
    else:
        bound = a[-1] * 255 * 255 + int(np.abs(bias.astype(np.int64)).max(initial=0))
    to.result(op.y)
    workload = MatmulWorkload(
        a_batch=a[:-2],
        b_batch=b[:-2],
        m=a[-2],
        k=a[-1],
        n=b[-1],
        a_dtype=str(dtype_of(op.a)),
        b_dtype=b_dtype,
        a_zero_point=zero_a,
        b_zero_point=zero_b,
        requantize=_requantize(op, op.y, to.array(op.multiplier)),
        acc_bound=bound,
    )
    to.step(op, to.kernels.matmul_kernel(workload, constant, bias, to.spec), op.a, op.b)


def _matmul_grouped(to: Lowering, op: GroupedMatMulOp) -> None:
    if integer(op.a_zero_point) != 0:
        raise PipelineError(f"{describe(op)} has an unfolded zero point; run fold-zero-point before lowering")
    a, kind, group = shape(op.a), quantized(op.a), integer(op.group)
    weights, factors, bias = to.array(op.b), to.array(op.factors), to.array(op.bias)
    to.result(op.y)
    workload = MatmulWorkload(
        a_batch=a[:-2],
        b_batch=(),
        m=a[-2],
        k=a[-1],
        n=shape(op.b)[1],
        a_dtype=str(dtype_of(op.a)),
        b_dtype="int8",
        a_zero_point=0,
        b_zero_point=0,
        requantize=_requantize(op, op.y, to.array(op.multiplier)),
        acc_bound=int(grouped_bound(weights, factors, group, kind.qmin, kind.qmax, bias).max(initial=0)),
    )
    to.step(op, to.kernels.grouped_kernel(workload, weights, factors, group, bias, to.spec), op.a)


def _sum(to: Lowering, op: AddOp | SubOp) -> None:
    zeros = tuple(quantized(v).zero_point for v in (op.a, op.b, op.y))
    a, b = to.operand(op.a), to.operand(op.b)
    kernel = compute_elementwise.add_kernel(a, b, to.result(op.y), zeros, op.parameters(), limits(op, op.y), to.spec)
    to.step(op, kernel, op.a, op.b)


def _mul(to: Lowering, op: MulOp) -> None:
    zeros = (quantized(op.a).zero_point, quantized(op.b).zero_point)
    a, b = to.operand(op.a), to.operand(op.b)
    requantize = _requantize(op, op.y, op.multiplier())
    to.step(op, compute_elementwise.mul_kernel(a, b, to.result(op.y), zeros, requantize, to.spec), op.a, op.b)


def _requantization(to: Lowering, op: RequantizeOp) -> None:
    requantize = _requantize(op, op.y, op.multiplier())
    x, y, axis = to.views[op.x], to.result(op.y), quantized(op.y).axis
    zero = quantized(op.x).zero_point
    to.step(op, compute_elementwise.requantize_kernel(x, y, zero, requantize, to.spec, axis), op.x)


def _lut(to: Lowering, op: LutOp) -> None:
    x, y, axis = to.views[op.x], to.result(op.y), quantized(op.y).axis
    to.step(op, compute_elementwise.lut_kernel(x, y, to.array(op.table), to.spec, axis), op.x)


def _reshape(to: Lowering, op: ReshapeOp) -> None:
    if any(to.views[op.x].halo) or any(to.halos.get(op.y, ())) or op.y in to.direct_outputs:
        to.step(op, compute_movement.reshape_kernel(to.views[op.x], to.result(op.y), to.spec), op.x)
    else:
        to.alias(op.y, op.x)


def _transpose(to: Lowering, op: TransposeOp) -> None:
    kernel = compute_movement.transpose_kernel(to.views[op.x], to.result(op.y), integers(op.perm), to.spec)
    to.step(op, kernel, op.x)


def _concat(to: Lowering, op: ConcatOp) -> None:
    parts = [to.operand(x) for x in op.xs]
    kernel = compute_movement.concat_kernel(parts, to.result(op.y), integer(op.axis), to.spec)
    to.step(op, kernel, *op.xs)


def _split(to: Lowering, op: SplitOp) -> None:
    ys = [to.result(y) for y in op.ys]
    to.step(op, compute_movement.split_kernel(to.views[op.x], ys, integer(op.axis), to.spec), op.x)


def _slice(to: Lowering, op: SliceOp) -> None:
    y = to.result(op.y)
    starts, steps = integers(op.starts), integers(op.steps)
    to.step(op, compute_movement.slice_kernel(to.views[op.x], y, starts, steps, to.spec), op.x)


def _pad(to: Lowering, op: PadOp) -> None:
    y = to.result(op.y)
    pads, mode, value = integers(op.pads), string(op.mode), integer(op.value)
    to.step(op, compute_movement.pad_kernel(to.views[op.x], y, pads, mode, value, to.spec), op.x)


def _gather(to: Lowering, op: GatherOp) -> None:
    x, indices = to.operand(op.x), to.operand(op.indices)
    kernel = compute_movement.gather_kernel(x, indices, to.result(op.y), integer(op.axis), to.spec)
    to.step(op, kernel, op.x, op.indices)


def _resize(to: Lowering, op: ResizeOp) -> None:
    rows, columns = to.array(op.rows), to.array(op.columns)
    to.step(op, compute_movement.resize_kernel(to.views[op.x], to.result(op.y), rows, columns, to.spec), op.x)


def _max_pool(to: Lowering, op: MaxPoolOp) -> None:
    geometry = (integers(op.kernel), integers(op.strides), integers(op.pads), integers(op.dilations))
    x, y = to.views[op.x], to.result(op.y)
    border = quantized(op.x).zero_point if any(x.halo) else None
    to.step(op, compute_pool.max_pool_kernel(x, y, *geometry, border, to.spec), op.x)


def _average_pool(to: Lowering, op: AveragePoolOp) -> None:
    kernel, strides, pads = integers(op.kernel), integers(op.strides), integers(op.pads)
    dilations = (1, 1)
    x, y = quantized(op.x), quantized(op.y)
    counted = bool(integer(op.count_include_pad))
    counts = pool_counts(shape(op.x)[1:3], kernel, strides, pads, dilations, False, counted)
    requantize = _requantize(op, op.y, average_multiplier(x.scale, y.scale, counts))
    view, zero = to.result(op.y), x.zero_point
    made = compute_pool.average_pool_kernel(
        to.views[op.x], view, kernel, strides, pads, dilations, zero, requantize, to.spec
    )
    to.step(op, made, op.x)


def _mean(to: Lowering, op: MeanOp) -> None:
    x, y, axes = quantized(op.x), quantized(op.y), integers(op.axes)
    count = prod(shape(op.x)[a] for a in axes)
    requantize = _requantize(op, op.y, average_multiplier(x.scale, y.scale, count))
    view = to.result(op.y)
    to.step(op, compute_pool.mean_kernel(to.views[op.x], view, axes, x.zero_point, requantize, to.spec), op.x)


def _softmax(to: Lowering, op: SoftmaxOp) -> None:
    table = softmax_table(float(quantized(op.x).scale), shape(op.x)[integer(op.axis)])
    kernel = compute_softmax.softmax_kernel(to.views[op.x], to.result(op.y), table, integer(op.axis), to.spec)
    to.step(op, kernel, op.x)


_RULES: dict[type[Operation], _Rule] = {
    QuantizeOp: _quantize,
    DequantizeOp: _dequantize,
    ConvOp: _conv,
    MatMulOp: _matmul,
    GroupedMatMulOp: _matmul_grouped,
    AddOp: _sum,
    SubOp: _sum,
    MulOp: _mul,
    RequantizeOp: _requantization,
    LutOp: _lut,
    ReshapeOp: _reshape,
    TransposeOp: _transpose,
    ConcatOp: _concat,
    SplitOp: _split,
    SliceOp: _slice,
    PadOp: _pad,
    GatherOp: _gather,
    ResizeOp: _resize,
    MaxPoolOp: _max_pool,
    AveragePoolOp: _average_pool,
    MeanOp: _mean,
    SoftmaxOp: _softmax,
    **RUNTIME_RULES,
}  # type: ignore[dict-item]
