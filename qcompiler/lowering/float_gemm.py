"""Register-tiled products of float32: the one inner loop behind float convolutions and matrix products.

A tile holds `rows x vectors` accumulators in registers. For every step of the reduction it loads `vectors` neighbouring
vectors of the second operand and multiplies each by `rows` single values of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
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
    a_offset: Callable[[Expr, int, int, Sequence[Expr]], Expr]
    """From a tile's first row, a row within the tile, the tile's height and the reduction indices."""
    b_offset: Callable[[Sequence[Expr], Expr, int], Expr]
    """From the reduction indices, the tile's first column and the tile's width in elements."""
    y_offset: Callable[[Expr, Expr], Expr]
    """From a row and a column."""


@dataclass(frozen=True)
class TileShape:
    rows: int
    vectors: int
    cycles: float
    """Estimate for one reduction step of the whole product."""


def choose_tile(rows: int, columns: int, lanes: int) -> TileShape:
    """The tile with the fewest cycles, at two fused multiply-adds or one load in a cycle and four cycles of latency.

    Vectors count as two loads: at an odd offset they cross cache lines. A quarter of the vector registers stays free of
    sums, or LLVM spills some where several steps are unrolled. 32 registers are assumed for vectors of 16 and 64 bytes
    (NEON, AVX-512), 16 for the others.
    """
    sums = 12 if lanes == 8 else 24
    vectors_needed = -(-columns // lanes)
    best: TileShape | None = None
    for vectors in range(1, min(8, vectors_needed) + 1):
        tiles = -(-rows // (sums // vectors))
        height = -(-rows // tiles)
        cycles = max(height * vectors / 2, height + 2 * vectors, 4)
        cost = cycles * (rows / height) * -(-vectors_needed // vectors)
        if best is None or cost < best.cycles:
            best = TileShape(height, vectors, cost)
    assert best is not None
    return best


def emit_product(product: Product, tile: TileShape, lanes: int) -> Stmt:
    """Code for the whole product: column tiles outside, row tiles inside, remainders as smaller tiles."""
    vectors = -(-product.columns // lanes)
    parts = []
    for column, column_tiles, width in cover(vectors, tile.vectors):
        column_axis = Axis(Var("column", "int64"), column_tiles)
        first_column = index(column * lanes) + column_axis.var * index(width * lanes)
        inner = []
        for row, row_tiles, height in cover(product.rows, tile.rows):
            row_axis = Axis(Var("row", "int64"), row_tiles)
            first_row = index(row) + row_axis.var * index(height)
            part = _Tile(product, first_row, height, first_column, width, lanes)
            inner.append(serial([row_axis], part.emit()))
        parts.append(serial([column_axis], sequence(inner)))
    return sequence(parts)


def cover(extent: int, size: int) -> list[tuple[int, int, int]]:
    """Start, number and size of the tiles that cover `extent`."""
    whole, rest = divmod(extent, size)
    parts = [(0, whole, size)] if whole else []
    return [*parts, (whole * size, 1, rest)] if rest else parts


def pack_rows(matrix: np.ndarray, height: int) -> np.ndarray:
    """`[rows, k]` as row tiles that follow one another, each `[k, tile's height]`: what `packed_offset` addresses."""
    tiles = [
        matrix[start + size * i : start + size * (i + 1)].T.reshape(-1)
        for start, count, size in cover(len(matrix), height)
        for i in range(count)
    ]
    return np.concatenate(tiles)


def packed_offset(k_extent: int, row: Expr, i: int, height: int, k: Expr) -> Expr:
    """Offset in the result of `pack_rows` of the element of row `row + i`, where a tile of `height` starts at `row`."""
    return row * index(k_extent) + k * index(height) + index(i)


@dataclass(frozen=True, eq=False)
class _Tile:
    """The sums of one register tile."""

    product: Product
    row: Expr
    height: int
    column: Expr
    width: int
    """In vectors."""
    lanes: int

    def emit(self) -> Stmt:
        product = self.product
        size = (self.width * self.lanes,)
        sums = [tirx.decl_buffer(size, "float32", f"sum{i}", scope="local") for i in range(self.height)]
        places = [self._ramp(index(j * self.lanes)) for j in range(self.width)]
        body: list[Stmt] = [AllocBuffer(total) for total in sums]
        zero = self._splat(tirx.const(0.0, "float32"))
        body += [BufferStore(total, zero, [place]) for total in sums for place in places]
        body += self._reduce(product.reduction, [], sums, places)
        for i, total in enumerate(sums):
            for j, place in enumerate(places):
                offset = product.y_offset(self.row + index(i), self.column + index(j * self.lanes))
                body.append(BufferStore(product.y, BufferLoad(total, [place]), [self._ramp(offset)]))
        return sequence(body)

    def _ramp(self, offset: Expr) -> Expr:
        return offset if self.lanes == 1 else Ramp(offset, index(1), self.lanes)

    def _splat(self, value: Expr) -> Expr:
        return value if self.lanes == 1 else Broadcast(value, self.lanes)

    def _reduce(
        self, axes: Sequence[tuple[int, bool]], ks: list[Expr], sums: list[Var], places: list[Expr]
    ) -> list[Stmt]:
        """The loops over `axes` around one step; `ks` are the indices of the axes before them."""
        if not axes:
            return self._step(ks, sums, places)
        (extent, unrolled), *rest = axes
        if unrolled or extent == 1:
            return [s for k in range(extent) for s in self._reduce(rest, [*ks, index(k)], sums, places)]
        axis = Axis(Var("k", "int64"), extent)
        return [serial([axis], sequence(self._reduce(rest, [*ks, axis.var], sums, places)))]

    def _step(self, ks: list[Expr], sums: list[Var], places: list[Expr]) -> list[Stmt]:
        product, lanes = self.product, self.lanes
        base = product.b_offset(ks, self.column, self.width * lanes)
        vectors = [BufferLoad(product.b, [self._ramp(base + index(j * lanes))]) for j in range(self.width)]
        statements = []
        for i, total in enumerate(sums):
            single = BufferLoad(product.a, [product.a_offset(self.row, i, self.height, ks)])
            for place, vector in zip(places, vectors, strict=True):
                value = BufferLoad(total, [place]) + self._splat(single) * vector
                statements.append(BufferStore(total, value, [place]))
        return statements
