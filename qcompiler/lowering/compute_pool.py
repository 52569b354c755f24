"""Kernels that pool windows of `[N, H, W, C]` (`H = 1` for one spatial axis), or average over any axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from tvm import tirx
from tvm.tirx import Broadcast

from qcompiler.lowering.program import Kernel
from qcompiler.lowering.requantize import requantize_constants, requantize_expression
from qcompiler.lowering.schedule_generic import (
    KernelBuilder,
    Strided,
    merge_axes,
    piece_start,
    power_of_two,
    target_rule,
)
from qcompiler.lowering.tir import Buffer, Expr, Stmt, Tile, buffer, int32, llvm, load, loop, splat, store, vector
from qcompiler.lowering.view import View, row_major
from qcompiler.lowering.workload import Requantize
from qcompiler.targets.spec import TargetSpec

_UNROLLED_TAPS = 25
_UNSEPARATED_TAPS = 16
"""Largest window whose maximum is not taken row by row first."""
_FEWEST_LANES = 4
"""Lanes below which a vector along the reduced axis is not worth its horizontal sum."""


def max_pool_kernel(
    x: View,
    y: View,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    border: int | None,
    spec: TargetSpec,
) -> Kernel:
    """Largest element of each window, `qcompiler.arithmetic.pool.max_pool`; padding never wins.

    `kernel`, `strides`, `dilations` are (vertical, horizontal), `pads` (top, left, bottom, right).
    `border` is what the halo of `x` holds, None if unknown: it is read only where no element is
    smaller.
    """
    lowest = int(np.iinfo(x.dtype).min)
    windows = _windows(x, y, kernel, strides, pads, dilations, halo=border == lowest)
    builder = KernelBuilder(spec)
    source, target = builder.operand(x), builder.output(y)
    lanes = builder.lanes(x.dtype)
    if prod(kernel) <= _UNSEPARATED_TAPS:
        return builder.kernel("max-pool", [_maxima("windows", windows, source, target, y.shape, lanes)])
    vertical, horizontal = windows
    shape = (*x.shape[:2], *y.shape[2:])
    rows = Strided(buffer("rows", shape, x.dtype), 0, row_major(shape))
    builder.scratch.append(rows.buffer)
    across = _maxima("rows", [_single(x.shape[1]), horizontal], source, rows, shape, lanes)
    down = _maxima("columns", [replace(vertical, room=(0, 0)), _single(y.shape[2])], rows, target, y.shape, lanes)
    return builder.kernel("max-pool", [across, down])


def _maxima(
    name: str, windows: Sequence[_Window], source: Strided, target: Strided, extents: tuple[int, ...], most_lanes: int
) -> Tile:
    """The largest element of each window; `extents` are those of the result, vectors have up to `most_lanes`."""
    dtype = str(source.buffer.dtype)
    lowest, channels = int(np.iinfo(dtype).min), extents[3]
    lanes = power_of_two(min(most_lanes, channels))

    def body(n: Expr, h: Expr, w: Expr, c: Expr) -> list[Stmt]:
        c = piece_start(c, lanes, channels)
        best = tile.local(lanes, dtype)

        def update(value: Expr, inside: Expr | None) -> Stmt:
            if inside is not None:
                value = tirx.Select(inside, value, splat(lowest, dtype, lanes))
            return store(best, 0, tirx.max(load(best, 0, lanes), value), lanes)

        taps = _taps(windows, source, (n, h, w, c), lanes, update, repeatable=True)
        start = store(best, 0, splat(lowest, dtype, lanes), lanes)
        return [start, *taps, store(target.buffer, target.offset((n, h, w, c)), load(best, 0, lanes), lanes)]

    tile = Tile(name, _pool_loops(extents, lanes), body, [source.buffer], [target.buffer])
    return tile


def average_pool_kernel(
    x: View,
    y: View,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    zero_point: int,
    requantize: Requantize,
    spec: TargetSpec,
) -> Kernel:
    """Mean of each window, `qcompiler.arithmetic.pool.average_pool`; geometry as in `max_pool_kernel`.

    The halo of `x`, if any, holds its zero point. `requantize.multiplier` is `average_multiplier` of
    the count, a scalar or `[OH, OW]`.
    """
    windows = _windows(x, y, kernel, strides, pads, dilations, halo=True)
    builder = KernelBuilder(spec)
    source, target = builder.operand(x), builder.output(y)
    count = prod(kernel)
    narrow = _sum_dtype(x.dtype, count)
    lanes = power_of_two(min(_sum_lanes(builder, narrow), x.shape[3]))
    finish = _Finish(builder, requantize, x.dtype, count, zero_point)

    def body(n: Expr, h: Expr, w: Expr, c: Expr) -> list[Stmt]:
        c = piece_start(c, lanes, x.shape[3])
        total = tile.local(lanes, narrow)

        def update(value: Expr, inside: Expr | None) -> Stmt:
            if inside is not None:
                value = tirx.Select(inside, value, splat(zero_point, x.dtype, lanes))
            return store(total, 0, load(total, 0, lanes) + value.astype(vector(narrow, lanes)), lanes)

        taps = _taps(windows, source, (n, h, w, c), lanes, update, repeatable=False)
        result = finish(load(total, 0, lanes), h * y.shape[2] + w, lanes)
        start = store(total, 0, splat(0, narrow, lanes), lanes)
        return [start, *taps, store(target.buffer, target.offset((n, h, w, c)), result, lanes)]

    reads = [source.buffer, *finish.buffers]
    tile = Tile("windows", _pool_loops(y.shape, lanes), body, reads, [target.buffer])
    return builder.kernel("average-pool", [tile])


def mean_kernel(
    x: View, y: View, axes: Sequence[int], zero_point: int, requantize: Requantize, spec: TargetSpec
) -> Kernel:
    """Mean over `axes`, `qcompiler.arithmetic.pool.mean`: of extent 1 in `y`, or missing there.

    `requantize.multiplier` is `average_multiplier` of the count.
    """
    builder = KernelBuilder(spec)
    source, target = builder.operand(x), builder.output(y)
    kept = [axis for axis in range(len(x.shape)) if axis not in axes]
    if len(y.shape) == len(x.shape):
        target = target.over(kept)
    extents = [x.shape[axis] for axis in kept]
    kept_source = source.over(kept)
    order = sorted(range(len(kept)), key=lambda axis: -target.strides[axis])
    outer, fused = merge_axes(extents, [kept_source.strides, target.strides], order)
    kept_source, target = kept_source.over(fused), target.over(fused)
    reduced = source.over(axes)
    reduced_extents = [x.shape[axis] for axis in axes]
    order = sorted(range(len(axes)), key=lambda axis: -reduced.strides[axis])
    inner, fused = merge_axes(reduced_extents, [reduced.strides], order)
    count = prod(inner)
    problem = _Mean(
        builder,
        outer,
        inner,
        kept_source,
        reduced.over(fused),
        target,
        _sum_dtype(x.dtype, count),
        _Finish(builder, requantize, x.dtype, count, zero_point),
    )
    return builder.kernel("mean", [_mean_along_rows(problem) or _mean_of_columns(problem)])


@dataclass(frozen=True)
class _Window:
    """A pooling window along one axis."""

    extent: int
    """Elements of the input."""
    out: int
    kernel: int
    stride: int
    pad: int
    dilation: int
    room: tuple[int, int]
    """Elements before and after the input that may be read and count as padding."""

    def tap(self, o: Expr, k: Expr | int, repeatable: bool) -> tuple[Expr, Expr | None]:
        """A position that can be read for tap `k` of output `o`, and whether it is that tap (None: always).

        `repeatable` says that reading an element of the window twice does no harm.
        """
        position = o * self.stride + (k * self.dilation - self.pad)
        last = (self.out - 1) * self.stride + (self.kernel - 1) * self.dilation - self.pad
        if self.pad <= self.room[0] and last < self.extent + self.room[1]:
            return position, None
        nearest = tirx.max(tirx.min(position, int32(self.extent - 1)), int32(0))
        meets_input = self.pad < self.kernel and (self.out - 1) * self.stride - self.pad < self.extent
        if repeatable and self.dilation == 1 and meets_input:
            return nearest, None
        return nearest, nearest.equal(position)


def _single(extent: int) -> _Window:
    """Windows of one element."""
    return _Window(extent, extent, 1, 1, 0, 1, (0, 0))


def _windows(
    x: View,
    y: View,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    halo: bool,
) -> list[_Window]:
    windows = []
    for i in range(2):
        room = (x.halo[i], x.halo[2 + i]) if halo else (0, 0)
        windows.append(_Window(x.shape[1 + i], y.shape[1 + i], kernel[i], strides[i], pads[i], dilations[i], room))
    return windows


def _taps(
    windows: Sequence[_Window],
    source: Strided,
    indices: tuple[Expr, Expr, Expr, Expr],
    lanes: int,
    update: Callable[[Expr, Expr | None], Stmt],
    repeatable: bool,
) -> list[Stmt]:
    """`update(value, inside)` for every tap of the window that belongs to an output position."""
    n, h, w, c = indices
    vertical, horizontal = windows

    def tap(i: Expr | int, j: Expr | int) -> list[Stmt]:
        row, row_inside = vertical.tap(h, i, repeatable)
        column, column_inside = horizontal.tap(w, j, repeatable)
        conditions = [inside for inside in (row_inside, column_inside) if inside is not None]
        inside = tirx.all(*conditions) if conditions else None
        return [update(load(source.buffer, source.offset((n, row, column, c)), lanes), inside)]

    if vertical.kernel * horizontal.kernel <= _UNROLLED_TAPS:
        return [s for i in range(vertical.kernel) for j in range(horizontal.kernel) for s in tap(i, j)]
    return loop(vertical.kernel, lambda i: loop(horizontal.kernel, lambda j: tap(i, j), "kw"), "kh")


def _pool_loops(extents: Sequence[int], lanes: int) -> dict[str, int]:
    n, h, w, c = extents
    return {"n": n, "h": h, "w": w, "c": -(-c // lanes)}


class _Finish:
    """From the sum of stored integers to the stored mean."""

    def __init__(
        self, builder: KernelBuilder, requantize: Requantize, x_dtype: str, count: int, zero_point: int
    ) -> None:
        """For the sum of `count` elements of `x_dtype`."""
        offset, info = count * zero_point, np.iinfo(x_dtype)
        bound = count * max(int(info.max) - zero_point, zero_point - int(info.min))
        multiplier = np.asarray(requantize.multiplier).reshape(-1)
        if (multiplier == multiplier[0]).all():
            multiplier = multiplier[:1]
        self._requantize = replace(requantize, multiplier=multiplier)
        self._offset = offset
        self._dtype = requantize.out_dtype
        self._arrays = requantize_constants(self._requantize, multiplier.size)
        self._vectors = target_rule(builder.spec, "requantize", self._requantize, bound)
        self.buffers: list[Buffer] = []
        if multiplier.size > 1:
            self.buffers = [builder.constant(array) for array in self._arrays]

    def __call__(self, total: Expr, position: Expr, lanes: int) -> Expr:
        acc = total.astype(vector("int32", lanes)) - splat(self._offset, "int32", lanes)
        if self.buffers:
            loaded = [load(parameter, position) for parameter in self.buffers]
            parameters = [Broadcast(value, lanes) if lanes > 1 else value for value in loaded]
        else:
            parameters = [splat(array[0].item(), str(array.dtype), lanes) for array in self._arrays]
        if self._vectors and (result := self._vectors(acc, parameters, lanes)) is not None:
            return result
        stored = requantize_expression(acc, parameters, self._requantize, lanes)
        return stored.astype(vector(self._dtype, lanes))


@dataclass(frozen=True)
class _Mean:
    """A mean as two nests: over the kept axes, and inside it over the reduced ones."""

    builder: KernelBuilder
    outer: tuple[int, ...]
    inner: tuple[int, ...]
    kept: Strided
    reduced: Strided
    target: Strided
    sum_dtype: str
    finish: _Finish

    def offset(self, outer: Sequence[Expr], inner: Sequence[Expr]) -> Expr:
        terms = [i * stride for i, stride in zip(inner, self.reduced.strides, strict=True)]
        return sum(terms, self.kept.offset(outer))

    def tile(self, name: str, loops: Sequence[int], body: Callable[..., list[Stmt]]) -> Tile:
        reads = [self.kept.buffer, *self.finish.buffers]
        return Tile(name, {f"i{i}": n for i, n in enumerate(loops)}, body, reads, [self.target.buffer])


def _mean_of_columns(problem: _Mean) -> Tile:
    """Sums a vector of neighbouring results at a time; a single one where they do not lie side by side."""
    last = problem.outer[-1]
    contiguous = problem.kept.strides[-1] == problem.target.strides[-1] == 1
    lanes = power_of_two(min(_sum_lanes(problem.builder, problem.sum_dtype), last)) if contiguous else 1

    def body(*indices: Expr) -> list[Stmt]:
        indices = (*indices[:-1], piece_start(indices[-1], lanes, last))
        total = tile.local(lanes, problem.sum_dtype)

        def accumulate(*inner: Expr) -> list[Stmt]:
            value = load(problem.kept.buffer, problem.offset(indices, inner), lanes)
            value = value.astype(vector(problem.sum_dtype, lanes))
            return [store(total, 0, load(total, 0, lanes) + value, lanes)]

        result = problem.finish(load(total, 0, lanes), int32(0), lanes)
        return [
            store(total, 0, splat(0, problem.sum_dtype, lanes), lanes),
            *_nest(problem.inner, accumulate),
            store(problem.target.buffer, problem.target.offset(indices), result, lanes),
        ]

    tile = problem.tile("columns", (*problem.outer[:-1], -(-last // lanes)), body)
    return tile


def _mean_along_rows(problem: _Mean) -> Tile | None:
    """Vectors along the reduced axis, added up horizontally at the end."""
    length = problem.inner[-1]
    lanes = power_of_two(min(problem.builder.stored_lanes, length))
    if problem.reduced.strides[-1] != 1 or lanes < _FEWEST_LANES:
        return None

    def body(*indices: Expr) -> list[Stmt]:
        total, rest = tile.local(lanes, "int32"), tile.local(1, "int32")

        def add(acc: Buffer, inner: Sequence[Expr], n: int) -> Stmt:
            value = load(problem.kept.buffer, problem.offset(indices, inner), n).astype(vector("int32", n))
            return store(acc, 0, load(acc, 0, n) + value, n)

        def accumulate(*inner: Expr) -> list[Stmt]:
            statements = loop(length // lanes, lambda i: [add(total, [*inner, i * lanes], lanes)], "chunk")
            if left := length % lanes:
                statements += loop(left, lambda i: [add(rest, [*inner, i + (length - left)], 1)], "rest")
            return statements

        whole = llvm("llvm.vector.reduce.add", "int32", load(total, 0, lanes)) + load(rest, 0)
        result = problem.finish(whole, int32(0), 1)
        return [
            store(total, 0, splat(0, "int32", lanes), lanes),
            store(rest, 0, int32(0)),
            *_nest(problem.inner[:-1], accumulate),
            store(problem.target.buffer, problem.target.offset(indices), result),
        ]

    tile = problem.tile("rows", problem.outer, body)
    return tile


def _nest(extents: Sequence[int], body: Callable[..., list[Stmt]], *indices: Expr) -> list[Stmt]:
    if not extents:
        return body(*indices)
    return loop(extents[0], lambda i: _nest(extents[1:], body, *indices, i), f"r{len(indices)}")


def _sum_lanes(builder: KernelBuilder, dtype: str) -> int:
    """Elements to add up together: sums of 16 bits take two registers, which keeps the loads of bytes whole."""
    return builder.lanes(dtype) * (2 if dtype != "int32" else 1)


def _sum_dtype(dtype: str, count: int) -> str:
    """The narrowest type of 16 or 32 bits that holds a sum of `count` stored integers."""
    wide = np.dtype(dtype.replace("8", "16") if dtype in ("uint8", "int8") else "int32")
    largest = count * max(-int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    return str(wide) if largest <= np.iinfo(wide).max else "int32"
