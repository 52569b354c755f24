"""Lowering of the ops with run-time scales and zero points."""

from __future__ import annotations

from collections.abc import Callable

from xdsl.ir import Operation

from qcompiler.ir.q_runtime import (
    ConvIntegerOp,
    DequantizeLinearOp,
    DynamicRangeOp,
    MatMulIntegerOp,
    QuantizeLinearOp,
    limits_of,
)
from qcompiler.ir.values import integer, integers, small_type
from qcompiler.lowering import compute_products, compute_runtime
from qcompiler.lowering.lower import Lowering


def _quantize(to: Lowering, op: QuantizeLinearOp) -> None:
    parameters = [to.operand(v) for v in op.operands[1:]]
    form = small_type(op.y)
    limits = None if form.startswith("float") else limits_of(op.y)
    kernel = compute_runtime.quantize_linear_kernel(
        to.operand(op.x),
        parameters,
        to.result(op.y),
        (integer(op.axis), integer(op.block_size)),
        limits or (form, bool(op.saturate)),
        to.spec,
    )
    to.step(op, kernel, *op.operands)


def _dequantize(to: Lowering, op: DequantizeLinearOp) -> None:
    parameters = [to.operand(v) for v in op.operands[1:]]
    form = small_type(op.x)
    kernel = compute_runtime.dequantize_linear_kernel(
        to.operand(op.x),
        parameters,
        to.result(op.y),
        (integer(op.axis), integer(op.block_size)),
        form if form.startswith("float") else "",
        to.spec,
    )
    to.step(op, kernel, *op.operands)


def _dynamic_range(to: Lowering, op: DynamicRangeOp) -> None:
    x, results = to.operand(op.x), [to.result(r) for r in op.results]
    to.step(op, compute_runtime.dynamic_range_kernel(x, *results, to.spec), op.x)


def _conv(to: Lowering, op: ConvIntegerOp) -> None:
    operands = [to.operand(v) for v in op.operands]
    geometry = (integers(op.strides), integers(op.pads), integers(op.dilations))
    kernel = compute_products.conv_integer_kernel(*operands, to.result(op.y), *geometry, integer(op.group), to.spec)
    to.step(op, kernel, *op.operands)


def _matmul(to: Lowering, op: MatMulIntegerOp) -> None:
    operands = [to.operand(v) for v in op.operands]
    kernel = compute_products.matmul_integer_kernel(*operands, op.zero_point_shapes(), to.result(op.y), to.spec)
    to.step(op, kernel, *op.operands)


RUNTIME_RULES: dict[type[Operation], Callable[[Lowering, Operation], None]] = {
    QuantizeLinearOp: _quantize,
    DequantizeLinearOp: _dequantize,
    DynamicRangeOp: _dynamic_range,
    ConvIntegerOp: _conv,
    MatMulIntegerOp: _matmul,
}  # type: ignore[dict-item]
"""The rule of each op by its class."""
