"""Register tiles for everything that is a matrix product: convolutions without channel padding, and GEMM.

Every output pixel is a sum over `taps` runs of `run` contiguous bytes of the activation. In a channels-last
image one kernel row is one run of `kw * ic` bytes; a dilated or grouped kernel has a run for each tap. Runs
are cut into quads, the last one filled up with zero weights; an instruction set may load several quads at once,
so that up to 15 bytes past a run are read.

Weights are packed `[block][tap row][tap column][quad][vector][4 * lanes]`: a block is one sequential stream.
Where a tile does not divide the output, the last tile is moved back to end with it: some outputs are computed
twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from tvm import tirx
from tvm.s_tir import Schedule

from qcompiler.lowering.program import Kernel
from qcompiler.lowering.requantize import requantize_constants
from qcompiler.lowering.tir import (
    Buffer,
    Expr,
    Stmt,
    Tile,
    constant_buffers,
    function,
    int32,
    load,
    loop,
    prefetch,
    reorder,
    store,
)
from qcompiler.lowering.workload import Requantize
from qcompiler.targets.cpu.epilogue import Epilogue, Part, is_bounded
from qcompiler.targets.cpu.isa import QUAD, Isa, isa_of
from qcompiler.targets.spec import TargetSpec

_EPILOGUE_COST = 4.0
"""Cycles to requantize and store one accumulator."""
_TILE_COST = 12.0
"""Cycles of loop control and address arithmetic for one tile."""
_DOT_LATENCY = 5.0
"""Cycles before an accumulator can take its next dot product."""
_FIRST_LEVEL_CACHE = 24 * 1024
"""Bytes of weights that stay in the first-level cache beside the activations."""

_PREFETCHING_TILES = 32
"""Most tiles that share a block of weights and still gain by prefetching the next."""


@dataclass(frozen=True)
class Dense:
    """A matrix product over a grid of output pixels; steps are in elements of the flat buffers."""

    grid: tuple[int, int, int]
    """Images (or batch entries), rows, columns."""
    x_steps: tuple[int, int, int]
    x_origin: int
    y_steps: tuple[int, int, int]
    y_origin: int
    taps: tuple[int, int]
    tap_steps: tuple[int, int]
    run: int
    groups: int
    """Groups of channels that read `run` bytes each, `run` apart."""
    channels: int
    """Output channels of one group."""
    x_dtype: str

    @property
    def quads(self) -> int:
        """Quads of one run."""
        return -(-self.run // QUAD)

    @property
    def steps(self) -> int:
        """Dot products that one accumulator takes."""
        return self.taps[0] * self.taps[1] * self.quads


@dataclass(frozen=True)
class RegisterTile:
    rows: int
    columns: int
    vectors: int

    @property
    def pixels(self) -> int:
        return self.rows * self.columns


def choose_tile(dense: Dense, isa: Isa) -> RegisterTile:
    """The tile with the fewest estimated cycles."""
    _, height, width = dense.grid
    needed = -(-dense.channels // isa.lanes)
    tiles = (
        RegisterTile(rows, columns, vectors)
        for rows, columns, vectors in product(
            range(1, min(height, isa.accumulators) + 1),
            range(1, min(width, isa.accumulators) + 1),
            range(1, min(needed, isa.accumulators) + 1),
        )
        if rows * columns * vectors <= isa.accumulators
    )
    return min(tiles, key=lambda tile: (_cycles(dense, tile, isa), -tile.columns))


def _cycles(dense: Dense, tile: RegisterTile, isa: Isa) -> float:
    _, height, width = dense.grid
    blocks = -(-dense.channels // (isa.lanes * tile.vectors))
    count = -(-height // tile.rows) * -(-width // tile.columns) * blocks
    accumulators = tile.pixels * tile.vectors
    loads = (tile.pixels + tile.vectors) * 0.5
    arithmetic = accumulators * isa.dot_cost + tile.pixels * isa.operand_cost + tile.vectors * isa.weight_cost
    issue = (accumulators + tile.pixels + tile.vectors) / 4
    step = max(arithmetic, loads, issue, _DOT_LATENCY) + 0.1 * loads
    narrowings = -(-accumulators // 4) * 4
    return count * (dense.steps * step + narrowings * _EPILOGUE_COST * 0.5 + accumulators + _TILE_COST)


@dataclass(frozen=True)
class ChannelBlocks:
    """Which output channel each lane of each vector of each block computes."""

    span: int
    """Channels of a block."""
    starts: tuple[int, ...]
    """First channel of each vector, counted from the block's first channel."""
    lanes: int
    """Lanes of a vector that hold a channel."""
    channels: np.ndarray
    """Channel numbers `[block, vector, lane]` within a group; -1 where a lane holds none."""


def channel_blocks(channels: int, vectors: int, lanes: int) -> ChannelBlocks:
    """Blocks of `vectors` vectors; the last block and last vector are moved back to end with the channels."""
    span = min(channels, vectors * lanes)
    used = min(channels, lanes)
    starts = tuple(min(v * lanes, span - used) for v in range(vectors))
    blocks = [min(first, channels - span) for first in range(0, channels, span)]
    lane = np.arange(lanes)
    table = np.add.outer(np.add.outer(blocks, starts), np.where(lane < used, lane, 0))
    return ChannelBlocks(span, starts, used, np.where(lane < used, table, -1))


def pack_weights(weights: np.ndarray, blocks: ChannelBlocks, isa: Isa) -> np.ndarray:
    """`[group, channel, tap row, tap column, run]` as packed `[group * block, bytes of a block]`."""
    run = weights.shape[-1]
    quads = -(-run // QUAD)
    filled = np.zeros((*weights.shape[:-1], quads * QUAD), np.int8)
    filled[..., :run] = weights
    chosen = np.where(blocks.channels[..., None, None, None] < 0, 0, filled[:, blocks.channels])
    # to [group, block, tap row, tap column, quad, vector, lane, 4]
    shape = (*chosen.shape[:-1], quads, QUAD)
    ordered = chosen.reshape(shape).transpose(0, 1, 4, 5, 6, 2, 3, 7)
    return np.ascontiguousarray(isa.arrange(ordered)).reshape(ordered.shape[0] * ordered.shape[1], -1)


def pack_channels(values: np.ndarray, groups: int, channels: np.ndarray) -> np.ndarray:
    """Values `[group * channel]` in the order of the packed lanes; 1 in lanes without a channel."""
    chosen = values.reshape(groups, -1)[:, channels]
    return np.where(channels < 0, values.dtype.type(1), chosen).reshape(-1)


def packed_parameters(
    bias: np.ndarray, requantize: Requantize, groups: int, channels: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Bias and requantize constants in the order of the packed lanes; `channels` as in `ChannelBlocks`."""
    constants = (bias.astype(np.int32), *requantize_constants(requantize, len(bias)))
    return tuple(pack_channels(values, groups, channels) for values in constants)


def dense_tile(
    dense: Dense,
    tile: RegisterTile,
    isa: Isa,
    x: Buffer,
    weights: Buffer,
    bias: Buffer,
    epilogue: Epilogue,
    y: Buffer,
    row_terms: Buffer | None = None,
    batch_of: Callable[[Expr], Expr] | None = None,
) -> Tile:
    """The block `tile` under the loops `n`, `h`, `w`, `c` over images, rows, columns and channel blocks.

    `row_terms` holds an int32 for each pixel (of one image, if all read the same), which is added to all its
    channels. `batch_of` gives the entry of `weights` and `bias` that an image uses, where there are several.
    """
    images, height, width = dense.grid
    blocks = channel_blocks(dense.channels, tile.vectors, isa.lanes)
    count = len(blocks.channels)
    vectors = tile.vectors
    quad_bytes = vectors * isa.bytes
    block_bytes = dense.steps * quad_bytes
    block_lanes = vectors * isa.lanes
    loops = {
        "n": images,
        "h": -(-height // tile.rows),
        "w": -(-width // tile.columns),
        "c": dense.groups * count,
    }
    weight_bytes = math.prod(int(extent) for extent in weights.shape)
    prefetched = prefetch_step(loops["h"] * loops["w"], quad_bytes, weight_bytes)

    def body(n: Expr, h: Expr, w: Expr, c: Expr) -> list[Stmt]:
        row = tile_start(h, tile.rows, height)
        column = tile_start(w, tile.columns, width)
        group, inner = (int32(0), c) if dense.groups == 1 else (c // count, c % count)
        packed = c if batch_of is None else batch_of(n) * (dense.groups * count) + c
        parameter = c * block_lanes
        x_base = _dot(dense.x_steps, (n, row, column)) + (group * dense.run + dense.x_origin)
        channel = tile_start(inner, blocks.span, dense.channels) + group * dense.channels
        y_base = _dot(dense.y_steps, (n, row, column)) + (channel + dense.y_origin)
        pixels = list(product(range(tile.rows), range(tile.columns)))
        accumulators = [[result.local(isa.lanes, "int32") for _ in range(vectors)] for _ in pixels]

        def initial(pixel: tuple[int, int], vector: int) -> Expr:
            value = load(bias, packed * block_lanes + vector * isa.lanes, isa.lanes)
            if row_terms is None:
                return value
            image = n if dense.x_steps[0] else int32(0)
            index = (image * height + row + pixel[0]) * width + column + pixel[1]
            return value + tirx.Broadcast(load(row_terms, index), isa.lanes)

        group = isa.quads
        held = [result.local(group * QUAD, dense.x_dtype) for _ in pixels] if group > 1 else []

        def step(tap_row: Expr, tap_column: Expr, first: Expr, count: int) -> list[Stmt]:
            """Products with `count` quads from `first`, which are loaded together."""
            source = x_base + tap_row * dense.tap_steps[0] + tap_column * dense.tap_steps[1] + first * QUAD
            flat = (tap_row * dense.taps[1] + tap_column) * dense.quads + first
            weight = packed * block_bytes + flat * quad_bytes
            statements = []
            if prefetched:
                ahead = ((h * loops["w"] + w) * dense.steps + flat) * prefetched
                following = (packed + 1) * block_bytes + ahead
                statements.append(prefetch(weights, tirx.min(following, int32(weight_bytes - 1))))
            offsets = [source + (i * dense.x_steps[1] + j * dense.x_steps[2]) for i, j in pixels]
            values = [isa.loaded(load(x, offset, group * QUAD), dense.x_dtype) for offset in offsets]
            for i, vector in enumerate(held):
                statements.append(store(vector, 0, values[i], group * QUAD))
                values[i] = load(vector, 0, group * QUAD)
            for quad, (value, accumulator) in product(range(count), zip(values, accumulators, strict=True)):
                operand = isa.quad(value, quad, dense.x_dtype)
                for v, acc in enumerate(accumulator):
                    total = isa.dot(
                        load(acc, 0, isa.lanes), operand, weights, weight + (quad * quad_bytes + v * isa.bytes)
                    )
                    statements.append(store(acc, 0, total, isa.lanes))
            return statements

        def run(tap_row: Expr, tap_column: Expr) -> list[Stmt]:
            whole, rest = divmod(dense.quads, group)
            statements = loop(whole, lambda i: step(tap_row, tap_column, i * group, group), "quads") if whole else []
            return statements + (step(tap_row, tap_column, int32(whole * group), rest) if rest else [])

        statements = [
            store(acc, 0, initial(pixel, v), isa.lanes)
            for pixel, accumulator in zip(pixels, accumulators, strict=True)
            for v, acc in enumerate(accumulator)
        ]
        statements += loop(
            dense.taps[0],
            lambda tap_row: loop(
                dense.taps[1],
                lambda tap_column: run(tap_row, tap_column),
                "tap_column",
            ),
            "tap_row",
        )
        parts = [
            Part(
                acc,
                parameter + v * isa.lanes,
                y_base + (i * dense.y_steps[1] + j * dense.y_steps[2] + blocks.starts[v]),
                (i * tile.columns + j, blocks.starts[v]),
                blocks.lanes,
            )
            for (i, j), accumulator in zip(pixels, accumulators, strict=True)
            for v, acc in enumerate(accumulator)
        ]
        return statements + epilogue.store(result, y, parts)

    reads = [x, weights, bias, *epilogue.parameters, *([] if row_terms is None else [row_terms])]
    result = Tile("tile", loops, body, reads, [y])
    return result


def prefetch_step(tiles: int, quad_bytes: int, weight_bytes: int) -> int:
    """Bytes by which each dot product of a tile moves a prefetch through the next block of weights; 0 for none.

    The `tiles` that share a block fetch all of the next one into the second-level cache meanwhile. Many tiles hide
    the fetching of their block anyway; a single one has no time to fetch ahead.
    """
    if not 1 < tiles <= _PREFETCHING_TILES or weight_bytes <= _FIRST_LEVEL_CACHE:
        return 0
    return -(-quad_bytes // tiles)


def schedule_tile(params: Sequence[Buffer], tiles: Sequence[Tile], weight_bytes: int) -> Schedule:
    """The kernel's schedule: channel blocks innermost if all weights stay in the first-level cache."""
    schedule = function(params, tiles)
    reorder(schedule, "tile", "nhwc" if weight_bytes <= _FIRST_LEVEL_CACHE else "nchw")
    return schedule


def constant_kernel(
    dense: Dense,
    weights: np.ndarray,
    bias: np.ndarray,
    requantize: Requantize,
    acc_bound: int,
    x: Buffer,
    y: Buffer,
    spec: TargetSpec,
) -> Kernel:
    """A matrix product with constant weights, int8 `[group, channel, tap row, tap column, run]`."""
    isa = isa_of(spec)
    tile = choose_tile(dense, isa)
    blocks = channel_blocks(dense.channels, tile.vectors, isa.lanes)
    packed = pack_weights(weights, blocks, isa)
    sums = weights.sum((2, 3, 4), np.int64).reshape(-1)
    shifted = bias - isa.bias_offset(dense.x_dtype) * sums
    constants = (packed, *packed_parameters(shifted, requantize, dense.groups, blocks.channels))
    buffers = constant_buffers(constants)
    epilogue = Epilogue(isa, requantize, buffers[2:], is_bounded(requantize, acc_bound))
    block = dense_tile(dense, tile, isa, x, buffers[0], buffers[1], epilogue, y)
    schedule = schedule_tile([x, *buffers, y], [block], packed.nbytes)
    return Kernel(schedule.mod["main"], rule_name(spec, "dense", tile), constants)


def rule_name(spec: TargetSpec, rule: str, tile: RegisterTile) -> str:
    return f"{spec.instruction_set}-{rule}-{tile.pixels}x{tile.vectors}"


def tile_start(index: Expr, size: int, extent: int) -> Expr:
    """Where a tile of `size` begins along an axis of `extent`; the last one ends with the axis."""
    start = index * size
    return start if extent % size == 0 else tirx.min(start, int32(extent - size))


def _dot(steps: Sequence[int], indices: Sequence[Expr]) -> Expr:
    total = indices[0] * steps[0]
    for step, index in zip(steps[1:], indices[1:], strict=True):
        total = total + index * step
    return total
