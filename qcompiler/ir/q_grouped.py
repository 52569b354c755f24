"""Matrix product with a constant whose scales are per group of rows and column."""

from __future__ import annotations

import numpy as np
from xdsl.dialects.builtin import DenseArrayBase, IntegerAttr, StringAttr, TensorType
from xdsl.irdl import irdl_op_definition, operand_def, prop_def, result_def

from qcompiler.arithmetic.conv import MatmulWeights, matmul_acc, prepare_matmul
from qcompiler.arithmetic.grouped import effective_weights
from qcompiler.ir.q_base import (
    INT32,
    QUANTIZED,
    REAL,
    ChosenOp,
    at_most_sixteen_bits,
    check_clamp,
    check_rounding,
    check_shape,
    eight_bits,
    per_tensor,
    requantized,
)
from qcompiler.ir.values import dtype_of, integer, quantized, rank, shape, size


@irdl_op_definition
class GroupedMatMulOp(ChosenOp):
    """Matrix product with constant weights that have a scale for each group of rows in each column, requantized.

    `acc[n] = bias[n] + sum_g factors[g, n] * sum_{k in g} (a[k] - a_zero_point) * b[k, n]`, where group `g` is the
    rows `g * group` to `(g + 1) * group`, cut off at K. `a` is `[..., M, K]` with 8 bits; `b` is `[K, N]` of i8, one
    element a byte also where the weights have 4 bits; `factors` is `[ceil(K / group), N]` with values in 1..256;
    `multiplier` is `s_a * unit / s_y`, the unit being a column's scale for the factor 1.
    """

    name = "q.matmul_grouped"
    a = operand_def(QUANTIZED)
    b = operand_def(TensorType)
    bias = operand_def(INT32)
    multiplier = operand_def(REAL)
    factors = operand_def(INT32)
    y = result_def(QUANTIZED)
    group = prop_def(IntegerAttr)
    a_zero_point = prop_def(IntegerAttr)
    rounding = prop_def(StringAttr)
    clamp = prop_def(DenseArrayBase)

    def verify_(self) -> None:
        check_rounding(self, self.rounding)
        check_clamp(self, self.clamp, self.y)
        per_tensor(self, self.a, self.y)
        eight_bits(self, self.a)
        at_most_sixteen_bits(self, self.y)
        a, b, group = shape(self.a), shape(self.b), integer(self.group)
        if dtype_of(self.b) != np.int8:
            self.fail(f"expected a right operand of i8, found {self.b.type}")
        if len(a) < 2 or len(b) != 2 or a[-1] != b[0]:
            self.fail(f"expected [..., M, K] and [K, N], found {list(a)} and {list(b)}")
        if not 1 <= group <= b[0]:
            self.fail(f"expected a group of 1..{b[0]} rows, found {group}")
        check_shape(self, "a result", self.y, (*a[:-1], b[1]))
        check_shape(self, "bias", self.bias, [b[1]])
        check_shape(self, "multipliers", self.multiplier, [b[1]])
        check_shape(self, "factors", self.factors, [-(-b[0] // group), b[1]])

    @property
    def macs(self) -> int:
        """Multiply-adds of one run."""
        return size(self.y) * shape(self.a)[-1]

    def prepare(self, b: np.ndarray, factors: np.ndarray) -> MatmulWeights:
        """The constant operands in the form that `evaluate` works with."""
        return prepare_matmul(effective_weights(b, factors, integer(self.group)), 0, quantized(self.a).dtype)

    def evaluate(self, *operands: np.ndarray | MatmulWeights) -> tuple[np.ndarray, ...]:
        a, b, bias, multiplier, factors = operands
        weights = b if isinstance(b, MatmulWeights) else self.prepare(b, factors)  # type: ignore[arg-type]
        accumulator = matmul_acc(a, weights, integer(self.a_zero_point), 0, bias)  # type: ignore[arg-type]
        return (requantized(self, self.y, accumulator, multiplier, rank(self.y) - 1),)  # type: ignore[arg-type]
