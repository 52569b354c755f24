"""Pooling, mean and softmax kernels equal the arithmetic bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from host_kernels import SPECS, random_stored, run

from qcompiler.arithmetic import pool
from qcompiler.arithmetic.softmax import softmax, softmax_table
from qcompiler.lowering.compute_pool import average_pool_kernel, max_pool_kernel, mean_kernel
from qcompiler.lowering.compute_softmax import softmax_kernel
from qcompiler.lowering.view import View
from qcompiler.lowering.workload import Requantize

SPEC = SPECS[0]
NONE, HALO = (0, 0, 0, 0), (2, 2, 2, 2)
LOWEST = {"uint8": 0, "int8": -128, "int16": -32768}
HIGHEST = {"uint8": 255, "int8": 127, "int16": 32767}

GEOMETRIES = [  # kernel, strides, pads, dilations
    ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    ((2, 2), (2, 2), (0, 0, 0, 0), (1, 1)),
    ((3, 2), (1, 3), (0, 1, 2, 0), (1, 1)),
    ((3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    ((5, 6), (1, 1), (2, 3, 2, 2), (1, 1)),
    ((1, 3), (1, 2), (0, 1, 0, 1), (1, 3)),
]
CHANNELS = [1, 3, 5, 17, 24, 96]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    ("dtype", "halo", "border"),
    [
        ("uint8", HALO, 0),
        ("uint8", HALO, 200),
        ("int8", NONE, None),
        ("int8", HALO, -128),
        ("int16", NONE, 0),
    ],
)
def test_max_pool(geometry, dtype, halo, border):
    for channels in (3, 24) if dtype == "uint8" else (17,):
        x = random_stored((2, 9, 8, channels), dtype)
        # Small values, so that padding would win if it took part.
        x = np.minimum(x, LOWEST[dtype] + 90)
        expected = pool.max_pool(x, *geometry, layout="NHWC")
        source, view = View(x.shape, dtype, halo), View(expected.shape, dtype, (0, 1, 1, 0))
        kernel = max_pool_kernel(source, view, *geometry, border, SPEC)
        result = run(kernel, [(source, x)], [view], SPEC, border=77 if border is None else border)
        assert np.array_equal(result[0], expected)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
def test_max_pool_of_resnet(channels, spec):
    x = random_stored((1, 11, 12, channels), "uint8")
    geometry = GEOMETRIES[0]
    expected = pool.max_pool(x, *geometry, layout="NHWC")
    source, view = View(x.shape, "uint8", (1, 1, 1, 1)), View(expected.shape, "uint8", NONE)
    kernel = max_pool_kernel(source, view, *geometry, 0, spec)
    assert np.array_equal(run(kernel, [(source, x)], [view], spec, border=0)[0], expected)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize(
    ("dtypes", "halo", "rounding"),
    [
        (("uint8", "uint8"), HALO, "fp32"),
        (("int8", "uint8"), NONE, "fixed"),
        (("uint8", "int8"), NONE, "fixed2"),
        (("int16", "int16"), HALO, "fp32"),
    ],
)
def test_average_pool(geometry, count_include_pad, dtypes, halo, rounding):
    kernel, strides, pads, dilations = geometry
    x = random_stored((2, 9, 8, 24), dtypes[0])
    zero_point, scales = 17, (0.03, 0.041)
    lo, hi = LOWEST[dtypes[1]] + 2, HIGHEST[dtypes[1]] - 20
    expected = pool.average_pool(
        x, zero_point, *scales, 5, *geometry, False, count_include_pad, lo, hi, dtypes[1], rounding, "NHWC"
    )
    counts = pool.pool_counts(x.shape[1:3], *geometry, False, count_include_pad)
    multiplier = pool.average_multiplier(*scales, counts)
    requantize = Requantize(rounding, multiplier, 5, (lo, hi), dtypes[1])
    source, view = View(x.shape, dtypes[0], halo), View(expected.shape, dtypes[1], (0, 1, 1, 0))
    kernel = average_pool_kernel(source, view, *geometry, zero_point, requantize, SPEC)
    result = run(kernel, [(source, x)], [view], SPEC, border=zero_point)
    assert np.array_equal(result[0], expected)


def check_mean(shape, axes, keepdims, dtype, rounding, spec, halo=NONE):
    x = random_stored(shape, dtype)
    lo, hi = LOWEST[dtype], HIGHEST[dtype]
    expected = pool.mean(x, 9, 0.03, 0.01, 5, axes, keepdims, lo, hi, dtype, rounding)
    count = int(np.prod([shape[axis] for axis in axes]))
    requantize = Requantize(rounding, pool.average_multiplier(0.03, 0.01, count), 5, (lo, hi), dtype)
    source = View(shape, dtype, halo)
    view = View(expected.shape, dtype, (1, 0, 0, 1) if expected.ndim == 4 else NONE)
    kernel = mean_kernel(source, view, axes, 9, requantize, spec)
    assert np.array_equal(run(kernel, [(source, x)], [view], spec)[0], expected)


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize(("size", "halo"), [((7, 7), NONE), ((7, 7), HALO), ((20, 21), NONE)])
def test_global_average_pool(channels, dtype, size, halo):
    check_mean((2, *size, channels), (1, 2), True, dtype, "fp32", SPEC, halo)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
@pytest.mark.parametrize(
    ("shape", "axes", "keepdims"),
    [
        ((5, 40), (1,), True),
        ((5, 3), (1,), False),
        ((3, 9, 64), (1,), False),
        ((4, 6, 5, 33), (3,), True),
        ((4, 6, 5, 33), (0, 2), False),
        ((4, 6, 5, 33), (1, 3), False),
        ((6, 50), (0, 1), False),
        ((300,), (0,), True),
    ],
)
def test_mean(shape, axes, keepdims, spec):
    check_mean(shape, axes, keepdims, "int8", "fp32", spec)
    if spec is SPEC:
        check_mean(shape, axes, keepdims, "int16", "fixed", spec)


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
@pytest.mark.parametrize("dtypes", [("uint8", "uint8"), ("int8", "int8"), ("uint8", "int8")])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((1,), 0), ((3, 1000), 1), ((2, 5, 3), 2), ((2, 3, 7, 49), 3), ((2, 30, 5), 1), ((2, 4, 4, 17), 1)],
)
def test_softmax(spec, dtypes, shape, axis):
    x = random_stored(shape, dtypes[0])
    halo = (0, 1, 1, 0) if len(shape) == 4 else NONE
    source, view = View(shape, dtypes[0], halo), View(shape, dtypes[1], halo)
    for scale in (0.02, 0.3):
        table = softmax_table(scale, shape[axis])
        kernel = softmax_kernel(source, view, table, axis, spec)
        expected = softmax(x, table, axis, dtypes[1])
        assert np.array_equal(run(kernel, [(source, x)], [view], spec)[0], expected)
