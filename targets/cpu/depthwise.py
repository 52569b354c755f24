"""Depthwise convolution: four neighbouring pixels of a row interleaved, then one dot product over four taps.

`4 * lanes` channels of the pixels `x0..x3` are interleaved once into four vectors; each lane then holds four
taps of one channel. Every output column that sees these pixels reuses them with its taps shifted, and every
output row of the tile reuses the input row. Narrowing undoes the order that interleaving leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from qcompiler.lowering.program import Kernel
from qcompiler.lowering.tir import (
    Expr,
    Stmt,
    Tile,
    buffer,
    constant_buffers,
    function,
    load,
    reorder,
    shuffle,
    store,
)
from qcompiler.lowering.workload import ConvWorkload
from qcompiler.targets.cpu.dense import packed_parameters, tile_start
from qcompiler.targets.cpu.epilogue import PARTS, STORED, Epilogue, start_of
from qcompiler.targets.cpu.isa import BYTES, QUAD, Isa, isas_of
from qcompiler.targets.spec import TargetSpec

_MOST_QUADS = 48
"""Interleavings in one tile's code beyond which another rule serves."""
_WEIGHTS_IN_CACHE = 8 * 1024


@dataclass(frozen=True)
class _Window:
    """Input pixels of one row that `columns` neighbouring outputs see, in quads."""

    columns: int
    stride: int
    taps: int

    @property
    def pixels(self) -> int:
        return (self.columns - 1) * self.stride + self.taps

    @property
    def quads(self) -> int:
        return -(-self.pixels // QUAD)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(column, quad) where the output column sees a pixel of the quad."""
        return [
            (column, quad)
            for column, quad in product(range(self.columns), range(self.quads))
            if quad * QUAD < column * self.stride + self.taps and (quad + 1) * QUAD > column * self.stride
        ]

    def tap(self, column: int, quad: int, j: int) -> int | None:
        """The tap that pixel `j` of a quad is for an output column; None if the column does not see it."""
        tap = quad * QUAD + j - column * self.stride
        return tap if 0 <= tap < self.taps else None


def conv_depthwise(workload: ConvWorkload, weights: np.ndarray, bias: np.ndarray, spec: TargetSpec) -> Kernel | None:
    """One output channel per input channel, kernels up to about 7x7 (or 1x31), 8-bit operands."""
    channels = workload.oc
    if not workload.group == workload.ic == channels or not is_regular(workload, weights):
        return None
    weights = weights.astype(np.int8)
    isa = min(isas_of(spec), key=lambda isa: (-(-channels // isa.bytes), isa.lanes))
    rows, window = _choose(workload, isa)
    if _input_rows(workload, rows) * window.quads > _MOST_QUADS:
        return None

    group = isa.bytes
    count = -(-channels // group)
    stored = min(channels, group)
    # Channels of group, vector, lane: the order that interleaving pixels leaves.
    order = np.array([[isa.place_of(v, lane) for lane in range(isa.lanes)] for v in range(PARTS)])
    starts = [min(first, channels - stored) for first in range(0, channels, group)]
    table = np.where(order < stored, np.add.outer(starts, order), -1)
    packed = _pack(weights, table, window, isa)
    shifted = bias.astype(np.int64) - isa.bias_offset(workload.x_dtype) * weights.sum((1, 2, 3), np.int64)
    start = start_of(isa, workload.requantize, workload.acc_bound)
    constants = (packed, *packed_parameters(shifted + start, workload.requantize, 1, table))

    x = buffer("x", workload.x_shape, workload.x_dtype)
    y = buffer("y", workload.y_shape, workload.requantize.out_dtype)
    weight_buffer, bias_buffer, *parameters = constant_buffers(constants)
    epilogue = Epilogue(isa, workload.requantize, parameters, workload.acc_bound, start)
    x_row, y_row = workload.x_shape[1], workload.y_shape[1]
    x_image, y_image = (shape[0] // workload.n * shape[1] for shape in (workload.x_shape, workload.y_shape))
    pairs = window.pairs
    kernel_bytes = len(pairs) * PARTS * isa.bytes

    def body(n: Expr, h: Expr, w: Expr, g: Expr) -> list[Stmt]:
        row, column = tile_start(h, rows, workload.oh), tile_start(w, window.columns, workload.ow)
        channel = tile_start(g, stored, channels)
        source = n * x_image + row * (workload.strides[0] * x_row) + workload.x_origin + channel
        source = source + column * (workload.strides[1] * workload.ic)
        accumulators = {
            (o, p, v): tile.local(isa.lanes, "int32")
            for o, p, v in product(range(rows), range(window.columns), range(PARTS))
        }
        statements = [
            store(acc, 0, load(bias_buffer, (g * PARTS + v) * isa.lanes, isa.lanes), isa.lanes)
            for (_, _, v), acc in accumulators.items()
        ]
        interleaved = [[tile.local(group, workload.x_dtype) for _ in range(PARTS)] for _ in range(window.quads)]
        halves = [tile.local(group, workload.x_dtype) for _ in range(PARTS)]
        uses = _uses_of_input_rows(workload, rows)
        for input_row, outputs in uses.items():
            for quad, vectors in enumerate(interleaved):
                offsets = [
                    input_row * x_row + min(quad * QUAD + j, window.pixels - 1) * _pixel_step(workload)
                    for j in range(QUAD)
                ]
                pixels = [load(x, source + offset, group) for offset in offsets]
                statements += _interleave(pixels, halves, vectors, group)
            for (o, kh), (i, (p, quad)), v in product(outputs, enumerate(pairs), range(PARTS)):
                acc = accumulators[o, p, v]
                operand = isa.operand(load(interleaved[quad][v], 0, group), workload.x_dtype)
                offset = (g * workload.kh + kh) * kernel_bytes + (i * PARTS + v) * isa.bytes
                value = isa.dot(load(acc, 0, isa.lanes), operand, weight_buffer, offset)
                statements.append(store(acc, 0, value, isa.lanes))
        for o, p in product(range(rows), range(window.columns)):
            result = tile.local(group, workload.requantize.out_dtype)
            parts = [(accumulators[o, p, v], (g * PARTS + v) * isa.lanes) for v in range(PARTS)]
            statements.append(store(result, 0, epilogue.stored(parts), group))
            target = n * y_image + row * y_row + channel + workload.y_origin
            target = target + column * channels + (o * y_row + p * channels)
            whole = load(result, 0, group)
            piece = whole if stored == group else shuffle([whole], range(stored))
            statements.append(store(y, target, piece, stored))
        return statements

    loops = {
        "n": workload.n,
        "h": -(-workload.oh // rows),
        "w": -(-workload.ow // window.columns),
        "g": count,
    }
    tile = Tile("tile", loops, body, [x, weight_buffer, bias_buffer, *parameters], [y])
    schedule = function([x, weight_buffer, bias_buffer, *parameters, y], [tile])
    reorder(schedule, "tile", "nhwg" if packed.nbytes <= _WEIGHTS_IN_CACHE else "nghw")
    return Kernel(
        schedule.mod["main"],
        f"{spec.instruction_set}-depthwise-{rows}x{window.columns}x{isa.bytes}",
        constants,
    )


def is_regular(workload: ConvWorkload, weights: np.ndarray) -> bool:
    """Whether activations are bytes, results one of `STORED`, and the weights fit int8."""
    types_fit = workload.x_dtype in BYTES and workload.requantize.out_dtype in STORED
    return types_fit and weights.min() >= -128 and weights.max() <= 127


def _choose(workload: ConvWorkload, isa: Isa) -> tuple[int, _Window]:
    """Output rows and columns of a tile with the fewest estimated cycles."""
    stride = workload.strides[1] if workload.dilations[1] == 1 else 1
    most_columns = min(4, workload.ow) if workload.dilations[1] == 1 else 1

    def fits(rows: int, window: _Window) -> bool:
        accumulators = PARTS * rows * window.columns
        return max(accumulators, 2 * PARTS * window.quads) <= isa.registers // 2

    def cycles(rows: int, window: _Window) -> float:
        tiles = -(-workload.oh // rows) * -(-workload.ow // window.columns)
        interleavings = _input_rows(workload, rows) * window.quads
        weights = workload.kh * len(window.pairs) * PARTS
        outputs = rows * window.columns * PARTS
        return tiles * (
            interleavings * (8 + PARTS * isa.operand_cost)
            + rows * weights * isa.dot_cost
            + weights * (0.5 + isa.weight_cost)
            + outputs * 2.5
            + 10
        )

    candidates = [
        (rows, _Window(columns, stride, workload.kw))
        for rows, columns in product(range(1, min(3, workload.oh) + 1), range(1, most_columns + 1))
    ]
    fitting = [candidate for candidate in candidates if fits(*candidate)]
    return min(fitting or candidates[:1], key=lambda candidate: cycles(*candidate))


def _uses_of_input_rows(workload: ConvWorkload, rows: int) -> dict[int, list[tuple[int, int]]]:
    """Input rows below the tile's first one to the (output row, kernel row) pairs that use them."""
    uses: dict[int, list[tuple[int, int]]] = {}
    for o, kh in product(range(rows), range(workload.kh)):
        uses.setdefault(o * workload.strides[0] + kh * workload.dilations[0], []).append((o, kh))
    return dict(sorted(uses.items()))


def _input_rows(workload: ConvWorkload, rows: int) -> int:
    return len(_uses_of_input_rows(workload, rows))


def _pixel_step(workload: ConvWorkload) -> int:
    return workload.dilations[1] * workload.ic


def _pack(weights: np.ndarray, table: np.ndarray, window: _Window, isa: Isa) -> np.ndarray:
    """Weights `[C, 1, KH, KW]` as `[group, KH, (column, quad) pair, vector, 4 * lanes]`."""
    chosen = np.where(table[..., None, None] < 0, 0, weights[:, 0][table])
    taps = np.zeros((*table.shape, weights.shape[2], len(window.pairs), QUAD), np.int8)
    for i, (column, quad) in enumerate(window.pairs):
        for j in range(QUAD):
            tap = window.tap(column, quad, j)
            if tap is not None:
                taps[..., i, j] = chosen[..., tap]
    # [group, vector, lane, kernel row, pair, 4] to [group, kernel row, pair, vector, lane, 4]
    return np.ascontiguousarray(isa.arrange(taps.transpose(0, 3, 4, 1, 2, 5)))


def _interleave(pixels: list[Expr], halves: list, vectors: list, size: int) -> list[Stmt]:
    """Byte-interleaves four vectors of `size` bytes through `halves` into the four `vectors`."""
    statements = []
    for i, pair in enumerate((pixels[:2], pixels[2:])):
        for j in range(2):
            statements.append(store(halves[2 * i + j], 0, shuffle(pair, _unpack(size, 1, j)), size))
    for v, vector in enumerate(vectors):
        pair = [load(halves[v // 2], 0, size), load(halves[2 + v // 2], 0, size)]
        statements.append(store(vector, 0, shuffle(pair, _unpack(size, 2, v % 2)), size))
    return statements


def _unpack(size: int, unit: int, high: int) -> list[int]:
    """Indices of the x86 unpack instructions: elements of `unit` bytes from one half of each 128-bit lane."""
    return [
        source + lane + high * 8 + element * unit + byte
        for lane in range(0, size, 16)
        for element in range(8 // unit)
        for source in (0, size)
        for byte in range(unit)
    ]
