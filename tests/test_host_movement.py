"""Kernels that move elements equal numpy, between buffers with and without halos."""

from __future__ import annotations

import numpy as np
import pytest
from host_kernels import SPECS, random_stored, run

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
from qcompiler.lowering.view import View

SPEC = SPECS[0]
NONE, HALO, WIDE = (0, 0, 0, 0), (1, 2, 1, 0), (3, 1, 0, 2)


def view(array: np.ndarray, halo: tuple[int, int, int, int] = NONE) -> View:
    return View(array.shape, str(array.dtype), halo if array.ndim == 4 else NONE)


def check(kernel, inputs, expected, halo=NONE, spec=SPEC):
    """`inputs` are (view, array); `expected` one array or a list of them, in views with `halo`."""
    expected = expected if isinstance(expected, list) else [expected]
    results = run(kernel, inputs, [view(e, halo) for e in expected], spec)
    for result, wanted in zip(results, expected, strict=True):
        assert np.array_equal(result, wanted)


@pytest.mark.parametrize("shape", [(), (5,), (3, 100), (1, 5, 7, 3), (4, 3, 2, 96)])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("halos", [(NONE, NONE), (HALO, NONE), (NONE, HALO), (HALO, WIDE)])
def test_copy(shape, dtype, halos):
    if halos != (NONE, NONE) and len(shape) != 4:
        pytest.skip("only rank 4 has halos")
    x = random_stored(shape, "int16").astype(dtype)
    check(copy_kernel(view(x, halos[0]), view(x, halos[1]), SPEC), [(view(x, halos[0]), x)], x, halos[1])


@pytest.mark.parametrize(
    ("before", "after"),
    [((2, 4, 6, 5), (2, 120)), ((240,), (2, 4, 6, 5)), ((2, 4, 6, 5), (2, 6, 4, 5)), ((2, 4, 6, 5),) * 2],
)
@pytest.mark.parametrize("halos", [(HALO, WIDE), (NONE, WIDE), (HALO, NONE)])
def test_reshape(before, after, halos):
    x = random_stored(before, "uint8")
    y = x.reshape(after)
    check(reshape_kernel(view(x, halos[0]), view(y, halos[1]), SPEC), [(view(x, halos[0]), x)], y, halos[1])


TRANSPOSES = [
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


@pytest.mark.parametrize(("shape", "perm"), TRANSPOSES)
@pytest.mark.parametrize("dtype", ["int8", "float32"])
@pytest.mark.parametrize("halo", [NONE, HALO])
def test_transpose(shape, perm, dtype, halo):
    x = random_stored(shape, "int8").astype(dtype)
    y = x.transpose(perm)
    check(transpose_kernel(view(x, halo), view(y, halo), perm, SPEC), [(view(x, halo), x)], y, halo)


@pytest.mark.parametrize("spec", SPECS[1:], ids=lambda s: s.name)
def test_transpose_on_narrow_vectors(spec):
    x = random_stored((2, 20, 37), "uint8")
    y = x.transpose(0, 2, 1)
    check(transpose_kernel(view(x), view(y), (0, 2, 1), spec), [(view(x), x)], y, spec=spec)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("halo", [NONE, HALO])
@pytest.mark.parametrize("parts", [(1, 5, 24), (96, 17), (3, 3, 1, 1)])
def test_concat_and_split(axis, halo, parts):
    shape = [2, 3, 4, 5]
    arrays = []
    for number, extent in enumerate(parts):
        shape[axis] = extent
        arrays.append(random_stored(tuple(shape), "uint8", number))
    whole = np.concatenate(arrays, axis)
    views = [view(array, halo) for array in arrays]
    concat = concat_kernel(views, view(whole, HALO), axis, SPEC)
    check(concat, list(zip(views, arrays, strict=True)), whole, HALO)
    split = split_kernel(view(whole, HALO), views, axis, SPEC)
    check(split, [(view(whole, HALO), whole)], arrays, halo)


def test_concat_with_a_constant():
    x, token = random_stored((4, 49, 40), "int8"), random_stored((4, 1, 40), "int8", 1)
    y = np.concatenate([token, x], 1)
    check(concat_kernel([token, view(x)], view(y), 1, SPEC), [(view(x), x)], y)


@pytest.mark.parametrize(
    ("shape", "starts", "steps", "counts"),
    [
        ((10,), (9,), (-1,), (10,)),
        ((4, 50), (1, 3), (2, 4), (2, 11)),
        ((2, 8, 8, 5), (0, 0, 1, 0), (1, 2, 2, 1), (2, 4, 4, 5)),
        ((2, 8, 8, 24), (1, 7, 0, 3), (1, -2, 1, 1), (1, 3, 8, 20)),
        ((3, 6, 4), (0, 2, 3), (1, 1, -1), (3, 4, 4)),
    ],
)
@pytest.mark.parametrize("halo", [NONE, HALO])
def test_slice(shape, starts, steps, counts, halo):
    x = random_stored(shape, "uint8")
    y = x[np.ix_(*(s + t * np.arange(n) for s, t, n in zip(starts, steps, counts, strict=True)))]
    check(slice_kernel(view(x, halo), view(y, halo), starts, steps, SPEC), [(view(x, halo), x)], y, halo)


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect"])
@pytest.mark.parametrize(
    ("shape", "pads"),
    [((9,), (3, 5)), ((2, 4, 5, 3), (0, 2, 1, 0, 0, 1, 3, 0)), ((2, 4, 5, 24), (1, 0, 2, 3, 0, 2, 0, 9))],
)
@pytest.mark.parametrize("halo", [NONE, HALO])
def test_pad(mode, shape, pads, halo):
    x = random_stored(shape, "uint8")
    rank = len(shape)
    fill = {"constant_values": 42} if mode == "constant" else {}
    y = np.pad(x, list(zip(pads[:rank], pads[rank:], strict=True)), mode=mode, **fill)
    check(pad_kernel(view(x, halo), view(y, halo), pads, mode, 42, SPEC), [(view(x, halo), x)], y, halo)


@pytest.mark.parametrize(
    ("shape", "indices", "axis"),
    [
        ((50, 24), (2, 7), 0),
        ((50, 5), (), 0),
        ((2, 9, 17), (4,), 1),
        ((2, 9, 17), (3, 2), 2),
        ((2, 4, 5, 24), (6,), 2),
        ((7,), (2, 3, 4), 0),
    ],
)
@pytest.mark.parametrize("constant", ["x", "indices", None])
def test_gather(shape, indices, axis, constant):
    x = random_stored(shape, "int8")
    extent = shape[axis]
    index = np.random.default_rng(1).integers(-extent, extent, indices)
    index = np.asarray(index, np.int64)
    y = np.take(x, index, axis)
    operands = {"x": x, "indices": index}
    inputs = [(view(array), array) for name, array in operands.items() if name != constant]
    arguments = [array if name == constant else view(array) for name, array in operands.items()]
    check(gather_kernel(*arguments, view(y, HALO), axis, SPEC), inputs, y, HALO)


def test_gather_outside_the_axis_stays_in_memory():
    x, index = np.arange(10, dtype=np.uint8), np.array([99, -99, 9, -10, -1], np.int64)
    kernel = gather_kernel(view(x), view(index), View((5,), "uint8"), 0, SPEC)
    check(kernel, [(view(x), x), (view(index), index)], np.array([9, 0, 9, 0, 9], np.uint8))


@pytest.mark.parametrize("channels", [1, 3, 24])
@pytest.mark.parametrize("halos", [(NONE, NONE), (HALO, WIDE)])
def test_resize(channels, halos):
    x = random_stored((2, 4, 5, channels), "uint8")
    rows, columns = np.array([0, 0, 1, 3, 3, 2, 1]), np.array([4, 0, 0])
    y = x[:, rows][:, :, columns]
    kernel = resize_kernel(view(x, halos[0]), view(y, halos[1]), rows, columns, SPEC)
    check(kernel, [(view(x, halos[0]), x)], y, halos[1])
