"""Statistics: exact counts on a canonical grid, merging, bounded size, round trip through arrays."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.calibration.statistics import BINS, DECAY, TensorStatistics
from qcompiler.calibration.tails import Outliers
from qcompiler.errors import CalibrationError

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
samples = st.lists(st.lists(floats, min_size=1, max_size=12), min_size=1, max_size=6)


def observe(arrays, channels=1, axis=None, tails=True) -> TensorStatistics:
    statistics = TensorStatistics.empty(channels, axis, tails)
    for array in arrays:
        statistics.update(np.asarray(array, np.float32))
    return statistics


def assert_same(a: TensorStatistics, b: TensorStatistics) -> None:
    """All is equal bit for bit, moving averages up to their float64 rounding."""
    for name in ("channel_axis", "samples", "count", "zeros", "infinite", "exponent", "first_bin"):
        assert getattr(a, name) == getattr(b, name), name
    for name in ("histogram", "channel_minimum", "channel_maximum", "channel_sums", "squares", "trail", "tails"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
    peak = max(-a.minimum, a.maximum)
    assert a.sum_of_squares == b.sum_of_squares
    np.testing.assert_array_equal(a.channel_mean, b.channel_mean)
    np.testing.assert_allclose(a.moving_range, b.moving_range, rtol=1e-12, atol=1e-12 * peak)


@given(samples, st.data())
def test_merging_shards_equals_one_pass(data, draw):
    cut = draw.draw(st.integers(0, len(data)))
    merged = observe(data[:cut]).merge(observe(data[cut:]))
    assert_same(merged, observe(data))


@given(samples, samples, samples)
def test_merge_is_associative(a, b, c):
    a, b, c = observe(a), observe(b), observe(c)
    assert_same(a.merge(b).merge(c), a.merge(b.merge(c)))


@given(samples)
def test_histogram_is_a_function_of_the_values_alone(data):
    values = np.concatenate([np.asarray(x, np.float32) for x in data]).astype(np.float64)
    s = observe(data)
    edges = s.bin_edges
    assert edges[0] <= min(values.min(), 0.0) < edges[1] or s.first_bin == 0
    assert max(values.max(), 0.0) < edges[-1]
    bins = np.searchsorted(edges, values, side="right") - 1
    np.testing.assert_array_equal(s.histogram, np.bincount(bins, minlength=BINS))
    assert s.count == values.size == s.histogram.sum()
    assert s.zeros == (values == 0).sum()
    assert (s.minimum, s.maximum) == (values.min(), values.max())
    # The grid is the finest one: half the bin width would need more bins.
    if s.exponent > -126:
        finer = np.floor(np.array([min(values.min(), 0), max(values.max(), 0)]) / 2.0 ** (s.exponent - 1))
        assert finer[1] - finer[0] >= BINS


def test_moments_match_numpy():
    x = np.random.default_rng(0).normal(0.5, 2.0, (20, 3, 5, 70)).astype(np.float32)
    s = observe(x[:, None], 3, 1)
    exact = x.astype(np.float64)
    assert s.mean == pytest.approx(exact.mean(), rel=1e-6)
    assert s.mean_square == pytest.approx((exact**2).mean(), rel=1e-6)
    np.testing.assert_allclose(s.channel_mean, exact.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_array_equal(s.channel_minimum, x.min(axis=(0, 2, 3)))
    np.testing.assert_array_equal(s.channel_maximum, x.max(axis=(0, 2, 3)))


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((2, 3, 500, 500), 1),
        ((400, 700), -1),
        ((3, 400, 300), 0),
        ((1, 900, 333), 1),
        ((300_000,), None),
        ((), None),
    ],
)
def test_blocks_of_large_samples_cover_every_element(shape, axis):
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    channels = 1 if axis is None else shape[axis]
    s = observe([x], channels, axis)
    expected = observe(x.reshape(-1, 1) if x.size < 100 else np.array_split(x.reshape(-1), 50))
    np.testing.assert_array_equal(s.histogram, expected.histogram)
    assert (s.count, s.zeros) == (expected.count, expected.zeros)
    others = None if axis is None else tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    np.testing.assert_array_equal(s.channel_minimum, np.atleast_1d(x.min(axis=others)))
    np.testing.assert_allclose(s.channel_mean, np.atleast_1d(x.mean(axis=others, dtype=np.float64)), atol=1e-6)


def test_moving_range_is_the_decayed_average():
    lows, highs = [-1.0, -3.0, -2.0], [4.0, 1.0, 2.0]
    s = observe([[lo, hi] for lo, hi in zip(lows, highs, strict=True)])
    weights = DECAY ** np.arange(2, -1, -1)
    assert s.moving_range == pytest.approx((np.average(lows, weights=weights), np.average(highs, weights=weights)))


def test_size_does_not_grow_with_samples():
    rng = np.random.default_rng(2)
    s = TensorStatistics.empty(4, 1)
    sizes = set()
    for i in range(50):
        s.update(rng.normal(0, 10.0 ** (i % 7), (1, 4, 30)).astype(np.float32))
        sizes.add(sum(array.nbytes for array in s.to_arrays().values()))
    assert len(sizes) == 1
    assert sizes.pop() < 20_000


@given(samples)
def test_arrays_round_trip(data):
    s = observe(data)
    arrays = s.to_arrays()
    assert all(isinstance(array, np.ndarray) and array.dtype.kind in "if" for array in arrays.values())
    assert_same(TensorStatistics.from_arrays(arrays), s)
    t = TensorStatistics.from_arrays(observe([[[1, 2, 3]]], 3, -1).to_arrays())
    assert (t.channels, t.channel_axis) == (3, -1)
    t.update(np.zeros((1, 3), np.float32))
    assert t.samples == 2


def test_infinities_are_counted_and_left_out():
    x = np.array([[1.0, -np.inf], [2.0, 4.0], [-np.inf, -np.inf]], np.float32)
    s = observe([x], 2, 1)
    assert (s.count, s.infinite, s.minimum, s.maximum) == (3, 3, 1.0, 4.0)
    np.testing.assert_array_equal(s.channel_mean, [1.0, 4 / 3])
    only = observe([[np.inf]])
    assert (only.count, only.samples, only.minimum, only.moving_range) == (0, 0, 0.0, (0.0, 0.0))
    assert_same(only.merge(observe([[1.0]])), observe([[np.inf], [1.0]]))


def test_bad_samples():
    with pytest.raises(CalibrationError, match="NaN in 1 of 3"):
        observe([[1.0, np.nan, 2.0]])
    with pytest.raises(ValueError, match="has not 4 channels on axis 1"):
        TensorStatistics.empty(4, 1).update(np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="do not merge"):
        TensorStatistics.empty(4, 1).merge(TensorStatistics.empty(3, 1))


def test_nothing_seen():
    s = TensorStatistics.empty()
    s.update(np.zeros((0, 4), np.float32))
    assert (s.samples, s.count, s.minimum, s.maximum, s.mean, s.moving_range) == (0, 0, 0, 0, 0, (0, 0))
    assert_same(s.merge(TensorStatistics.empty()), s)


def test_many_shards_in_any_grouping():
    data = [np.random.default_rng(i).normal(0, i + 1, 1000) for i in range(9)]
    whole = observe(data)
    shards = [observe(data[i : i + 2]) for i in range(0, 9, 2)]
    assert_same(functools.reduce(TensorStatistics.merge, shards), whole)


def test_trail_tells_how_the_range_grew():
    s = observe([[-1.0, 1.0]] * 150 + [[-1.0, 3.0]] * 50)
    assert (s.growth(0.5), s.growth(0.75)) == (0.5, 0.5)
    assert observe([[-1.0, 1.0]] * 200).growth(0.5) == 0
    assert observe([[1.0]]).growth(0.25) == 1
    assert observe([]).growth(0.25) == 0


@given(st.lists(st.lists(floats, min_size=3, max_size=3), min_size=1, max_size=20))
def test_tails_are_the_largest_values(rows):
    x = np.asarray(rows, np.float32)
    s = observe(x[:, :, None], 3, 0)
    outliers = Outliers.of(s.tails, len(x))
    assert outliers.weights.sum() == pytest.approx(1 if (x != 0).any(axis=0).all() else outliers.weights.sum())
    for channel, values in enumerate(x.T):
        largest = np.abs(values).max()
        found = np.abs(outliers.values.reshape(3, -1)[channel][outliers.weights.reshape(3, -1)[channel] > 0])
        if 1e-30 < largest < 1e38:
            assert (0.8 * largest < found).all() and (found < 1.25 * largest).all() and len(found)


def test_one_channel_is_the_sum_of_channels():
    x = np.random.default_rng(3).normal(0, [1.0, 20.0, 0.1], (500, 3)).astype(np.float32)
    a, b = observe([x], 3, 1).one_channel(), observe([x])
    for name in ("histogram", "channel_minimum", "channel_maximum", "tails", "trail"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
    assert a.mean == pytest.approx(b.mean, rel=1e-6)
