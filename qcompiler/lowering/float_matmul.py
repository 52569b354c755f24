"""Float matrix products: which block is one, and the packing of its second operand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import tvm
from tvm import tirx
from tvm.ir import TensorLoad
from tvm.sym import Analyzer

from .float_gemm import Product, choose_tile, cover, emit_product, packed_offset
from .float_loops import (
    Axis,
    Nest,
    Stmt,
    Var,
    coefficient,
    emit,
    fuse_axes,
    index,
    sequence,
    serial,
    substitute,
    variables,
)

if TYPE_CHECKING:
    from .float_schedule import FloatFunction

FEWEST_ROWS_TO_PACK = 8
"""Operands are copied into a better order only where this many rows or more make use of it."""

FEWEST_COLUMNS_TO_PACK = 128
"""The first operand is copied only where it meets this many columns or more."""


def emit_matmul(state: FloatFunction, nest: Nest, original: dict[Var, Var]) -> Stmt | None:
    """Code for `y[..., m, n] = sum over k of a[..., m, k] * b[..., k, n]`; None for any other nest.

    Args:
        nest: a reduction in flat buffers.
        original: the original buffer of each flat one.
    """
    nest = fuse_axes(nest)
    operands = _operands(nest)
    if operands is None:
        return None
    a, b, row, batch = operands
    k, column = nest.reduction[0], nest.spatial[-1]
    analyzer = Analyzer()
    lanes = state.lanes
    rows = row.extent if row else 1
    padded = -(-column.extent // lanes) * lanes
    along = coefficient(b.indices[0], column.var)
    tile = choose_tile(rows, column.extent, lanes)
    statements: list[Stmt] = []
    y = original[nest.buffer]
    if column.extent != padded and int(y.shape[-1]) != column.extent:
        return None

    if state.may_pack(original[b.source]) and not _uses(b, batch):
        panels = _Panels(b, k, column, padded, tile.vectors * lanes)
        source = state.pack(original[b.source], k.extent * padded, panels.pack)
        b_offset = lambda ks, first, width: first * index(k.extent) + ks[0] * index(width)  # noqa: E731
    elif along == 1 and column.extent == padded:
        source = b.source
        b_offset = lambda ks, first, _: substitute(b.indices[0], {k.var: ks[0], column.var: first})  # noqa: E731
    elif along == 1 or rows >= FEWEST_ROWS_TO_PACK:
        source = state.temporary((k.extent * padded,), "columns")
        copy = Nest((k, column), (), source, k.var * index(padded) + column.var, b)
        statements.append(emit(copy, lanes))
        b_offset = lambda ks, first, _: ks[0] * index(padded) + first  # noqa: E731
    else:
        return None

    rows_source = a.source
    packed = rows >= FEWEST_ROWS_TO_PACK and column.extent >= FEWEST_COLUMNS_TO_PACK
    if packed:
        rows_source = state.temporary((rows * k.extent,), "rows")
        statements += [emit(copy, lanes) for copy in _row_copies(a, row, k, tile.rows, rows_source)]

    y_start = substitute(nest.offset, {column.var: index(0)})
    finish: list[Stmt] = []
    target = nest.buffer
    if column.extent != padded:
        strides = [int(np.prod([int(e) for e in y.shape[i + 1 : -1]])) * padded for i in range(len(y.shape) - 1)]
        target, finish = state.accumulator(y, (*strides, 1), padded)
        y_start = analyzer.simplify(y_start // index(column.extent)) * index(padded)

    def at(offset: tvm.ir.Expr, position: tvm.ir.Expr) -> tvm.ir.Expr:
        return substitute(offset, {row.var: position}) if row else offset

    def a_offset(first: tvm.ir.Expr, i: int, height: int, ks: Sequence[tvm.ir.Expr]) -> tvm.ir.Expr:
        if packed:
            return packed_offset(k.extent, first, i, height, ks[0])
        return at(substitute(a.indices[0], {k.var: ks[0]}), first + index(i))

    product = Product(
        rows=rows,
        columns=column.extent,
        reduction=((k.extent, False),),
        a=rows_source,
        b=source,
        y=target,
        a_offset=a_offset,
        b_offset=b_offset,
        y_offset=lambda position, first: at(y_start, position) + first,
    )
    statements.append(emit_product(product, tile, lanes))
    return sequence([serial(batch, sequence(statements)), *finish])


def _row_copies(a: TensorLoad, row: Axis, k: Axis, height: int, target: Var) -> list[Nest]:
    """Nests that write `a` to `target` in the order of `pack_rows`."""
    copies = []
    for start, count, size in cover(row.extent, height):
        tile, within = Axis(Var("tile", "int64"), count), Axis(Var("within", "int64"), size)
        first = index(start) + tile.var * index(size)
        value = substitute(a, {row.var: first + within.var})
        offset = first * index(k.extent) + k.var * index(size) + within.var
        copies.append(Nest((tile, k, within), (), target, offset, value))
    return copies


def _operands(nest: Nest) -> tuple[TensorLoad, TensorLoad, Axis | None, list[Axis]] | None:
    """The operands `a` and `b`, the row axis if there is one, and the batch axes."""
    if len(nest.reduction) != 1 or not nest.spatial or not isinstance(nest.value, tirx.Add):
        return None
    own, term = nest.value.a, nest.value.b
    if not isinstance(own, TensorLoad) or not own.source.same_as(nest.buffer) or not isinstance(term, tirx.Mul):
        return None
    if not isinstance(term.a, TensorLoad) or not isinstance(term.b, TensorLoad):
        return None
    if any(str(load.ty) != "float32" for load in (own, term.a, term.b)):
        return None
    k, column = nest.reduction[0], nest.spatial[-1]
    a, b = (term.a, term.b) if column.var in variables(term.b.indices[0]) else (term.b, term.a)
    if column.var in variables(a.indices[0]) or coefficient(nest.offset, column.var) != 1:
        return None
    if any(coefficient(load.indices[0], axis.var) is None for load in (a, b) for axis in nest.axes):
        return None
    if not coefficient(a.indices[0], k.var) or not coefficient(b.indices[0], k.var):
        return None
    batch = list(nest.spatial[:-1])
    row = None
    if batch and coefficient(a.indices[0], batch[-1].var) and not coefficient(b.indices[0], batch[-1].var):
        row = batch.pop()
    return a, b, row, batch


def _uses(load: TensorLoad, axes: list[Axis]) -> bool:
    return any(coefficient(load.indices[0], axis.var) for axis in axes)


@dataclass(frozen=True, eq=False)
class _Panels:
    """A constant second operand as panels of `width` columns, the last one narrower, each with its rows one after the
    other; zeros past the end."""

    b: TensorLoad
    k: Axis
    column: Axis
    padded: int
    width: int

    def pack(self, values: np.ndarray) -> np.ndarray:
        offset, k, column = self.b.indices[0], self.k, self.column
        start = int(Analyzer().simplify(substitute(offset, {k.var: index(0), column.var: index(0)})))
        steps = [coefficient(offset, axis.var) * np.arange(axis.extent) for axis in (k, column)]
        matrix = np.zeros((k.extent, self.padded), np.float32)
        matrix[:, : column.extent] = values.reshape(-1)[start + steps[0][:, None] + steps[1]]
        panels = [matrix[:, i : i + self.width].reshape(-1) for i in range(0, self.padded, self.width)]
        return np.concatenate(panels)
