"""Ranges and expected errors against known distributions and against quantizing the data itself."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.arithmetic.affine import choose_affine, choose_symmetric, dequantize, quantize
from qcompiler.calibration.ranges import METHODS, expected_error, range_from
from qcompiler.calibration.statistics import TensorStatistics

RNG = np.random.default_rng(0)
NORMAL = RNG.normal(0.3, 1.0, 200_000).astype(np.float32)
RELU = np.maximum(NORMAL, 0)
RELU6 = np.clip(RNG.normal(2.0, 4.0, 200_000), 0, 6).astype(np.float32)
LAPLACE = RNG.laplace(0.0, 1.0, 200_000).astype(np.float32)
OUTLIERS = np.concatenate([NORMAL, np.float32([150.0, -70.0])])
SILU = (NORMAL * 4 / (1 + np.exp(-4 * NORMAL))).astype(np.float32)
POSITIVE = RNG.uniform(3.0, 4.0, 10_000).astype(np.float32)
DISTRIBUTIONS = {
    "normal": NORMAL,
    "relu": RELU,
    "relu6": RELU6,
    "laplace": LAPLACE,
    "outliers": OUTLIERS,
    "silu": SILU,
    "positive": POSITIVE,
    "negative": -POSITIVE,
}
STORAGE = [(0, 255), (-128, 127), (-127, 127), (-8, 7), (0, 65535)]


def statistics_of(x: np.ndarray) -> TensorStatistics:
    statistics = TensorStatistics.empty(tails=True)
    for part in np.array_split(x, 7):
        statistics.update(part)
    return statistics


STATISTICS = {name: statistics_of(x) for name, x in DISTRIBUTIONS.items()}


def parameters(lo, hi, qmin, qmax, symmetric):
    return (choose_symmetric if symmetric else choose_affine)(lo, hi, qmin, qmax)


def actual_error(x, scale, zero_point, qmin, qmax) -> float:
    q = quantize(x, scale, zero_point, qmin, qmax, np.int32)
    return float(((x.astype(np.float64) - dequantize(q, scale, zero_point)) ** 2).mean())


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("qmin", "qmax"), STORAGE)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_expected_error_is_the_error_of_quantizing_the_data(name, qmin, qmax, symmetric):
    x, s = DISTRIBUTIONS[name], STATISTICS[name]
    for share in (1.0, 0.5):
        scale, zero = parameters(s.minimum * share, s.maximum * share, qmin, qmax, symmetric)
        actual = actual_error(x, scale, zero, qmin, qmax)
        assert expected_error(s, scale, zero, qmin, qmax) == pytest.approx(actual, rel=0.05)


def test_error_of_values_on_the_grid_is_zero():
    s = statistics_of(np.zeros(100, np.float32))
    assert expected_error(s, 0.1, 3, 0, 255) == 0.0
    assert expected_error(TensorStatistics.empty(), 0.1, 3, 0, 255) == 0.0


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_ranges_lie_inside_the_values_seen(name, method, symmetric):
    s = STATISTICS[name]
    lo, hi = range_from(s, method, 0, 255, symmetric)
    assert isinstance(lo, float) and isinstance(hi, float)
    assert min(s.minimum, 0) <= lo <= hi <= max(s.maximum, 0)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [[], [0.0], [2.5], [-2.5], [-1e-40, 3e-39], [1e38, -3e38]])
def test_degenerate_data_gives_a_usable_range(values, method, symmetric):
    s = TensorStatistics.empty(tails=True)
    s.update(np.asarray(values, np.float32))
    lo, hi = range_from(s, method, 0, 255, symmetric)
    scale, zero = parameters(lo, hi, 0, 255, symmetric)
    assert scale > 0 and np.isfinite(expected_error(s, scale, zero, 0, 255))


def test_minmax_and_moving_average():
    s = TensorStatistics.empty()
    for peak in (1.0, 3.0, 2.0):
        s.update(np.float32([-peak / 2, peak]))
    assert range_from(s, "minmax", 0, 255, False) == (-1.5, 3.0)
    lo, hi = range_from(s, "moving-average", 0, 255, False)
    assert hi == pytest.approx(2.0, rel=0.01) and lo == pytest.approx(-1.0, rel=0.01)


@pytest.mark.parametrize("name", ["normal", "laplace", "relu", "silu"])
def test_percentile_is_numpy_s(name):
    x, s = DISTRIBUTIONS[name], STATISTICS[name]
    bin_width = 2.0**s.exponent
    lo, hi = range_from(s, "percentile:99.0", 0, 255, False)
    ends = [0, 99] if x.min() == 0 else [0.5, 99.5]
    np.testing.assert_allclose([lo, hi], np.percentile(x, ends), atol=bin_width)
    lo, hi = range_from(s, "percentile:99.0", 0, 255, True)
    threshold = np.percentile(np.abs(x), 99.0)
    np.testing.assert_allclose([lo, hi], [max(-threshold, x.min()), threshold], atol=bin_width)
    assert range_from(s, "percentile:100.0", 0, 255, False) == (s.minimum, s.maximum)


def test_percentile_drops_outliers():
    lo, hi = range_from(STATISTICS["outliers"], "percentile:99.99", 0, 255, False)
    assert -6 < lo < -3 and 3 < hi < 6


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("qmin", "qmax"), [(0, 255), (-128, 127), (-8, 7)])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_mse_is_no_worse_than_any_other_method(name, qmin, qmax, symmetric):
    x, s = DISTRIBUTIONS[name], STATISTICS[name]

    def error(method):
        lo, hi = range_from(s, method, qmin, qmax, symmetric)
        return actual_error(x, *parameters(lo, hi, qmin, qmax, symmetric), qmin, qmax)

    best = error("mse")
    assert all(best <= 1.02 * error(method) for method in METHODS)


@pytest.mark.parametrize(("bits", "threshold"), [(4, 5.03), (3, 3.89), (2, 2.83)])
def test_mse_finds_the_optimal_clipping_of_a_laplace_distribution(bits, threshold):
    """The optima of Banner et al. (NeurIPS 2019) for a Laplace distribution of scale 1, `2**bits` levels in
    the clipped interval; a grid with a level at zero has its optimum near them."""
    levels = 2 ** (bits - 1)
    lo, hi = range_from(STATISTICS["laplace"], "mse", -levels, levels - 1, False)
    assert (hi - lo) / 2 == pytest.approx(threshold, rel=0.15)


def test_entropy_cuts_a_long_tail_and_keeps_a_uniform_distribution():
    lo, hi = range_from(STATISTICS["outliers"], "entropy", -128, 127, True)
    assert 6 < hi < 0.2 * OUTLIERS.max()
    lo, hi = range_from(STATISTICS["outliers"], "entropy", 0, 255, False)
    assert 2 < hi < 0.5 * OUTLIERS.max() and -0.5 * OUTLIERS.max() < lo < -2
    uniform = statistics_of(RNG.uniform(-1, 1, 500_000).astype(np.float32))
    lo, hi = range_from(uniform, "entropy", -128, 127, True)
    assert hi > 0.97 and lo < -0.97
    lo, hi = range_from(uniform, "entropy", 0, 255, False)
    assert hi > 0.97 and lo < -0.97


def test_one_sided_data_keeps_zero_at_its_end():
    for method in METHODS:
        lo, hi = range_from(STATISTICS["relu6"], method, 0, 255, False)
        assert lo == 0.0 and hi == pytest.approx(6.0, rel=0.05)


def test_ranges_are_functions_of_the_merged_data():
    x = DISTRIBUTIONS["silu"]
    whole = TensorStatistics.empty()
    parts = [TensorStatistics.empty() for _ in range(2)]
    for i, sample in enumerate(np.array_split(x, 10)):
        whole.update(sample)
        parts[i // 5].update(sample)
    for method in ("minmax", "percentile", "entropy", "mse"):
        merged = range_from(parts[0].merge(parts[1]), method, 0, 255, False)
        assert merged == range_from(whole, method, 0, 255, False)


def test_outlier_keeps_the_large_values_of_every_channel():
    x = np.stack([RNG.normal(0, 1, 200_000), RNG.normal(0, 0.1, 200_000)], axis=1).astype(np.float32)
    x[0, 0] = 8.0
    s = TensorStatistics.empty(2, 1, tails=True)
    s.update(x)
    assert range_from(s, "outlier", 0, 255, False)[1] > 7 > range_from(s, "mse", 0, 255, False)[1]
    plain = TensorStatistics.empty(2, 1)
    plain.update(x)
    with pytest.raises(ValueError, match="without the tails"):
        range_from(plain, "outlier", 0, 255, False)


def test_bad_options():
    with pytest.raises(ValueError, match="unknown calibration method 'kl': expected one of minmax, "):
        range_from(STATISTICS["normal"], "kl", 0, 255, False)
    for percentile in (50.0, 100.1, float("nan")):
        with pytest.raises(ValueError, match="percentile must be above 50"):
            range_from(STATISTICS["normal"], f"percentile:{percentile}", 0, 255, False)
