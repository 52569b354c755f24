"""Integer operations that multiply and accumulate: convolution and matrix product."""

from __future__ import annotations

from math import prod

import numpy as np
from xdsl.dialects.builtin import DenseArrayBase, IntegerAttr, StringAttr, TensorType
from xdsl.irdl import irdl_op_definition, operand_def, opt_operand_def, prop_def, result_def

from qcompiler.arithmetic.conv import ConvWeights, MatmulWeights, conv_acc, matmul_acc, prepare_conv, prepare_matmul
from qcompiler.ir.q_base import (
    INT32,
    QUANTIZED,
    REAL,
    ChosenOp,
    at_most_sixteen_bits,
    channel_axis,
    check_clamp,
    check_layout,
    check_rounding,
    check_shape,
    check_weight,
    check_window,
    eight_bits,
    per_channel,
    per_tensor,
    product_shape,
    requantized,
    spatial_axes,
)
from qcompiler.ir.values import integer, integers, is_quantized, quantized, rank, shape, size, string


@irdl_op_definition
class ConvOp(ChosenOp):
    """Convolution of stored integers with an int32 accumulator, requantized.

    `acc = sum((x - x_zero_point) * (w - w_zero_point)) + bias`, `y = requantize(acc, multiplier)`. The weight is
    `[OC, IC/group, *kernel]` in either layout; `multiplier` holds the real factors `s_x * s_w / s_y`, exact or as
    `legalize` rounds them, one per output channel or one for all. Padding holds `pad_value`, the stored integer of
    real zero. After `fold-zero-point`, `x_zero_point` is 0 and its constant part is in the bias.

    `x` has 8 bits, `y` 8 or 16. `y` may have one scale a channel, and so may `x` where each channel has filters of its
    own (`group` equal to the channels); the scales are in the multiplier, the zero point is the same for all.
    """

    name = "q.conv"
    x = operand_def(QUANTIZED)
    w = operand_def(TensorType)
    bias = operand_def(INT32)
    multiplier = operand_def(REAL)
    w_zero_point = opt_operand_def(INT32)
    y = result_def(QUANTIZED)
    strides = prop_def(DenseArrayBase)
    pads = prop_def(DenseArrayBase)
    dilations = prop_def(DenseArrayBase)
    group = prop_def(IntegerAttr)
    x_zero_point = prop_def(IntegerAttr)
    pad_value = prop_def(IntegerAttr)
    rounding = prop_def(StringAttr)
    clamp = prop_def(DenseArrayBase)
    layout = prop_def(StringAttr)

    def verify_(self) -> None:
        check_rounding(self, self.rounding)
        check_layout(self, self.layout)
        check_clamp(self, self.clamp, self.y)
        eight_bits(self, self.x)
        at_most_sixteen_bits(self, self.y)
        x, w, y, group = shape(self.x), shape(self.w), shape(self.y), integer(self.group)
        check_weight(self, "a weight", self.w)
        if len(w) != len(x) or len(y) != len(x) or len(x) < 3:
            self.fail(f"expected x, weight and result of one rank above 2, found {list(x)}, {list(w)}, {list(y)}")
        axis, spatial = channel_axis(self.layout, len(x)), spatial_axes(self.layout, len(x))
        if group < 1 or x[axis] != w[1] * group or w[0] % group:
            self.fail(f"{x[axis]} input channels do not fit a weight {list(w)} in {group} groups")
        if y[axis] != w[0]:
            self.fail(f"expected {w[0]} output channels, found {y[axis]}")
        per_channel(self, self.y, axis)
        if group == x[axis]:
            per_channel(self, self.x, axis)
        else:
            per_tensor(self, self.x)
        check_shape(self, "bias", self.bias, [w[0]])
        if shape(self.multiplier) not in ((w[0],), (1,)):
            self.fail(f"expected 1 or {w[0]} multipliers, found {list(shape(self.multiplier))}")
        if self.w_zero_point is not None:
            check_shape(self, "weight zero points", self.w_zero_point, [w[0]])
        if y[0] != x[0]:
            self.fail(f"expected {x[0]} images, found {y[0]}")
        x_extents, y_extents = ([s[a] for a in spatial] for s in (x, y))
        check_window(self, x_extents, w[2:], integers(self.dilations), y_extents)

    @property
    def macs(self) -> int:
        """Multiply-adds of one run."""
        return size(self.y) * prod(shape(self.w)[1:])

    def prepare(self, w: np.ndarray, w_zero_point: np.ndarray | None = None) -> ConvWeights:
        """The weight in the form that `evaluate` works with; saves the conversion where it is called often."""
        zero = 0 if w_zero_point is None else w_zero_point
        return prepare_conv(w, zero, quantized(self.x).dtype, integer(self.group), string(self.layout))

    def evaluate(self, *operands: np.ndarray | ConvWeights) -> tuple[np.ndarray, ...]:
        x, w, bias, multiplier = operands[:4]
        accumulator = conv_acc(
            x,
            w,
            x_zero_point=integer(self.x_zero_point),
            w_zero_point=operands[4] if len(operands) > 4 else 0,
            pad_value=integer(self.pad_value),
            strides=integers(self.strides),
            pads=integers(self.pads),
            dilations=integers(self.dilations),
            group=integer(self.group),
            layout=string(self.layout),
            bias=bias,
        )
        axis = channel_axis(self.layout, x.ndim)
        return (requantized(self, self.y, accumulator, multiplier, axis),)


@irdl_op_definition
class MatMulOp(ChosenOp):
    """Batched matrix product of stored integers with an int32 accumulator, requantized.

    `acc = sum_k (a - a_zero_point) * (b - b_zero_point) + bias`. `a` is `[..., M, K]`; `b` is `[..., K, N]`, either a
    constant of plain integers or another activation; batch axes broadcast as in numpy. `bias` and `multiplier`
    (`s_a * s_b / s_y`) run over N, or the multiplier is one for all. `b_zero_points`, if present, replaces
    `b_zero_point` with one value a column. Operands have 8 bits, `y` 8 or 16.
    """

    name = "q.matmul"
    a = operand_def(QUANTIZED)
    b = operand_def(TensorType)
    bias = operand_def(INT32)
    multiplier = operand_def(REAL)
    b_zero_points = opt_operand_def(INT32)
    y = result_def(QUANTIZED)
    a_zero_point = prop_def(IntegerAttr)
    b_zero_point = prop_def(IntegerAttr)
    rounding = prop_def(StringAttr)
    clamp = prop_def(DenseArrayBase)

    def verify_(self) -> None:
        check_rounding(self, self.rounding)
        check_clamp(self, self.clamp, self.y)
        per_tensor(self, self.a, self.y)
        eight_bits(self, self.a)
        at_most_sixteen_bits(self, self.y)
        if is_quantized(self.b):
            per_tensor(self, self.b)
            eight_bits(self, self.b)
        else:
            check_weight(self, "a right operand", self.b)
        a, b = shape(self.a), shape(self.b)
        check_shape(self, "a result", self.y, product_shape(self, a, b))
        check_shape(self, "bias", self.bias, [b[-1]])
        if shape(self.multiplier) not in ((b[-1],), (1,)):
            self.fail(f"expected 1 or {b[-1]} multipliers, found {list(shape(self.multiplier))}")
        if self.b_zero_points is not None:
            check_shape(self, "zero points", self.b_zero_points, [b[-1]])

    @property
    def macs(self) -> int:
        """Multiply-adds of one run."""
        return size(self.y) * shape(self.a)[-1]

    def prepare(self, b: np.ndarray, b_zero_points: np.ndarray | None = None) -> MatmulWeights:
        """A constant right operand in the form that `evaluate` works with."""
        zero = integer(self.b_zero_point) if b_zero_points is None else b_zero_points
        return prepare_matmul(b, zero, quantized(self.a).dtype)

    def evaluate(self, *operands: np.ndarray | MatmulWeights) -> tuple[np.ndarray, ...]:
        a, b, bias, multiplier = operands[:4]
        b_zero_point = operands[4] if len(operands) > 4 else integer(self.b_zero_point)
        accumulator = matmul_acc(a, b, integer(self.a_zero_point), b_zero_point, bias)
        axis = rank(self.y) - 1
        return (requantized(self, self.y, accumulator, multiplier, axis),)
