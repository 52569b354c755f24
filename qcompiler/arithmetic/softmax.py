"""Softmax on stored integers, with one 64-bit division a row.

For a row of `K` stored integers `q` of scale `s`, `d = max(q) - q`, and the largest `b <= 30` with `K * 2^b <
2^31`:

    t[d] = rne(2^b * exp(-s * d))                   int32, from a table; t[0] = 2^b
    S    = sum of t[d] over the row                 int32, 2^b <= S < 2^31
    R    = floor(2^(b+30) / S)                      int64 division, once a row; R <= 2^30 fits int32
    p    = (t[d] * R + 2^(b+21)) >> (b+22)          int32 * int32 -> int64, at most 256
    y    = min(p, 255) + z

The output has scale 1/256 and zero point `z` = 0 (u8) or -128 (i8). The zero point of the input cancels.
Everything is non-negative, so division and shift need no care for signs. Against the exact softmax `P` in
real numbers

    |min(256 * P, 255) - (y - z)| <= 1/2 + 128 * (K + 1) / 2^b + 2^-21

(rounding of `p`; rounding of the table; rounding of `R`).
"""

from __future__ import annotations

import numpy as np

OUTPUT_SCALE = np.float32(1 / 256)


def output_zero_point(dtype: np.dtype | type) -> int:
    """0 for uint8, -128 for int8."""
    return int(np.iinfo(dtype).min)


def table_bits(length: int) -> int:
    """`b` of a softmax over `length` elements. Raises ValueError below 1 and above 2^22 elements."""
    if not 1 <= length <= 1 << 22:
        raise ValueError(f"softmax over {length} elements: expected 1 to 2^22")
    return (((1 << 31) - 1) // length).bit_length() - 1


def softmax_table(scale: float, length: int, entries: int = 256) -> np.ndarray:
    """`t`: int32 `[entries]`, index `d = max(q) - q`, for rows of `length` elements of that scale."""
    steps = np.arange(entries, dtype=np.float64)
    return np.rint(np.exp2(table_bits(length)) * np.exp(-float(scale) * steps)).astype(np.int32)


def softmax(q: np.ndarray, table: np.ndarray, axis: int, dtype: np.dtype | type) -> np.ndarray:
    """Softmax along `axis` with the `softmax_table` of that axis' length; `dtype` is uint8 or int8.

    Raises ValueError if the table is of another length or has too few entries for `q`.
    """
    bits = table_bits(q.shape[axis])
    if table[0] != 1 << bits or len(table) < 1 << (8 * q.dtype.itemsize):
        raise ValueError(f"the table does not fit softmax over {q.shape[axis]} elements of {q.dtype}")
    wide = q.astype(np.int32)
    t = np.take(table, wide.max(axis=axis, keepdims=True) - wide).astype(np.int64)
    reciprocal = (1 << (bits + 30)) // t.sum(axis=axis, keepdims=True)
    y = (t * reciprocal + (1 << (bits + 21))) >> (bits + 22)
    return (np.minimum(y, 255) + output_zero_point(dtype)).astype(dtype)
