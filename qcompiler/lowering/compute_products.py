"""Kernels of the integer products whose zero points are read at run time; int32 results (qcompiler.ir.q_runtime)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from tvm import tirx
from tvm.tirx import Broadcast

from qcompiler.lowering.program import Kernel
from qcompiler.lowering.schedule_generic import KernelBuilder, Strided, distinct, piece_start, power_of_two
from qcompiler.lowering.tir import Expr, Stmt, Tile, int32, load, loop, splat, store, vector
from qcompiler.lowering.view import View, row_major
from qcompiler.targets.spec import TargetSpec

Operand = View | np.ndarray


def conv_integer_kernel(
    x: Operand,
    w: Operand,
    x_zero_point: Operand,
    w_zero_point: Operand,
    y: View,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    spec: TargetSpec,
) -> Kernel:
    """`q.conv_integer`: one output element at a time, padding left out of the sum."""
    builder = KernelBuilder(spec)
    source, weight, x_zero, w_zero = (builder.operand(v) for v in (x, w, x_zero_point, w_zero_point))
    target = builder.output(y)
    rank = len(strides)
    channels, group_size = w.shape[1], w.shape[0] // group

    def body(n: Expr, oc: Expr, *out: Expr) -> list[Stmt]:
        total = tile.local(1, "int32")
        zero_x = load(x_zero.buffer, 0).astype("int32")
        zero_w = load(w_zero.buffer, oc if prod(w_zero_point.shape) > 1 else 0).astype("int32")

        def product(ic: Expr, taps: list[Expr]) -> list[Stmt]:
            places = [out[i] * strides[i] + taps[i] * dilations[i] - pads[i] for i in range(rank)]
            channel = ic if group == 1 else tirx.floordiv(oc, int32(group_size)) * channels + ic
            read = load(source.buffer, source.offset([n, channel, *places])).astype("int32") - zero_x
            inside = [
                condition
                for i, place in enumerate(places)
                if pads[i] or pads[rank + i]
                for condition in (place >= 0, place < x.shape[2 + i])
            ]
            if inside:
                read = tirx.if_then_else(tirx.all(*inside), read, int32(0))
            factor = load(weight.buffer, weight.offset([oc, ic, *taps])).astype("int32") - zero_w
            return [store(total, 0, load(total, 0) + read * factor)]

        def over_taps(ic: Expr, taps: list[Expr]) -> list[Stmt]:
            if len(taps) == rank:
                return product(ic, taps)
            position = len(taps)
            return loop(w.shape[2 + position], lambda tap: over_taps(ic, [*taps, tap]), f"k{position}")

        return [
            store(total, 0, int32(0)),
            *loop(channels, lambda ic: over_taps(ic, []), "ic"),
            store(target.buffer, target.offset([n, oc, *out]), load(total, 0)),
        ]

    loops = {name: extent for name, extent in zip(("n", "oc", *(f"o{i}" for i in range(rank))), y.shape, strict=True)}
    reads = distinct([v.buffer for v in (source, weight, x_zero, w_zero)])
    tile = Tile("direct", loops, body, reads, [target.buffer])
    return builder.kernel("conv_integer", [tile])


def matmul_integer_kernel(
    a: Operand,
    b: Operand,
    a_zero_point: Operand,
    b_zero_point: Operand,
    zero_point_shapes: tuple[tuple[int, ...], tuple[int, ...]],
    y: View,
    spec: TargetSpec,
) -> Kernel:
    """`q.matmul_integer`: a vector of columns at a time; the zero points broadcast in `zero_point_shapes`."""
    builder = KernelBuilder(spec)
    walks = [builder.operand(v) for v in (a, b, a_zero_point, b_zero_point)]
    target = builder.output(y)
    *batch, rows, columns = y.shape
    depth = a.shape[-1]
    axes = (_Axes(len(batch), -3, -2), _Axes(len(batch), -2, -1))
    left, right = (_walk(walk, shape, of) for walk, shape, of in zip(walks, (a.shape, b.shape), axes, strict=False))
    zero_left, zero_right = (
        _walk(Strided(walk.buffer, 0, row_major(shape)), shape, of)
        for walk, shape, of in zip(walks[2:], zero_point_shapes, axes, strict=True)
    )
    lanes = power_of_two(min(builder.lanes("int32"), columns))

    def body(*indices: Expr) -> list[Stmt]:
        *outer, piece = indices
        column = piece_start(piece, lanes, columns)
        wide = vector("int32", lanes)
        total = tile.local(lanes, "int32")

        def term(k: Expr) -> list[Stmt]:
            place = [*outer, k, column]
            value, offset = (load(v.buffer, v.offset(place)).astype("int32") for v in (left, zero_left))
            difference = value - offset
            factor = difference if lanes == 1 else Broadcast(difference, lanes)
            zero = load(zero_right.buffer, zero_right.offset(place), lanes if zero_right.strides[-1] else 1)
            zero = zero.astype(wide) if zero_right.strides[-1] or lanes == 1 else Broadcast(zero.astype("int32"), lanes)
            values = load(right.buffer, right.offset(place), lanes).astype(wide) - zero
            return [store(total, 0, load(total, 0, lanes) + factor * values, lanes)]

        result = target.offset([*outer, column])
        return [
            store(total, 0, splat(0, "int32", lanes), lanes),
            *loop(depth, term, "k"),
            store(target.buffer, result, load(total, 0, lanes), lanes),
        ]

    loops = {f"i{axis}": extent for axis, extent in enumerate((*batch, rows, -(-columns // lanes)))}
    tile = Tile("columns", loops, body, distinct([w.buffer for w in walks]), [target.buffer])
    return builder.kernel("matmul_integer", [tile])


@dataclass(frozen=True)
class _Axes:
    """Where the last two axes of an operand lie in a nest over batch axes, row, depth and column."""

    batch: int
    row: int
    column: int


def _walk(walk: Strided, shape: Sequence[int], axes: _Axes) -> Strided:
    """An operand of a product, which broadcasts over the nest."""
    rank = axes.batch + 3
    found: list[int | None] = [None] * rank
    for distance, extent in enumerate(reversed(shape), 1):
        if extent > 1:
            place = {1: rank + axes.column, 2: rank + axes.row}.get(distance, axes.batch + 2 - distance)
            found[place] = len(shape) - distance
    return walk.over(found)
