"""Float32 to stored integers in HVX, by integers alone: v66 has no vectors of floats, later versions round otherwise.

With `|x| = m * 2^i` and `s = M * 2^j`, `m` and `M` integers of 24 bits, the quotient is `(m / M) * 2^d`, `d = i - j`.
A product with the reciprocal of `M` in fixed point gives an integer `k` such that `|x| / s` lies between `k` and
`k + 1`, or beyond by less than 2^-4. The remainder

    r = m * 2^(d+4) - (2 * k + 1) * 8 * M         in units of s / (16 * M)

decides between the two. It is small, so it is exact modulo 2^32, although its terms are not. The float32 quotient is a
tie, and then rounds to even, where the exact one is at most half of its last bit, `w = M * 2^(p-20)` units with
`p = floor(log2(|x| / s))`, from `k + 1/2`. So the result is `k + 1` where `r > w`, for odd `k` where `r >= -w`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import tirx

from qcompiler.lowering.tir import Expr, shuffle, splat
from qcompiler.targets.cpu.epilogue import clamped
from qcompiler.targets.cpu.isa import isa_of
from qcompiler.targets.hexagon.isa import BYTES, LANES, hvx, multiply_high, multiply_words, subtract_words
from qcompiler.targets.spec import TargetSpec

_MANTISSA_BITS = 23
_INFINITY = 0x7F800000
_SMALL = 8
"""Quotients below 2^-7 are taken for that."""
_FIRST_EXPONENT, _LAST_EXPONENT = _SMALL + 1, 234
"""Of scales, as they are stored: limits and shifts derived from others leave their range."""


def quantize_words(
    dtype: str, scale: float, zero_point: int, limits: tuple[int, int], spec: TargetSpec
) -> tuple[int, Callable[[list[Expr], int], Expr]] | None:
    """128 float32 to bytes, or to int16 around 0: bit-equal to `qcompiler.arithmetic.affine.quantize`."""
    if dtype not in ("uint8", "int8") and (dtype != "int16" or zero_point):
        return None
    bits = int(np.float32(scale).view(np.int32))
    if not _FIRST_EXPONENT <= bits >> _MANTISSA_BITS <= _LAST_EXPONENT:
        return None
    isa = isa_of(spec)
    whole = np.iinfo(dtype)
    # The next power of two beyond all differences from the zero point.
    reach = (int(whole.max) - int(whole.min)).bit_length() + 1

    def body(operands: list[Expr], _: int) -> Expr:
        x = tirx.reinterpret(f"int32x{BYTES}", operands[0])
        parts = [_quotient(shuffle([x], range(i, i + LANES)), bits, reach) for i in range(0, BYTES, LANES)]
        return clamped(isa.narrow(parts, zero_point, dtype), limits, dtype, isa)

    return BYTES, body


def _quotient(x: Expr, scale: int, reach: int) -> Expr:
    """`rne(x / scale)` of the bits of 32 floats, up to 2^reach; NaN is -2^reach."""

    def number(value: int) -> Expr:
        return splat(value, "int32", LANES)

    exponent, mantissa = scale >> _MANTISSA_BITS, (scale & ((1 << _MANTISSA_BITS) - 1)) | 1 << _MANTISSA_BITS
    reciprocal = min((1 << 54) // mantissa, (1 << 31) - 1)
    step = 1 << _MANTISSA_BITS
    size = x & number((1 << 31) - 1)
    sign = (x | (number(_INFINITY) - size)) >> number(31)
    size = tirx.min(tirx.max(size, number(scale - _SMALL * step)), number(scale + reach * step))
    m = (size & number(step - 1)) | number(step)
    shift = (size >> number(_MANTISSA_BITS)) - number(exponent - 4)
    k = hvx("vasrwv", multiply_high(m, number(reciprocal)), number(27) - shift)
    above = subtract_words(hvx("vaslwv", m, shift), number(8 * mantissa))
    rest = subtract_words(above, multiply_words(k, number(16 * mantissa)))
    half_bit = hvx("vaslwv", number(mantissa), (size - number(scale + 20 * step)) >> number(_MANTISSA_BITS))
    bound = half_bit ^ (number(0) - (k & number(1)))
    k = tirx.Select(rest > bound, k + number(1), k)
    return (k ^ sign) - sign
