"""Kernels on single elements equal the arithmetic bit for bit."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from emulated import ARM, HEXAGON, MALI
from host_kernels import NO_HALO, Case, check, stored, view
from products import HOSTS, SPECS

from qcompiler.arithmetic import elementwise
from qcompiler.arithmetic.affine import dequantize, quantize
from qcompiler.arithmetic.requantize import real_multiplier, requantize
from qcompiler.arithmetic.table import apply_table
from qcompiler.lowering.compute_elementwise import (
    add_kernel,
    dequantize_kernel,
    lut_kernel,
    mul_kernel,
    quantize_kernel,
    requantize_kernel,
)
from qcompiler.lowering.view import View
from qcompiler.lowering.workload import Requantize

RANGES = {"uint8": (0, 255), "int8": (-128, 127), "int16": (-32768, 32767), "uint16": (0, 65535)}
HALO = (1, 2, 1, 0)
every_spec = pytest.mark.parametrize("spec", [*HOSTS, *ARM, *HEXAGON, *MALI], ids=lambda spec: spec.name)


def special_floats(scale: float, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Random values with ties, infinities, NaN, zeros and values that saturate among them."""
    rng = np.random.default_rng(seed)
    x = (rng.normal(0, 120, shape) * scale).astype(np.float32)
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 3e38, -3e38, 1e-45], np.float32)
    ties = np.float32(scale) * (np.arange(-300, 300, dtype=np.float32) + np.float32(0.5))
    pool = np.concatenate([special, ties])
    return np.where(rng.random(shape) < 0.3, rng.choice(pool, shape), x)


def every_value(dtype: str) -> np.ndarray:
    lo, hi = RANGES[dtype]
    return np.arange(lo, hi + 1).astype(dtype)


def every_pair(dtype_a: str, dtype_b: str) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat(every_value(dtype_a), 256), np.tile(every_value(dtype_b), 256)


@every_spec
def test_quantize(spec):
    storages = [
        ("uint8", 0, 0.5),
        ("uint8", 128, 0.0173),
        ("int8", -3, 2.0),
        ("int16", 11, 0.01),
        ("uint16", 65535, 0.25),
    ]
    storages = storages if spec is SPECS[0] else storages[1:3]
    cases = []
    for (dtype, zero_point, scale), shape in product(storages, [(), (7,), (3, 1000), (2, 5, 7, 3)]):
        x = special_floats(scale, shape)
        expected = quantize(x, scale, zero_point, *RANGES[dtype], dtype)
        y = view(expected, HALO)
        kernel = quantize_kernel(view(x), y, scale, zero_point, RANGES[dtype], spec)
        cases.append(Case(kernel, [(view(x), x)], [(y, expected)]))
    check(cases, spec)


@every_spec
def test_between_channels_first_and_last(spec):
    cases = []
    channel_counts = [1, 2, 3, 4, 5, 16, 17, 24] if spec is SPECS[0] else [3, 17]
    for channels, halo in product(channel_counts, [NO_HALO, HALO]):
        x = special_floats(0.1, (2, channels, 5, 9))
        q = quantize(x, 0.1, 100, 0, 255, np.uint8).transpose(0, 2, 3, 1)
        kernel = quantize_kernel(view(x), view(q, halo), 0.1, 100, (0, 255), spec, perm=(0, 2, 3, 1))
        cases.append(Case(kernel, [(view(x), x)], [(view(q, halo), q)]))
        y = dequantize(q, 0.1, 100).transpose(0, 3, 1, 2)
        kernel = dequantize_kernel(view(q, halo), view(y), 0.1, 100, spec, perm=(0, 3, 1, 2))
        cases.append(Case(kernel, [(view(q, halo), q)], [(view(y), y)]))
    check(cases, spec)


def test_per_channel():
    rng = np.random.default_rng(0)
    scale = rng.uniform(0.01, 1, 24).astype(np.float32)
    zero_point = rng.integers(0, 256, 24)
    x = special_floats(0.1, (3, 5, 24))
    q = quantize(x, scale, zero_point, 0, 255, np.uint8, 2)
    y = dequantize(q, scale, zero_point, 2)
    forth = quantize_kernel(view(x), view(q), scale, zero_point, (0, 255), SPECS[0], axis=2)
    back = dequantize_kernel(view(q), view(y), scale, zero_point, SPECS[0], axis=2)
    check([Case(forth, [(view(x), x)], [(view(q), q)]), Case(back, [(view(q), q)], [(view(y), y)])], SPECS[0])


@every_spec
def test_dequantize_every_value(spec):
    cases = []
    for dtype, zero_point in [("uint8", 255), ("int8", -128), ("uint16", 7), ("int16", 0)]:
        q = every_value(dtype)
        y = dequantize(q, 0.017, zero_point)
        kernel = dequantize_kernel(view(q), view(y), 0.017, zero_point, spec)
        cases.append(Case(kernel, [(view(q), q)], [(view(y), y)]))
    check(cases, spec)


def add_case(a, b, zero_points, parameters, clamp, dtype, spec):
    expected = elementwise.add(a, zero_points[0], b, zero_points[1], *parameters, zero_points[2], *clamp, dtype)
    kernel = add_kernel(view(a), view(b), view(expected), zero_points, parameters, clamp, spec)
    return Case(kernel, [(view(a), a), (view(b), b)], [(view(expected), expected)])


@every_spec
def test_add_every_pair(spec):
    rng = np.random.default_rng(1)
    cases = []
    for dtypes in [("uint8", "uint8", "uint8"), ("int8", "uint8", "int8")]:
        a, b = every_pair(*dtypes[:2])
        for scales, subtract in [((0.1, 0.2, 0.3), False), ((1, 3e-4, 1.1), True), ((1e-4, 1e-4, 1), False)]:
            zero_points = tuple(int(rng.integers(*RANGES[dtype])) for dtype in dtypes)
            parameters = elementwise.add_parameters(*scales, subtract=subtract)
            clamp = (RANGES[dtypes[2]][0] + 3, RANGES[dtypes[2]][1] - 10)
            cases.append(add_case(a, b, zero_points, parameters, clamp, dtypes[2], spec))
    check(cases, spec)


def test_add_at_the_ends_of_int32():
    cases = []
    for dtype, zero_points in product(["uint8", "int8"], product([0, 1], repeat=3)):
        a, b = every_pair(dtype, dtype)
        zero_points = tuple(RANGES[dtype][end] for end in zero_points)
        for coefficients in [(2**21 - 1, 2**21 - 1), (2**21 - 1, -(2**21) + 1)]:
            cases.append(add_case(a, b, zero_points, (*coefficients, 22), RANGES[dtype], dtype, SPECS[0]))
    check(cases, SPECS[0])


def reach(dtype: str, zero_point: int) -> int:
    lo, hi = RANGES[dtype]
    return max(zero_point - lo, hi - zero_point)


@every_spec
def test_add_of_16_bits(spec):
    cases = []
    for (a_dtype, b_dtype, out), shape in product(
        [
            ("int16", "uint8", "uint16"),
            ("int16", "int16", "int16"),
            ("uint16", "uint16", "int8"),
            ("int8", "int8", "int16"),
            ("int16", "int16", "uint8"),
        ],
        [(50, 31), (3, 5, 7, 9), (1,)],
    ):
        zero_points = tuple(0 if dtype == "int16" else 100 for dtype in (a_dtype, b_dtype, out))
        reaches = (reach(a_dtype, zero_points[0]), reach(b_dtype, zero_points[1]))
        scales = (3.7 / reaches[0], 9.1 / reaches[1], 8 / RANGES[out][1])
        a, b = stored(shape, a_dtype), stored(shape, b_dtype, 1)
        for array, dtype in ((a, a_dtype), (b, b_dtype)):
            array.flat[: max(1, array.size // 4)] = np.random.default_rng(2).choice(RANGES[dtype])
        parameters = elementwise.add_parameters(*scales, len(shape) == 2, reaches)
        cases.append(add_case(a, b, zero_points, parameters, RANGES[out], out, spec))
    check(cases, spec)


@pytest.mark.parametrize("constant", [False, True])
def test_broadcasts(constant):
    shapes = [
        ((2, 5, 7, 24), (2, 5, 7, 24)),
        ((2, 5, 7, 24), (1, 1, 1, 24)),
        ((2, 5, 7, 17), (2, 1, 1, 17)),
        ((2, 1, 1, 96), (2, 5, 7, 96)),
        ((4, 5, 7, 3), ()),
        ((1, 5, 1, 3), (4, 5, 7, 3)),
        ((5, 7, 1), (2, 1, 7, 5)),
        ((4, 33), (33,)),
    ]
    parameters = elementwise.add_parameters(0.1, 0.3, 0.2)
    cases = []
    for left, right in shapes:
        a, b = stored(left, "uint8", 1), stored(right, "uint8", 2)
        expected = elementwise.add(a, 5, b, 200, *parameters, 17, 0, 255, "uint8")
        views = [view(array, HALO) for array in (a, b, expected)]
        operands = (views[0], b if constant else views[1])
        kernel = add_kernel(*operands, views[2], (5, 200, 17), parameters, (0, 255), SPECS[0])
        inputs = [(views[0], a), (views[1], b)][: 1 if constant else 2]
        cases.append(Case(kernel, inputs, [(views[2], expected)]))
    check(cases, SPECS[0])


@every_spec
def test_mul_every_pair(spec):
    multiplier = float(real_multiplier(0.011, 0.3, 0.9))
    cases = []
    for dtype, rounding in product(["uint8", "int8"], ["fp32", "fixed", "fixed2"]):
        a, b = every_pair(dtype, dtype)
        clamp = (RANGES[dtype][0] + 1, RANGES[dtype][1] - 30)
        requantize = Requantize(rounding, np.asarray(multiplier), 9, clamp, dtype)
        kernel = mul_kernel(view(a), view(b), view(a), (100, 3), requantize, spec)
        expected = elementwise.mul(a, 100, b, 3, multiplier, 9, *clamp, dtype, rounding)
        cases.append(Case(kernel, [(view(a), a), (view(b), b)], [(view(expected), expected)]))
    check(cases, spec)


@every_spec
@pytest.mark.parametrize("x_dtype", ["uint8", "int8"])
def test_lut(spec, x_dtype):
    cases = []
    for y_dtype in ("uint8", "int8", "int16"):
        table = stored((256,), y_dtype, 3)
        images = [stored(shape, x_dtype) for shape in ((2, 3, 5, 7), (1, 3, 3, 96), (1,))]
        for x in (every_value(x_dtype), *images):
            expected = table[x.astype(int) - RANGES[x_dtype][0]]
            views = view(x, HALO), view(expected, HALO)
            kernel = lut_kernel(*views, table, spec)
            cases.append(Case(kernel, [(views[0], x)], [(views[1], expected)]))
    check(cases, spec)


def test_the_target_rules_apply_to_whole_vectors():
    long, short = View((64,), "uint8"), View((15,), "uint8")
    parameters = elementwise.add_parameters(0.1, 0.3, 0.2)
    for spec in SPECS:
        for x, rule in ((long, "vectors"), (short, "rows")):
            kernel = add_kernel(x, x, x, (1, 2, 3), parameters, (0, 255), spec)
            assert kernel.rule == f"add.{rule}"
            expected = rule if spec.instruction_set == "avx512-vnni" else "rows"
            assert lut_kernel(x, x, stored((256,), "uint8"), spec).rule == f"lut.{expected}"


def test_only_images_have_halos():
    with pytest.raises(ValueError, match=r"rank 4.*\[3, 4, 5\]"):
        View((3, 4, 5), "uint8", HALO)


def requantize_case(x, zero_point, multiplier, zero_point_y, clamp, dtype, rounding, spec, axis=None):
    acc = x.astype(np.int32) - zero_point
    expected = requantize(acc, multiplier, zero_point_y, *clamp, dtype, rounding, axis)
    form = Requantize(rounding, np.atleast_1d(np.float64(multiplier)), zero_point_y, clamp, dtype)
    y = view(expected, HALO)
    kernel = requantize_kernel(view(x), y, zero_point, form, spec, axis)
    return Case(kernel, [(view(x), x)], [(y, expected)])


@every_spec
def test_requantize_every_value(spec):
    types = {"uint8": 128, "int8": -3, "int16": 0, "uint16": 40000}
    cases = []
    for (dtype, zero), (out, zero_out), rounding in product(types.items(), types.items(), ["fp32", "fixed", "fixed2"]):
        ratio = 1.3 * (RANGES[out][1] - RANGES[out][0]) / (RANGES[dtype][1] - RANGES[dtype][0])
        lo, hi = RANGES[out]
        cases.append(requantize_case(every_value(dtype), zero, ratio, zero_out, (lo + 2, hi), out, rounding, spec))
    check(cases if spec is SPECS[0] else cases[::3], spec)


@every_spec
def test_requantize_per_channel(spec):
    rng = np.random.default_rng(0)
    cases = []
    shapes = [(2, 3, 5, 17), (1, 2, 2, 32), (4, 1), (7,)] if spec is SPECS[0] else [(2, 3, 5, 17)]
    for shape, axis in [(s, a) for s in shapes for a in {0, 1, len(s) - 1} if a < len(s)]:
        for dtype, out in (("int16", "uint8"), ("uint8", "int8"), ("int16", "int16")):
            factors = rng.uniform(1e-3, 0.9, shape[axis])
            x = stored(shape, dtype, axis)
            cases.append(requantize_case(x, 3, factors, 11, RANGES[out], out, "fp32", spec, axis))
            cases.append(requantize_case(x, 3, factors, 11, RANGES[out], out, "fixed", spec, axis))
    check(cases, spec)


@every_spec
def test_lut_of_16_bits(spec):
    cases = []
    for dtype, out in product(["int16", "uint16"], ["int8", "uint8", "int16", "uint16"]):
        table = stored((65536,), out)
        for x in (every_value(dtype), stored((3, 5, 7, 11), dtype), stored((1,), dtype)):
            expected = apply_table(x, table, RANGES[dtype][0])
            y = view(expected, HALO)
            cases.append(Case(lut_kernel(view(x), y, table, spec), [(view(x), x)], [(y, expected)]))
    check(cases, spec)


@every_spec
def test_lut_to_16_bits_and_per_channel(spec):
    cases = []
    for dtype, out in product(["int8", "uint8"], ["uint8", "int8", "int16"]):
        for shape in [(2, 3, 5, 19), (1, 2, 2, 64), (3, 130)] if spec is SPECS[0] else [(2, 3, 5, 19)]:
            x = stored(shape, dtype)
            for axis in {None, len(shape) - 1, 1}:
                table = stored((256,) if axis is None else (shape[axis], 256), out, 3)
                expected = apply_table(x, table, RANGES[dtype][0], axis)
                y = view(expected, HALO)
                cases.append(Case(lut_kernel(view(x), y, table, spec, axis), [(view(x), x)], [(y, expected)]))
    check(cases, spec)


@every_spec
def test_mul_of_16_bits(spec):
    cases = []
    for dtypes, rounding in product(
        [
            ("int16", "int16", "int16"),
            ("int16", "uint8", "int16"),
            ("int16", "int16", "uint8"),
            ("int8", "int8", "int16"),
        ],
        ["fp32", "fixed"],
    ):
        reaches = [reach(dtype, 0) for dtype in dtypes]
        multiplier = 1.5 * reaches[2] / (reaches[0] * reaches[1])
        a, b = stored((37, 29), dtypes[0], 4), stored((37, 1), dtypes[1], 5)
        a.flat[:9], b.flat[:3] = RANGES[dtypes[0]][0], RANGES[dtypes[1]][0]
        form = Requantize(rounding, np.array([multiplier]), 0, RANGES[dtypes[2]], dtypes[2])
        expected = elementwise.mul(a, 0, b, 0, multiplier, 0, *RANGES[dtypes[2]], dtypes[2], rounding)
        kernel = mul_kernel(view(a), view(b), view(expected), (0, 0), form, spec)
        cases.append(Case(kernel, [(view(a), a), (view(b), b)], [(view(expected), expected)]))
    check(cases, spec)
