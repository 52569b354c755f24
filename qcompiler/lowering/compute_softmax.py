"""Softmax kernels: vectors along a row, or a vector of rows at a time."""

from __future__ import annotations

import operator
from dataclasses import dataclass

import numpy as np
from tvm import tirx
from tvm.tirx import Broadcast, BufferLoad, BufferStore, Ramp

from qcompiler.arithmetic.softmax import output_zero_point, table_bits
from qcompiler.lowering.program import Kernel
from qcompiler.lowering.schedule_generic import (
    KernelBuilder,
    Strided,
    merge_axes,
    piece_start,
    power_of_two,
    target_rule,
)
from qcompiler.lowering.tir import (
    Buffer,
    Expr,
    Stmt,
    Tile,
    buffer,
    int32,
    llvm,
    load,
    loop,
    shuffle,
    splat,
    store,
    vector,
)
from qcompiler.lowering.view import View
from qcompiler.targets.spec import TargetSpec


def softmax_kernel(x: View, y: View, table: np.ndarray, axis: int, spec: TargetSpec) -> Kernel:
    """Softmax along `axis`, `qcompiler.arithmetic.softmax.softmax` with the table of `softmax_table`.

    The scratch buffer holds the table's entries for the elements of one row, or of a vector of rows. A work-item of a
    device takes a row, and looks its entries up twice instead.
    """
    builder = KernelBuilder(spec)
    source, target = builder.operand(x), builder.output(y)
    others = [i for i in range(len(x.shape)) if i != axis]
    extents, axes = merge_axes(
        x.shape, [source.strides, target.strides], sorted(others, key=lambda i: -target.strides[i])
    )
    steps = (source.strides[axis], target.strides[axis])
    walks = (source.over(axes), target.over(axes))
    if tiles := target_rule(spec, "softmax", builder, extents, x.shape[axis], *walks, steps, table):
        return builder.kernel("softmax", tiles)
    entries = builder.constant(table)
    length, lanes = x.shape[axis], 1 if spec.driver else builder.lanes("int32")
    along = source.strides[axis] == target.strides[axis] == 1 and length >= min(lanes, extents[-1])
    lanes = power_of_two(min(lanes, length if along else extents[-1]))
    kept = buffer("kept", (length if along else length * lanes,), "int32")
    problem = _Softmax(
        extents,
        length,
        *walks,
        *steps,
        entries,
        kept,
        lanes,
    )
    if spec.driver:
        return builder.kernel("softmax", [_items(problem)])
    builder.scratch.append(kept)
    narrow = power_of_two(min(builder.lanes(x.dtype), length))
    return builder.kernel("softmax", [_rows(problem, narrow) if along else _columns(problem)])


_WORD = 8
"""Bytes of the widest integer register."""


@dataclass(frozen=True)
class _Softmax:
    """A nest over all rows, and how to walk along one."""

    extents: tuple[int, ...]
    length: int
    source: Strided
    target: Strided
    source_step: int
    target_step: int
    entries: Buffer
    kept: Buffer
    lanes: int

    @property
    def dtype(self) -> str:
        return str(self.source.buffer.dtype)

    def tile(self, name: str, extents: tuple[int, ...], body) -> Tile:
        loops = {f"i{i}": extent for i, extent in enumerate(extents)}
        return Tile(name, loops, body, [self.source.buffer, self.entries], [self.target.buffer, self.kept])

    def look_up(self, tile: Tile, top: Expr, x: Expr, lanes: int) -> tuple[list[Stmt], Expr]:
        """`entries[top - x]`, and statements to execute before that.

        Indices of 8 bits are taken from words of up to 64 bits: faster than from the lanes of a vector, and much
        faster than an instruction that gathers, on processors that guard it against data sampling.
        """
        if lanes == 1 or np.dtype(self.dtype).itemsize > 1:
            difference = (v.astype(vector("int32", lanes)) for v in (top, x))
            return [], BufferLoad(self.entries, [operator.sub(*difference)])
        size = min(_WORD, lanes)
        kind, statements, loaded = f"uint{8 * size}", [], []
        top, x = (tirx.reinterpret(f"uint8x{lanes}", v) for v in (top, x))
        for begin in range(0, lanes, size):
            part = shuffle([top - x], range(begin, begin + size))
            word = tile.local(1, kind)
            statements.append(store(word, 0, tirx.reinterpret(kind, part)))
            for byte in range(size):
                index = (load(word, 0) >> tirx.const(8 * byte, kind)) & tirx.const(255, kind)
                loaded.append(load(self.entries, index.astype("int32")))
        return statements, shuffle(loaded, range(lanes))

    def reciprocal(self, total: Expr, lanes: int) -> Expr:
        """`floor(2^(b+30) / total)` as int32.

        The float64 quotient is at most one half of 2^-22 off, which can only reach the next integer from below.
        """
        power = 1 << (table_bits(self.length) + 30)
        quotient = splat(float(power), "float64", lanes) / total.astype(vector("float64", lanes))
        whole = quotient.astype(vector("int32", lanes))
        wide = vector("int64", lanes)
        beyond = whole.astype(wide) * total.astype(wide) > splat(power, "int64", lanes)
        return whole - beyond.astype(vector("int32", lanes))

    def stored(self, t: Expr, reciprocal: Expr, lanes: int) -> Expr:
        """The result from table entries and reciprocals, both int32 and not negative."""
        shift = table_bits(self.length) + 22
        wide = vector("uint64", max(lanes // 2, 1))
        shift_by, half, low, high = (
            splat(value, "uint64", max(lanes // 2, 1)) for value in (shift, 1 << (shift - 1), 0xFFFFFFFF, 32)
        )
        if lanes == 1:
            product = t.astype("uint32").astype(wide) * reciprocal.astype("uint32").astype(wide)
            p = ((product + half) >> shift_by).astype("int32")
        else:
            # Even and odd lanes apart, each as a product of 32 by 32 bits; p fits the 32 bits it came from.
            t, reciprocal = tirx.reinterpret(wide, t), tirx.reinterpret(wide, reciprocal)
            even = ((t & low) * (reciprocal & low) + half) >> shift_by
            odd = ((t >> high) * (reciprocal >> high) + half) >> shift_by
            p = tirx.reinterpret(f"int32x{lanes}", even | (odd << high))
        dtype = str(self.target.buffer.dtype)
        p = tirx.min(p, splat(255, "int32", lanes)) + splat(output_zero_point(dtype), "int32", lanes)
        return p.astype(vector(dtype, lanes))


def _rows(problem: _Softmax, narrow: int) -> Tile:
    """Vectors along one row after the other; `narrow` elements of the input at a time for the largest."""
    length, lanes, dtype, x = problem.length, problem.lanes, problem.dtype, problem.source.buffer

    def body(*indices: Expr) -> list[Stmt]:
        x_start, y_start = problem.source.offset(indices), problem.target.offset(indices)
        largest, top = tile.local(narrow, dtype), tile.local(1, dtype)
        total, rest, factor = tile.local(lanes, "int32"), tile.local(1, "int32"), tile.local(1, "int32")

        def take_largest(i: Expr) -> list[Stmt]:
            value = load(x, x_start + piece_start(i, narrow, length), narrow)
            return [store(largest, 0, tirx.max(load(largest, 0, narrow), value), narrow)]

        def look_up(acc: Buffer, start: Expr, n: int) -> list[Stmt]:
            statements, entries = problem.look_up(tile, _splat(load(top, 0), n), load(x, x_start + start, n), n)
            kept = load(problem.kept, start, n)
            statements.append(store(problem.kept, start, entries, n))
            return [*statements, store(acc, 0, load(acc, 0, n) + kept, n)]

        def divide(i: Expr) -> list[Stmt]:
            start = piece_start(i, lanes, length)
            value = problem.stored(load(problem.kept, start, lanes), _splat(load(factor, 0), lanes), lanes)
            return [store(problem.target.buffer, y_start + start, value, lanes)]

        left = length % lanes
        kind = "umax" if dtype.startswith("u") else "smax"
        whole_sum = _reduced("add", "int32", load(total, 0, lanes), lanes)
        return [
            store(largest, 0, splat(int(np.iinfo(dtype).min), dtype, narrow), narrow),
            *loop(-(-length // narrow), take_largest, "j"),
            store(top, 0, _reduced(kind, dtype, load(largest, 0, narrow), narrow)),
            store(total, 0, splat(0, "int32", lanes), lanes),
            store(rest, 0, int32(0)),
            *loop(length // lanes, lambda i: look_up(total, i * lanes, lanes), "j"),
            *(loop(left, lambda i: look_up(rest, i + (length - left), 1), "j") if left else []),
            store(factor, 0, problem.reciprocal(whole_sum + load(rest, 0), 1)),
            *loop(-(-length // lanes), divide, "j"),
        ]

    tile = problem.tile("rows", problem.extents, body)
    return tile


def _columns(problem: _Softmax) -> Tile:
    """A vector of neighbouring rows at a time."""
    *outer, last = problem.extents
    length, lanes, dtype, kept = problem.length, problem.lanes, problem.dtype, problem.kept

    def body(*indices: Expr) -> list[Stmt]:
        indices = (*indices[:-1], piece_start(indices[-1], lanes, last))
        x_start, y_start = problem.source.offset(indices), problem.target.offset(indices)
        largest, total = tile.local(lanes, dtype), tile.local(lanes, "int32")
        factor = tile.local(lanes, "int32")

        def element(j: Expr) -> Expr:
            return BufferLoad(*_strided(problem.source, x_start + j * problem.source_step, lanes))

        def take_largest(j: Expr) -> list[Stmt]:
            return [store(largest, 0, tirx.max(load(largest, 0, lanes), element(j)), lanes)]

        def look_up(j: Expr) -> list[Stmt]:
            statements, entries = problem.look_up(tile, load(largest, 0, lanes), element(j), lanes)
            value = load(kept, j * lanes, lanes)
            return [
                *statements,
                store(kept, j * lanes, entries, lanes),
                store(total, 0, load(total, 0, lanes) + value, lanes),
            ]

        def divide(j: Expr) -> list[Stmt]:
            value = problem.stored(load(kept, j * lanes, lanes), load(factor, 0, lanes), lanes)
            target, place = _strided(problem.target, y_start + j * problem.target_step, lanes)
            return [BufferStore(target, value, place)]

        return [
            store(largest, 0, splat(int(np.iinfo(dtype).min), dtype, lanes), lanes),
            *loop(length, take_largest, "j"),
            store(total, 0, splat(0, "int32", lanes), lanes),
            *loop(length, look_up, "j"),
            store(factor, 0, problem.reciprocal(load(total, 0, lanes), lanes), lanes),
            *loop(length, divide, "j"),
        ]

    tile = problem.tile("columns", (*outer, -(-last // lanes)), body)
    return tile


def _items(problem: _Softmax) -> Tile:
    """Every row on its own."""
    dtype, length, x = problem.dtype, problem.length, problem.source.buffer
    power = 1 << (table_bits(length) + 30)

    def body(*indices: Expr) -> list[Stmt]:
        x_start, y_start = problem.source.offset(indices), problem.target.offset(indices)
        top, total, factor = tile.local(1, dtype), tile.local(1, "int32"), tile.local(1, "int32")

        def element(j: Expr) -> Expr:
            return load(x, x_start + j * problem.source_step)

        def entry(j: Expr) -> Expr:
            return load(problem.entries, load(top, 0).astype("int32") - element(j).astype("int32"))

        quotient = tirx.truncdiv(tirx.const(power, "int64"), load(total, 0).astype("int64"))
        return [
            store(top, 0, tirx.const(int(np.iinfo(dtype).min), dtype)),
            *loop(length, lambda j: [store(top, 0, tirx.max(load(top, 0), element(j)))], "j"),
            store(total, 0, int32(0)),
            *loop(length, lambda j: [store(total, 0, load(total, 0) + entry(j))], "j"),
            store(factor, 0, quotient.astype("int32")),
            *loop(
                length,
                lambda j: [
                    store(
                        problem.target.buffer,
                        y_start + j * problem.target_step,
                        problem.stored(entry(j), load(factor, 0), 1),
                    )
                ],
                "j",
            ),
        ]

    loops = {f"i{i}": extent for i, extent in enumerate(problem.extents)}
    tile = Tile("items", loops, body, [x, problem.entries], [problem.target.buffer])
    return tile


def _splat(value: Expr, lanes: int) -> Expr:
    return Broadcast(value, lanes) if lanes > 1 else value


def _reduced(kind: str, dtype: str, value: Expr, lanes: int) -> Expr:
    """All lanes of a vector combined into one."""
    return value if lanes == 1 else llvm(f"llvm.vector.reduce.{kind}", dtype, value)


def _strided(walk: Strided, offset: Expr, lanes: int) -> tuple[Buffer, list[Expr]]:
    """Where `lanes` neighbours along the last axis of a nest lie, from the one at `offset`."""
    last = offset if lanes == 1 else Ramp(offset, int32(walk.strides[-1]), lanes)
    return walk.buffer, [*[int32(0)] * (len(walk.buffer.shape) - 1), last]
