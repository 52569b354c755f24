"""Bounded summary of one float tensor over all calibration samples.

The size of a `TensorStatistics` depends on the number of channels alone, never on how much was observed, and
statistics of parts of the data merge. The histogram lives on a canonical grid: bins are `2**exponent` wide,
their edges are multiples of that width, and the grid follows from zero and the extremes seen alone. Bins of a
coarser grid are unions of bins of a finer one, so growing the range is exact, and all that is counted
(histogram, zeros, extremes, tails) is the same for one pass and for any merge of parts. So are sums, bit for
bit: each sample's is rounded by itself, and those of samples add exactly (`qcompiler.calibration.exact`). Moving
averages depend on the order of samples and agree up to their rounding; so does the trail, up to its coarseness.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np

from qcompiler.calibration import exact
from qcompiler.calibration.tails import counted, merged, no_tails
from qcompiler.calibration.trail import added, extended, growth, no_trail
from qcompiler.errors import CalibrationError

BINS = 2048
DECAY = 0.99
"""Weight of the past at each step of the moving averages of the smallest and largest value of a sample."""

_BLOCK = 1 << 17
_MIN_EXPONENT = -126
_WIDE = 2.0**64
_SUM = -149, 171
_SQUARES = -298, 310
"""Binary exponents between which the sums of a sample lie: those of the smallest float32, and of its square."""


def _grid(minimum: float, maximum: float, exponent: int) -> tuple[int, int]:
    """The smallest exponent from `exponent` on at which `[minimum, maximum]` and 0 lie in BINS bins, and the
    index of the first of them."""
    while True:
        first = math.floor(math.ldexp(min(minimum, 0.0), -exponent))
        if math.floor(math.ldexp(max(maximum, 0.0), -exponent)) - first < BINS:
            return exponent, first
        exponent += 1


def _start_exponent(minimum: float, maximum: float) -> int:
    """A lower bound of the exponent of the canonical grid."""
    span = max(maximum, 0.0) - min(minimum, 0.0)
    return max(_MIN_EXPONENT, math.frexp(span)[1] - BINS.bit_length() - 1) if span else _MIN_EXPONENT


@dataclass(slots=True)
class TensorStatistics:
    """Summary of a float32 tensor. Make one with `TensorStatistics.empty`, feed it with `update`.

    Attributes:
        channel_axis: the axis of the per-channel arrays; -1 is the last one. None: one channel for all.
        samples: calls of `update`.
        count: finite elements seen.
        zeros: elements equal to 0.
        infinite: elements that were infinite; they are left out of everything else (and count as 0 in
            `channel_sums`).
        exponent, first_bin, histogram: bin `i` (int64 count) is
            `[(first_bin + i) * 2**exponent, (first_bin + i + 1) * 2**exponent)`, of `BINS` bins.
        squares: the sum of the squares of all elements, int64 limbs of `exact`.
        decayed_minimum, decayed_maximum: `sum(DECAY**(n - 1 - i) * extreme of sample i)` over the n samples.
        channel_minimum, channel_maximum: float32 `[channels]`, `inf` and `-inf` before the first sample.
        channel_sums: int64 `[channels, limbs]`, sums as `exact` keeps them.
        trail: how the range grew, as `qcompiler.calibration.trail` keeps it.
        tails: the largest values of each channel, as `qcompiler.calibration.tails` keeps them; of no channels if
            they are not wanted.
    """

    channel_axis: int | None
    samples: int
    count: int
    zeros: int
    infinite: int
    exponent: int
    first_bin: int
    histogram: np.ndarray
    squares: np.ndarray
    decayed_minimum: float
    decayed_maximum: float
    channel_minimum: np.ndarray
    channel_maximum: np.ndarray
    channel_sums: np.ndarray
    trail: np.ndarray
    tails: np.ndarray

    @staticmethod
    def empty(channels: int = 1, channel_axis: int | None = None, tails: bool = False) -> TensorStatistics:
        """Statistics of nothing, for tensors with `channels` along `channel_axis`; `tails` are what the range method
        `outlier` needs."""
        return TensorStatistics(
            channel_axis=channel_axis,
            samples=0,
            count=0,
            zeros=0,
            infinite=0,
            exponent=_MIN_EXPONENT,
            first_bin=0,
            histogram=np.zeros(BINS, np.int64),
            squares=exact.no_sum(1, *_SQUARES),
            decayed_minimum=0.0,
            decayed_maximum=0.0,
            channel_minimum=np.full(channels, np.inf, np.float32),
            channel_maximum=np.full(channels, -np.inf, np.float32),
            channel_sums=exact.no_sum(channels, *_SUM),
            trail=no_trail(),
            tails=no_tails(channels if tails else 0),
        )

    @property
    def channels(self) -> int:
        return len(self.channel_sums)

    @property
    def channel_sum(self) -> np.ndarray:
        """float64 `[channels]`."""
        return exact.total(self.channel_sums, _SUM[0])

    @property
    def sum_of_squares(self) -> float:
        return float(exact.total(self.squares, _SQUARES[0])[0])

    @property
    def has_tails(self) -> bool:
        return len(self.tails) > 0

    def growth(self, share: float) -> float:
        """By how much of its width the range of values still grew over the last `share` of the samples, 0..1."""
        return growth(self.trail, share)

    def one_channel(self) -> TensorStatistics:
        """Without the distinction of channels, so that statistics of tensors of unlike shapes merge."""
        return replace(
            self,
            channel_axis=None,
            channel_minimum=self.channel_minimum.min(keepdims=True),
            channel_maximum=self.channel_maximum.max(keepdims=True),
            channel_sums=self.channel_sums.sum(axis=0, keepdims=True),
            tails=functools.reduce(merged, np.split(self.tails, self.channels)) if self.has_tails else self.tails,
        )

    @property
    def minimum(self) -> float:
        """The smallest finite value seen; 0 if there was none."""
        return float(self.channel_minimum.min()) if self.count else 0.0

    @property
    def maximum(self) -> float:
        """The largest finite value seen; 0 if there was none."""
        return float(self.channel_maximum.max()) if self.count else 0.0

    @property
    def mean(self) -> float:
        return float(self.channel_sum.sum()) / self.count if self.count else 0.0

    @property
    def mean_square(self) -> float:
        return self.sum_of_squares / self.count if self.count else 0.0

    @property
    def channel_mean(self) -> np.ndarray:
        """float64 `[channels]`: the mean over samples and positions, E[x] of a bias correction."""
        return self.channel_sum * (self.channels / max(self.count + self.infinite, 1))

    @property
    def moving_range(self) -> tuple[float, float]:
        """Exponential moving averages of the extremes of each sample, unbiased by the start from zero.

        The averages are those of Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference" (CVPR 2018), section 3.1; the division by `1 - DECAY**n` is that of
        Kingma and Ba, "Adam" (ICLR 2015), section 3.
        """
        weight = (1.0 - DECAY**self.samples) / (1.0 - DECAY)
        return (self.decayed_minimum / weight, self.decayed_maximum / weight) if weight else (0.0, 0.0)

    @property
    def bin_edges(self) -> np.ndarray:
        """float64 `[BINS + 1]`, exact."""
        return np.ldexp((self.first_bin + np.arange(BINS + 1)).astype(np.float64), self.exponent)

    def update(self, sample: np.ndarray) -> None:
        """Takes in one sample: a float tensor whose `channel_axis` has `channels` entries.

        Raises:
            CalibrationError: the sample holds NaN; the statistics are of no more use then.
            ValueError: the number of channels differs.
        """
        x = np.ascontiguousarray(sample, np.float32)
        if self.channel_axis is not None and x.shape[self.channel_axis] != self.channels:
            raise ValueError(
                f"a sample of shape {x.shape} has not {self.channels} channels on axis {self.channel_axis}"
            )
        lowest, highest, before = np.inf, -np.inf, self.count
        sums, squares = np.zeros(self.channels), 0.0
        for channels, block in self._blocks(x):
            low, high = block.min(axis=(0, 2)), block.max(axis=(0, 2))
            values = block.reshape(-1)
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                finite = np.isfinite(block)
                if np.isnan(block).any():
                    raise CalibrationError(f"holds NaN in {np.isnan(x).sum()} of {x.size} elements")
                low = block.min(axis=(0, 2), where=finite, initial=np.inf)
                high = block.max(axis=(0, 2), where=finite, initial=-np.inf)
                self.infinite += block.size - int(finite.sum())
                values = block[finite]
                block = np.where(finite, block, np.float32(0))
            np.minimum(self.channel_minimum[channels], low, out=self.channel_minimum[channels])
            np.maximum(self.channel_maximum[channels], high, out=self.channel_maximum[channels])
            if values.size:
                low, high = float(low.min()), float(high.max())
                lowest, highest = min(lowest, low), max(highest, high)
                sums[channels] += _channel_sums(block, max(-low, high))
                squares += float(np.square(values, dtype=np.float64).sum())
                if self.has_tails:
                    self.tails[channels] = counted(self.tails[channels], block)
                self._grow()
                self._bin(values)
        if self.count > before:
            self.samples += 1
            exact.add(self.channel_sums, sums, _SUM[0])
            exact.add(self.squares, np.array([squares]), _SQUARES[0])
            self.trail = added(self.trail, lowest, highest)
            self.decayed_minimum = self.decayed_minimum * DECAY + lowest
            self.decayed_maximum = self.decayed_maximum * DECAY + highest

    def _blocks(self, x: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
        """Contiguous `[outer, channels, inner]` pieces of at most `_BLOCK` elements, and their channels."""
        if x.size == 0:
            return
        axis = 0 if self.channel_axis is None else self.channel_axis % x.ndim
        outer = math.prod(x.shape[:axis])
        x = x.reshape(outer, self.channels, -1)
        inner = x.shape[2]
        rows = max(1, _BLOCK // (inner * self.channels))
        step = max(1, _BLOCK // inner)
        for i in range(0, outer, rows):
            for c in range(0, self.channels, step):
                for k in range(0, inner, _BLOCK):
                    yield slice(c, c + step), x[i : i + rows, c : c + step, k : k + _BLOCK]

    def _grow(self) -> None:
        """Rebins the histogram to the canonical grid of the channels' extremes, which contain all it has."""
        minimum, maximum = float(self.channel_minimum.min()), float(self.channel_maximum.max())
        start = max(self.exponent, _start_exponent(minimum, maximum))
        exponent, first = _grid(minimum, maximum, start)
        if (exponent, first) != (self.exponent, self.first_bin):
            self.histogram = _rebinned(self, exponent, first)
            self.exponent, self.first_bin = exponent, first

    def _bin(self, values: np.ndarray) -> None:
        """Counts finite float32 values that lie inside the grid."""
        # In float32 a factor of at least 1 is exact; a smaller one may flush tiny negative values to zero.
        real = np.float32 if self.exponent <= 0 else np.float64
        y = np.multiply(values, real(math.ldexp(1.0, -self.exponent)), dtype=real)
        np.floor(y, out=y)
        y -= real(self.first_bin)
        self.histogram += np.bincount(y.astype(np.intp), minlength=BINS)
        self.zeros += int(np.count_nonzero(values == 0))
        self.count += values.size

    def merge(self, later: TensorStatistics) -> TensorStatistics:
        """Statistics of the samples of both; those of `later` come after for the moving averages."""
        if (self.channel_axis, self.channels) != (later.channel_axis, later.channels):
            raise ValueError(
                f"statistics of {self.channels} channels on axis {self.channel_axis} do not merge with "
                f"{later.channels} on axis {later.channel_axis}"
            )
        if self.has_tails != later.has_tails:
            raise ValueError("statistics with tails do not merge with such without")
        fade = DECAY**later.samples
        both = TensorStatistics(
            channel_axis=self.channel_axis,
            samples=self.samples + later.samples,
            count=self.count + later.count,
            zeros=self.zeros + later.zeros,
            infinite=self.infinite + later.infinite,
            exponent=self.exponent,
            first_bin=self.first_bin,
            histogram=self.histogram.copy(),
            squares=self.squares + later.squares,
            decayed_minimum=self.decayed_minimum * fade + later.decayed_minimum,
            decayed_maximum=self.decayed_maximum * fade + later.decayed_maximum,
            channel_minimum=np.minimum(self.channel_minimum, later.channel_minimum),
            channel_maximum=np.maximum(self.channel_maximum, later.channel_maximum),
            channel_sums=self.channel_sums + later.channel_sums,
            trail=extended(self.trail, later.trail),
            tails=merged(self.tails, later.tails),
        )
        if both.count:
            both._grow()
            both.histogram += _rebinned(later, both.exponent, both.first_bin)
        return both

    def to_arrays(self) -> dict[str, np.ndarray]:
        """One array a field, as a sidecar file stores them."""
        arrays = {f.name: np.asarray(getattr(self, f.name)) for f in fields(self) if f.name != "channel_axis"}
        if self.channel_axis is not None:
            arrays["channel_axis"] = np.asarray(self.channel_axis)
        return arrays

    @staticmethod
    def from_arrays(arrays: dict[str, np.ndarray]) -> TensorStatistics:
        """The inverse of `to_arrays`."""
        values = {name: np.array(array) if array.ndim else array.item() for name, array in arrays.items()}
        return TensorStatistics(**{"channel_axis": None, **values})


def _rebinned(statistics: TensorStatistics, exponent: int, first_bin: int) -> np.ndarray:
    """The histogram of the statistics on a grid that is as coarse or coarser and contains all it has."""
    used = np.flatnonzero(statistics.histogram)
    index = ((statistics.first_bin + used) >> (exponent - statistics.exponent)) - first_bin
    histogram = np.zeros(BINS, np.int64)
    np.add.at(histogram, index, statistics.histogram[used])
    return histogram


def _channel_sums(layout: np.ndarray, magnitude: float) -> np.ndarray:
    """float64 sums of `[outer, channels, inner]` by channel; the innermost sums are float32 if they cannot
    overflow there."""
    inner = np.float32 if magnitude < _WIDE else np.float64
    if layout.shape[2] == 1:
        return layout[:, :, 0].sum(axis=0, dtype=np.float64)
    return layout.sum(axis=2, dtype=inner).sum(axis=0, dtype=np.float64)
