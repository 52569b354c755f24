"""Softmax in HVX, 128 rows at a time: the table by `vlut`, the division bit by bit, the product in its upper half."""

from __future__ import annotations

from math import prod

import numpy as np
from tvm import tirx

from qcompiler.arithmetic.softmax import output_zero_point, table_bits
from qcompiler.lowering.schedule_generic import Elementwise, KernelBuilder, Strided, piece_start, schedule_move
from qcompiler.lowering.tir import Buffer, Expr, Stmt, Tile, buffer, load, loop, splat, store
from qcompiler.lowering.view import row_major
from qcompiler.targets.cpu.isa import isa_of
from qcompiler.targets.hexagon.isa import BYTES, LANES, hvx
from qcompiler.targets.hexagon.lookup import look_up, table_registers
from qcompiler.targets.spec import TargetSpec

_PARTS = BYTES // LANES
_FRACTION_BITS = 30
_FEWEST_BITS = 10
"""Of the table's entries: with fewer, the lower half of the product would matter."""
_MOST_TRANSPOSED = 4
"""Elements of rows that are transposed."""


def softmax_rows(
    builder: KernelBuilder,
    extents: tuple[int, ...],
    length: int,
    source: Strided,
    target: Strided,
    steps: tuple[int, int],
    table: np.ndarray,
    spec: TargetSpec,
) -> list[Tile] | None:
    """The tiles of `qcompiler.arithmetic.softmax.softmax` for 128 rows of 8-bit elements or more.

    A nest over `extents` walks to the rows of `length` elements, which are `steps` apart in source and target. Rows
    that do not lie side by side are transposed in front and behind.
    """
    rows = prod(extents)
    x_dtype, y_dtype = str(source.buffer.dtype), str(target.buffer.dtype)
    if rows < BYTES or table.shape != (256,) or table_bits(length) < _FEWEST_BITS:
        return None
    side_by_side = extents[-1] >= BYTES and source.strides[-1] == target.strides[-1] == 1
    if not side_by_side and length > _MOST_TRANSPOSED:
        return None
    entries = builder.constant(table_registers(table))
    if side_by_side:
        return [_columns(builder, extents, length, source, target, steps, entries, spec)]
    shape = (length, *extents)
    x, y = (Strided(buffer(name, (length * rows,), dtype), 0, (1,)) for name, dtype in (("x", x_dtype), ("y", y_dtype)))
    builder.scratch += [x.buffer, y.buffer]

    def move(start: Strided, end: Strided) -> Tile:
        return schedule_move(Elementwise(shape, (start,), end, lambda operands, _: operands[0], BYTES), spec)

    def across(walk: Strided, step: int) -> Strided:
        return Strided(walk.buffer, walk.origin, (step, *walk.strides))

    together = [Strided(walk.buffer, 0, row_major(shape)) for walk in (x, y)]
    return [
        move(across(source, steps[0]), together[0]),
        _columns(builder, (rows,), length, x, y, (rows, rows), entries, spec),
        move(together[1], across(target, steps[1])),
    ]


def _columns(
    builder: KernelBuilder,
    extents: tuple[int, ...],
    length: int,
    source: Strided,
    target: Strided,
    steps: tuple[int, int],
    entries: Buffer,
    spec: TargetSpec,
) -> Tile:
    """Rows that lie side by side, 128 together."""
    isa, bits = isa_of(spec), table_bits(length)
    dtype, y_dtype = str(source.buffer.dtype), str(target.buffer.dtype)
    kept = buffer("kept", (length * BYTES,), "int32")
    builder.scratch.append(kept)

    def body(*indices: Expr) -> list[Stmt]:
        indices = (*indices[:-1], piece_start(indices[-1], BYTES, extents[-1]))
        x_start, y_start = source.offset(indices), target.offset(indices)
        largest = tile.local(BYTES, dtype)
        totals = [tile.local(LANES, "int32") for _ in range(_PARTS)]

        def element(j: Expr) -> Expr:
            return load(source.buffer, x_start + j * steps[0], BYTES)

        def take_largest(j: Expr) -> list[Stmt]:
            return [store(largest, 0, tirx.max(load(largest, 0, BYTES), element(j)), BYTES)]

        def add_entries(j: Expr) -> list[Stmt]:
            top, value = (tirx.reinterpret(f"uint8x{BYTES}", v) for v in (load(largest, 0, BYTES), element(j)))
            statements = [store(kept, j * BYTES, look_up(top - value, entries, "int32", isa), BYTES)]
            for i in range(_PARTS):
                place = j * BYTES + i * LANES
                statements.append(_set(totals[i], load(totals[i], 0, LANES) + load(kept, place, LANES)))
            return statements

        def divide(j: Expr) -> list[Stmt]:
            parts = [
                _product(load(kept, j * BYTES + i * LANES, LANES), load(total, 0, LANES), bits)
                for i, total in enumerate(totals)
            ]
            stored = isa.narrow(parts, output_zero_point(y_dtype), y_dtype)
            return [store(target.buffer, y_start + j * steps[1], stored, BYTES)]

        return [
            store(largest, 0, splat(int(np.iinfo(dtype).min), dtype, BYTES), BYTES),
            *(_set(total, _number(0)) for total in totals),
            *loop(length, take_largest, "j"),
            *loop(length, add_entries, "j"),
            *_divide(tile, totals, bits),
            *loop(length, divide, "j"),
        ]

    loops = {f"i{i}": extent for i, extent in enumerate((*extents[:-1], -(-extents[-1] // BYTES)))}
    tile = Tile("columns-of-bytes", loops, body, [source.buffer, entries], [target.buffer, kept])
    return tile


def _divide(tile: Tile, totals: list[Buffer], bits: int) -> list[Stmt]:
    """Each total, from 2^bits up to below 2^31, becomes the integer part of `2^(bits + 30)` divided by it."""
    quotients, rests = ([tile.local(LANES, "int32") for _ in totals] for _ in range(2))
    whole = [load(total, 0, LANES).equal(_number(1 << bits)) for total in totals]
    first = []
    for quotient, rest, equal in zip(quotients, rests, whole, strict=True):
        first.append(_set(quotient, tirx.Select(equal, _number(1), _number(0))))
        first.append(_set(rest, tirx.Select(equal, _number(0), _number(1 << bits))))

    def bit(_: Expr) -> list[Stmt]:
        statements = []
        for total, quotient, rest in zip(totals, quotients, rests, strict=True):
            divisor, twice = load(total, 0, LANES), load(quotient, 0, LANES) + load(quotient, 0, LANES)
            # The rest is below the divisor, so that their difference and twice the rest less the divisor fit int32.
            left = load(rest, 0, LANES) - divisor + load(rest, 0, LANES)
            fits = left >= _number(0)
            statements.append(_set(quotient, tirx.Select(fits, twice + _number(1), twice)))
            statements.append(_set(rest, tirx.Select(fits, left, left + divisor)))
        return statements

    ends = [_set(total, load(quotient, 0, LANES)) for total, quotient in zip(totals, quotients, strict=True)]
    return [*first, *loop(_FRACTION_BITS, bit, "bit"), *ends]


def _product(t: Expr, reciprocal: Expr, bits: int) -> Expr:
    """`(t * reciprocal + 2^(bits + 21)) >> (bits + 22)`: the 31 bits dropped first do not reach the rounding."""
    high = hvx("vmpyowh.sacc", hvx("vmpyewuh", t, reciprocal), t, reciprocal)
    return (high + _number(1 << (bits - 10))) >> _number(bits - 9)


def _set(local: Buffer, value: Expr) -> Stmt:
    return store(local, 0, value, LANES)


def _number(value: int) -> Expr:
    return splat(value, "int32", LANES)
