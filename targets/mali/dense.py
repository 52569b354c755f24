"""Matrix products on Mali: every convolution and GEMM with constant int8 weights, by products of four int8.

A work-item computes a register tile: a few neighbouring pixels times a few output channels. Its sum goes over runs of
contiguous bytes of the activation (see `Dense`), four at a time, the last ones of a run filled up with zero weights, so
that up to three bytes past a run are read. Weights are packed `[tap row][tap column][four][block][channel][4]`: the
work-items of a warp that compute neighbouring channels read neighbouring bytes, those of neighbouring pixels the same.

Nothing is kept in local memory, which Mali has in main memory. The tile and the work-group are those with the fewest
estimated cycles among the tiles that fit the registers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
from tvm import tirx

from qcompiler.lowering.opencl_cost import LINE_BYTES, MOST_REGISTERS, WARP, ProductCost
from qcompiler.lowering.program import Kernel
from qcompiler.lowering.requantize import requantize_constants, requantize_expression
from qcompiler.lowering.schedule_generic import piece_start
from qcompiler.lowering.tir import (
    Buffer,
    Expr,
    Stmt,
    Tile,
    constant_buffers,
    function,
    load,
    loop,
    shuffle,
    store,
)
from qcompiler.lowering.workload import Requantize
from qcompiler.targets.cpu.choices import Dense
from qcompiler.targets.cpu.dense import channel_blocks
from qcompiler.targets.mali.machine import occupancy_factor, with_work_group

QUAD = 4
"""Products of one instruction, and channels of one vector."""
_DEPTHS = (16, 4)
"""Bytes of a pixel that are loaded at once."""
_PIXELS = (1, 2, 4, 6, 8)
_VECTORS = (1, 2)
_OTHER_REGISTERS = 10
"""Registers for addresses, counters and parameters."""
_EPILOGUE = 7
"""Instructions from an accumulator to a stored byte."""
_BUSY_WARPS = 64
"""Warps that fill a small Mali; with fewer, parts of it stand idle."""


@dataclass(frozen=True)
class DenseTile:
    """What one work-item computes, how many bytes of a pixel it loads at once, and the grid's first two axes."""

    pixels: int
    vectors: int
    depth: int
    across: int
    """Work-items of a warp along the channels."""
    products: ProductCost

    @property
    def channels(self) -> int:
        return self.vectors * QUAD

    @property
    def registers(self) -> int:
        """Accumulators, loaded activations and weights, and an address for each pixel."""
        tile = self.pixels * (self.channels + self.depth // QUAD + 1) + self.channels
        return tile + self.products.registers + _OTHER_REGISTERS


def tiles_of(dense: Dense, cost: ProductCost) -> list[DenseTile]:
    """The tiles that fit the registers, those with the fewest estimated cycles first."""
    whole = dense.run >= max(_DEPTHS)
    tiles = [
        DenseTile(pixels, vectors, depth, across, cost)
        for pixels, vectors, depth, across in product(_PIXELS, _VECTORS, _DEPTHS, (1, 2, 4, 8, 16))
        if pixels <= dense.grid[2]
        and (vectors == 1 or dense.channels > QUAD)
        and (whole or depth == QUAD)
        and across <= -(-dense.channels // (vectors * QUAD))
    ]
    fitting = [tile for tile in tiles if tile.registers < MOST_REGISTERS]
    return sorted(fitting, key=lambda tile: (_cycles(dense, tile), tile.registers, -tile.across))


def _cycles(dense: Dense, tile: DenseTile) -> float:
    """Cycles of one core: products and loads overlap, a load takes a cycle for each cache line that a warp touches."""
    images, height, width = dense.grid
    blocks = -(-dense.channels // tile.channels)
    items = images * height * -(-width // tile.pixels) * blocks * dense.groups
    along = WARP // tile.across
    quads = dense.taps[0] * dense.taps[1] * -(-dense.run // QUAD)
    products = quads * tile.pixels * (tile.products.once * tile.vectors + tile.products.row * tile.channels)
    span = dense.x_steps[2] * tile.pixels
    pixel_lines = max(1.0, along * min(LINE_BYTES, span) / LINE_BYTES)
    loads = quads * QUAD / tile.depth * tile.pixels * pixel_lines
    weights = quads * tile.vectors * max(1.0, tile.across * QUAD * QUAD / LINE_BYTES)
    counting = quads * 4 / (tile.depth // QUAD)
    work = max(products + counting, loads + weights) + 0.25 * min(products, loads + weights)
    work += _EPILOGUE * tile.pixels * tile.channels
    warps = max(items / WARP, _BUSY_WARPS)
    return warps * work * occupancy_factor(tile.registers)


def dense_kernel(
    dense: Dense,
    runs: np.ndarray,
    bias: np.ndarray,
    requantize: Requantize,
    x: Buffer,
    y: Buffer,
    rule: str,
    products: ProductCost,
) -> Kernel:
    """The kernel for weights `[group, channel, tap row, tap column, run]` and int32 `bias` `[group * channel]`."""
    tile = tiles_of(dense, products)[0]
    blocks = channel_blocks(dense.channels, tile.vectors, QUAD)
    constants = (
        _packed(runs, blocks.channels),
        *(_padded(a) for a in (bias.astype(np.int32), *requantize_constants(requantize, bias.size))),
    )
    buffers = constant_buffers(constants)
    weights, start, *parameters = buffers
    count, used = len(blocks.channels), blocks.lanes
    width = dense.grid[2]
    dots, rest = divmod(-(-dense.run // QUAD), tile.depth // QUAD)

    def body(n: Expr, h: Expr, g: Expr, w: Expr, c: Expr) -> list[Stmt]:
        column = piece_start(w, tile.pixels, width)
        channel = g * dense.channels + piece_start(c, blocks.span, dense.channels)
        x_start = n * dense.x_steps[0] + h * dense.x_steps[1] + g * dense.run + dense.x_origin
        acc = [[nest.local(QUAD, "int32") for _ in range(tile.vectors)] for _ in range(tile.pixels)]
        pixels = [nest.local(tile.depth, "int8") for _ in range(tile.pixels)]
        short = [nest.local(QUAD, "int8") for _ in range(tile.pixels)] if tile.depth > QUAD and rest else pixels
        loaded = [nest.local(QUAD * QUAD, "int8") for _ in range(tile.vectors)]

        def step(offset: Expr, quad: Expr, length: int, into: list[Buffer]) -> list[Stmt]:
            statements = []
            for p in range(tile.pixels):
                place = x_start + (column + p) * dense.x_steps[2] + offset
                statements.append(store(into[p], 0, load(x, place, length), length))
            for j in range(length // QUAD):
                row = ((quad + j) * (count * dense.groups) + g * count + c) * (tile.channels * QUAD)
                for v in range(tile.vectors):
                    piece = load(weights, row + v * QUAD * QUAD, QUAD * QUAD)
                    statements.append(store(loaded[v], 0, piece, QUAD * QUAD))
                for p, v in product(range(tile.pixels), range(tile.vectors)):
                    four = shuffle([load(into[p], 0, length)], range(j * QUAD, j * QUAD + QUAD))
                    total = tirx.call_pure_extern(
                        "int32x4",
                        "qc_dot16",
                        four,
                        load(loaded[v], 0, QUAD * QUAD),
                        load(acc[p][v], 0, QUAD),
                    )
                    statements.append(store(acc[p][v], 0, total, QUAD))
            return statements

        per_run = -(-dense.run // QUAD)

        def tap(i: Expr, j: Expr) -> list[Stmt]:
            place = i * dense.tap_steps[0] + j * dense.tap_steps[1]
            first = (i * dense.taps[1] + j) * per_run
            per_step = tile.depth // QUAD
            statements = []
            if dots:
                statements += loop(
                    dots,
                    lambda k: step(place + k * tile.depth, first + k * per_step, tile.depth, pixels),
                    "k",
                )
            for k in range(rest):
                done = dots * per_step + k
                statements += step(place + done * QUAD, first + done, QUAD, short)
            return statements

        begin = [
            store(acc[p][v], 0, load(start, channel + blocks.starts[v], QUAD), QUAD)
            for p, v in product(range(tile.pixels), range(tile.vectors))
        ]
        end = []
        for p, v in product(range(tile.pixels), range(tile.vectors)):
            factors = [load(parameter, channel + blocks.starts[v], QUAD) for parameter in parameters]
            stored = requantize_expression(load(acc[p][v], 0, QUAD), factors, requantize, QUAD)
            stored = stored.astype(f"{requantize.out_dtype}x{QUAD}")
            place = n * dense.y_steps[0] + h * dense.y_steps[1] + (column + p) * dense.y_steps[2]
            place = place + (dense.y_origin + blocks.starts[v]) + channel
            if used == QUAD:
                end.append(store(y, place, stored, QUAD))
            elif used == 1:
                end.append(store(y, place, shuffle([stored], [0])))
            else:
                end.append(store(y, place, shuffle([stored], range(used)), used))
        sums = loop(dense.taps[0], lambda i: loop(dense.taps[1], lambda j: tap(i, j), "kw"), "kh")
        return [*begin, *sums, *end]

    images, height, _ = dense.grid
    loops = {"n": images, "h": height, "g": dense.groups, "w": -(-width // tile.pixels), "c": count}
    nest = Tile("dense", loops, body, [x, *buffers], [y])
    func = function([x, *buffers, y], [nest]).mod["main"]
    rows = max(1, min(64 // tile.across, 1 << (loops["w"] - 1).bit_length()))
    name = f"{rule}.{tile.pixels}x{tile.channels}x{tile.depth}"
    return Kernel(with_work_group(func, (tile.across, rows, 1)), name, constants)


def _packed(runs: np.ndarray, channels: np.ndarray) -> np.ndarray:
    """`[group, channel, kh, kw, run]` as `[kh, kw, quad, group, block, channel of block, 4]`."""
    run = runs.shape[-1]
    quads = -(-run // QUAD)
    filled = np.zeros((*runs.shape[:-1], quads * QUAD), np.int8)
    filled[..., :run] = runs
    taken = filled[:, np.maximum(channels.reshape(len(channels), -1), 0)]  # [group, block, channel, kh, kw, run]
    taken[:, channels.reshape(len(channels), -1) < 0] = 0
    split = taken.reshape(*taken.shape[:-1], quads, QUAD)
    return np.ascontiguousarray(split.transpose(3, 4, 5, 0, 1, 2, 6)).reshape(-1)


def _padded(values: np.ndarray) -> np.ndarray:
    """Values and zeros behind them, so that a vector from any of them ends inside."""
    return np.concatenate([values, np.zeros(QUAD, values.dtype)])
