"""The most extreme values of every channel, counted in bins that follow from the values alone, so that counts merge.

A bin is a quarter of an octave: sign, exponent and two bits of the mantissa of a float32. Of each sign the `BINS`
bins from that of the largest magnitude down are kept, 8 octaves, which is exact: what one part of the data keeps
includes all that the whole keeps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 32
SHARE = 0.001
"""The part of a channel's elements that counts as its tail."""

_DROPPED = 21


def no_tails(channels: int) -> np.ndarray:
    """int64 `[channels, 2, 1 + BINS]`: by sign (positive, negative) the number of the largest bin, and counts from
    that bin down."""
    return np.zeros((channels, 2, 1 + BINS), np.int64)


def raised(tails: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Tails whose largest bins are at least `top`, int64 `[channels, 2]`."""
    rise = np.maximum(top - tails[:, :, 0], 0)
    source = np.arange(BINS) - rise[:, :, None]
    counts = np.take_along_axis(tails[:, :, 1:], np.maximum(source, 0), axis=2)
    return np.concatenate([(tails[:, :, 0] + rise)[:, :, None], np.where(source >= 0, counts, 0)], axis=2)


def counted(tails: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Tails with the finite float32 `[outer, channels, inner]` elements of a block added."""
    limits = np.abs(np.stack([block.max(axis=(0, 2), initial=0), block.min(axis=(0, 2), initial=0)], axis=1))
    tails = raised(tails, (limits.astype(np.float32).view(np.uint32) >> _DROPPED).astype(np.int64))
    codes = (np.ascontiguousarray(block).view(np.uint32) >> _DROPPED).astype(np.int64)
    rows = (codes >> 10) + 2 * np.arange(len(tails))[:, None]
    below = tails[:, :, 0].reshape(-1)[rows] - (codes & 1023)
    kept = below < BINS
    counts = np.bincount((rows * BINS + below)[kept], minlength=len(tails) * 2 * BINS)
    tails[:, :, 1:] += counts.reshape(-1, 2, BINS)
    return tails


def merged(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Tails of the elements of both."""
    a, b = raised(a, b[:, :, 0]), raised(b, a[:, :, 0])
    a[:, :, 1:] += b[:, :, 1:]
    return a


@dataclass(frozen=True)
class Outliers:
    """The tails as weighted values.

    Attributes:
        values: float64 `[n]`, the centres of bins.
        weights: float64 `[n]`; the sum over one channel is 1 / channels.
    """

    values: np.ndarray
    weights: np.ndarray

    @staticmethod
    def of(tails: np.ndarray, elements: float) -> Outliers:
        """The `SHARE` largest magnitudes of each channel, of `elements` each, or the kept ones if they are fewer."""
        bins = np.maximum(tails[:, :, :1] - np.arange(BINS), 0)
        edges = [(bins + i << _DROPPED).astype(np.uint32).view(np.float32).astype(np.float64) for i in (0, 1)]
        centres = np.where(np.isfinite(edges[1]), (edges[0] + edges[1]) / 2, edges[0]) * [[1.0], [-1.0]]
        values, counts = centres.reshape(len(tails), -1), tails[:, :, 1:].reshape(len(tails), -1)
        order = np.argsort(-np.abs(values), axis=1, kind="stable")
        values, counts = np.take_along_axis(values, order, 1), np.take_along_axis(counts, order, 1)
        before = np.cumsum(counts, axis=1) - counts
        taken = np.clip(np.ceil(SHARE * elements) - before, 0, counts)
        weights = taken / np.maximum(taken.sum(axis=1, keepdims=True), 1) / len(tails)
        return Outliers(values.reshape(-1), weights.reshape(-1))

    def clipping(self, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
        """Mean squared distance of the outliers from `[candidates]` intervals, every channel counting alike."""
        kept = self.weights > 0
        values = self.values[kept]
        outside = values - np.clip(values, lo[:, None], hi[:, None])
        return np.square(outside) @ self.weights[kept]
