"""Kernels on single elements equal the arithmetic bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from host_kernels import SPECS, random_stored, run

from qcompiler.arithmetic import elementwise
from qcompiler.arithmetic.affine import dequantize, quantize
from qcompiler.arithmetic.requantize import real_multiplier
from qcompiler.lowering.compute_elementwise import (
    add_kernel,
    dequantize_kernel,
    lut_kernel,
    mul_kernel,
    quantize_kernel,
)
from qcompiler.lowering.view import View
from qcompiler.lowering.workload import Requantize

RANGES = {"uint8": (0, 255), "int8": (-128, 127), "int16": (-32768, 32767), "uint16": (0, 65535)}
HALO = (1, 2, 1, 0)


def special_floats(scale: float, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random values with ties, infinities, NaN, zeros and values that saturate among them."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(0, 120, shape) * scale).astype(np.float32)
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38, 1e-45], np.float32)
    ties = np.float32(scale) * (np.arange(-300, 300, dtype=np.float32) + np.float32(0.5))
    pool = np.concatenate([special, ties])
    where = rng.random(shape) < 0.3
    return np.where(where, rng.choice(pool, shape), x)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
@pytest.mark.parametrize(
    ("dtype", "zero_point", "scale"),
    [
        ("uint8", 0, 0.5),
        ("uint8", 128, 0.0173),
        ("int8", -3, 2.0),
        ("int16", 11, 0.01),
        ("uint16", 65535, 0.25),
    ],
)
@pytest.mark.parametrize("shape", [(), (7,), (3, 1000), (2, 5, 7, 3)])
def test_quantize(spec, dtype, zero_point, scale, shape):
    x = special_floats(scale, shape)
    lo, hi = RANGES[dtype]
    halo = HALO if len(shape) == 4 else (0, 0, 0, 0)
    view = View(shape, dtype, halo)
    kernel = quantize_kernel(View(shape, "float32"), view, scale, zero_point, (lo, hi), spec)
    expected = quantize(x, scale, zero_point, lo, hi, dtype)
    assert np.array_equal(run(kernel, [(View(shape, "float32"), x)], [view], spec)[0], expected)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 16, 17, 24])
@pytest.mark.parametrize("halo", [(0, 0, 0, 0), HALO])
def test_quantize_from_channels_first(spec, channels, halo):
    x = special_floats(0.1, (2, channels, 5, 9))
    source, view = View(x.shape, "float32"), View((2, 5, 9, channels), "uint8", halo)
    kernel = quantize_kernel(source, view, 0.1, 100, (0, 255), spec, perm=(0, 2, 3, 1))
    expected = quantize(x, 0.1, 100, 0, 255, np.uint8).transpose(0, 2, 3, 1)
    assert np.array_equal(run(kernel, [(source, x)], [view], spec)[0], expected)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 16, 17, 24])
@pytest.mark.parametrize("halo", [(0, 0, 0, 0), HALO])
def test_dequantize_to_channels_first(spec, channels, halo):
    q = random_stored((2, 5, 9, channels), "uint8")
    source, view = View(q.shape, "uint8", halo), View((2, channels, 5, 9), "float32")
    kernel = dequantize_kernel(source, view, 0.1, 100, spec, perm=(0, 3, 1, 2))
    expected = dequantize(q, 0.1, 100).transpose(0, 3, 1, 2)
    assert np.array_equal(run(kernel, [(source, q)], [view], spec)[0], expected)


def test_quantize_and_dequantize_per_channel():
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.01, 1, 24).astype(np.float32)
    zero_point = rng.integers(0, 256, 24)
    x = special_floats(0.1, (3, 5, 24))
    source, view = View(x.shape, "float32"), View(x.shape, "uint8")
    kernel = quantize_kernel(source, view, scale, zero_point, (0, 255), SPECS[0], axis=2)
    q = quantize(x, scale, zero_point, 0, 255, np.uint8, 2)
    assert np.array_equal(run(kernel, [(source, x)], [view], SPECS[0])[0], q)
    kernel = dequantize_kernel(view, source, scale, zero_point, SPECS[0], axis=2)
    assert np.array_equal(
        run(kernel, [(view, q)], [source], SPECS[0])[0], dequantize(q, scale, zero_point, 2)
    )


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
@pytest.mark.parametrize(
    ("dtype", "zero_point"), [("uint8", 255), ("int8", -128), ("uint16", 7), ("int16", 0)]
)
def test_dequantize_every_value(spec, dtype, zero_point):
    lo, hi = RANGES[dtype]
    q = np.arange(lo, hi + 1).astype(dtype)
    source, view = View(q.shape, dtype), View(q.shape, "float32")
    kernel = dequantize_kernel(source, view, 0.017, zero_point, spec)
    assert np.array_equal(run(kernel, [(source, q)], [view], spec)[0], dequantize(q, 0.017, zero_point))


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
@pytest.mark.parametrize("dtypes", [("uint8", "uint8", "uint8"), ("int8", "uint8", "int8")])
@pytest.mark.parametrize(
    ("scales", "subtract"), [((0.1, 0.2, 0.3), False), ((1, 3e-4, 1.1), True), ((1e-4, 1e-4, 1), False)]
)
def test_add_every_pair(spec, dtypes, scales, subtract):
    a, b = (np.arange(RANGES[d][0], RANGES[d][1] + 1).astype(d) for d in dtypes[:2])
    a, b = np.repeat(a, 256), np.tile(b, 256)
    zero_points = tuple(int(np.random.default_rng(1).integers(*RANGES[d])) for d in dtypes)
    parameters = elementwise.add_parameters(*scales, subtract=subtract)
    views = [View(a.shape, d) for d in dtypes]
    clamp = (RANGES[dtypes[2]][0] + 3, RANGES[dtypes[2]][1] - 10)
    kernel = add_kernel(*views, zero_points, parameters, clamp, spec)
    expected = elementwise.add(
        a, zero_points[0], b, zero_points[1], *parameters, zero_points[2], *clamp, dtypes[2]
    )
    assert np.array_equal(run(kernel, [(views[0], a), (views[1], b)], [views[2]], spec)[0], expected)


@pytest.mark.parametrize("dtypes", [("int16", "uint8", "uint16"), ("uint16", "uint16", "int8")])
def test_add_of_16_bits(dtypes):
    a, b = random_stored((50, 31), dtypes[0]), random_stored((50, 31), dtypes[1])
    parameters = elementwise.add_parameters(0.1, 0.3, 0.2)
    views = [View(a.shape, d) for d in dtypes]
    clamp = RANGES[dtypes[2]]
    kernel = add_kernel(*views, (5, 200, 17), parameters, clamp, SPECS[0])
    expected = elementwise.add(a, 5, b, 200, *parameters, 17, *clamp, dtypes[2])
    assert np.array_equal(run(kernel, [(views[0], a), (views[1], b)], [views[2]], SPECS[0])[0], expected)


BROADCASTS = [
    ((2, 5, 7, 24), (2, 5, 7, 24)),
    ((2, 5, 7, 24), (1, 1, 1, 24)),
    ((2, 5, 7, 17), (2, 1, 1, 17)),
    ((2, 1, 1, 96), (2, 5, 7, 96)),
    ((4, 5, 7, 3), ()),
    ((1, 5, 1, 3), (4, 5, 7, 3)),
    ((5, 7, 1), (2, 1, 7, 5)),
    ((4, 33), (33,)),
]


@pytest.mark.parametrize(("left", "right"), BROADCASTS)
@pytest.mark.parametrize("constant", [False, True])
def test_add_broadcasts(left, right, constant):
    a, b = random_stored(left, "uint8", 1), random_stored(right, "uint8", 2)
    parameters = elementwise.add_parameters(0.1, 0.3, 0.2)
    expected = elementwise.add(a, 5, b, 200, *parameters, 17, 0, 255, "uint8")
    halo = HALO if expected.ndim == 4 else (0, 0, 0, 0)
    views = [View(v.shape, "uint8", halo if v.ndim == 4 else (0, 0, 0, 0)) for v in (a, b, expected)]
    inputs = [(views[0], a)] if constant else [(views[0], a), (views[1], b)]
    kernel = add_kernel(
        views[0], b if constant else views[1], views[2], (5, 200, 17), parameters, (0, 255), SPECS[0]
    )
    assert np.array_equal(run(kernel, inputs, [views[2]], SPECS[0])[0], expected)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
@pytest.mark.parametrize("rounding", ["fp32", "fixed", "fixed2"])
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_mul_every_pair(spec, rounding, dtype):
    every = np.arange(RANGES[dtype][0], RANGES[dtype][1] + 1).astype(dtype)
    a, b = np.repeat(every, 256), np.tile(every, 256)
    multiplier = float(real_multiplier(0.011, 0.3, 0.9))
    view = View(a.shape, dtype)
    clamp = (RANGES[dtype][0] + 1, RANGES[dtype][1] - 30)
    requantize = Requantize(rounding, np.asarray(multiplier), 9, clamp, dtype)
    kernel = mul_kernel(view, view, view, (100, 3), requantize, spec)
    expected = elementwise.mul(a, 100, b, 3, multiplier, 9, *clamp, dtype, rounding)
    assert np.array_equal(run(kernel, [(view, a), (view, b)], [view], spec)[0], expected)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
@pytest.mark.parametrize("x_dtype", ["uint8", "int8"])
@pytest.mark.parametrize("y_dtype", ["uint8", "int8", "int16"])
@pytest.mark.parametrize("shape", [(256,), (2, 3, 5, 7), (1, 3, 3, 96)])
def test_lut(spec, x_dtype, y_dtype, shape):
    table = random_stored((256,), y_dtype, 3)
    x = random_stored(shape, x_dtype)
    if shape == (256,):
        x = np.arange(RANGES[x_dtype][0], RANGES[x_dtype][1] + 1).astype(x_dtype)
    halo = HALO if len(shape) == 4 else (0, 0, 0, 0)
    source, view = View(shape, x_dtype, halo), View(shape, y_dtype, halo)
    kernel = lut_kernel(source, view, table, spec)
    expected = table[x.astype(int) - RANGES[x_dtype][0]]
    assert np.array_equal(run(kernel, [(source, x)], [view], spec)[0], expected)
