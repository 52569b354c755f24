"""Register-tiled products of float32: the one inner loop behind float convolutions and matrix products.

A tile holds `rows x vectors` accumulators in registers. For every step of the reduction it loads `vectors` neighbouring
vectors of the second operand and multiplies each by `rows` single values of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tvm
from tvm import tirx
from tvm.tirx import AllocBuffer, Broadcast, BufferLoad, BufferStore, Ramp

from .float_loops import Axis, Stmt, Var, index, sequence, serial

Expr = tvm.ir.Expr


@dataclass(frozen=True, eq=False)
class Product:
    """`y[row, column] = sum over k of a[row, k] * b[k, column]`, operands in flat buffers.

    Columns are contiguous in `b` and `y`. Both may be accessed up to the next whole vector after `columns`.
    """

    rows: int
    columns: int
    reduction: tuple[tuple[int, bool], ...]
    """Extent of each reduction axis and whether its loop is unrolled."""
    a: Var
    b: Var
    y: Var
    a_offset: Callable[[Expr, Sequence[Expr]], Expr]
    """From a row and the reduction indices."""
    b_offset: Callable[[Sequence[Expr], Expr, int], Expr]
    """From the reduction indices, the tile's first column and the tile's width in elements."""
    y_offset: Callable[[Expr, Expr], Expr]
    """From a row and a column."""


@dataclass(frozen=True)
class TileShape:
    rows: int
    vectors: int


def choose_tile(rows: int, columns: int, lanes: int) -> TileShape:
    """The tile with the fewest cycles for two fused multiply-adds, two loads and four cycles of latency.

    32 vector registers are assumed for 16 and 64 byte vectors (NEON, AVX-512), 16 for the others.
    """
    registers = 16 if lanes == 8 else 32
    vectors_needed = -(-columns // lanes)
    best = None
    for vectors in range(1, min(8, vectors_needed) + 1):
        most_rows = min(rows, (registers - 1 - vectors) // vectors)
        if most_rows < 1:
            continue
        tiles = -(-rows // most_rows)
        height = -(-rows // tiles)
        cycles = max(height * vectors / 2, (height + vectors) / 2, 4.0)
        cost = cycles * (rows / height) * -(-vectors_needed // vectors)
        if best is None or cost < best[0]:
            best = (cost, TileShape(height, vectors))
    return best[1]


def emit_product(product: Product, tile: TileShape, lanes: int) -> Stmt:
    """Code for the whole product: column tiles outside, row tiles inside, remainders as smaller tiles."""
    vectors = -(-product.columns // lanes)
    parts = []
    for column, column_tiles, width in _cover(vectors, tile.vectors):
        column_axis = Axis(Var("column", "int64"), column_tiles)
        first_column = index(column * lanes) + column_axis.var * index(width * lanes)
        inner = []
        for row, row_tiles, height in _cover(product.rows, tile.rows):
            row_axis = Axis(Var("row", "int64"), row_tiles)
            first_row = index(row) + row_axis.var * index(height)
            inner.append(serial([row_axis], _tile(product, first_row, first_column, height, width, lanes)))
        parts.append(serial([column_axis], sequence(inner)))
    return sequence(parts)


def _cover(extent: int, size: int) -> list[tuple[int, int, int]]:
    """Start, number and size of the tiles that cover `extent`."""
    whole, rest = divmod(extent, size)
    parts = [(0, whole, size)] if whole else []
    return [*parts, (whole * size, 1, rest)] if rest else parts


def _tile(product: Product, row: Expr, column: Expr, height: int, width: int, lanes: int) -> Stmt:
    def ramp(offset: Expr) -> Expr:
        return Ramp(offset, index(1), lanes)

    sums = [tirx.decl_buffer((width * lanes,), "float32", f"sum{i}", scope="local") for i in range(height)]
    places = [ramp(index(j * lanes)) for j in range(width)]
    zero = Broadcast(tirx.const(0.0, "float32"), lanes)
    body: list[Stmt] = [AllocBuffer(total) for total in sums]
    body += [BufferStore(total, zero, [place]) for total in sums for place in places]

    def step(ks: list[Expr]) -> list[Stmt]:
        base = product.b_offset(ks, column, width * lanes)
        vectors = [BufferLoad(product.b, [ramp(base + index(j * lanes))]) for j in range(width)]
        statements = []
        for i, total in enumerate(sums):
            single = BufferLoad(product.a, [product.a_offset(row + index(i), ks)])
            for place, vector in zip(places, vectors, strict=True):
                value = BufferLoad(total, [place]) + Broadcast(single, lanes) * vector
                statements.append(BufferStore(total, value, [place]))
        return statements

    def reduce(axes: Sequence[tuple[int, bool]], ks: list[Expr]) -> list[Stmt]:
        if not axes:
            return step(ks)
        (extent, unrolled), *rest = axes
        if unrolled or extent == 1:
            return [s for k in range(extent) for s in reduce(rest, [*ks, index(k)])]
        axis = Axis(Var("k", "int64"), extent)
        return [serial([axis], sequence(reduce(rest, [*ks, axis.var])))]

    body += reduce(product.reduction, [])
    for i, total in enumerate(sums):
        for j, place in enumerate(places):
            offset = product.y_offset(row + index(i), column + index(j * lanes))
            body.append(BufferStore(product.y, BufferLoad(total, [place]), [ramp(offset)]))
    return sequence(body)
