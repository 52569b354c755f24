"""Sum, difference and product of two quantized tensors; numpy broadcasting."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.arithmetic.requantize import INT32_MAX, Rounding, requantize

COEFFICIENT_BITS = 21
_LARGEST_SHIFT = 30


def add_parameters(scale_a: float, scale_b: float, scale_y: float, subtract: bool = False) -> tuple[int, int, int]:
    """`(A, B, n)` with `A ~ scale_a / scale_y * 2^n` and `B ~ +-scale_b / scale_y * 2^n` for `add`.

    The larger of `A` and `|B|` lies in `[2^20, 2^21)` and `1 <= n <= 30`. Where the larger ratio is below
    2^-10 the coefficients are smaller instead: `n` stays 30. Raises ValueError for a ratio of 2^20 and more.
    """
    ratio_a, ratio_b = float(scale_a) / float(scale_y), float(scale_b) / float(scale_y)
    if not all(math.isfinite(ratio) and ratio > 0 for ratio in (ratio_a, ratio_b)):
        raise ValueError(f"scales must be positive and finite, not {scale_a}, {scale_b}, {scale_y}")
    shift = min(COEFFICIENT_BITS - math.frexp(max(ratio_a, ratio_b))[1], _LARGEST_SHIFT)
    # Rounding may carry the larger one to 2^21 itself.
    if round(math.ldexp(max(ratio_a, ratio_b), shift)) == 1 << COEFFICIENT_BITS:
        shift -= 1
    if shift < 1:
        raise ValueError(f"the output scale {scale_y} is too small for input scales {scale_a} and {scale_b}")
    a, b = round(math.ldexp(ratio_a, shift)), round(math.ldexp(ratio_b, shift))
    return a, (-b if subtract else b), shift


def add(
    q_a: np.ndarray,
    zero_point_a: int,
    q_b: np.ndarray,
    zero_point_b: int,
    coefficient_a: int,
    coefficient_b: int,
    shift: int,
    zero_point_y: int,
    lo: int,
    hi: int,
    dtype: np.dtype | type,
) -> np.ndarray:
    """`clamp((((q_a - z_a) * A + (q_b - z_b) * B + 2^(n-1)) >> n) + z_y, lo, hi)`, with a floor shift.

    With 8-bit operands everything fits int32: `|q - z| <= 255` and `|A|, |B| < 2^21` give
    `510 * (2^21 - 1) + 2^29 < 2^31`, for every partial sum and every `n <= 30`. If an operand has 16 bits the
    sum is int64 (`131070 * 2^21 + 2^29 < 2^38`).
    """
    wide = np.int32 if q_a.dtype.itemsize == q_b.dtype.itemsize == 1 else np.int64
    left = q_a.astype(wide)
    left -= zero_point_a
    left *= coefficient_a
    right = q_b.astype(wide)
    right -= zero_point_b
    right *= coefficient_b
    acc = np.asarray(left + right)
    acc += 1 << (shift - 1)
    acc >>= shift
    acc += zero_point_y
    return np.clip(acc, lo, hi, out=acc).astype(dtype)


def mul_bound(range_a: tuple[int, int], zero_point_a: int, range_b: tuple[int, int], zero_point_b: int) -> int:
    """Largest `|(q_a - z_a) * (q_b - z_b)|` for operands in the storage ranges `(qmin, qmax)`."""
    widest = [max(z - qmin, qmax - z) for (qmin, qmax), z in ((range_a, zero_point_a), (range_b, zero_point_b))]
    return widest[0] * widest[1]


def mul(
    q_a: np.ndarray,
    zero_point_a: int,
    q_b: np.ndarray,
    zero_point_b: int,
    multiplier: np.ndarray | float,
    zero_point_y: int,
    lo: int,
    hi: int,
    dtype: np.dtype | type,
    rounding: Rounding,
) -> np.ndarray:
    """`(q_a - z_a) * (q_b - z_b)` in int32, requantized by the float64 `multiplier = s_a * s_b / s_y`.

    Raises ValueError if the storage types and zero points let the product leave int32; of two 16-bit operands
    at least one must be close to symmetric (`mul_bound`).
    """
    ranges = [(np.iinfo(q.dtype).min, np.iinfo(q.dtype).max) for q in (q_a, q_b)]
    bound = mul_bound(ranges[0], zero_point_a, ranges[1], zero_point_b)
    if bound > INT32_MAX:
        raise ValueError(f"products of these operands reach {bound} and leave int32: make one of them symmetric")
    left, right = q_a.astype(np.int32), q_b.astype(np.int32)
    left -= zero_point_a
    right -= zero_point_b
    return requantize(np.asarray(left * right), multiplier, zero_point_y, lo, hi, dtype, rounding)
