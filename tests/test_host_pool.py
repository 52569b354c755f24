"""Pooling, mean and softmax kernels equal the arithmetic bit for bit."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np
import pytest
from emulated import ARM, HEXAGON, MALI
from host_kernels import NO_HALO, Case, check, stored, view
from products import HOSTS, SPECS

from qcompiler.arithmetic import pool
from qcompiler.arithmetic.softmax import softmax, softmax_table
from qcompiler.lowering.compute_pool import average_pool_kernel, max_pool_kernel, mean_kernel
from qcompiler.lowering.compute_softmax import softmax_kernel
from qcompiler.lowering.workload import Requantize

SPEC = SPECS[0]
HALO, OUT_HALO = (2, 2, 2, 2), (0, 1, 1, 0)
LOWEST = {"uint8": 0, "int8": -128, "int16": -32768}
HIGHEST = {"uint8": 255, "int8": 127, "int16": 32767}
CHANNELS = [1, 3, 5, 17, 24, 96]

GEOMETRIES = [  # kernel, strides, pads, dilations
    ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    ((2, 2), (2, 2), (0, 0, 0, 0), (1, 1)),
    ((3, 2), (1, 3), (0, 1, 2, 0), (1, 1)),
    ((3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    ((5, 6), (1, 1), (2, 3, 2, 2), (1, 1)),
    ((1, 3), (1, 2), (0, 1, 0, 1), (1, 3)),
    ((2, 2), (3, 3), (0, 0, 3, 4), (1, 1)),
    ((6, 5), (2, 1), (3, 1, 2, 4), (1, 1)),
]
one_host_and_arm = pytest.mark.parametrize("spec", [SPEC, *ARM, *HEXAGON, *MALI], ids=lambda spec: spec.name)
every_spec = pytest.mark.parametrize("spec", [*HOSTS, *ARM, *HEXAGON, *MALI], ids=lambda spec: spec.name)


@one_host_and_arm
@pytest.mark.parametrize(
    ("dtype", "halo", "border"),
    [
        ("uint8", HALO, 0),
        pytest.param("uint8", HALO, 200, marks=pytest.mark.slow),
        ("int8", NO_HALO, None),
        ("int8", HALO, -128),
        pytest.param("int16", NO_HALO, 0, marks=pytest.mark.slow),
    ],
)
def test_max_pool(spec, dtype, halo, border):
    cases = []
    for geometry, channels in product(GEOMETRIES, (3, 24)):
        # Small values, so that padding would win if it took part.
        x = np.minimum(stored((2, 9, 8, channels), dtype), LOWEST[dtype] + 90)
        y = pool.max_pool(x, *geometry, layout="NHWC")
        views = view(x, halo), view(y, OUT_HALO)
        kernel = max_pool_kernel(*views, *geometry, border, spec)
        cases.append(Case(kernel, [(views[0], x)], [(views[1], y)], 77 if border is None else border))
    check(cases, spec)


@every_spec
def test_max_pool_of_any_channels(spec):
    cases = []
    for channels in CHANNELS:
        x = stored((1, 11, 12, channels), "uint8")
        y = pool.max_pool(x, *GEOMETRIES[0], layout="NHWC")
        source = view(x, (1, 1, 1, 1))
        kernel = max_pool_kernel(source, view(y), *GEOMETRIES[0], 0, spec)
        cases.append(Case(kernel, [(source, x)], [(view(y), y)], border=0))
    check(cases, spec)


@one_host_and_arm
@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize(
    ("dtypes", "halo", "rounding"),
    [
        (("uint8", "uint8"), HALO, "fp32"),
        (("int8", "uint8"), NO_HALO, "fixed"),
        (("uint8", "int8"), NO_HALO, "fixed2"),
        (("int16", "int16"), HALO, "fp32"),
        (("int16", "int16"), NO_HALO, "fixed2"),
        (("uint8", "int16"), NO_HALO, "fixed"),
    ],
)
def test_average_pool(spec, count_include_pad, dtypes, halo, rounding):
    zero_point, scales = 17, (0.03, 0.041)
    limits = LOWEST[dtypes[1]] + 2, HIGHEST[dtypes[1]] - 20
    x = stored((2, 9, 8, 24), dtypes[0])
    cases = []
    for geometry in GEOMETRIES:
        whole = (*geometry, False, count_include_pad)
        y = pool.average_pool(x, zero_point, *scales, 5, *whole, *limits, dtypes[1], rounding, "NHWC")
        multiplier = pool.average_multiplier(*scales, pool.pool_counts(x.shape[1:3], *whole))
        requantize = Requantize(rounding, multiplier, 5, limits, dtypes[1])
        views = view(x, halo), view(y, OUT_HALO)
        kernel = average_pool_kernel(*views, *geometry, zero_point, requantize, spec)
        cases.append(Case(kernel, [(views[0], x)], [(views[1], y)], border=zero_point))
    check(cases, spec)


def mean_case(shape, axes, keepdims, dtype, rounding, spec, halo=NO_HALO):
    x = stored(shape, dtype)
    limits = LOWEST[dtype], HIGHEST[dtype]
    y = pool.mean(x, 9, 0.03, 0.01, 5, axes, keepdims, *limits, dtype, rounding)
    multiplier = pool.average_multiplier(0.03, 0.01, prod(shape[axis] for axis in axes))
    views = view(x, halo), view(y, OUT_HALO)
    kernel = mean_kernel(*views, axes, 9, Requantize(rounding, multiplier, 5, limits, dtype), spec)
    return Case(kernel, [(views[0], x)], [(views[1], y)])


@one_host_and_arm
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_global_average_pool(spec, dtype):
    sizes = [((7, 7), NO_HALO), ((7, 7), HALO), ((20, 21), NO_HALO)]
    check(
        [
            mean_case((2, *size, channels), (1, 2), True, dtype, "fp32", spec, halo)
            for channels, (size, halo) in product(CHANNELS, sizes)
        ],
        spec,
    )


@every_spec
def test_mean(spec):
    means = [
        ((5, 40), (1,), True),
        ((5, 3), (1,), False),
        ((3, 9, 64), (1,), False),
        ((4, 6, 5, 33), (3,), True),
        ((4, 6, 5, 33), (0, 2), False),
        ((4, 6, 5, 33), (1, 3), False),
        ((6, 50), (0, 1), False),
        ((300,), (0,), True),
    ]
    kinds = [("int8", "fp32"), ("int16", "fixed"), ("int16", "fixed2")]
    check([mean_case(*case, *kind, spec) for case, kind in product(means, kinds)], spec)


@every_spec
def test_softmax(spec):
    rows = [
        ((1,), 0),
        ((3, 1000), 1),
        ((2, 5, 3), 2),
        ((2, 3, 7, 49), 3),
        ((2, 30, 5), 1),
        ((2, 4, 4, 17), 1),
    ]
    kinds = [("uint8", "uint8", 0.3), ("int8", "int8", 0.02), ("uint8", "int8", 0.1)]
    cases = []
    for (shape, axis), (x_dtype, y_dtype, scale) in product(rows, kinds if spec is SPEC else kinds[:1]):
        x = stored(shape, x_dtype)
        table = softmax_table(scale, shape[axis])
        y = softmax(x, table, axis, y_dtype)
        views = view(x, OUT_HALO), view(y, OUT_HALO)
        cases.append(Case(softmax_kernel(*views, table, axis, spec), [(views[0], x)], [(views[1], y)]))
    check(cases, spec)
