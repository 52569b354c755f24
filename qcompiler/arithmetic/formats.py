"""Element types that numpy lacks: integers of 2 and 4 bits, floats of 4, 6 and 8 bits.

An element takes one byte: an integer as int8 or uint8 with its value, a float as uint8 with its code in the low bits.
Codes and their values are those of `ml_dtypes`, which follows the OCP formats and, for float8, "FP8 Formats for Deep
Learning" (Micikevicius et al., 2022).

The codes of the positive values of each format ascend with the value, and a code is even where its mantissa is. So
rounding to nearest, ties to even, counts the thresholds that a magnitude reaches: the middle between each value and the
next, or the float32 after it where a tie goes down.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import ml_dtypes
import numpy as np

SMALL_INTEGERS = {
    name: np.dtype(np.int8 if name.startswith("int") else np.uint8) for name in ("int2", "uint2", "int4", "uint4")
}
"""ml_dtypes' name of an integer type of less than a byte, and the dtype that stores it."""

FLOATS = {
    "float4_e2m1fn": 4,
    "float6_e2m3fn": 6,
    "float6_e3m2fn": 6,
    "float8_e4m3fn": 8,
    "float8_e4m3fnuz": 8,
    "float8_e5m2": 8,
    "float8_e5m2fnuz": 8,
}
"""ml_dtypes' name of a float type of at most a byte, and its bits."""

NAMES = (*SMALL_INTEGERS, *FLOATS)


def storage_of(name: str) -> np.dtype:
    """The dtype that stores one of `NAMES`."""
    return SMALL_INTEGERS.get(name, np.dtype(np.uint8))


def stored(array: np.ndarray) -> np.ndarray:
    """An array of one of `NAMES` as it is stored; any other array as it is."""
    name = array.dtype.name
    if name in SMALL_INTEGERS:
        return array.astype(SMALL_INTEGERS[name])
    return array.view(np.uint8) if name in FLOATS else array


def presented(array: np.ndarray, name: str) -> np.ndarray:
    """The array of ml_dtypes' type `name` that `array` stores; the array itself if `name` is empty."""
    if not name:
        return array
    kind = np.dtype(getattr(ml_dtypes, name))
    return array.astype(kind) if name in SMALL_INTEGERS else np.ascontiguousarray(array).reshape(array.shape).view(kind)


@dataclass(frozen=True)
class FloatFormat:
    """A float type of at most 8 bits, `mantissa` of them behind the point.

    `values` is float32, the value of each code. `thresholds` is float32 and ascending: a magnitude has the code
    `number of thresholds <= magnitude`; the last one leads to the code behind the largest finite value, which is
    infinity or NaN, or to nothing where the format has neither (`saturates`).
    """

    bits: int
    mantissa: int
    values: np.ndarray
    thresholds: np.ndarray
    nan: int
    negative_zero: bool
    saturates: bool

    @property
    def sign(self) -> int:
        """The bit of the sign."""
        return 1 << (self.bits - 1)

    def limits(self, saturate: bool) -> np.ndarray:
        """The thresholds that hold if values beyond the largest become it (`saturate`), or infinity or NaN."""
        return self.thresholds[:-1] if saturate or self.saturates else self.thresholds


@cache
def float_format(name: str) -> FloatFormat:
    """The format of one of `FLOATS`."""
    bits, kind = FLOATS[name], np.dtype(getattr(ml_dtypes, name))
    values = np.arange(1 << bits).astype(np.uint8).view(kind).astype(np.float32)
    positive = values[: 1 << (bits - 1)]
    finite = positive[np.isfinite(positive)].astype(np.float64)
    after = 2 * finite[-1] - finite[-2]
    middle = ((np.append(finite[1:], after) + finite) / 2).astype(np.float32)
    ties_down = np.arange(len(middle)) % 2 == 0
    thresholds = np.where(ties_down, np.nextafter(middle, np.float32(np.inf)), middle)
    with np.errstate(invalid="ignore"):
        nan = int(np.asarray(np.nan, np.float32).astype(kind).view(np.uint8))
    negative_zero = bool(np.signbit(values[1 << (bits - 1)])) and not np.isnan(values[1 << (bits - 1)])
    mantissa = int(ml_dtypes.finfo(kind).nmant)
    return FloatFormat(bits, mantissa, values, thresholds, nan, negative_zero, not np.isnan(values).any())


def encode(x: np.ndarray, name: str, saturate: bool = True) -> np.ndarray:
    """uint8 codes of float32 values, rounded to nearest, ties to even.

    Values beyond the largest, infinity too, become the largest if `saturate`; else infinity, or NaN where the format
    has no infinity, or the largest where it has neither.
    """
    form = float_format(name)
    code = np.searchsorted(form.limits(saturate), np.abs(x), side="right").astype(np.uint8)
    signed = np.signbit(x) if form.negative_zero else np.signbit(x) & (code > 0)
    return np.where(np.isnan(x), np.uint8(form.nan), code | (signed * np.uint8(form.sign))).astype(np.uint8)


def decode(codes: np.ndarray, name: str) -> np.ndarray:
    """float32 values of codes; bits above those of the format are ignored."""
    form = float_format(name)
    return form.values[codes & np.uint8((1 << form.bits) - 1)]
