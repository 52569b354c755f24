"""Register tiles for everything that is a matrix product: convolutions without channel padding, and GEMM.

Every output pixel is a sum over `taps` runs of `run` contiguous bytes of the activation. In a channels-last
image one kernel row is one run of `kw * ic` bytes; a dilated or grouped kernel has a run for each tap. Runs
are cut into dot products of `Isa.depth` elements, the last one filled up with zero weights; an instruction set may
load the activations of several at once, so that up to 31 bytes past a run are read.

Weights are packed `[block][tap row][tap column][dot product][vector][Isa.bytes]`: a block is one sequential stream.
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

from qcompiler.lowering.program import Kernel
from qcompiler.lowering.requantize import requantize_constants
from qcompiler.lowering.schedules import scheduled_kernel
from qcompiler.lowering.space import Space, decide
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
    shuffle,
    store,
)
from qcompiler.lowering.workload import Requantize
from qcompiler.targets.cpu.choices import FIRST_LEVEL_CACHE, Dense, DenseChoice, dense_choices
from qcompiler.targets.cpu.epilogue import Epilogue, Target, start_of
from qcompiler.targets.cpu.isa import Isa, product_isas_of
from qcompiler.targets.cpu.plain import plain_products
from qcompiler.targets.cpu.products import Products
from qcompiler.targets.spec import TargetSpec

_PREFETCHING_TILES = 32
"""Most tiles that share a block of weights and still gain by prefetching the next."""


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
    dots = -(-run // isa.depth)
    filled = np.zeros((*weights.shape[:-1], dots * isa.depth), np.int8)
    filled[..., :run] = weights
    chosen = np.where(blocks.channels[..., None, None, None] < 0, 0, filled[:, blocks.channels])
    # to [group, block, tap row, tap column, dot product, vector, channel, depth]
    shape = (*chosen.shape[:-1], dots, isa.depth)
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
    choice: DenseChoice,
    x: Buffer,
    weights: Buffer,
    bias: Buffer,
    epilogue: Epilogue,
    y: Buffer,
    row_terms: Buffer | None = None,
    batch_of: Callable[[Expr], Expr] | None = None,
    zero: Buffer | None = None,
    zero_point: int = 0,
) -> Tile:
    """The block `tile` under the loops `n`, `h`, `w`, `c` over images, rows, columns and channel blocks.

    `row_terms` holds an int32 for each pixel (of one image, if all read the same), which is added to all its
    channels. `batch_of` gives the entry of `weights` and `bias` that an image uses, where there are several.
    `zero` holds one int32 of that value: what LLVM cannot know to be the same for all tiles it does not keep.
    `zero_point` is that of the weights, for instruction sets with a `weight_offset`.
    """
    tile, isa = choice.tile, choice.isa
    images, height, width = dense.grid
    blocks = channel_blocks(dense.channels, tile.vectors, isa.channels)
    count = len(blocks.channels)
    step_bytes = tile.vectors * isa.bytes
    dots, steps = dense.dots(isa.depth), dense.steps(isa.depth)
    block_bytes = steps * step_bytes
    block_lanes = tile.vectors * isa.lanes
    loops = {
        "n": images,
        "h": -(-height // tile.rows),
        "w": -(-width // (tile.columns * dense.merged)),
        "c": dense.groups * count,
    }
    weight_bytes = math.prod(int(extent) for extent in weights.shape)
    prefetched = prefetch_step(loops["h"] * loops["w"], step_bytes, weight_bytes) if isa.prefetches else 0

    def hidden(h: Expr, w: Expr, vector: int) -> Expr:
        """0, for an index of elements of which a vector has so many."""
        if zero is None:
            return int32(0)
        return ((h + w) & load(zero, 0)) * vector

    def body(n: Expr, h: Expr, w: Expr, c: Expr) -> list[Stmt]:
        row = tile_start(h, tile.rows, height)
        column = tile_start(w, tile.columns * dense.merged, width)
        group, inner = (int32(0), c) if dense.groups == 1 else (c // count, c % count)
        packed = c if batch_of is None else batch_of(n) * (dense.groups * count) + c
        x_base = _dot(dense.x_steps, (n, row, column)) + (group * dense.run + dense.x_origin)
        channel = tile_start(inner, blocks.span, dense.channels) + group * dense.channels
        y_base = _dot(dense.y_steps, (n, row, column)) + (channel + dense.y_origin)
        pixels = [(i, j * dense.merged) for i, j in product(range(tile.rows), range(tile.columns))]
        behind = hidden(h, w, isa.lanes)
        fenced = isa.fences(tile.pixels, tile.vectors, dense.x_dtype)
        places, statements = [packed * block_bytes, packed * block_lanes], []
        if isa.definitions:
            cells = [result.local(1, "int64") for _ in places]
            statements += [store(c, 0, isa.hidden(p.astype("int64"))) for c, p in zip(cells, places, strict=True)]
            places = [load(cell, 0) for cell in cells]
        block_start, bias_start = places
        products = Products.of(result, isa, x, dense.x_dtype, tile.pixels, tile.vectors, zero_point)

        def initial(group: int, vector: int) -> Expr:
            value = load(bias, bias_start + vector * isa.lanes + behind, isa.lanes)
            if row_terms is None:
                return value
            image = n if dense.x_steps[0] else int32(0)
            terms = []
            for i, j in pixels[group * isa.pixels : (group + 1) * isa.pixels]:
                index = (image * height + row + i) * width + column + j
                terms.append(tirx.Broadcast(load(row_terms, index), isa.channels))
            return value + (terms[0] if isa.pixels == 1 else shuffle(terms, range(isa.lanes)))

        def step(tap_row: Expr, tap_column: Expr, first: Expr, count: int) -> list[Stmt]:
            """Products with `count` quads from `first`, which are loaded together."""
            source = x_base + tap_row * dense.tap_steps[0] + tap_column * dense.tap_steps[1] + first * isa.depth
            flat = (tap_row * dense.taps[1] + tap_column) * dots + first
            statements = isa.fence() if fenced else []
            if prefetched:
                ahead = ((h * loops["w"] + w) * steps + flat) * prefetched
                following = (packed + 1) * block_bytes + ahead
                statements.append(prefetch(weights, tirx.min(following, int32(weight_bytes - 1))))
            apart = [i * dense.x_steps[1] + j * dense.x_steps[2] for i, j in pixels]
            place = block_start + flat * step_bytes + hidden(h, w, isa.bytes)
            return statements + products.add(source, apart, weights, place, count)

        def run(tap_row: Expr, tap_column: Expr) -> list[Stmt]:
            group = isa.together
            whole, rest = divmod(dots, group)
            statements = loop(whole, lambda i: step(tap_row, tap_column, i * group, group), "quads") if whole else []
            return statements + (step(tap_row, tap_column, int32(whole * group), rest) if rest else [])

        statements += products.start(initial)
        statements += loop(
            dense.taps[0],
            lambda tap_row: loop(
                dense.taps[1],
                lambda tap_column: run(tap_row, tap_column),
                "tap_column",
            ),
            "tap_row",
        )
        outputs = []
        for number, (i, j) in enumerate(pixels):
            # Only whole vectors are stored across pixels.
            position = (i, j * dense.y_steps[2]) if isa.stores_whole else (number, 0)
            outputs.append(Target(y_base + (i * dense.y_steps[1] + j * dense.y_steps[2]), position))
        statements += products.finish()
        parts = products.parts(c * block_lanes + behind, outputs, blocks.starts, blocks.lanes)
        return statements + epilogue.store(result, y, parts)

    reads = [x, weights, bias, *epilogue.parameters, *([] if row_terms is None else [row_terms])]
    result = Tile("tile", loops, body, reads, [y], order=loop_order(choice.stripe), definitions=isa.definitions)
    return result


def prefetch_step(tiles: int, step_bytes: int, weight_bytes: int) -> int:
    """Bytes by which each dot product of a tile moves a prefetch through the next block of weights; 0 for none.

    The `tiles` that share a block fetch all of the next one into the second-level cache meanwhile. Many tiles hide
    the fetching of their block anyway; a single one has no time to fetch ahead.
    """
    if not 1 < tiles <= _PREFETCHING_TILES or weight_bytes <= FIRST_LEVEL_CACHE:
        return 0
    return -(-step_bytes // tiles)


def loop_order(stripe: int) -> str:
    """The order of the loops for a `DenseChoice.stripe`, as `Tile` takes it."""
    if stripe > 1:
        return f"n h w c w*{stripe}"
    return "n h w c" if stripe else "n c h w"


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

    def make(choice: DenseChoice) -> Kernel:
        isa, tile = choice.isa, choice.tile
        blocks = channel_blocks(dense.channels, tile.vectors, isa.channels)
        packed = pack_weights(weights, blocks, isa)
        sums = weights.sum((2, 3, 4), np.int64).reshape(-1)
        start = start_of(isa, requantize, acc_bound)
        shifted = bias + start - isa.bias_offset(dense.x_dtype) * sums
        constants = (packed, *packed_parameters(shifted, requantize, dense.groups, isa.spread(blocks.channels)))
        hides = isa.hides_constants(tile.pixels, tile.vectors, dense.steps(isa.depth))
        constants = (*constants, np.zeros(1, np.int32)) if hides else constants
        buffers = constant_buffers(constants)
        parameters, zero = (buffers[2:-1], buffers[-1]) if hides else (buffers[2:], None)
        epilogue = Epilogue(isa, requantize, parameters, acc_bound, start)
        block = dense_tile(dense, choice, x, buffers[0], buffers[1], epilogue, y, zero=zero)
        func = function([x, *buffers, y], [block]).mod["main"]
        return scheduled_kernel(func, rule_name(spec, choice, "dense"), constants)

    choices = dense_choices(dense, [isa for isa in product_isas_of(spec) if isa.takes(weights)])
    return decide(Space(plain_products(dense, "dense", x.shape, y.shape, requantize, spec), choices, make))


def rule_name(spec: TargetSpec, choice: DenseChoice, rule: str) -> str:
    return f"{spec.instruction_set}{choice.isa.form}-{rule}-{choice.tile.pixels}x{choice.tile.vectors}"


def tile_start(index: Expr, size: int, extent: int) -> Expr:
    """Where a tile of `size` begins along an axis of `extent`; the last one ends with the axis."""
    start = index * size
    return start if extent % size == 0 else tirx.min(start, int32(extent - size))


def _dot(steps: Sequence[int], indices: Sequence[Expr]) -> Expr:
    total = indices[0] * steps[0]
    for step, index in zip(steps[1:], indices[1:], strict=True):
        total = total + index * step
    return total
