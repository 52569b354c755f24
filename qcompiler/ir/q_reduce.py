"""Operations that reduce: average pooling, mean, softmax."""

from __future__ import annotations

from math import prod

import numpy as np
from xdsl.dialects.builtin import BoolAttr, DenseArrayBase, IntegerAttr, StringAttr
from xdsl.irdl import irdl_op_definition, operand_def, prop_def, result_def

from qcompiler.arithmetic.pool import average_pool, mean, pool_counts
from qcompiler.arithmetic.softmax import softmax, softmax_table
from qcompiler.ir.q_base import (
    QUANTIZED,
    ChosenOp,
    at_most_sixteen_bits,
    check_axis,
    check_clamp,
    check_layout,
    check_rounding,
    check_shape,
    check_sum,
    limits,
    per_tensor,
    spatial_axes,
)
from qcompiler.ir.q_movement import verify_windows
from qcompiler.ir.values import integer, integers, quantized, rank, shape, string


@irdl_op_definition
class AveragePoolOp(ChosenOp):
    """Mean of each window: int32 sum of `x - z_x`, requantized with the count folded into the multiplier.

    The count is that of the elements inside the image, or that of the window if `count_include_pad`.
    """

    name = "q.average_pool"
    x = operand_def(QUANTIZED)
    y = result_def(QUANTIZED)
    kernel = prop_def(DenseArrayBase)
    strides = prop_def(DenseArrayBase)
    pads = prop_def(DenseArrayBase)
    count_include_pad = prop_def(BoolAttr)
    rounding = prop_def(StringAttr)
    clamp = prop_def(DenseArrayBase)
    layout = prop_def(StringAttr)

    def verify_(self) -> None:
        check_rounding(self, self.rounding)
        check_layout(self, self.layout)
        check_clamp(self, self.clamp, self.y)
        per_tensor(self, self.x, self.y)
        at_most_sixteen_bits(self, self.x, self.y)
        verify_windows(self, (1,) * (rank(self.x) - 2))
        check_sum(self, self.x, prod(integers(self.kernel)))

    def smallest_count(self) -> int:
        """The least number of elements that any window is divided by."""
        spatial = spatial_axes(self.layout, rank(self.x))
        geometry = [integers(a) for a in (self.kernel, self.strides, self.pads)]
        counted = bool(integer(self.count_include_pad))
        extents = [shape(self.x)[axis] for axis in spatial]
        return int(pool_counts(extents, *geometry, (1,) * len(spatial), False, counted).min())

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        x, y = quantized(self.x), quantized(self.y)
        lo, hi = limits(self, self.y)
        kernel, strides, pads = integers(self.kernel), integers(self.strides), integers(self.pads)
        geometry = (kernel, strides, pads, (1,) * len(kernel), False, bool(integer(self.count_include_pad)))
        scales = (x.zero_point, x.scale, y.scale, y.zero_point)
        form = (lo, hi, y.dtype, string(self.rounding), string(self.layout))
        return (average_pool(operands[0], *scales, *geometry, *form),)


@irdl_op_definition
class MeanOp(ChosenOp):
    """Mean over `axes`: int32 sum of `x - z_x`, requantized with `s_x / (s_y * count)`.

    The reduced axes stay with extent 1, or disappear: the result's shape says which.
    """

    name = "q.mean"
    x = operand_def(QUANTIZED)
    y = result_def(QUANTIZED)
    axes = prop_def(DenseArrayBase)
    rounding = prop_def(StringAttr)
    clamp = prop_def(DenseArrayBase)

    def verify_(self) -> None:
        check_rounding(self, self.rounding)
        check_clamp(self, self.clamp, self.y)
        per_tensor(self, self.x, self.y)
        axes = integers(self.axes)
        if not axes or len(set(axes)) != len(axes):
            self.fail(f"expected axes, each once, found {list(axes)}")
        for axis in axes:
            check_axis(self, axis, rank(self.x))
        kept = [1 if i in axes else d for i, d in enumerate(shape(self.x))]
        dropped = [d for i, d in enumerate(shape(self.x)) if i not in axes]
        if list(shape(self.y)) not in (kept, dropped):
            self.fail(f"expected a result of shape {kept} or {dropped}, found {list(shape(self.y))}")
        at_most_sixteen_bits(self, self.x, self.y)
        check_sum(self, self.x, self.smallest_count())

    def smallest_count(self) -> int:
        """The number of elements that every mean is taken over."""
        return prod(shape(self.x)[axis] for axis in integers(self.axes))

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        x, y = quantized(self.x), quantized(self.y)
        lo, hi = limits(self, self.y)
        scales = (x.zero_point, x.scale, y.scale, y.zero_point)
        keepdims = rank(self.y) == rank(self.x)
        form = (lo, hi, y.dtype, string(self.rounding))
        return (mean(operands[0], *scales, integers(self.axes), keepdims, *form),)


@irdl_op_definition
class SoftmaxOp(ChosenOp):
    """Softmax along `axis` in integers (qcompiler.arithmetic.softmax); the result's scale is 1/256."""

    name = "q.softmax"
    x = operand_def(QUANTIZED)
    y = result_def(QUANTIZED)
    axis = prop_def(IntegerAttr)

    def verify_(self) -> None:
        per_tensor(self, self.x, self.y)
        check_shape(self, "a result", self.y, shape(self.x))
        y = quantized(self.y)
        if (float(y.scale), y.zero_point) != (1 / 256, {"u8": 0, "i8": -128}.get(y.storage)):
            self.fail(f"expected a result of 8 bits with scale 1/256 that starts at real 0, found {y}")
        check_axis(self, integer(self.axis), rank(self.x))
        if quantized(self.x).storage not in ("u8", "i8"):
            self.fail(f"expected an operand of 8 bits, found {quantized(self.x)}")

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        x, y = quantized(self.x), quantized(self.y)
        axis = integer(self.axis)
        table = softmax_table(float(x.scale), shape(self.x)[axis])
        return (softmax(operands[0], table, axis, y.dtype),)
