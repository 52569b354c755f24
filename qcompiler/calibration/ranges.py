"""Ranges from statistics: which interval of real values the stored integers shall cover.

Every method is a deterministic function of the statistics and returns `(lo, hi)` for `choose_affine` or
`choose_symmetric` (with `symmetric`, one threshold of the absolute value cuts both sides).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from qcompiler.arithmetic.affine import choose_affine_per_channel, choose_symmetric_per_channel
from qcompiler.calibration.statistics import TensorStatistics
from qcompiler.calibration.tails import Outliers

METHODS = ("minmax", "moving-average", "percentile", "entropy", "mse", "outlier")
DEFAULT_PERCENTILE = 99.999

# Candidates of the MSE search, as shares of the present end. The coarse ones go down to 1/64: a few massive
# values may stretch a range to many times the size of what matters.
_COARSE = 2.0 ** -np.linspace(0.0, 6.0, 37)
_FINE = 2.0 ** -np.linspace(-1 / 6, 1 / 6, 17)
_ENTROPY_CANDIDATES = 128
_EMPTY_COUNT = 1e-4


def range_from(
    statistics: TensorStatistics,
    method: str,
    qmin: int,
    qmax: int,
    symmetric: bool,
) -> tuple[float, float]:
    """The interval that the integers `[qmin, qmax]` shall cover, inside the values seen.

    Methods:
        minmax: all values seen.
        moving-average: moving averages of the extremes of each sample (`TensorStatistics.moving_range`).
        percentile: 99.999 per cent of the values, or as many as `percentile:99.99` says; what is left out is shared
            equally by the ends that are not at zero.
        entropy: the clipping whose quantized distribution has the smallest Kullback-Leibler divergence from
            the observed one; S. Migacz, "8-bit Inference with TensorRT", GTC 2017.
        mse: the clipping with the smallest mean squared error of rounding and clipping; the criterion of
            Banner et al., "Post training 4-bit quantization of convolutional networks for rapid-deployment"
            (NeurIPS 2019), minimized here on the histogram by search.
        outlier: the clipping that minimizes `scale**2 / 12`, the error of rounding, plus the mean squared clipping
            error of the outliers: the 0.1 % of each channel's elements with the largest magnitudes, every channel
            counting alike, however small it is beside others. That a few large values deserve a rule of their own
            is from Park, Kim, Yoo, "Energy-Efficient Neural Network Accelerator Based on Outlier-Aware
            Low-Precision Computation" (ISCA 2018); here they weigh in the choice of one range.

    Raises:
        ValueError: an unknown method, a percentile outside (50, 100], or statistics without tails for `outlier`.
    """
    method, percentile = parse_method(method)
    match method:
        case "minmax":
            return statistics.minimum, statistics.maximum
        case "moving-average":
            return statistics.moving_range
        case "percentile":
            return _percentile(_Density(statistics), (100.0 - percentile) / 100.0, symmetric)
        case "entropy":
            return _entropy(_Density(statistics), qmax - qmin + 1, symmetric)
        case "mse":
            least = partial(_Density(statistics).error, qmin=qmin, qmax=qmax)
            return search_range(statistics.minimum, statistics.maximum, least, qmin, qmax, symmetric)
        case _:
            if not statistics.has_tails:
                raise ValueError("the statistics were made without the tails that method 'outlier' needs")
            outliers = Outliers.of(statistics.tails, statistics.count / statistics.channels)

            def error(scale: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
                scale = scale.astype(np.float64)
                return scale**2 / 12 + outliers.clipping((qmin - zero_point) * scale, (qmax - zero_point) * scale)

            return search_range(statistics.minimum, statistics.maximum, error, qmin, qmax, symmetric)


def parse_method(text: str) -> tuple[str, float]:
    """Name of a method and the percentile, from `name` or `percentile:99.99`.

    Raises:
        ValueError: an unknown method, or a percentile outside (50, 100].
    """
    name, colon, number = text.partition(":")
    if name not in METHODS or (colon and name != "percentile"):
        raise ValueError(
            f"unknown calibration method {text!r}: expected one of {', '.join(METHODS)}, or such as percentile:99.99"
        )
    try:
        percentile = float(number) if colon else DEFAULT_PERCENTILE
    except ValueError:
        percentile = np.nan
    if not 50.0 < percentile <= 100.0:
        raise ValueError(f"percentile must be above 50 and at most 100, found {number or percentile}")
    return name, percentile


def expected_error(statistics: TensorStatistics, scale: float, zero_point: int, qmin: int, qmax: int) -> float:
    """Mean squared error per element of quantizing the observed values, from rounding and from clipping.

    Values count as uniformly spread inside their bin, with the error integrated in closed form; exact zeros
    have no error.
    """
    return float(_Density(statistics).error(np.asarray([scale]), np.asarray([zero_point]), qmin, qmax)[0])


class _Density:
    """A histogram as real intervals.

    Attributes:
        minimum, maximum: the extremes seen.
        width: of a bin.
        negative: how many of the bins lie below zero, which is a bin edge.
        counts: int64 `[bins]`, all elements.
        nonzero: int64 `[bins]`, elements other than zero.
        edges: float64 `[bins + 1]`, none outside the extremes.
    """

    def __init__(self, statistics: TensorStatistics) -> None:
        self.minimum, self.maximum = statistics.minimum, statistics.maximum
        self.width = 2.0**statistics.exponent
        self.negative = -statistics.first_bin
        size = max(int(np.flatnonzero(statistics.histogram).max(initial=0)) + 1, self.negative)
        self.counts = statistics.histogram[:size]
        nonzero = statistics.histogram.copy()
        nonzero[self.negative] -= statistics.zeros
        self.nonzero = nonzero[:size]
        self.edges = np.clip(statistics.bin_edges[: size + 1], self.minimum, self.maximum)

    def error(self, scale: np.ndarray, zero_point: np.ndarray, qmin: int, qmax: int) -> np.ndarray:
        """Mean squared error per element for each of `[candidates]` scales and zero points.

        With `t = x / scale` the error of `x` is `scale * (t - r)`, where `r` is the nearest integer to `t`
        that can be stored; `r / 12 + (t - r)**3 / 3` is the antiderivative of `(t - r)**2`, continuous over
        the steps of `r` and valid in the clipped tails.
        """
        scale = scale.astype(np.float64)
        t = self.edges / scale[:, None]
        low, high = (qmin - zero_point)[:, None], (qmax - zero_point)[:, None]
        d = t - np.clip(np.rint(t), low, high)
        primitive = (t - d) / 12 + d * d * d / 3
        width = np.diff(t)
        point = width == 0
        mean = np.where(point, d[:, :-1] ** 2, np.diff(primitive) / np.where(point, 1.0, width))
        return scale**2 * (mean @ self.nonzero) / max(int(self.counts.sum()), 1)

    def folded(self, counts: np.ndarray) -> np.ndarray:
        """Counts of absolute values: bin `i` is `[i * width, (i + 1) * width)`."""
        below, above = counts[: self.negative][::-1], counts[self.negative :]
        folded = np.zeros(max(len(below), len(above)), np.int64)
        folded[: len(above)] += above
        folded[: len(below)] += below
        return folded

    def clipped(self, threshold: float) -> tuple[float, float]:
        return max(self.minimum, -threshold), min(self.maximum, threshold)


def _percentile(density: _Density, outside: float, symmetric: bool) -> tuple[float, float]:
    total = density.counts.sum()
    if symmetric:
        folded = density.folded(density.counts)
        edges = np.minimum(np.arange(len(folded) + 1) * density.width, max(-density.minimum, density.maximum))
        below = np.concatenate([[0], np.cumsum(folded)])
        return density.clipped(float(np.interp((1.0 - outside) * total, below, edges)))
    below = np.concatenate([[0], np.cumsum(density.counts)])
    two_sided = density.minimum < 0.0 < density.maximum
    cut = outside * total / (2 if two_sided else 1)
    lo, hi = np.interp([cut, total - cut], below, density.edges)
    return (
        min(float(lo), 0.0) if density.minimum < 0.0 else density.minimum,
        max(float(hi), 0.0) if density.maximum > 0.0 else density.maximum,
    )


def _entropy(density: _Density, levels: int, symmetric: bool) -> tuple[float, float]:
    """Exact zeros are left out: they are stored exactly, and their spike hides the rest."""
    if symmetric:
        kept = _entropy_cut(density.folded(density.nonzero), levels // 2, 0)
        return density.clipped(kept * density.width)
    counts, negative = density.nonzero, density.negative
    above = _entropy_cut(counts, levels, negative)
    below = _entropy_cut(counts[:above][::-1], levels, above - negative)
    lo = max(density.minimum, (above - below - negative) * density.width)
    return lo, min(density.maximum, (above - negative) * density.width)


def _entropy_cut(counts: np.ndarray, levels: int, required: int) -> int:
    """How many bins to keep, counted from the start, for the smallest divergence; at least `required` and
    `levels`, since fewer bins than levels would quantize without loss."""
    bins = len(counts)
    least = max(levels, required)
    if least >= bins or not counts.any():
        return bins
    best, best_divergence = bins, np.inf
    # From the widest range on, so that a tie keeps it.
    for kept in np.unique(np.linspace(bins, least, _ENTROPY_CANDIDATES).astype(int))[::-1]:
        inside = counts[:kept].astype(np.float64)
        if not inside.any():
            continue
        observed = inside.copy()
        observed[-1] += counts[kept:].sum()
        used = observed > 0
        level = np.arange(kept) * levels // kept
        share = np.bincount(level, inside, levels) / np.maximum(np.bincount(level, used, levels), 1)
        # The last bin may hold nothing but what was clipped into it.
        quantized = np.maximum(share[level][used], _EMPTY_COUNT)
        p = observed[used] / observed.sum()
        divergence = float(np.sum(p * np.log(p / (quantized / quantized.sum()))))
        if divergence < best_divergence:
            best, best_divergence = int(kept), divergence
    return best


def search_range(
    minimum: float,
    maximum: float,
    error: Callable[[np.ndarray, np.ndarray], np.ndarray],
    qmin: int,
    qmax: int,
    symmetric: bool,
) -> tuple[float, float]:
    """The range inside `[minimum, maximum]` whose scale and zero point have the least `error`.

    `error` takes scales and zero points, `[candidates]` each, and gives as many figures. Both ends shrink together
    first, then each alone, then each is refined.
    """

    def best(lo: np.ndarray, hi: np.ndarray) -> tuple[float, float]:
        choose = choose_symmetric_per_channel if symmetric else choose_affine_per_channel
        i = int(np.argmin(error(*choose(lo, hi, qmin, qmax))))
        return float(lo[i]), float(hi[i])

    if symmetric:
        largest = threshold = max(-minimum, maximum)
        for shares in (_COARSE, _FINE):
            ends = np.minimum(threshold * shares, largest)
            threshold = best(-ends, ends)[1]
        return max(minimum, -threshold), min(maximum, threshold)
    lo, hi = best(minimum * _COARSE, maximum * _COARSE)
    for shares in (_COARSE, _FINE):
        ends = np.minimum(hi * shares, maximum)
        lo, hi = best(np.full(len(ends), lo), ends)
        ends = np.maximum(lo * shares, minimum)
        lo, hi = best(ends, np.full(len(ends), hi))
    return lo, hi
