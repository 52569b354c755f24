"""From an int32 accumulator to stored integers of 8 or 16 bits, in the three rounding forms of targets.

With `m > 0` the real multiplier (`real_multiplier`), `z` the zero point and `[lo, hi]` the clamp range:

* `fp32`: `m` rounded to float32; `y = int(clamp(rne(float32(acc) * m), lo - z, hi - z)) + z`. The conversion
  rounds half to even, and the multiply is not fused with what follows.
* `fixed`: `m ~ M * 2^-n`; `y = clamp(((acc * M + 2^(n-1)) >> n) + z, lo, hi)`: one rounding, half up, 64-bit
  product.
* `fixed2`: `m ~ M * 2^-(31+n)`; `h = sat32((acc * M + 2^30) >> 31)`, then `clamp(((h + 2^(n-1)) >> n) + z,
  lo, hi)`, without the second rounding for `n = 0`. For `m >= 1`, `n` is negative: `sat32(acc << -n)` takes the
  place of `acc`, and there is no second rounding. Sums are meant without overflow.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from qcompiler.arithmetic.affine import along_axis

Rounding = Literal["fp32", "fixed", "fixed2"]

_TOO_LARGE = "the multiplier {} is 2^30 or more: the output scale is far too small"

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


def real_multiplier(
    scale_x: np.ndarray | float, scale_w: np.ndarray | float, scale_y: np.ndarray | float
) -> np.ndarray | np.float64:
    """`scale_x * scale_w / scale_y` in float64, multiplied first: that product of two float32 is exact."""
    product = np.asarray(scale_x, np.float32).astype(np.float64) * np.asarray(scale_w, np.float32)
    return (product / np.asarray(scale_y, np.float32))[()]


def multiplier_fp32(multiplier: np.ndarray | float) -> np.ndarray | np.float32:
    """The multiplier of the `fp32` form. Raises ValueError unless it is positive and fits float32."""
    m = _positive(multiplier)
    if np.any(m > float(np.finfo(np.float32).max)):
        raise ValueError(f"the multiplier {m.max()} leaves float32")
    return m.astype(np.float32)[()]


def multiplier_fixed(multiplier: np.ndarray | float) -> tuple[np.ndarray, np.ndarray] | tuple[int, int]:
    """`(M, n)` of the `fixed` form, `2^30 <= M < 2^31` and `1 <= n <= 62`; int64 arrays for an array.

    A multiplier below 2^-32 takes `M = 2^30, n = 62`, which like itself sends every int32 to 0. Raises
    ValueError for one of 2^30 and more, which has no `n >= 1`.
    """
    mantissa, exponent = _mantissa_exponent(multiplier)
    shift = 31 - exponent
    if np.any(shift < 1):
        raise ValueError(_TOO_LARGE.format(np.max(multiplier)))
    return _saturated(mantissa, shift, 62)


def multiplier_fixed2(multiplier: np.ndarray | float) -> tuple[np.ndarray, np.ndarray] | tuple[int, int]:
    """`(M, n)` of the `fixed2` form, `2^30 <= M < 2^31` and `-30 <= n <= 32`; int64 arrays for an array.

    With `n = 32` every int32 becomes 0, so multipliers too small for it take `M = 2^30, n = 32`. Raises
    ValueError for one of 2^30 and more.
    """
    mantissa, exponent = _mantissa_exponent(multiplier)
    if np.any(exponent > 30):
        raise ValueError(_TOO_LARGE.format(np.max(multiplier)))
    return _saturated(mantissa, -exponent, 32)


def short_multiplier(multiplier: np.ndarray | float) -> np.ndarray | np.float64:
    """The nearest multiplier with the same `n` in the `fixed2` form and an `M` that is a multiple of 2^16.

    The lower half of `M` then needs no multiplication. The value changes by 2^-15 of itself at most, which moves a
    result of 8 bits by 2^-7 before it is rounded.
    """
    fraction, exponent = np.frexp(_positive(multiplier))
    return np.ldexp(np.minimum(np.rint(np.ldexp(fraction, 15)), (1 << 15) - 1), exponent - 15)[()]


def _positive(multiplier: np.ndarray | float) -> np.ndarray:
    m = np.asarray(multiplier, np.float64)
    if not (np.isfinite(m).all() and (m > 0).all()):
        raise ValueError("a requantize multiplier must be positive and finite")
    return m


def _mantissa_exponent(multiplier: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """`M` in [2^30, 2^31) and `e` with `multiplier ~ M * 2^(e-31)`, `M` rounded half to even."""
    fraction, exponent = np.frexp(_positive(multiplier))
    mantissa = np.rint(np.ldexp(fraction, 31)).astype(np.int64)
    carry = mantissa == 1 << 31
    return np.where(carry, 1 << 30, mantissa), exponent.astype(np.int64) + carry


def _saturated(
    mantissa: np.ndarray, shift: np.ndarray, largest: int
) -> tuple[np.ndarray, np.ndarray] | tuple[int, int]:
    beyond = shift > largest
    mantissa, shift = np.where(beyond, 1 << 30, mantissa), np.where(beyond, largest, shift)
    return (mantissa, shift) if mantissa.ndim else (int(mantissa), int(shift))


def requantize(
    acc: np.ndarray,
    multiplier: np.ndarray | float,
    zero_point: int,
    lo: int,
    hi: int,
    dtype: np.dtype | type,
    rounding: Rounding,
    axis: int | None = None,
) -> np.ndarray:
    """Scale an accumulator by the real `multiplier`, add the zero point, clamp to `[lo, hi]`.

    `acc` is int32 (or int64 holding int32 values, else ValueError). `multiplier` is float64: a scalar, a
    vector along `axis`, or with `axis` None an array that broadcasts against `acc`. A fused activation is
    only a narrower `[lo, hi]`, given in stored integers. The three forms are defined at the top of this
    module.
    """
    if acc.dtype == np.int64:
        if acc.size and (acc.min() < INT32_MIN or acc.max() > INT32_MAX):
            raise ValueError("the accumulator leaves int32")
    elif acc.dtype != np.int32:
        raise ValueError(f"the accumulator must be int32 or int64, not {acc.dtype}")
    if rounding == "fp32":
        y = acc.astype(np.float32)
        m = along_axis(multiplier_fp32(multiplier), axis, acc.ndim)
        with np.errstate(over="ignore"):
            y = np.multiply(y, m, out=y)
        np.rint(y, out=y)
        np.clip(y, np.float32(lo - zero_point), np.float32(hi - zero_point), out=y)
        # Both are integers below 2^17 here, so this float32 sum is the integer sum.
        np.add(y, np.float32(zero_point), out=y)
        return y.astype(dtype)
    if rounding == "fixed":
        mantissa, shift = multiplier_fixed(multiplier)
        mantissa, shift = along_axis(mantissa, axis, acc.ndim), along_axis(shift, axis, acc.ndim)
        y = np.asarray(acc.astype(np.int64) * mantissa)
        y += np.int64(1) << (shift - 1)
        y >>= shift
    elif rounding == "fixed2":
        mantissa, shift = multiplier_fixed2(multiplier)
        mantissa, shift = along_axis(mantissa, axis, acc.ndim), along_axis(shift, axis, acc.ndim)
        wide = acc.astype(np.int64)
        if np.any(shift < 0):
            wide = np.clip(wide << np.maximum(-shift, 0), INT32_MIN, INT32_MAX)
            shift = np.maximum(shift, 0)
        y = np.asarray(wide * mantissa)
        y += 1 << 30
        y >>= 31
        np.clip(y, INT32_MIN, INT32_MAX, out=y)
        y += (np.int64(1) << shift) >> 1
        y >>= shift
    else:
        raise ValueError(f"unknown rounding {rounding!r}: expected one of {', '.join(get_args(Rounding))}")
    y += zero_point
    return np.clip(y, lo, hi, out=y).astype(dtype)
