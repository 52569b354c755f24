"""Hexagon's own forms of operations on single elements and of movements: chosen, and equal to the arithmetic."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from emulated import HEXAGON, emulated
from host_kernels import NO_HALO, Case, check, stored, view

from qcompiler.arithmetic.affine import quantize
from qcompiler.arithmetic.softmax import softmax, softmax_table
from qcompiler.lowering.compute_elementwise import quantize_kernel
from qcompiler.lowering.compute_movement import transpose_kernel
from qcompiler.lowering.compute_softmax import softmax_kernel
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
    for channels, width in [(2, 300), (3, 33), (3, 129), (3, 64), (4, 96)]:
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
