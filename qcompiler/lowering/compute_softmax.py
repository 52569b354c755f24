"""Softmax kernels."""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.tirx import Broadcast

from qcompiler.arithmetic.softmax import output_zero_point, table_bits
from qcompiler.lowering.program import Kernel
from qcompiler.lowering.schedule_generic import KernelBuilder, merge_axes, piece_start, power_of_two
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
    splat,
    store,
    vector,
)
from qcompiler.lowering.view import View
from qcompiler.targets.spec import TargetSpec

_FEWEST_LANES = 4


def softmax_kernel(x: View, y: View, table: np.ndarray, axis: int, spec: TargetSpec) -> Kernel:
    """Softmax along `axis`, `qcompiler.arithmetic.softmax.softmax` with the table of `softmax_table`.

    Vectors run along `axis` where it is the last one of both views. The scratch buffer holds the
    table's entries for one row.
    """
    builder = KernelBuilder(spec)
    source, target = builder.operand(x), builder.output(y)
    entries = builder.constant(table)
    length, bits = x.shape[axis], table_bits(x.shape[axis])
    row = buffer("row", (length,), "int32")
    builder.scratch.append(row)
    x_step, y_step = source.strides[axis], target.strides[axis]
    others = [i for i in range(len(x.shape)) if i != axis]
    extents, axes = merge_axes(
        x.shape, [source.strides, target.strides], sorted(others, key=lambda i: -target.strides[i])
    )
    source, target = source.over(axes), target.over(axes)
    vectors = x_step == y_step == 1 and length >= _FEWEST_LANES
    narrow = power_of_two(min(builder.lanes(x.dtype), length)) if vectors else 1
    wide = power_of_two(min(builder.lanes("int32"), length)) if vectors else 1

    def body(*indices: Expr) -> list[Stmt]:
        x_start, y_start = source.offset(indices), target.offset(indices)
        largest, highest = tile.local(narrow, x.dtype), tile.local(1, "int32")
        total, rest, reciprocal = tile.local(wide, "int32"), tile.local(1, "int32"), tile.local(1, "uint64")

        def take_largest(i: Expr) -> list[Stmt]:
            value = load(source.buffer, x_start + piece_start(i, narrow, length) * x_step, narrow)
            return [store(largest, 0, tirx.max(load(largest, 0, narrow), value), narrow)]

        def look_up(acc: Buffer, start: Expr, lanes: int) -> list[Stmt]:
            value = load(source.buffer, x_start + start * x_step, lanes).astype(vector("int32", lanes))
            top = load(highest, 0)
            index = (Broadcast(top, lanes) if lanes > 1 else top) - value
            t = tirx.BufferLoad(entries, [index])
            kept = load(row, start, lanes)
            return [store(row, start, t, lanes), store(acc, 0, load(acc, 0, lanes) + kept, lanes)]

        def divide(i: Expr) -> list[Stmt]:
            start = piece_start(i, wide, length)
            t = load(row, start, wide).astype(vector("uint32", wide)).astype(vector("uint64", wide))
            factor = load(reciprocal, 0)
            product = t * (Broadcast(factor, wide) if wide > 1 else factor)
            p = (product + splat(1 << (bits + 21), "uint64", wide)) >> splat(bits + 22, "uint64", wide)
            p = tirx.min(p.astype(vector("int32", wide)), splat(255, "int32", wide))
            stored = (p + splat(output_zero_point(y.dtype), "int32", wide)).astype(vector(y.dtype, wide))
            return [store(target.buffer, y_start + start * y_step, stored, wide)]

        whole, left = length // wide, length % wide
        maximum, sum_ = load(largest, 0, narrow), load(total, 0, wide)
        if vectors:
            kind = "umax" if x.dtype.startswith("u") else "smax"
            maximum = llvm(f"llvm.vector.reduce.{kind}", x.dtype, maximum)
            sum_ = llvm("llvm.vector.reduce.add", "int32", sum_)
        sum_ = (sum_ + load(rest, 0)).astype("uint32").astype("uint64")
        return [
            store(largest, 0, splat(int(np.iinfo(x.dtype).min), x.dtype, narrow), narrow),
            *loop(-(-length // narrow), take_largest, "j"),
            store(highest, 0, maximum.astype("int32")),
            store(total, 0, splat(0, "int32", wide), wide),
            store(rest, 0, int32(0)),
            *loop(whole, lambda i: look_up(total, i * wide, wide), "j"),
            *(loop(left, lambda i: look_up(rest, i + (length - left), 1), "j") if left else []),
            store(reciprocal, 0, tirx.truncdiv(tirx.const(1 << (bits + 30), "uint64"), sum_)),
            *loop(-(-length // wide), divide, "j"),
        ]

    loops = {f"i{i}": extent for i, extent in enumerate(extents)}
    tile = Tile(
        "rows" if vectors else "elements", loops, body, [source.buffer, entries], [target.buffer, row]
    )
    return builder.kernel("softmax", [tile])
