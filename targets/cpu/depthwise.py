"""Depthwise convolution: `4 * lanes` neighbouring channels of a few output rows and columns at a time.

How the products of such a tile come about stands in `depthwise_tiles`.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from qcompiler.lowering.program import Kernel
from qcompiler.lowering.tir import Expr, Stmt, Tile, buffer, constant_buffers, function, load, reorder, shuffle, store
from qcompiler.lowering.workload import ConvWorkload
from qcompiler.targets.cpu.dense import packed_parameters, tile_start
from qcompiler.targets.cpu.depthwise_tiles import DepthwiseTile, Interleaved, Widened
from qcompiler.targets.cpu.epilogue import PARTS, STORED, Epilogue
from qcompiler.targets.cpu.isa import BYTES, Isa, isas_of
from qcompiler.targets.spec import TargetSpec

_MOST_VECTORS = 192
"""Input vectors in one tile's code beyond which another rule serves."""


def conv_depthwise(workload: ConvWorkload, weights: np.ndarray, bias: np.ndarray, spec: TargetSpec) -> Kernel | None:
    """One output channel per input channel, kernels up to about 7x7 (or 1x31), 8-bit operands."""
    channels = workload.oc
    if not workload.group == workload.ic == channels or not is_regular(workload, weights):
        return None
    weights = weights.astype(np.int8)
    isa = min(isas_of(spec), key=lambda isa: (-(-channels // isa.bytes), isa.lanes))
    form = _choose(workload, isa)
    if form.input_vectors > _MOST_VECTORS:
        return None

    rows, columns, group = form.rows, form.columns, isa.bytes
    count = -(-channels // group)
    stored = min(channels, group)
    # Channels of group, vector, lane.
    order = np.array([[isa.place_of(v, lane) for lane in range(isa.lanes)] for v in range(PARTS)])
    starts = [min(first, channels - stored) for first in range(0, channels, group)]
    table = np.where(order < stored, np.add.outer(starts, order), -1)
    packed = form.pack(np.where(table[..., None, None] < 0, 0, weights[:, 0][table]))
    shifted = bias.astype(np.int64) - isa.bias_offset(workload.x_dtype) * weights.sum((1, 2, 3), np.int64)
    constants = (packed, *packed_parameters(shifted, workload.requantize, 1, table))

    x = buffer("x", workload.x_shape, workload.x_dtype)
    y = buffer("y", workload.y_shape, workload.requantize.out_dtype)
    weight_buffer, bias_buffer, *parameters = constant_buffers(constants)
    epilogue = Epilogue(isa, workload.requantize, parameters, workload.acc_bound)
    x_row, y_row = workload.x_shape[1], workload.y_shape[1]
    x_image, y_image = (shape[0] // workload.n * shape[1] for shape in (workload.x_shape, workload.y_shape))

    def body(n: Expr, h: Expr, w: Expr, g: Expr) -> list[Stmt]:
        row, column = tile_start(h, rows, workload.oh), tile_start(w, columns, workload.ow)
        channel = tile_start(g, stored, channels)
        source = n * x_image + row * (workload.strides[0] * x_row) + workload.x_origin + channel
        source = source + column * (workload.strides[1] * workload.ic)
        accumulators = {
            (o, p, v): tile.local(isa.lanes, "int32") for o, p, v in product(range(rows), range(columns), range(PARTS))
        }
        statements = [
            store(acc, 0, load(bias_buffer, (g * PARTS + v) * isa.lanes, isa.lanes), isa.lanes)
            for (_, _, v), acc in accumulators.items()
        ]
        statements += form.products(tile, x, source, weight_buffer, g, accumulators)
        for o, p in product(range(rows), range(columns)):
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
        "w": -(-workload.ow // columns),
        "g": count,
    }
    tile = Tile("tile", loops, body, [x, weight_buffer, bias_buffer, *parameters], [y])
    schedule = function([x, weight_buffer, bias_buffer, *parameters, y], [tile])
    reorder(schedule, "tile", "nhwg" if packed.nbytes <= isa.kept_weights else "nghw")
    return Kernel(
        schedule.mod["main"],
        f"{spec.instruction_set}-depthwise-{rows}x{columns}x{isa.bytes}",
        constants,
    )


def is_regular(workload: ConvWorkload, weights: np.ndarray) -> bool:
    """Whether activations are bytes, results one of `STORED`, and the weights fit int8."""
    types_fit = workload.x_dtype in BYTES and workload.requantize.out_dtype in STORED
    return types_fit and weights.min() >= -128 and weights.max() <= 127


def _choose(workload: ConvWorkload, isa: Isa) -> DepthwiseTile:
    """The tile with the fewest estimated cycles."""
    most_columns = min(4, workload.ow) if workload.dilations[1] == 1 else 1
    kind = Widened if isa.multiplies_words else Interleaved
    candidates = [
        kind(workload, isa, rows, columns)
        for rows, columns in product(range(1, min(3, workload.oh) + 1), range(1, most_columns + 1))
    ]

    def cycles(tile: DepthwiseTile) -> float:
        return -(-workload.oh // tile.rows) * -(-workload.ow // tile.columns) * tile.cycles

    fitting = [candidate for candidate in candidates if candidate.fits]
    return min(fitting or candidates[:1], key=cycles)
