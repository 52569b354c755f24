"""Softmax in integers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.arithmetic.softmax import OUTPUT_SCALE, output_zero_point, softmax, softmax_table, table_bits


def exact_row(row, scale, z):
    """The docstring's formula in Python integers, one row at a time."""
    length = len(row)
    b = max(b for b in range(31) if length << b < 1 << 31)
    d = [int(max(row)) - int(q) for q in row]
    t = [round(2**b * math.exp(-float(scale) * v)) for v in d]
    reciprocal = 2 ** (b + 30) // sum(t)
    assert sum(t) < 2**31 and reciprocal <= 2**30
    return [min((v * reciprocal + 2 ** (b + 21)) >> (b + 22), 255) + z for v in t]


@settings(deadline=None)
@given(
    st.integers(1, 300),
    st.floats(2.0**-16, 5.0, width=32),
    st.sampled_from(["u1", "i1"]),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_formula_and_error_bound(length, scale, dtype, seed, narrow):
    rng = np.random.default_rng(seed)
    info = np.iinfo(dtype)
    low = info.max - 3 if narrow else info.min
    q = rng.integers(low, info.max + 1, (4, length)).astype(dtype)
    out = np.uint8 if seed % 2 else np.int8
    table = softmax_table(scale, length)
    y = softmax(q, table, -1, out)
    z = output_zero_point(out)
    assert y.dtype == out and y.tolist() == [exact_row(row, scale, z) for row in q]
    e = np.exp(float(scale) * (q.astype(np.float64) - q.max(-1, keepdims=True)))
    real = e / e.sum(-1, keepdims=True) / float(OUTPUT_SCALE)
    bound = 0.5 + 128 * (length + 1) / 2 ** table_bits(length) + 2.0**-21
    assert np.abs(np.minimum(real, 255) - (y.astype(int) - z)).max() <= bound


@pytest.mark.parametrize("length", [1, 2, 3, 64, 1000, 1024, 2**16, 2**22])
def test_row_sum_stays_below_int32(length):
    b = table_bits(length)
    assert length << b < 1 << 31 and (b == 30 or length << (b + 1) >= 1 << 31)
    table = softmax_table(0.1, length)
    assert table.dtype == np.int32 and table[0] == 1 << b and (np.diff(table) <= 0).all()


def test_long_uniform_rows():
    q = np.full((1, 100_000), 7, np.uint8)
    assert (softmax(q, softmax_table(0.1, 100_000), 1, np.uint8) == 0).all()
    q = np.full((3, 256), 7, np.uint8)
    assert (softmax(q, softmax_table(0.1, 256), 1, np.uint8) == 1).all()


def test_axis_and_single_element():
    q = np.random.default_rng(1).integers(-128, 128, (3, 5, 4)).astype(np.int8)
    table = softmax_table(0.07, 5)
    y = softmax(q, table, 1, np.int8)
    assert np.array_equal(np.moveaxis(y, 1, -1), softmax(np.moveaxis(q, 1, -1), table, -1, np.int8))
    assert softmax(q[:, :1], softmax_table(0.07, 1), 1, np.uint8).tolist() == [[[255] * 4]] * 3


def test_16_bit_input():
    q = np.random.default_rng(2).integers(-32768, 32768, (3, 9)).astype(np.int16)
    y = softmax(q, softmax_table(1e-4, 9, entries=65536), -1, np.uint8)
    assert y.tolist() == [exact_row(row, 1e-4, 0) for row in q]


def test_wrong_arguments():
    q = np.zeros((2, 5), np.uint8)
    with pytest.raises(ValueError, match="does not fit"):
        softmax(q, softmax_table(0.1, 64), -1, np.uint8)
    with pytest.raises(ValueError, match="does not fit"):
        softmax(q.astype(np.int16), softmax_table(0.1, 5), -1, np.uint8)
    for length in (0, 2**22 + 1):
        with pytest.raises(ValueError, match="elements"):
            table_bits(length)
