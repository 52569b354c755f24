"""Pass `fold-zero-point`: the constant part of an activation's zero point goes into the int32 bias.

`sum((x - z_x) * (w - z_w)) = sum(x * (w - z_w)) - z_x * sum(w - z_w)`; the second term does not depend on `x`. The
pass refuses, with the op's name, where an accumulator could leave int32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue

from qcompiler.arithmetic.conv import acc_bound
from qcompiler.arithmetic.grouped import effective_weights
from qcompiler.errors import ModelError
from qcompiler.ir.q_base import number
from qcompiler.ir.q_conv import ConvOp, MatMulOp
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.q_grouped import GroupedMatMulOp
from qcompiler.ir.rewriting import remove_dead
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import body, defining, describe, dtype_of, integer, quantized, rank, shape
from qcompiler.pipeline import CompilerContext, QuantPass, Stage


def _array(value: SSAValue, store: ConstantStore) -> np.ndarray:
    constant = defining(value, ConstantOp)
    assert constant is not None
    return store[constant.resource]


@dataclass(frozen=True)
class FoldZeroPoint(QuantPass):
    """Folds the constant zero-point terms of q.conv and products into the int32 bias; proves that int32 is enough."""

    name: ClassVar[str] = "fold-zero-point"
    requires: ClassVar = (Stage.INTEGER, Stage.LEGAL)

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        for op in list(body(module).ops):
            if isinstance(op, ConvOp):
                self._fold(ctx, op, op.x, op.w, op.bias, "x_zero_point", self._conv_weight(ctx, op))
            elif isinstance(op, MatMulOp) and isinstance(op.b.owner, ConstantOp) and rank(op.b) == 2:
                zeros = integer(op.b_zero_point) if op.b_zero_points is None else _array(op.b_zero_points, ctx.store)
                rows = (_array(op.b, ctx.store).astype(np.int64) - zeros).T
                self._fold(ctx, op, op.a, op.b, op.bias, "a_zero_point", rows)
            elif isinstance(op, GroupedMatMulOp):
                factors = _array(op.factors, ctx.store)
                rows = effective_weights(_array(op.b, ctx.store), factors, integer(op.group)).astype(np.int64).T
                self._fold(ctx, op, op.a, op.b, op.bias, "a_zero_point", rows)
            elif isinstance(op, MatMulOp):
                self._prove(ctx, op)
        remove_dead(module)

    @staticmethod
    def _prove(ctx: CompilerContext, op: MatMulOp) -> None:
        """Checks the accumulator of a product without a constant matrix, from the types of its operands."""
        a = quantized(op.a)
        limits = np.iinfo(dtype_of(op.b))
        zeros = [integer(op.b_zero_point)] if op.b_zero_points is None else _array(op.b_zero_points, ctx.store).tolist()
        largest_a = max(integer(op.a_zero_point) - a.qmin, a.qmax - integer(op.a_zero_point))
        largest_b = max(max(z - int(limits.min), int(limits.max) - z) for z in zeros)
        bound = shape(op.a)[-1] * largest_a * largest_b + int(np.abs(_array(op.bias, ctx.store)).max(initial=0))
        if bound >= 2**31:
            raise ModelError(
                f"{ctx.source}: {describe(op)}: the accumulator can reach {bound}, beyond int32; keep the node "
                "in float (apply-recipe{keep-float=...}) or split its reduction"
            )

    @staticmethod
    def _conv_weight(ctx: CompilerContext, op: ConvOp) -> np.ndarray:
        """`w - z_w`, one row a channel, int64."""
        w = _array(op.w, ctx.store).astype(np.int64).reshape(shape(op.w)[0], -1)
        return w if op.w_zero_point is None else w - _array(op.w_zero_point, ctx.store).reshape(-1, 1)

    @staticmethod
    def _fold(
        ctx: CompilerContext,
        op: Operation,
        x: SSAValue,
        w: SSAValue,
        bias: SSAValue,
        name: str,
        rows: np.ndarray,
    ) -> None:
        kind = quantized(x)
        zero = integer(op.properties[name])
        old = _array(bias, ctx.store).astype(np.int64)
        new = old - zero * rows.sum(axis=1)
        bound = acc_bound(rows, kind.qmin, kind.qmax, 0, 0, new)
        worst = int(np.argmax(bound))
        if int(bound[worst]) >= 2**31:
            raise ModelError(
                f"{ctx.source}: {describe(op)}: the accumulator of channel {worst} can reach {int(bound[worst])}, "
                f"beyond int32; keep the node in float (apply-recipe{{keep-float=...}}) or split its reduction"
            )
        if zero == 0:
            return
        base = bias.owner.resource  # type: ignore[union-attr]
        constant = ConstantOp.of(ctx.store, f"{base}.folded", new.astype(np.int32), location=op.location)
        assert isinstance(op.parent, Block)
        op.parent.insert_op_before(constant, op)
        op.operands[2] = constant.y  # the bias of both ops
        op.properties[name] = number(0)
