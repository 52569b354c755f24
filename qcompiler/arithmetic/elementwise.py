"""Sum, difference and product of two quantized tensors; numpy broadcasting."""

from __future__ import annotations

import math

import numpy as np

from qcompiler.arithmetic.requantize import INT32_MAX, Rounding, requantize

COEFFICIENT_BITS = 21
_LARGEST_SHIFT = 30


def add_parameters(
    scale_a: float, scale_b: float, scale_y: float, subtract: bool = False, reach: tuple[int, int] = (255, 255)
) -> tuple[int, int, int]:
    """`(A, B, n)` with `A ~ scale_a / scale_y * 2^n` and `B ~ +-scale_b / scale_y * 2^n` for `add`.

    `reach` are the largest `|q_a - z_a|` and `|q_b - z_b|`. `n` is the largest of 1..30 for which both coefficients
    stay below 2^21 in magnitude and `reach_a * |A| + reach_b * |B| + 2^(n-1)` below 2^31, so that every partial sum
    fits int32. For 8-bit operands the first condition implies the second: unless `n` is 30, the larger coefficient
    lies in `[2^20, 2^21)`. Raises ValueError where there is no such `n`: the result's scale is far too small.

    The unrounded, unclamped result is off by at most `(reach_a + reach_b) * 2^-(n+1)`.
    """
    ratio_a, ratio_b = float(scale_a) / float(scale_y), float(scale_b) / float(scale_y)
    if not all(math.isfinite(ratio) and ratio > 0 for ratio in (ratio_a, ratio_b)):
        raise ValueError(f"scales must be positive and finite, not {scale_a}, {scale_b}, {scale_y}")
    shift = min(COEFFICIENT_BITS - math.frexp(max(ratio_a, ratio_b))[1], _LARGEST_SHIFT)
    while shift >= 1:
        a, b = round(math.ldexp(ratio_a, shift)), round(math.ldexp(ratio_b, shift))
        # Rounding may carry the larger one to 2^21 itself.
        if max(a, b) < 1 << COEFFICIENT_BITS and reach[0] * a + reach[1] * b + (1 << (shift - 1)) <= INT32_MAX:
            return a, (-b if subtract else b), shift
        shift -= 1
    raise ValueError(f"the output scale {scale_y} is too small for input scales {scale_a} and {scale_b}")


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

    All in int32: `add_parameters` chooses the coefficients for the reach of the operands so that it fits.
    """
    left = q_a.astype(np.int32)
    left -= zero_point_a
    left *= coefficient_a
    right = q_b.astype(np.int32)
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
