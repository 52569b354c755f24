"""Hexagon's own forms of operations on single elements and of movements: chosen, and equal to the arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from emulated import HEXAGON, emulated
from host_kernels import NO_HALO, Case, check, stored, view
from test_host_pool import mean_case

from qcompiler.arithmetic.affine import dequantize, quantize
from qcompiler.arithmetic.elementwise import add, add_parameters
from qcompiler.arithmetic.pool import average_multiplier, average_pool, pool_counts
from qcompiler.arithmetic.softmax import softmax, softmax_table
from qcompiler.arithmetic.table import apply_table
from qcompiler.lowering.compute_elementwise import add_kernel, dequantize_kernel, lut_kernel, quantize_kernel
from qcompiler.lowering.compute_movement import transpose_kernel
from qcompiler.lowering.compute_pool import average_pool_kernel
from qcompiler.lowering.compute_softmax import softmax_kernel
from qcompiler.lowering.workload import Requantize
from qcompiler.targets.spec import TargetSpec

QUICK = pytest.mark.parametrize("spec", [emulated("hexagon")])
SLOW = pytest.mark.parametrize("spec", HEXAGON)
SPECIAL = np.array([0, np.inf, np.nan, 3e38, 1e-38, 1e-45], np.float32)
HALO = (1, 2, 0, 1)
RANGES = {"uint8": (0, 255), "int8": (-128, 127), "int16": (-32768, 32767)}


def near_borders(scale: np.float32, steps: np.ndarray, reach: int) -> np.ndarray:
    """Every float32 up to `reach` away from where a quotient is an integer or lies between two, with both signs."""
    borders = (scale * np.concatenate([steps, steps + np.float32(0.5)]).astype(np.float32)).astype(np.float32)
    offsets = np.arange(-reach, reach + 1, dtype=np.int32)
    close = np.maximum(borders.view(np.int32)[:, None] + offsets, 0).astype(np.int32).reshape(-1).view(np.float32)
    every_exponent = (np.arange(0, 1 << 31, 0x10FFFF, dtype=np.int64)).astype(np.int32).view(np.float32)
    values = np.concatenate([SPECIAL, close, every_exponent])
    return np.concatenate([values, -values])


def quantize_case(x: np.ndarray, scale: np.float32, zero_point: int, dtype: str, spec: TargetSpec) -> Case:
    expected = quantize(x, scale, zero_point, *RANGES[dtype], dtype)
    kernel = quantize_kernel(view(x), view(expected), float(scale), zero_point, RANGES[dtype], spec)
    assert kernel.rule == "quantize.vectors"
    return Case(kernel, [(view(x), x)], [(view(expected), expected)])


def quantize_cases(scales: Sequence[np.float32], reach: int, spec: TargetSpec) -> list[Case]:
    cases = []
    for i, scale in enumerate(scales):
        x = near_borders(scale, np.arange(300, dtype=np.float32), reach)
        cases.append(quantize_case(x, scale, *((13 * i % 256, "uint8"), (-7, "int8"))[i % 2], spec))
    return cases


@QUICK
def test_quantize_near_every_border(spec: TargetSpec) -> None:
    scales = [np.float32(0.0171), np.float32(0.5), np.nextafter(np.float32(2), np.float32(1))]
    wide = near_borders(scales[0], np.arange(0, 40000, 9, dtype=np.float32), 2)
    check([*quantize_cases(scales, 3, spec), quantize_case(wide, scales[0], 0, "int16", spec)], spec)


@SLOW
def test_quantize_with_many_scales(spec: TargetSpec) -> None:
    rng = np.random.default_rng(0)
    mantissas = np.concatenate([[1, 1.5, 1 + 2.0**-23, 2 - 2.0**-23], 1 + rng.random(16)])
    check(
        quantize_cases((mantissas * 2.0 ** rng.integers(-110, 100, mantissas.size)).astype(np.float32), 8, spec), spec
    )


@QUICK
def test_quantize_to_a_narrow_range(spec: TargetSpec) -> None:
    x = near_borders(np.float32(0.02), np.arange(200, dtype=np.float32), 1)
    expected = quantize(x, 0.02, 0, -127, 127, "int8")
    kernel = quantize_kernel(view(x), view(expected), 0.02, 0, (-127, 127), spec)
    check([Case(kernel, [(view(x), x)], [(view(expected), expected)])], spec)


@QUICK
def test_quantize_images(spec: TargetSpec) -> None:
    """The planes of an image become channels, in rows of any width, inside a halo."""
    cases = []
    for channels, width, halo in [(3, 224, HALO), (3, 32, NO_HALO), (2, 45, HALO), (4, 130, NO_HALO)]:
        x = np.random.default_rng(width).normal(0, 1, (2, channels, 3, width)).astype(np.float32)
        expected = quantize(x, 0.02, 100, 0, 255, "uint8").transpose(0, 2, 3, 1)
        y = view(expected, halo)
        kernel = quantize_kernel(view(x), y, 0.02, 100, (0, 255), spec, perm=(0, 2, 3, 1))
        assert kernel.rule == "quantize.vectors+planes"
        cases.append(Case(kernel, [(view(x), x)], [(y, expected)]))
    check(cases, spec)


@QUICK
def test_planes_are_interleaved(spec: TargetSpec) -> None:
    cases = []
    for channels, width in [(2, 300), (3, 33), (3, 129), (3, 64), (4, 96), (8, 40), (16, 130)]:
        x = stored((1, channels, 2, width), "int8", width)
        expected = x.transpose(0, 2, 3, 1)
        kernel = transpose_kernel(view(x), view(expected), (0, 2, 3, 1), spec)
        assert kernel.rule == "transpose.planes"
        cases.append(Case(kernel, [(view(x), x)], [(view(expected), expected)]))
    check(cases, spec)


def softmax_case(x: np.ndarray, axis: int, scale: float, y_dtype: str, spec: TargetSpec) -> Case:
    table = softmax_table(scale, x.shape[axis])
    expected = softmax(x, table, axis, y_dtype)
    kernel = softmax_kernel(view(x), view(expected), table, axis, spec)
    assert "columns-of-bytes" in kernel.rule
    return Case(kernel, [(view(x), x)], [(view(expected), expected)])


@QUICK
def test_softmax_of_pairs(spec: TargetSpec) -> None:
    """All 65,536 of them, whose totals are all there are."""
    pairs = np.stack(np.meshgrid(np.arange(256), np.arange(256)), -1).reshape(1, -1, 2).astype(np.uint8)
    check([softmax_case(pairs, 2, 0.031, "uint8", spec)], spec)


@SLOW
def test_softmax_of_many_rows(spec: TargetSpec) -> None:
    shapes = [((4, 9, 300), 1), ((150, 3), 1), ((2, 700, 3, 50), 1), ((200, 1), 1), ((1, 12, 12, 2), 3)]
    cases = [
        softmax_case(stored(shape, x_dtype, i) // divisor, axis, scale, y_dtype, spec)
        for i, (shape, axis) in enumerate(shapes)
        for x_dtype, y_dtype, scale, divisor in [
            ("uint8", "int8", 0.1, 1),
            ("int8", "uint8", 0.004, 1),
            ("uint8", "uint8", 2.0, 9),
        ]
    ]
    check([*cases, softmax_case(np.full((40, 128), 7, np.uint8), 0, 0.1, "uint8", spec)], spec)


@QUICK
def test_sums_tables_and_reals_are_vectors(spec: TargetSpec) -> None:
    wide, narrow = stored((3, 200), "int16"), stored((3, 200), "uint8", 1)
    parameters = add_parameters(4 / 32768, 4 / 255, 8 / 32767, False, (32768, 200))
    total = add(wide, 0, narrow, 55, *parameters, 0, -32000, 32767, "int16")
    kernels = [add_kernel(view(wide), view(narrow), view(total), (0, 55, 0), parameters, (-32000, 32767), spec)]
    cases = [([wide, narrow], total)]
    for dtype in ("uint8", "int8"):
        x = np.arange(RANGES[dtype][0], RANGES[dtype][1] + 1).astype(dtype)
        table, real = stored((256,), "int16", 2), dequantize(x, 0.017, 90)
        found = apply_table(x, table, int(x.min()))
        kernels += [lut_kernel(view(x), view(found), table, spec)]
        kernels += [dequantize_kernel(view(x), view(real), 0.017, 90, spec)]
        cases += [([x], found), ([x], real)]
    assert {kernel.rule for kernel in kernels} == {"add.vectors", "lut.vectors", "dequantize.vectors"}
    check(
        [
            Case(kernel, [(view(x), x) for x in inputs], [(view(y), y)])
            for kernel, (inputs, y) in zip(kernels, cases, strict=True)
        ],
        spec,
    )


@SLOW
def test_means_of_many_channels(spec: TargetSpec) -> None:
    shapes = [((1, 7, 7, channels), dtype) for channels in (32, 40, 130) for dtype in ("uint8", "int8")]
    check(
        [
            mean_case(shape, (1, 2), True, dtype, "fixed2", spec)
            for shape, dtype in [*shapes, ((1, 33, 20, 96), "uint8")]
        ],
        spec,
    )


@QUICK
def test_average_pools_of_many_channels(spec: TargetSpec) -> None:
    """With one multiplier, and with one for each position, as padding is not counted."""
    cases = []
    for channels, counted in [(64, True), (160, False)]:
        x = stored((1, 9, 8, channels), "uint8")
        window = ((3, 3), (2, 2), (1, 1, 1, 1), (1, 1))
        y = average_pool(x, 17, 0.03, 0.041, 5, *window, False, counted, 2, 250, "uint8", "fixed2", "NHWC")
        multiplier = average_multiplier(0.03, 0.041, pool_counts((9, 8), *window, False, counted))
        requantize = Requantize("fixed2", multiplier, 5, (2, 250), "uint8")
        kernel = average_pool_kernel(view(x), view(y), *window, 17, requantize, spec)
        cases.append(Case(kernel, [(view(x), x)], [(view(y), y)]))
    check(cases, spec)
