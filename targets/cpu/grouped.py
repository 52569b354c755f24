"""Matrix product with weights in groups: a dot product a group, scaled by an integer, into the total.

The groups are the rows of taps of a `Dense`; a register tile holds two accumulators an output, so it is half as large.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from qcompiler.arithmetic.grouped import effective_weights
from qcompiler.lowering.compute_conv import generic_matmul
from qcompiler.lowering.program import Kernel
from qcompiler.lowering.schedules import scheduled_kernel
from qcompiler.lowering.space import Space, decide
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
    splat,
    store,
)
from qcompiler.lowering.workload import MatmulWorkload
from qcompiler.targets.cpu.choices import Dense, DenseChoice, dense_choices
from qcompiler.targets.cpu.dense import (
    channel_blocks,
    loop_order,
    pack_channels,
    pack_weights,
    packed_parameters,
    rule_name,
    tile_start,
)
from qcompiler.targets.cpu.epilogue import STORED, Epilogue, Target, start_of
from qcompiler.targets.cpu.isa import product_isas_of
from qcompiler.targets.cpu.matmul import dense_of
from qcompiler.targets.cpu.plain import plain_products
from qcompiler.targets.cpu.products import Products
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
    dense = replace(dense_of(workload), taps=(len(factors), 1), tap_steps=(group, 0), run=group)
    halved = [replace(isa, accumulators=isa.accumulators // 2) for isa in product_isas_of(spec) if isa.takes(b)]
    plain = plain_products(dense, "grouped", workload.a_shape, workload.y_shape, workload.requantize, spec)
    return decide(
        Space(
            plain,
            dense_choices(dense, halved),
            lambda choice: _kernel(workload, dense, choice, b, factors, effective, bias, spec),
        )
    )


def _kernel(
    workload: MatmulWorkload,
    dense: Dense,
    choice: DenseChoice,
    b: np.ndarray,
    factors: np.ndarray,
    effective: np.ndarray,
    bias: np.ndarray,
    spec: TargetSpec,
) -> Kernel:
    isa, tile, group = choice.isa, choice.tile, dense.run
    blocks = channel_blocks(workload.n, tile.vectors, isa.channels)
    lanes = isa.spread(blocks.channels)
    filled = np.zeros((len(factors) * group, workload.n), np.int8)
    filled[: workload.k] = b
    taps = filled.reshape(len(factors), group, workload.n).transpose(2, 0, 1)  # [channel, tap, run]
    packed = pack_weights(taps[None, :, :, None, :], blocks, isa)
    magic = start_of(isa, workload.requantize, workload.acc_bound)
    start = bias.astype(np.int64) + magic - isa.bias_offset(workload.a_dtype) * effective.sum(axis=0, dtype=np.int64)
    ordered = np.stack([pack_channels(row, 1, lanes) for row in factors.astype(np.int32)])
    constants = (packed, ordered, *packed_parameters(start, workload.requantize, 1, lanes))
    buffers = constant_buffers(constants)
    x = buffer("a", workload.a_shape, workload.a_dtype)
    y = buffer("y", workload.y_shape, workload.requantize.out_dtype)
    epilogue = Epilogue(isa, workload.requantize, buffers[3:], workload.acc_bound, magic)
    block = _tile(dense, workload.k, choice, x, buffers[:3], epilogue, y)
    func = function([x, *buffers, y], [block]).mod["main"]
    return scheduled_kernel(func, rule_name(spec, choice, "grouped"), constants)


def _tile(
    dense: Dense,
    k: int,
    choice: DenseChoice,
    x: Buffer,
    constants: list[Buffer],
    epilogue: Epilogue,
    y: Buffer,
) -> Tile:
    tile, isa = choice.tile, choice.isa
    weights, factors, bias = constants
    rows, lanes, vectors = dense.grid[2], isa.lanes, tile.vectors
    blocks = channel_blocks(dense.channels, vectors, isa.channels)
    step_bytes, block_lanes = vectors * isa.bytes, vectors * lanes
    steps, dots = dense.steps(isa.depth), dense.dots(isa.depth)
    whole, rest = divmod(k, dense.run)
    count = len(blocks.channels)

    def body(n: Expr, h: Expr, w: Expr, c: Expr) -> list[Stmt]:
        row = tile_start(w, tile.columns, rows)
        sums = Products.of(result, isa, x, dense.x_dtype, tile.columns, vectors)
        totals = [[result.local(lanes, "int32") for _ in range(vectors)] for _ in sums.accumulators]
        both = [
            (v, total, acc)
            for line, accumulators in zip(totals, sums.accumulators, strict=True)
            for v, (total, acc) in enumerate(zip(line, accumulators, strict=True))
        ]

        def step(tap: Expr, first: Expr, number: int) -> list[Stmt]:
            source = row * k + tap * dense.run + first * isa.depth
            return sums.add(
                source,
                [j * k for j in range(tile.columns)],
                weights,
                (c * steps + tap * dots + first) * step_bytes,
                number,
            )

        def group(tap: Expr, length: int) -> list[Stmt]:
            statements = sums.start(lambda _, __: splat(0, "int32", lanes))
            loads, last = divmod(length, isa.together)
            if loads:
                statements += loop(loads, lambda i: step(tap, i * isa.together, isa.together), "dots")
            if last:
                statements += step(tap, int32(loads * isa.together), last)
            statements += sums.finish()
            for v, total, acc in both:
                factor = load(factors, (tap * count + c) * block_lanes + v * lanes, lanes)
                statements.append(store(total, 0, load(total, 0, lanes) + load(acc, 0, lanes) * factor, lanes))
            return statements

        statements = [store(total, 0, load(bias, c * block_lanes + v * lanes, lanes), lanes) for v, total, _ in both]
        if whole:
            statements += loop(whole, lambda tap: group(tap, dots), "tap")
        if rest:
            statements += group(int32(whole), -(-rest // isa.depth))
        channel = tile_start(c, blocks.span, dense.channels)
        outputs = [Target((row + j) * dense.channels + channel, (j, 0)) for j in range(tile.columns)]
        parts = sums.parts(c * block_lanes, outputs, blocks.starts, blocks.lanes, totals)
        return statements + epilogue.store(result, y, parts)

    loops = {"n": 1, "h": 1, "w": -(-rows // tile.columns), "c": count}
    result = Tile(
        "tile",
        loops,
        body,
        [x, *constants, *epilogue.parameters],
        [y],
        order=loop_order(choice.stripe),
        definitions=isa.definitions,
    )
    return result
