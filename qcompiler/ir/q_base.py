"""What the operations of dialect `q` share.

Every integer op is one class: operands, types, attributes, verifier and documentation, and `evaluate`, which computes
the result on arrays of stored integers. That method is the specification; targets must give the same integers.
Attributes common to several ops:

* `rounding`: form of the requantization, "fp32", "fixed" or "fixed2" (qcompiler.arithmetic.requantize);
* `clamp = array<i64: lo, hi>`: stored integers the result is clamped to; narrower than the storage range where an
  activation function is fused;
* `layout`: "NCHW" (channels are axis 1) or "NHWC" (channels last) of ops that know where channels are;
* `q.why` and `q.numbers`: who chose the type of the result, why, and by which figures.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np
from xdsl.dialects.builtin import (
    DenseArrayBase,
    DictionaryAttr,
    IntegerAttr,
    IntegerType,
    StringAttr,
    TensorType,
    f32,
    f64,
    i32,
    i64,
)
from xdsl.ir import Operation, SSAValue
from xdsl.irdl import IRDLOperation, base, eq, opt_prop_def, traits_def
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from qcompiler.arithmetic.requantize import INT32_MAX, requantize
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.values import integers, quantized, shape, string, tensor

FLOAT = TensorType.constr(eq(f32))
INT32 = TensorType.constr(eq(i32))
REAL = TensorType.constr(eq(f64))
QUANTIZED = TensorType.constr(base(UniformType))

ROUNDINGS = ("fp32", "fixed", "fixed2")
LAYOUTS = ("NCHW", "NHWC")


class QOp(IRDLOperation):
    """Base of the integer operations: pure functions of their operands."""

    traits = traits_def(Pure())

    @abstractmethod
    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        """The results on arrays of stored integers (or float32, where an operand is float)."""

    def fail(self, message: str) -> None:
        raise VerifyException(f"{self.name}: {message}")


class ChosenOp(QOp):
    """Base of the operations whose result has a type that somebody chose."""

    why = opt_prop_def(StringAttr, prop_name="q.why")
    numbers = opt_prop_def(DictionaryAttr, prop_name="q.numbers")


def per_tensor(op: QOp, *values: SSAValue) -> None:
    """Verifies that the quantized values have one scale and zero point each."""
    for value in values:
        if not quantized(value).per_tensor:
            op.fail(f"expected a per-tensor type, found {quantized(value)}")


def per_channel(op: QOp, value: SSAValue, axis: int) -> None:
    """Verifies that a quantized value has one scale, or one for each index of `axis`, and one zero point."""
    kind = quantized(value)
    if kind.per_tensor:
        return
    if kind.axis != axis:
        op.fail(f"expected a per-tensor type or one along axis {axis}, found {kind}")
    check_scales(op, value)
    if len(set(kind.zero_points.tolist())) > 1:
        op.fail(f"expected channels that share one zero point, found {kind}")


def eight_bits(op: QOp, *values: SSAValue) -> None:
    """Verifies that quantized values are stored in 8 bits."""
    for value in values:
        if quantized(value).dtype.itemsize != 1:
            op.fail(f"expected an operand of 8 bits, found {quantized(value)}")


def at_most_sixteen_bits(op: QOp, *values: SSAValue) -> None:
    """Verifies that quantized values are stored in 8 or 16 bits."""
    for value in values:
        if quantized(value).dtype.itemsize > 2:
            op.fail(f"expected a type of 8 or 16 bits, found {quantized(value)}")


def sum_bound(kind: UniformType, count: int) -> int:
    """Bound on sums of `count` stored values of this type, before and after the zero point is subtracted."""
    return count * max(kind.reach, -kind.qmin, kind.qmax)


def check_sum(op: QOp, x: SSAValue, count: int) -> None:
    """Verifies that sums of `count` values of `x` fit int32."""
    if (bound := sum_bound(quantized(x), count)) > INT32_MAX:
        op.fail(f"the sum of {count} values of {quantized(x)} can reach {bound}, beyond int32")


def same_type(op: QOp, x: SSAValue, y: SSAValue) -> None:
    """Verifies that an op that moves stored integers, wherever their channels come to lie, keeps their type."""
    per_tensor(op, x)
    check_type(op, quantized(x), y)


def check_type(op: QOp, expected: UniformType, y: SSAValue) -> None:
    """Verifies that the result of an op that moves stored integers has the operand's type."""
    if quantized(y) != expected:
        op.fail(f"moves stored integers, so the result must have the operand's type {expected}, found {quantized(y)}")


def check_rounding(op: QOp, rounding: StringAttr) -> None:
    if rounding.data not in ROUNDINGS:
        op.fail(f"rounding must be one of {', '.join(ROUNDINGS)}, got '{rounding.data}'")


def check_layout(op: QOp, layout: StringAttr) -> None:
    if layout.data not in LAYOUTS:
        op.fail(f"layout must be one of {', '.join(LAYOUTS)}, got '{layout.data}'")


def check_clamp(op: QOp, clamp: DenseArrayBase, y: SSAValue) -> None:
    values, kind = integers(clamp), quantized(y)
    if len(values) != 2 or not kind.qmin <= values[0] <= values[1] <= kind.qmax:
        op.fail(f"clamp must be two integers lo <= hi in {kind.qmin}:{kind.qmax}, got {list(values)}")


def check_shape(op: QOp, what: str, value: SSAValue, expected: Sequence[int]) -> None:
    if shape(value) != tuple(expected):
        op.fail(f"expected {what} of shape {list(expected)}, found {list(shape(value))}")


def check_axis(op: QOp, axis: int, rank: int) -> None:
    if not 0 <= axis < rank:
        op.fail(f"expected an axis in 0..{rank - 1}, found {axis}")


def check_scales(op: QOp, value: SSAValue) -> None:
    """Verifies that a type has one scale, or one for each index of an axis of the value."""
    kind = quantized(value)
    if kind.blocks:
        op.fail(f"expected a per-tensor or per-axis type, found {kind}")
    if kind.axis is not None:
        check_axis(op, kind.axis, len(shape(value)))
        if kind.grid[0] != shape(value)[kind.axis]:
            op.fail(f"{kind.grid[0]} scales do not fit axis {kind.axis} of {list(shape(value))}")


def check_blocks(op: QOp, value: SSAValue) -> None:
    """Verifies that a sub-channel type has one scale for each block of each axis of the value, all axes in order."""
    kind, extents = quantized(value), shape(value)
    expected = tuple(-(-extent // size) for extent, size in zip(extents, kind.blocks.values(), strict=False))
    if list(kind.blocks) != list(range(len(extents))) or kind.grid != expected:
        op.fail(f"scales {list(kind.grid)} in blocks {kind.blocks} do not fit {list(extents)}")


def check_weight(op: QOp, what: str, value: SSAValue) -> None:
    """Verifies that an operand holds plain integers of 8 or 16 bits."""
    element = tensor(value).element_type
    if not isinstance(element, IntegerType) or element.width.data not in (8, 16):
        op.fail(f"expected {what} of integers of 8 or 16 bits, found {element}")


def check_window(op: QOp, x: Sequence[int], kernel: Sequence[int], dilations: Sequence[int], y: Sequence[int]) -> None:
    """Verifies `strides`, `pads`, and the extents `y` of the result of windows that slide over `x`; all spatial."""
    strides, pads, n = integers(op.properties["strides"]), integers(op.properties["pads"]), len(x)
    if (len(kernel), len(strides), len(pads), len(dilations)) != (n, n, 2 * n, n):
        op.fail(f"expected {n} kernel extents, strides and dilations and {2 * n} pads")
    if min((1, *kernel, *strides, *dilations)) < 1 or min((0, *pads)) < 0:
        op.fail("kernel extents, strides and dilations must be positive, pads not negative")
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    expected = [(x[i] + pads[i] + pads[n + i] - reach[i]) // strides[i] + 1 for i in range(n)]
    if list(y) != expected or min((1, *expected)) < 1:
        op.fail(f"expected spatial extents {expected} of the result, found {list(y)}")


def limits(op: Operation, y: SSAValue) -> tuple[int, int]:
    """The `clamp` of an op."""
    lo, hi = integers(op.properties.get("clamp"), (quantized(y).qmin, quantized(y).qmax))
    return lo, hi


def requantized(
    op: Operation, y: SSAValue, accumulator: np.ndarray, multiplier: np.ndarray | float, axis: int | None
) -> np.ndarray:
    """The result `y` of an op from its accumulator, by its `rounding` and `clamp`; multipliers run along `axis`."""
    kind = quantized(y)
    rounding = string(op.properties["rounding"])
    return requantize(accumulator, multiplier, kind.zero_point, *limits(op, y), kind.dtype, rounding, axis)


def product_shape(op: QOp, a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    """Shape of the product of matrices `[..., M, K]` and `[..., K, N]`, batch axes broadcast; fails if they differ."""
    if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
        op.fail(f"expected [..., M, K] and [..., K, N], found {list(a)} and {list(b)}")
    try:
        return (*np.broadcast_shapes(tuple(a[:-2]), tuple(b[:-2])), a[-2], b[-1])
    except ValueError:
        op.fail(f"batch axes of {list(a)} and {list(b)} do not broadcast")


def channel_axis(layout: StringAttr, rank: int) -> int:
    return rank - 1 if string(layout) == "NHWC" else 1


def spatial_axes(layout: StringAttr, rank: int) -> tuple[int, ...]:
    return tuple(range(1, rank - 1)) if string(layout) == "NHWC" else tuple(range(2, rank))


def full_clamp(kind: UniformType) -> DenseArrayBase:
    """The clamp that is no narrower than the storage range."""
    return array([kind.qmin, kind.qmax])


def array(values: Sequence[int]) -> DenseArrayBase:
    return DenseArrayBase.from_list(i64, [int(v) for v in values])


def number(value: int) -> IntegerAttr:
    return IntegerAttr(int(value), i64)
