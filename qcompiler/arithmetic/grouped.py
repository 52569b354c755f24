"""Weights of a matrix product with a scale for each group of rows in each column, in exact integers.

Scales of groups (VS-Quant, Dai et al. 2021, "Per-vector scaled quantization for accurate low-precision neural network
inference"; groups of 4-bit weights as in GPTQ, Frantar et al. 2022) are usually floats, and then every sum over a group
is converted. Here, as VS-Quant's second level does, the scale of group `g` in column `c` is `u_c * R_gc`, with `u_c`
the column's unit and `R_gc` an integer in `1..256`, so the sums stay in one int32 accumulator:

    acc_c = bias_c + sum_g R_gc * sum_{k in g} (x_k - z_x) * w_kc

The real multiplier of the requantization is `s_x * u_c / s_y`. `R * w` fits int16 for 8-bit weights, so the product is
that of the weights `R_gc * w_kc`, and the accumulator's bound is proven from those.
"""

from __future__ import annotations

import numpy as np

from qcompiler.arithmetic.requantize import INT32_MAX

LARGEST_FACTOR = 256


def spread(values: np.ndarray, group: int, rows: int) -> np.ndarray:
    """Values `[G, N]` of groups as `[rows, N]`, one for each row; the last group may be short."""
    return np.repeat(values, group, axis=0)[:rows]


def effective_weights(w: np.ndarray, factors: np.ndarray, group: int) -> np.ndarray:
    """`R_gc * w_kc`, int16 `[K, N]`, of int8 weights and factors `[G, N]` in `1..256`."""
    return (w.astype(np.int32) * spread(factors, group, len(w))).astype(np.int16)


def group_scales(w: np.ndarray, group: int, qmax: int, resolution: int = LARGEST_FACTOR) -> np.ndarray:
    """float32 scales `[G, N]` of real weights `[K, N]` stored in `-qmax..qmax`: units times factors, exactly.

    `resolution`, a power of two up to 256, is the factor of a column's largest group; fewer steps leave the
    accumulator more room. A unit has 15 bits, so the product with a factor is exact in float32.
    """
    groups = -(-len(w) // group)
    filled = np.zeros((groups * group, w.shape[1]), np.float64)
    filled[: len(w)] = np.abs(w)
    ideal = filled.reshape(groups, group, -1).max(axis=1) / qmax
    largest = ideal.max(axis=0)
    mantissa, exponent = np.frexp(np.where(largest > 0, largest, 1.0))
    largest = np.ldexp(np.ceil(mantissa * 2**15), exponent - 15)
    factors = np.clip(np.ceil(ideal * resolution / largest), 1, resolution)
    return (largest / resolution * factors).astype(np.float32)


def factors_of(scales: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Units, float64 `[N]`, and factors, int32 `[G, N]`, of scales `[G, N]`; None if they are no such products.

    The factor of a column's largest group is the smallest power of two that makes all factors whole.
    """
    wide = scales.astype(np.float64)
    largest = wide.max(axis=0)
    resolution = 1
    while resolution <= LARGEST_FACTOR:
        factors = wide * resolution / largest
        if np.array_equal(factors, np.rint(factors)):
            return largest / resolution, factors.astype(np.int32)
        resolution *= 2
    return None


def grouped_bound(w: np.ndarray, factors: np.ndarray, group: int, lo: int, hi: int, bias: np.ndarray) -> np.ndarray:
    """Largest `|acc|` for each column, int64 `[N]`, over all `x - z_x` in `lo..hi` (`lo <= 0 <= hi`)."""
    effective = effective_weights(w, factors, group).astype(np.int64)
    up, down = np.maximum(effective, 0).sum(axis=0), np.minimum(effective, 0).sum(axis=0)
    offset = np.asarray(bias, np.int64)
    return np.maximum(np.abs(offset + up * hi + down * lo), np.abs(offset + up * lo + down * hi))


def fits_int32(w: np.ndarray, factors: np.ndarray, group: int, lo: int, hi: int, bias: np.ndarray) -> bool:
    """Whether no partial sum of any column can leave int32, whatever the order of groups."""
    return int(grouped_bound(w, factors, group, lo, hi, bias).max(initial=0)) <= INT32_MAX
