"""The requantize forms as TIR expressions, bit-equal to `qcompiler.arithmetic.requantize`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import tirx

from qcompiler.arithmetic.requantize import (
    INT32_MAX,
    INT32_MIN,
    multiplier_fixed,
    multiplier_fixed2,
    multiplier_fp32,
)
from qcompiler.lowering.tir import Expr, splat, vector
from qcompiler.lowering.workload import Requantize

MAGIC = 12582912.0
"""1.5 * 2^23: adding it to a float32 of magnitude below 2^22 rounds to an integer, half to even."""
MAGIC_BITS = 0x4B400000
"""The bits of `MAGIC` as float32."""


def requantize_constants(requantize: Requantize, channels: int) -> tuple[np.ndarray, ...]:
    """The parameter arrays of a kernel, `[channels]`: float32 multipliers, or int32 mantissas and shifts.

    Raises ValueError if a multiplier has no representation in the rounding form.
    """
    multiplier = np.broadcast_to(requantize.multiplier, (channels,))
    if requantize.rounding == "fp32":
        return (multiplier_fp32(multiplier),)
    form = multiplier_fixed if requantize.rounding == "fixed" else multiplier_fixed2
    mantissa, shift = form(multiplier)
    return mantissa.astype(np.int32), shift.astype(np.int32)


def requantize_expression(acc: Expr, parameters: Sequence[Expr], requantize: Requantize, lanes: int = 1) -> Expr:
    """The stored integer as int32, from an int32 accumulator and its parameters (see `requantize_constants`).

    All operands have `lanes` lanes.
    """
    lo, hi = requantize.clamp
    zero_point = requantize.zero_point
    if requantize.rounding == "fp32":
        real = clamp_float(acc, parameters[0], requantize, lanes)
        bits = tirx.reinterpret(vector("int32", lanes), real + splat(MAGIC, "float32", lanes))
        return bits + splat(zero_point - MAGIC_BITS, "int32", lanes)
    wide = vector("int64", lanes)
    mantissa, shift = (parameter.astype(wide) for parameter in parameters)
    one, acc = splat(1, "int64", lanes), acc.astype(wide)
    if requantize.rounding == "fixed2" and requantize.shifts_left:
        zero = splat(0, "int64", lanes)
        acc = acc << tirx.max(zero - shift, zero)
        acc = tirx.min(tirx.max(acc, splat(INT32_MIN, "int64", lanes)), splat(INT32_MAX, "int64", lanes))
        shift = tirx.max(shift, zero)
    y = acc * mantissa
    if requantize.rounding == "fixed2":
        y = (y + splat(1 << 30, "int64", lanes)) >> splat(31, "int64", lanes)
    y = (y + ((one << shift) >> one)) >> shift
    y = tirx.max(y, splat(lo - zero_point, "int64", lanes))
    y = tirx.min(y, splat(hi - zero_point, "int64", lanes))
    return y.astype(vector("int32", lanes)) + splat(zero_point, "int32", lanes)


def clamp_float(acc: Expr, multiplier: Expr, requantize: Requantize, lanes: int) -> Expr:
    """`acc * multiplier` in float32, clamped to the range less the zero point.

    The bounds are integers, so rounding afterwards gives what clamping the rounded value would.
    """
    lo, hi = requantize.clamp
    real = acc.astype(vector("float32", lanes)) * multiplier
    real = tirx.max(real, splat(float(lo - requantize.zero_point), "float32", lanes))
    return tirx.min(real, splat(float(hi - requantize.zero_point), "float32", lanes))
