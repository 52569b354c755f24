"""Sums of float64 values that do not depend on order or grouping, in integers of bounded size.

A sum is a row of int64 limbs: limb `i` counts units of `2**(lowest + 32 * i)`. A value adds less than `2**32` to each,
so `2**31` values can be added, and limbs add by themselves when sums merge. The idea of a long accumulator is that of
U. Kulisch, "Computer Arithmetic and Validity" (2008), chapter 8.
"""

from __future__ import annotations

import numpy as np

_BITS = 32


def no_sum(count: int, lowest: int, highest: int) -> np.ndarray:
    """int64 `[count, limbs]`: empty sums of multiples of `2**lowest` that lie below `2**highest` each."""
    return np.zeros((count, -((lowest - highest) // _BITS)), np.int64)


def add(sums: np.ndarray, values: np.ndarray, lowest: int) -> None:
    """Adds float64 `[count]` values, one to each sum, in place."""
    rest = np.ldexp(np.abs(values), -lowest)
    sign = np.where(values < 0, -1, 1)
    for i in reversed(range(sums.shape[1])):
        part = np.floor(np.ldexp(rest, -_BITS * i))
        rest -= np.ldexp(part, _BITS * i)
        sums[:, i] += sign * part.astype(np.int64)


def total(sums: np.ndarray, lowest: int) -> np.ndarray:
    """float64 `[count]`; equal sums give equal numbers."""
    exponents = (lowest + _BITS * np.arange(sums.shape[1])).astype(np.int32)
    return np.ldexp(sums.astype(np.float64), exponents).sum(axis=1)
