"""Sum, difference and product of quantized tensors."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.arithmetic.affine import storage_dtype, storage_range
from qcompiler.arithmetic.elementwise import add, add_parameters, mul, mul_bound
from qcompiler.arithmetic.requantize import real_multiplier, requantize

scales = st.floats(2.0**-12, 2.0**6, width=32)
BYTE = np.arange(256)


@given(scales, scales, scales, st.booleans())
def test_parameters(s_a, s_b, s_y, subtract):
    a, b, n = add_parameters(s_a, s_b, s_y, subtract)
    largest = Fraction(max(s_a, s_b)) / Fraction(s_y)
    assert 1 <= n <= 30 and (b <= 0) == (subtract or b == 0)
    assert (2**20 <= max(a, abs(b)) < 2**21) or (largest < Fraction(1, 2**10) and n == 30)
    for coefficient, scale in ((a, s_a), (abs(b), s_b)):
        assert abs(coefficient - Fraction(scale) / Fraction(s_y) * 2**n) <= Fraction(1, 2) + Fraction(1, 2**20)


def test_parameters_at_the_edges():
    assert add_parameters(1, 1, 1) == (2**20, 2**20, 20)
    assert add_parameters(1, 0.5, 1, subtract=True) == (2**20, -(2**19), 20)
    # Rounds up to 2^21: one step less.
    assert add_parameters(float(np.nextafter(2.0, 0)), 1, 1) == (2**20, 2**19, 19)
    assert add_parameters(2.0**-10, 2.0**-30, 1) == (2**20, 1, 30)
    assert add_parameters(2.0**-11, 2.0**-11, 1) == (2**19, 2**19, 30)
    assert add_parameters(2.0**19, 1, 1) == (2**20, 2, 1)
    with pytest.raises(ValueError, match="too small"):
        add_parameters(2.0**20, 1, 1)
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="positive"):
            add_parameters(bad, 1, 1)


def exact_add(q_a, z_a, q_b, z_b, a, b, n, z_y, lo, hi):
    acc = (q_a.astype(object) - z_a) * a + (q_b.astype(object) - z_b) * b + (1 << (n - 1))
    return np.clip((acc >> n) + z_y, lo, hi).astype(np.int64)


@given(scales, scales, scales, st.tuples(*[st.integers(0, 255)] * 3), st.booleans())
def test_add_equals_big_integers_and_stays_near_the_real_sum(s_a, s_b, s_y, zero_points, subtract):
    """All 65,536 pairs of stored values."""
    z_a, z_b, z_y = zero_points
    q_a, q_b = BYTE.astype(np.uint8)[:, None], BYTE.astype(np.uint8)[None]
    parameters = add_parameters(s_a, s_b, s_y, subtract)
    y = add(q_a, z_a, q_b, z_b, *parameters, z_y, 0, 255, np.uint8)
    assert y.dtype == np.uint8 and y.shape == (256, 256)
    sample = np.s_[::15, ::15]
    exact = exact_add(
        *np.broadcast_arrays(q_a[::15], q_b[:, ::15])[:1], z_a, q_b[:, ::15], z_b, *parameters, z_y, 0, 255
    )
    assert np.array_equal(y[sample], exact)
    # |error| <= 1/2 for the rounding and (|d_a| + |d_b|) / 2 * 2^-n for the coefficients.
    d_a, d_b = BYTE[:, None] - z_a, BYTE[None] - z_b
    real = (d_a * float(s_a) + (-1 if subtract else 1) * d_b * float(s_b)) / float(s_y) + z_y
    error = np.abs(np.clip(real, 0, 255) - y)
    assert (error <= 0.5 + (np.abs(d_a) + np.abs(d_b)) * 0.5 * 2.0 ** -parameters[2] + 1e-6).all()


@pytest.mark.parametrize("signs", [(0, 0), (0, 255), (255, 0), (255, 255)])
def test_int32_never_overflows(signs):
    """The largest coefficients of every shift with operands at the far ends."""
    z_a, z_b = signs
    for n in range(1, 31):
        largest = 2**21 - 1 if n < 30 else 2**20
        for b in (largest, -largest):
            q = np.asarray([0, 255], np.uint8)
            y = add(q[:, None], z_a, q, z_b, largest, b, n, 0, -(2**31), 2**31 - 1, np.int64)
            assert np.array_equal(
                y,
                exact_add(
                    *np.broadcast_arrays(q[:, None], q)[:1],
                    z_a,
                    q,
                    z_b,
                    largest,
                    b,
                    n,
                    0,
                    -(2**31),
                    2**31 - 1,
                ),
            )
    assert 510 * (2**21 - 1) + 2**29 < 2**31


operands = st.sampled_from([("u8", 0), ("u8", 128), ("i8", -128), ("i16", 0), ("i16", -7), ("u16", 0), ("u16", 32768)])


def reach_of(storage: str, zero_point: int) -> int:
    qmin, qmax = storage_range(storage)
    return max(zero_point - qmin, qmax - zero_point)


@given(operands, operands, scales, scales, scales, st.booleans())
def test_parameters_are_the_largest_that_keep_int32(operand_a, operand_b, s_a, s_b, s_y, subtract):
    reach = (reach_of(*operand_a), reach_of(*operand_b))
    ratios = [Fraction(s) / Fraction(s_y) for s in (s_a, s_b)]

    def fits(n):
        a, b = (round(ratio * 2**n) for ratio in ratios)
        return max(a, b) < 2**21 and reach[0] * a + reach[1] * b + 2 ** (n - 1) < 2**31

    possible = [n for n in range(1, 31) if fits(n)]
    if not possible:
        with pytest.raises(ValueError, match="too small"):
            add_parameters(s_a, s_b, s_y, subtract, reach)
        return
    a, b, n = add_parameters(s_a, s_b, s_y, subtract, reach)
    assert n in possible and max(possible) - n <= 0
    assert reach[0] * a + reach[1] * abs(b) + 2 ** (n - 1) < 2**31
    if max(reach) <= 255:
        assert (a, b, n) == add_parameters(s_a, s_b, s_y, subtract)


@given(operands, operands, st.sampled_from([("i16", 0), ("i16", 11), ("u8", 3)]), scales, scales, st.integers(0, 2**32))
def test_add_of_16_bits_equals_big_integers_and_stays_near_the_real_sum(operand_a, operand_b, result, s_a, s_b, seed):
    rng = np.random.default_rng(seed)
    arrays = []
    for storage, _ in (operand_a, operand_b):
        qmin, qmax = storage_range(storage)
        ends = rng.choice([qmin, qmax], 8)
        arrays.append(
            np.concatenate([ends, rng.integers(qmin, qmax, 24, endpoint=True)]).astype(storage_dtype(storage))
        )
    (q_a, q_b), (z_a, z_b), (storage, z_y) = arrays, (operand_a[1], operand_b[1]), result
    lo, hi = storage_range(storage)
    reach = (reach_of(*operand_a), reach_of(*operand_b))
    # A scale that holds about half of all sums, so that some saturate.
    s_y = np.float32((reach[0] * s_a + reach[1] * s_b) / (hi - lo))
    for subtract in (False, True):
        a, b, n = add_parameters(s_a, s_b, s_y, subtract, reach)
        y = add(q_a[:, None], z_a, q_b, z_b, a, b, n, z_y, lo, hi, storage_dtype(storage))
        grid = np.broadcast_arrays(q_a[:, None], q_b)
        assert np.array_equal(y, exact_add(grid[0], z_a, grid[1], z_b, a, b, n, z_y, lo, hi))
        d_a, d_b = grid[0].astype(float) - z_a, grid[1].astype(float) - z_b
        real = (d_a * float(s_a) + (-1 if subtract else 1) * d_b * float(s_b)) / float(s_y) + z_y
        bound = 0.5 + (reach[0] + reach[1]) * 2.0 ** -(n + 1) + 1e-6
        assert np.abs(np.clip(real, lo, hi) - y).max() <= bound


def test_fused_relu_is_a_clamp():
    q = BYTE.astype(np.int8)
    parameters = add_parameters(0.1, 0.2, 0.15)
    plain = add(q[:, None], 3, q, -9, *parameters, -20, -128, 127, np.int8)
    assert np.array_equal(add(q[:, None], 3, q, -9, *parameters, -20, -20, 50, np.int8), np.clip(plain, -20, 50))


@pytest.mark.parametrize("rounding", ["fp32", "fixed", "fixed2"])
def test_mul_of_all_pairs(rounding):
    q = BYTE.astype(np.uint8)
    m = real_multiplier(0.02, 0.03, 0.05)
    y = mul(q[:, None], 7, q, 200, m, 90, 0, 255, np.uint8, rounding)
    product = np.multiply.outer(BYTE - 7, BYTE - 200)
    assert np.array_equal(y, requantize(product.astype(np.int32), m, 90, 0, 255, np.uint8, rounding))
    # The first rounding of fixed2 counts in units of 2^-6 here.
    assert np.abs(np.clip(product * m + 90, 0, 255) - y).max() <= 0.5 + (2.0**-7 if rounding == "fixed2" else 1e-4)


def test_mul_of_16_bits():
    q = np.asarray([-32768, 32767, 0, 9], np.int16)
    y = mul(q[:, None], 0, q, 0, 2.0**-16, 0, -32768, 32767, np.int16, "fixed")
    assert np.array_equal(y, np.clip((np.multiply.outer(q.astype(int), q) + 2**15) >> 16, -32768, 32767))
    i8, i16, u16 = (-128, 127), (-32768, 32767), (0, 65535)
    assert mul_bound(i8, -128, i16, 0) == 255 * 2**15 and mul_bound(i16, 0, u16, 0) < 2**31
    assert mul_bound(u16, 0, u16, 0) == 65535**2
    with pytest.raises(ValueError, match="symmetric"):
        mul(q, -32768, q, -32768, 1e-6, 0, 0, 1, np.int16, "fp32")


def test_scalars():
    assert add(np.array(5, np.uint8), 3, np.array(9, np.uint8), 3, 2**20, 2**20, 20, 1, 0, 255, np.uint8) == 9
    assert mul(np.uint8(5), 3, np.uint8(9), 3, 0.5, 1, 0, 255, np.uint8, "fp32") == 7
