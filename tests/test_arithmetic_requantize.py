"""Requantize: the three rounding forms against definitions in exact integers and in strict float32."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.arithmetic.requantize import (
    multiplier_fixed,
    multiplier_fixed2,
    multiplier_fp32,
    real_multiplier,
    requantize,
    short_multiplier,
)

INT32 = (-(2**31), 2**31 - 1)
accumulators = st.lists(st.integers(*INT32), min_size=1, max_size=30)
small_accumulators = st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=30)
multipliers = st.floats(2.0**-40, 0.9999, allow_subnormal=False)
clamps = st.sampled_from([(0, 255, np.uint8), (-128, 127, np.int8), (-5, 90, np.int8), (0, 65535, np.uint16)])


def round_half_even_float32(value: Fraction) -> Fraction:
    """A rational rounded to the nearest float32 (normal range), in integers alone."""
    if value == 0:
        return value
    exponent = math.floor(math.log2(abs(value)))
    while abs(value) >= Fraction(2) ** (exponent + 1):
        exponent += 1
    while abs(value) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    return round(value / unit) * unit


def clamp(value, lo, hi):
    return min(max(value, lo), hi)


def reference_fp32(acc, m, z, lo, hi):
    m = round_half_even_float32(Fraction(m))
    product = round_half_even_float32(round_half_even_float32(Fraction(acc)) * m)
    return clamp(round(product), lo - z, hi - z) + z


def reference_fixed(acc, m, z, lo, hi):
    mantissa, n = multiplier_fixed(m)
    return clamp(math.floor(Fraction(acc * mantissa, 2**n) + Fraction(1, 2)) + z, lo, hi)


def reference_fixed2(acc, m, z, lo, hi):
    mantissa, n = multiplier_fixed2(m)
    if n < 0:
        acc, n = clamp(acc * 2**-n, *INT32), 0
    h = clamp(math.floor(Fraction(acc * mantissa, 2**31) + Fraction(1, 2)), *INT32)
    return clamp((math.floor(Fraction(h, 2**n) + Fraction(1, 2)) if n else h) + z, lo, hi)


REFERENCES = {"fp32": reference_fp32, "fixed": reference_fixed, "fixed2": reference_fixed2}


@pytest.mark.parametrize("rounding", REFERENCES)
@given(acc=st.one_of(accumulators, small_accumulators), m=multipliers, clamp_range=clamps, data=st.data())
def test_forms_equal_their_definitions(rounding, acc, m, clamp_range, data):
    lo, hi, dtype = clamp_range
    z = data.draw(st.integers(np.iinfo(dtype).min, np.iinfo(dtype).max))
    y = requantize(np.asarray(acc, np.int32), m, z, lo, hi, dtype, rounding)
    assert y.dtype == dtype
    assert y.tolist() == [REFERENCES[rounding](a, m, z, lo, hi) for a in acc]


@given(
    acc=st.one_of(st.lists(st.integers(-400, 400), min_size=1), accumulators),
    m=st.floats(0.9999, 2.0**29),
    form=st.sampled_from(["fp32", "fixed", "fixed2"]),
)
def test_multipliers_above_one(acc, m, form):
    y = requantize(np.asarray(acc, np.int32), m, 7, -32768, 32767, np.int16, form)
    assert y.tolist() == [REFERENCES[form](a, m, 7, -32768, 32767) for a in acc]
    real = [min(max(Fraction(m) * a + 7, -32768), 32767) for a in acc]
    assert all(abs(Fraction(int(v)) - r) <= Fraction(1, 2) + Fraction(1, 2**8) for v, r in zip(y, real, strict=True))


@pytest.mark.parametrize("rounding", REFERENCES)
def test_ties_exhaustively(rounding):
    """m = 2^-4 puts a tie on every sixteenth accumulator; all accumulators of the useful range."""
    acc = np.arange(-3000, 3001, dtype=np.int32)
    y = requantize(acc, 2.0**-4, 3, -128, 127, np.int8, rounding)
    assert y.tolist() == [REFERENCES[rounding](int(a), 2.0**-4, 3, -128, 127) for a in acc]
    half = requantize(np.asarray([8, 24, -8, -24], np.int32), 2.0**-4, 0, -128, 127, np.int8, rounding)
    assert half.tolist() == ([0, 2, 0, -2] if rounding == "fp32" else [1, 2, 0, -1])


def test_fp32_conversion_rounds_half_to_even():
    """2^24 + 1 and 2^24 + 3 are ties of the conversion to float32."""
    acc = np.asarray([2**24 + 1, 2**24 + 3, -(2**24) - 1, 2**31 - 1, -(2**31)], np.int32)
    y = requantize(acc, 2.0**-10, 0, -32768, 32767, np.int16, "fp32")
    assert y.tolist() == [reference_fp32(int(a), 2.0**-10, 0, -32768, 32767) for a in acc]


@given(st.floats(2.0**-32, 2.0**30, exclude_max=True))
def test_fixed_multiplier_is_nearest(m):
    if m >= 2.0**30 * (1 - 2.0**-33):
        return
    mantissa, n = multiplier_fixed(m)
    assert 2**30 <= mantissa < 2**31 and 1 <= n <= 62
    assert abs(Fraction(mantissa, 2**n) - Fraction(m)) <= Fraction(m) / 2**31


@given(st.floats(2.0**-33, 2.0**30 * (1 - 2.0**-31)))
def test_fixed2_multiplier_is_nearest(m):
    mantissa, n = multiplier_fixed2(m)
    assert 2**30 <= mantissa < 2**31 and -30 <= n <= 32
    assert abs(Fraction(mantissa, 2 ** (31 + n)) - Fraction(m)) <= Fraction(m) / 2**31


@given(st.floats(2.0**-31, 2.0**29))
def test_short_multiplier_is_nearest(m):
    short = short_multiplier(m)
    mantissa, n = multiplier_fixed2(short)
    assert mantissa % 2**16 == 0 and Fraction(short) == Fraction(mantissa, 2 ** (31 + n))
    assert abs(Fraction(short) - Fraction(m)) <= max(Fraction(m), Fraction(short)) / 2**15
    assert n == -math.frexp(m)[1]
    assert short_multiplier(short) == short


@given(st.floats(2.0**-31, 1), st.integers(*INT32))
def test_short_multiplier_of_bytes(m, acc):
    """Moves what leaves 8 bits by 2^-7 at most, so the integer by one, and that only beside a tie."""
    acc = np.asarray([acc], np.int32)
    exact, short = (int(requantize(acc, value, 0, 0, 255, np.uint8, "fixed2")[0]) for value in (m, short_multiplier(m)))
    assert abs(exact - short) <= 1


def test_edges_of_the_multiplier():
    assert multiplier_fixed(0.5) == (*multiplier_fixed2(0.5)[:1], 31) == (2**30, 31)
    assert multiplier_fixed2(0.5) == (2**30, 0)
    assert multiplier_fixed2(1.0) == multiplier_fixed2(np.nextafter(1.0, 0)) == (2**30, -1)
    assert multiplier_fixed2(2.0**29) == (2**30, -30)
    assert multiplier_fixed(np.nextafter(1.0, 0)) == (2**30, 30)
    assert multiplier_fixed(2.0**-32) == (2**30, 62)
    for m in (2.0**-33, 1e-30, 1e-300):
        assert multiplier_fixed(m) == (2**30, 62)
    assert multiplier_fixed2(1e-30) == (2**30, 32)
    assert multiplier_fp32(1e-60) == 0


@pytest.mark.parametrize("rounding", REFERENCES)
@pytest.mark.parametrize("m", [1e-11, 1e-20, 1e-60])
def test_tiny_multipliers_give_the_zero_point(rounding, m):
    acc = np.asarray([*INT32, 0, 1, -1], np.int32)
    assert requantize(acc, m, 9, 0, 255, np.uint8, rounding).tolist() == [9] * 5


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_bad_multipliers(bad):
    for function in (multiplier_fp32, multiplier_fixed, multiplier_fixed2):
        with pytest.raises(ValueError, match="positive"):
            function(bad)


def test_multipliers_out_of_range():
    for function in (multiplier_fixed, multiplier_fixed2):
        with pytest.raises(ValueError, match="2\\^30"):
            function(2.0**30)
    with pytest.raises(ValueError, match="float32"):
        multiplier_fp32(1e39)


@pytest.mark.parametrize("rounding", REFERENCES)
def test_per_channel_and_broadcast(rounding):
    rng = np.random.default_rng(3)
    acc = rng.integers(-(2**17), 2**17, (2, 5, 3, 4)).astype(np.int32)
    m = rng.uniform(1e-4, 5e-3, 5)
    y = requantize(acc, m, 100, 0, 255, np.uint8, rounding, axis=1)
    for c in range(5):
        assert np.array_equal(y[:, c], requantize(acc[:, c], m[c], 100, 0, 255, np.uint8, rounding))
    assert np.array_equal(y, requantize(acc, m[:, None, None], 100, 0, 255, np.uint8, rounding))
    assert np.array_equal(y, requantize(acc.astype(np.int64), m, 100, 0, 255, np.uint8, rounding, axis=-3))


def test_forms_differ_by_at_most_one_unit():
    rng = np.random.default_rng(5)
    acc = rng.integers(-(2**20), 2**20, 100_000).astype(np.int32)
    for m in rng.uniform(1e-5, 1e-3, 5):
        forms = [requantize(acc, m, 0, -32768, 32767, np.int16, f).astype(int) for f in REFERENCES]
        assert max(np.abs(forms[0] - forms[1]).max(), np.abs(forms[1] - forms[2]).max()) <= 1


def test_real_multiplier_rounds_once():
    rng = np.random.default_rng(6)
    s_x, s_w, s_y = (10.0 ** rng.uniform(-6, 3, (3, 200))).astype(np.float32)
    m = real_multiplier(s_x, s_w, s_y)
    exact = [
        Fraction(float(a)) * Fraction(float(b)) / Fraction(float(c)) for a, b, c in zip(s_x, s_w, s_y, strict=True)
    ]
    assert m.dtype == np.float64 and m.tolist() == [float(v) for v in exact]
    assert isinstance(real_multiplier(s_x[0], s_w[0], s_y[0]), np.float64)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="unknown rounding"):
        requantize(np.zeros(1, np.int32), 0.5, 0, 0, 255, np.uint8, "down")
    with pytest.raises(ValueError, match="int32 or int64"):
        requantize(np.zeros(1, np.float32), 0.5, 0, 0, 255, np.uint8, "fp32")
    with pytest.raises(ValueError, match="leaves int32"):
        requantize(np.asarray([2**31]), 0.5, 0, 0, 255, np.uint8, "fixed")
