"""Kernels that move elements of any dtype, from copy to gather.

Every kernel writes the interior of its output alone. An operand that is a numpy array becomes a constant of
the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from qcompiler.lowering.program import Kernel
from qcompiler.lowering.schedule_generic import (
    Elementwise,
    KernelBuilder,
    Selector,
    Strided,
    schedule_elementwise,
    schedule_move,
)
from qcompiler.lowering.tir import Tile, buffer, splat
from qcompiler.lowering.view import View, row_major
from qcompiler.targets.spec import TargetSpec


def copy_kernel(x: View, y: View, spec: TargetSpec) -> Kernel:
    """`y = x` between buffers with any halos."""
    builder = KernelBuilder(spec)
    return builder.kernel("copy", [_move(builder, y.shape, builder.operand(x), builder.output(y))])


def reshape_kernel(x: View, y: View, spec: TargetSpec) -> Kernel:
    """The elements of `x` in row-major order in the shape of `y`.

    Only needed where a halo is involved: without one both have the same memory.
    """
    builder = KernelBuilder(spec)
    source, target = builder.operand(x), builder.output(y)
    if y.contiguous:
        target = Strided(target.buffer, 0, row_major(x.shape))
        return builder.kernel("reshape", [_move(builder, x.shape, source, target)])
    tiles = []
    if x.shape != y.shape:
        if not x.contiguous:
            packed = Strided(buffer("packed", (x.size,), x.dtype), 0, row_major(x.shape))
            builder.scratch.append(packed.buffer)
            tiles.append(_move(builder, x.shape, source, packed))
            source = packed
        source = Strided(source.buffer, 0, row_major(y.shape))
    return builder.kernel("reshape", [*tiles, _move(builder, y.shape, source, target)])


def transpose_kernel(x: View, y: View, perm: Sequence[int], spec: TargetSpec) -> Kernel:
    """Axis `i` of `y` is axis `perm[i]` of `x`."""
    builder = KernelBuilder(spec)
    source = builder.operand(x).over(perm)
    return builder.kernel("transpose", [_move(builder, y.shape, source, builder.output(y))])


def concat_kernel(xs: Sequence[View | np.ndarray], y: View, axis: int, spec: TargetSpec) -> Kernel:
    """Operands one after the other along `axis`."""
    builder = KernelBuilder(spec)
    sources, target = [builder.operand(x) for x in xs], builder.output(y)
    tiles, begin = [], 0
    for x, source in zip(xs, sources, strict=True):
        tiles.append(_move(builder, x.shape, source, target.at(*_unit(axis, begin, len(y.shape)))))
        begin += x.shape[axis]
    return builder.kernel("concat", tiles)


def split_kernel(x: View, ys: Sequence[View], axis: int, spec: TargetSpec) -> Kernel:
    """Consecutive parts of `x` along `axis`, as long as the results are."""
    builder = KernelBuilder(spec)
    source = builder.operand(x)
    tiles, begin = [], 0
    for y in ys:
        start = source.at(*_unit(axis, begin, len(x.shape)))
        tiles.append(_move(builder, y.shape, start, builder.output(y)))
        begin += y.shape[axis]
    return builder.kernel("split", tiles)


def slice_kernel(x: View, y: View, starts: Sequence[int], steps: Sequence[int], spec: TargetSpec) -> Kernel:
    """`y[i] = x[starts + i * steps]`; starts count from the front, steps may be negative."""
    builder = KernelBuilder(spec)
    source = builder.operand(x).at(*starts)
    strides = tuple(stride * step for stride, step in zip(source.strides, steps, strict=True))
    source = Strided(source.buffer, source.origin, strides)
    return builder.kernel("slice", [_move(builder, y.shape, source, builder.output(y))])


def pad_kernel(x: View, y: View, pads: Sequence[int], mode: str, value: int | float, spec: TargetSpec) -> Kernel:
    """A border of `pads` (all begins, then all ends): "constant" `value`, or "edge" or "reflect" of `x`."""
    builder = KernelBuilder(spec)
    source, target = builder.operand(x), builder.output(y)
    rank = len(x.shape)
    if mode == "constant":
        inside = _move(builder, x.shape, source, target.at(*pads[:rank]))
        return builder.kernel("pad", [inside, *_border(builder, x, y, target, pads, value)])
    for axis, extent in enumerate(x.shape):
        widths = (pads[axis], pads[rank + axis])
        if any(widths):
            indices = np.pad(np.arange(extent, dtype=np.int32), widths, mode=mode)  # type: ignore[call-overload]
            source = source.select(axis, _along(builder, indices, axis, rank))
    return builder.kernel("pad", [_move(builder, y.shape, source, target)])


def gather_kernel(x: View | np.ndarray, indices: View | np.ndarray, y: View, axis: int, spec: TargetSpec) -> Kernel:
    """ONNX Gather: `y[.., j.., ..] = x[.., indices[j..], ..]`; negative indices count from the end.

    Indices outside the axis, an error in ONNX, read the nearest element instead of other memory.
    """
    builder = KernelBuilder(spec)
    source = builder.operand(x)
    rank, count = len(x.shape), len(indices.shape)
    before, after = range(axis), range(axis + 1, rank)
    # The nest has the axes of y. Along those of the indices x stays where the selector puts it.
    walk = builder.operand(indices).over([*[None] * axis, *range(count), *[None] * len(after)])
    selector = Selector(walk, source.strides[axis], x.shape[axis])
    source = replace(source.over([*before, *[None] * count, *after]), selectors=(selector,))
    return builder.kernel("gather", [_move(builder, y.shape, source, builder.output(y))])


def resize_kernel(x: View, y: View, rows: np.ndarray, columns: np.ndarray, spec: TargetSpec) -> Kernel:
    """Nearest neighbour on `[N, H, W, C]`: `y[n, i, j] = x[n, rows[i], columns[j]]`, no index negative."""
    builder = KernelBuilder(spec)
    source = builder.operand(x)
    for axis, indices in ((1, rows), (2, columns)):
        source = source.select(axis, _along(builder, indices.astype(np.int32), axis, 4))
    return builder.kernel("resize", [_move(builder, y.shape, source, builder.output(y))])


def _move(builder: KernelBuilder, extents: Sequence[int], source: Strided, target: Strided) -> Tile:
    lanes = builder.lanes(str(target.buffer.dtype))
    problem = Elementwise(tuple(extents), (source,), target, lambda operands, _: operands[0], lanes)
    return schedule_move(problem, builder.spec)


def _border(
    builder: KernelBuilder, x: View, y: View, target: Strided, pads: Sequence[int], value: int | float
) -> list[Tile]:
    """Fills what lies outside the copy of `x` in `y`: for each axis the parts before and after it.

    They span `x` along the axes in front of that axis and `y` along those behind it, so they do not overlap.
    """
    rank = len(x.shape)
    lanes = builder.lanes(y.dtype)
    tiles = []
    for axis in range(rank):
        for start, extent in ((0, pads[axis]), (pads[axis] + x.shape[axis], pads[rank + axis])):
            if extent:
                extents = (*x.shape[:axis], extent, *y.shape[axis + 1 :])
                region = target.at(*pads[:axis], start, *[0] * (rank - axis - 1))
                problem = Elementwise(extents, (), region, lambda _, n: splat(value, y.dtype, n), lanes)
                tiles.append(schedule_elementwise(problem, builder.spec))
    return tiles


def _along(builder: KernelBuilder, indices: np.ndarray, axis: int, rank: int) -> Strided:
    """Constant indices that depend on one axis of a nest."""
    return Strided(builder.constant(indices), 0, _unit(axis, 1, rank))


def _unit(axis: int, value: int, rank: int) -> tuple[int, ...]:
    return tuple(value if i == axis else 0 for i in range(rank))
