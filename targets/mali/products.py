"""Products of two activations on Mali: four columns of up to four rows in each work-item.

The right-hand side lies row by row, so four bytes of one column are not neighbours; the products are those of `int4`
vectors, and each row of the right-hand side is converted once for all rows of the tile.
"""

from __future__ import annotations

import numpy as np
from tvm.tirx import Broadcast

from qcompiler.lowering.program import Kernel
from qcompiler.lowering.requantize import requantize_constants, requantize_expression
from qcompiler.lowering.schedule_generic import Strided, broadcast, piece_start, power_of_two
from qcompiler.lowering.tir import (
    Buffer,
    Expr,
    Stmt,
    Tile,
    buffer,
    constant_buffers,
    function,
    int32,
    load,
    loop,
    shuffle,
    splat,
    store,
    vector,
)
from qcompiler.lowering.view import row_major
from qcompiler.lowering.workload import MatmulWorkload
from qcompiler.targets.spec import TargetSpec

_LANES = 4
_ROWS = 4
_QUAD = 4


def matmul_activations(
    workload: MatmulWorkload, b: np.ndarray | None, bias: np.ndarray | None, spec: TargetSpec
) -> Kernel | None:
    """A right-hand side that is no constant, of any zero points."""
    if b is not None:
        return None
    m, k, n = workload.m, workload.k, workload.n
    lanes, rows = power_of_two(min(_LANES, n)), power_of_two(min(_ROWS, m))
    start = np.zeros(n, np.int32) if bias is None else bias.astype(np.int32)
    constants = (start, *requantize_constants(workload.requantize, n))
    begin, *parameters = buffers = constant_buffers(constants)
    left = buffer("a", workload.a_shape, workload.a_dtype)
    right = buffer("b", workload.b_shape, workload.b_dtype)
    y = buffer("y", workload.y_shape, workload.requantize.out_dtype)
    batch = workload.batch
    a_walk, b_walk = (
        broadcast(Strided(source, 0, row_major(source_shape)[:-2]), source_shape[:-2], batch)
        for source, source_shape in ((left, workload.a_shape), (right, workload.b_shape))
    )
    wide = vector("int32", lanes)

    def body(*indices: Expr) -> list[Stmt]:
        *outer, row, column = indices
        first, column = piece_start(row, rows, m), piece_start(column, lanes, n)
        a_start, b_start = a_walk.offset(outer) + first * k, b_walk.offset(outer) + column
        acc = [nest.local(lanes, "int32") for _ in range(rows)]

        def step(depth: Expr, length: int, into: list[Buffer], factor: Buffer) -> list[Stmt]:
            statements = [store(into[r], 0, load(left, a_start + r * k + depth, length), length) for r in range(rows)]
            for j in range(length):
                values = load(right, b_start + (depth + j) * n, lanes).astype(wide)
                statements.append(store(factor, 0, values - splat(workload.b_zero_point, "int32", lanes), lanes))
                for r in range(rows):
                    value = load(into[r], 0, length)
                    value = value if length == 1 else shuffle([value], [j])
                    value = value.astype("int32") - int32(workload.a_zero_point)
                    value = value if lanes == 1 else Broadcast(value, lanes)
                    total = load(acc[r], 0, lanes) + value * load(factor, 0, lanes)
                    statements.append(store(acc[r], 0, total, lanes))
            return statements

        factor = nest.local(lanes, "int32")
        quads = [nest.local(_QUAD, workload.a_dtype) for _ in range(rows)]
        singles = [nest.local(1, workload.a_dtype) for _ in range(rows)]
        statements = [store(acc[r], 0, load(begin, column, lanes), lanes) for r in range(rows)]
        if k >= _QUAD:
            statements += loop(k // _QUAD, lambda i: step(i * _QUAD, _QUAD, quads, factor), "k")
        for depth in range(k // _QUAD * _QUAD, k):
            statements += step(int32(depth), 1, singles, factor)
        image = sum((i * stride for i, stride in zip(outer, row_major(workload.y_shape), strict=False)), int32(0))
        for r in range(rows):
            factors = [load(parameter, column, lanes) for parameter in parameters]
            stored = requantize_expression(load(acc[r], 0, lanes), factors, workload.requantize, lanes)
            place = image + (first + r) * n + column
            statements.append(store(y, place, stored.astype(vector(workload.requantize.out_dtype, lanes)), lanes))
        return statements

    loops = {f"n{i}": extent for i, extent in enumerate(batch)} | {"m": -(-m // rows), "c": -(-n // lanes)}
    nest = Tile("products", loops, body, [left, right, *buffers], [y])
    func = function([left, right, *buffers, y], [nest]).mod["main"]
    return Kernel(func, f"mali-products.{rows}x{lanes}", constants)
