"""Matrix product with weights in groups: a dot product a group, scaled by an integer, into the total.

The groups are the rows of taps of a `Dense`; a register tile holds two accumulators an output, so it is half as large.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qcompiler.arithmetic.grouped import effective_weights
from qcompiler.lowering.compute_conv import generic_matmul
from qcompiler.lowering.program import Kernel
from qcompiler.lowering.tir import Buffer, Expr, Stmt, Tile, buffer, constant_buffers, int32, load, loop, splat, store
from qcompiler.lowering.workload import MatmulWorkload
from qcompiler.targets.cpu.dense import (
    Dense,
    RegisterTile,
    channel_blocks,
    choose_tile,
    pack_channels,
    pack_weights,
    packed_parameters,
    rule_name,
    schedule_tile,
    tile_start,
)
from qcompiler.targets.cpu.epilogue import STORED, Epilogue, Part, is_bounded
from qcompiler.targets.cpu.isa import QUAD, Isa, isa_of
from qcompiler.targets.cpu.matmul import dense_of
from qcompiler.targets.spec import TargetSpec


def grouped_kernel(
    workload: MatmulWorkload, b: np.ndarray, factors: np.ndarray, group: int, bias: np.ndarray, spec: TargetSpec
) -> Kernel:
    """The kernel for int8 `b` `[k, n]`, factors int32 `[groups, n]` and bias int32 `[n]`; zero points are folded.

    Results in uint16 take the target-neutral loops on the weights times their factors.
    """
    effective = effective_weights(b, factors, group)
    if workload.requantize.out_dtype not in STORED:
        return generic_matmul(replace(workload, b_dtype="int16"), effective, bias)
    isa = isa_of(spec)
    dense = replace(dense_of(workload), taps=(len(factors), 1), tap_steps=(group, 0), run=group)
    tile = choose_tile(dense, replace(isa, accumulators=isa.accumulators // 2))
    blocks = channel_blocks(workload.n, tile.vectors, isa.lanes)
    filled = np.zeros((len(factors) * group, workload.n), np.int8)
    filled[: workload.k] = b
    taps = filled.reshape(len(factors), group, workload.n).transpose(2, 0, 1)  # [channel, tap, run]
    packed = pack_weights(taps[None, :, :, None, :], blocks, isa)
    start = bias.astype(np.int64) - isa.bias_offset(workload.a_dtype) * effective.sum(axis=0, dtype=np.int64)
    ordered = np.stack([pack_channels(row, 1, blocks.channels) for row in factors.astype(np.int32)])
    constants = (packed, ordered, *packed_parameters(start, workload.requantize, 1, blocks.channels))
    buffers = constant_buffers(constants)
    x = buffer("a", workload.a_shape, workload.a_dtype)
    y = buffer("y", workload.y_shape, workload.requantize.out_dtype)
    epilogue = Epilogue(isa, workload.requantize, buffers[3:], is_bounded(workload.requantize, workload.acc_bound))
    block = _tile(dense, workload.k, tile, isa, x, buffers[:3], epilogue, y)
    schedule = schedule_tile([x, *buffers, y], [block], packed.nbytes)
    return Kernel(schedule.mod["main"], rule_name(spec, "grouped", tile), constants)


def _tile(
    dense: Dense,
    k: int,
    tile: RegisterTile,
    isa: Isa,
    x: Buffer,
    constants: list[Buffer],
    epilogue: Epilogue,
    y: Buffer,
) -> Tile:
    weights, factors, bias = constants
    rows, lanes, vectors = dense.grid[2], isa.lanes, tile.vectors
    blocks = channel_blocks(dense.channels, vectors, lanes)
    quad_bytes, block_lanes = vectors * isa.bytes, vectors * lanes
    whole, rest = divmod(k, dense.run)
    count = len(blocks.channels)

    def body(n: Expr, h: Expr, w: Expr, c: Expr) -> list[Stmt]:
        row = tile_start(w, tile.columns, rows)
        totals = [[result.local(lanes, "int32") for _ in range(vectors)] for _ in range(tile.columns)]
        sums = [[result.local(lanes, "int32") for _ in range(vectors)] for _ in range(tile.columns)]

        def step(tap: Expr, quad: Expr) -> list[Stmt]:
            weight = (c * dense.steps + tap * dense.quads + quad) * quad_bytes
            statements = []
            for j, accumulators in enumerate(sums):
                offset = (row + j) * k + tap * dense.run + quad * QUAD
                operand = isa.operand(isa.broadcast(load(x, offset, QUAD)), dense.x_dtype)
                for v, acc in enumerate(accumulators):
                    value = isa.dot(load(acc, 0, lanes), operand, weights, weight + v * isa.bytes)
                    statements.append(store(acc, 0, value, lanes))
            return statements

        def group(tap: Expr, quads: int) -> list[Stmt]:
            statements = [store(acc, 0, splat(0, "int32", lanes), lanes) for line in sums for acc in line]
            statements += loop(quads, lambda quad: step(tap, quad), "quad")
            for line, accumulators in zip(totals, sums, strict=True):
                for v, (total, acc) in enumerate(zip(line, accumulators, strict=True)):
                    factor = load(factors, (tap * count + c) * block_lanes + v * lanes, lanes)
                    value = load(total, 0, lanes) + load(acc, 0, lanes) * factor
                    statements.append(store(total, 0, value, lanes))
            return statements

        statements = [
            store(total, 0, load(bias, c * block_lanes + v * lanes, lanes), lanes)
            for line in totals
            for v, total in enumerate(line)
        ]
        if whole:
            statements += loop(whole, lambda tap: group(tap, dense.quads), "tap")
        if rest:
            statements += group(int32(whole), -(-rest // QUAD))
        channel = tile_start(c, blocks.span, dense.channels)
        parts = [
            Part(
                total,
                c * block_lanes + v * lanes,
                (row + j) * dense.channels + channel + blocks.starts[v],
                (j, blocks.starts[v]),
                blocks.lanes,
            )
            for j, line in enumerate(totals)
            for v, total in enumerate(line)
        ]
        return statements + epilogue.store(result, y, parts)

    loops = {"n": 1, "h": 1, "w": -(-rows // tile.columns), "c": count}
    result = Tile("tile", loops, body, [x, *constants, *epilogue.parameters], [y])
    return result
