"""Kernels that move elements equal numpy, between buffers with and without halos."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from emulated import ARM, HEXAGON, MALI
from host_kernels import NO_HALO, Case, check, stored, view
from products import SPECS

from qcompiler.lowering.compute_movement import (
    concat_kernel,
    copy_kernel,
    gather_kernel,
    pad_kernel,
    reshape_kernel,
    resize_kernel,
    slice_kernel,
    split_kernel,
    transpose_kernel,
)

one_host_and_arm = pytest.mark.parametrize("spec", [SPECS[0], *ARM, *HEXAGON, *MALI], ids=lambda spec: spec.name)
HALO, WIDE = (1, 2, 1, 0), (3, 1, 0, 2)
HALOS = [NO_HALO, HALO]


@one_host_and_arm
def test_copy(spec):
    cases = []
    for shape, dtype in product([(), (5,), (3, 100), (1, 5, 7, 3), (4, 3, 2, 96)], ["uint8", "int16", "float32"]):
        x = stored(shape, "int16").astype(dtype)
        for halo_x, halo_y in [(NO_HALO, NO_HALO), (HALO, NO_HALO), (NO_HALO, HALO), (HALO, WIDE)]:
            views = view(x, halo_x), view(x, halo_y)
            cases.append(Case(copy_kernel(*views, spec), [(views[0], x)], [(views[1], x)]))
    check(cases, spec)


@one_host_and_arm
def test_reshape(spec):
    shapes = [
        ((2, 4, 6, 5), (2, 120)),
        ((240,), (2, 4, 6, 5)),
        ((2, 4, 6, 5), (2, 6, 4, 5)),
        ((2, 4, 6, 5), (2, 4, 6, 5)),
    ]
    cases = []
    for (before, after), halos in product(shapes, [(HALO, WIDE), (NO_HALO, WIDE), (HALO, NO_HALO)]):
        x = stored(before, "uint8")
        y = x.reshape(after)
        views = view(x, halos[0]), view(y, halos[1])
        cases.append(Case(reshape_kernel(*views, spec), [(views[0], x)], [(views[1], y)]))
    check(cases, spec)


@one_host_and_arm
@pytest.mark.parametrize("dtype", ["int8", "float32"])
def test_transpose(spec, dtype):
    transposes = [
        ((3, 5), (1, 0)),
        ((17, 40), (1, 0)),
        ((64, 2, 33), (1, 2, 0)),
        ((2, 5, 7, 3), (0, 3, 1, 2)),
        ((2, 24, 7, 9), (0, 2, 3, 1)),
        ((2, 5, 4, 32), (0, 2, 1, 3)),
        ((2, 5, 4, 17), (0, 2, 3, 1)),
        ((2, 3, 4, 5), (3, 2, 1, 0)),
        ((2, 3, 1, 4, 5), (4, 0, 3, 2, 1)),
    ]
    cases = []
    for (shape, perm), halo in product(transposes, HALOS):
        x = stored(shape, "int8").astype(dtype)
        y = x.transpose(perm)
        kernel = transpose_kernel(view(x, halo), view(y, halo), perm, spec)
        cases.append(Case(kernel, [(view(x, halo), x)], [(view(y, halo), y)]))
    check(cases, spec)


@pytest.mark.parametrize("spec", SPECS[1:], ids=lambda spec: spec.name)
def test_transpose_on_narrow_vectors(spec):
    x = stored((2, 20, 37), "uint8")
    y = x.transpose(0, 2, 1)
    kernel = transpose_kernel(view(x), view(y), (0, 2, 1), spec)
    check([Case(kernel, [(view(x), x)], [(view(y), y)])], spec)


@one_host_and_arm
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_concat_and_split(spec, axis):
    cases = []
    for halo, parts in product(HALOS, [(1, 5, 24), (96, 17), (3, 3, 1, 1)]):
        shape = [2, 3, 4, 5]
        arrays = []
        for number, extent in enumerate(parts):
            shape[axis] = extent
            arrays.append(stored(tuple(shape), "uint8", number))
        whole = np.concatenate(arrays, axis)
        views = [view(array, halo) for array in arrays]
        pieces, united = list(zip(views, arrays, strict=True)), (view(whole, HALO), whole)
        cases.append(Case(concat_kernel(views, united[0], axis, spec), pieces, [united]))
        cases.append(Case(split_kernel(united[0], views, axis, spec), [united], pieces))
    check(cases, spec)


@one_host_and_arm
def test_concat_with_a_constant(spec):
    x, token = stored((4, 49, 40), "int8"), stored((4, 1, 40), "int8", 1)
    y = np.concatenate([token, x], 1)
    kernel = concat_kernel([token, view(x)], view(y), 1, spec)
    check([Case(kernel, [(view(x), x)], [(view(y), y)])], spec)


@one_host_and_arm
def test_slice(spec):
    slices = [  # shape, starts, steps, extents of the result
        ((10,), (9,), (-1,), (10,)),
        ((4, 50), (1, 3), (2, 4), (2, 11)),
        ((2, 8, 8, 5), (0, 0, 1, 0), (1, 2, 2, 1), (2, 4, 4, 5)),
        ((2, 8, 8, 24), (1, 7, 0, 3), (1, -2, 1, 1), (1, 3, 8, 20)),
        ((3, 6, 4), (0, 2, 3), (1, 1, -1), (3, 4, 4)),
        ((3, 4, 64), (0, 1, 1), (1, 2, 2), (3, 2, 32)),  # every second element to the end, and from within
        ((4, 100), (1, 20), (1, 2), (3, 33)),
        ((2, 6, 6), (0, 0, 0), (1, 1, 2), (2, 6, 3)),
        ((2, 41), (0, 0), (1, 2), (2, 21)),
    ]
    cases = []
    for (shape, starts, steps, counts), halo in product(slices, HALOS):
        x = stored(shape, "uint8")
        y = x[np.ix_(*(s + t * np.arange(n) for s, t, n in zip(starts, steps, counts, strict=True)))]
        kernel = slice_kernel(view(x, halo), view(y, halo), starts, steps, spec)
        cases.append(Case(kernel, [(view(x, halo), x)], [(view(y, halo), y)]))
    check(cases, spec)


@one_host_and_arm
@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
def test_pad(spec, mode):
    paddings = [
        ((9,), (3, 5)),
        ((2, 4, 5, 3), (0, 2, 1, 0, 0, 1, 3, 0)),
        ((2, 4, 5, 24), (1, 0, 2, 3, 0, 2, 0, 9)),
    ]
    fill = {"constant_values": 42} if mode == "constant" else {}
    cases = []
    for (shape, pads), halo in product(paddings, HALOS):
        x = stored(shape, "uint8")
        rank = len(shape)
        y = np.pad(x, list(zip(pads[:rank], pads[rank:], strict=True)), mode=mode, **fill)
        kernel = pad_kernel(view(x, halo), view(y, halo), pads, mode, 42, spec)
        cases.append(Case(kernel, [(view(x, halo), x)], [(view(y, halo), y)]))
    check(cases, spec)


@one_host_and_arm
@pytest.mark.parametrize("constant", ["x", "indices", None])
def test_gather(spec, constant):
    gathers = [  # shape, shape of the indices, axis
        ((50, 24), (2, 7), 0),
        ((50, 5), (), 0),
        ((2, 9, 17), (4,), 1),
        ((2, 9, 17), (3, 2), 2),
        ((2, 4, 5, 24), (6,), 2),
        ((7,), (2, 3, 4), 0),
    ]
    cases = []
    for shape, count, axis in gathers:
        extent = shape[axis]
        index = np.asarray(np.random.default_rng(1).integers(-extent, extent, count), np.int64)
        operands = {"x": stored(shape, "int8"), "indices": index}
        y = np.take(operands["x"], index, axis)
        arguments = [array if name == constant else view(array) for name, array in operands.items()]
        inputs = [(view(array), array) for name, array in operands.items() if name != constant]
        kernel = gather_kernel(*arguments, view(y, HALO), axis, spec)
        cases.append(Case(kernel, inputs, [(view(y, HALO), y)]))
    check(cases, spec)


@one_host_and_arm
def test_gather_outside_the_axis_stays_in_memory(spec):
    x, index = np.arange(10, dtype=np.uint8), np.array([99, -99, 9, -10, -1], np.int64)
    y = np.array([9, 0, 9, 0, 9], np.uint8)
    kernel = gather_kernel(view(x), view(index), view(y), 0, spec)
    check([Case(kernel, [(view(x), x), (view(index), index)], [(view(y), y)])], spec)


@one_host_and_arm
def test_resize(spec):
    rows, columns = np.array([0, 0, 1, 3, 3, 2, 1]), np.array([4, 0, 0])
    cases = []
    for channels, halos in product([1, 3, 24], [(NO_HALO, NO_HALO), (HALO, WIDE)]):
        x = stored((2, 4, 5, channels), "uint8")
        y = x[:, rows][:, :, columns]
        views = view(x, halos[0]), view(y, halos[1])
        cases.append(Case(resize_kernel(*views, rows, columns, spec), [(views[0], x)], [(views[1], y)]))
    check(cases, spec)
