"""Depthwise convolution: `4 * lanes` neighbouring channels of a few output rows and columns at a time.

How the products of such a tile come about stands in `depthwise_tiles`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from qcompiler.lowering.program import Kernel
from qcompiler.lowering.schedules import scheduled_kernel
from qcompiler.lowering.space import Space, decide
from qcompiler.lowering.tir import Expr, Stmt, Tile, buffer, constant_buffers, function, load, shuffle, store
from qcompiler.lowering.workload import ConvWorkload
from qcompiler.targets.cpu.choices import Dense
from qcompiler.targets.cpu.dense import packed_parameters, tile_start
from qcompiler.targets.cpu.depthwise_tiles import DepthwiseTile, Interleaved, Widened
from qcompiler.targets.cpu.epilogue import PARTS, STORED, Epilogue, Part, Target
from qcompiler.targets.cpu.isa import BYTES, Isa, isas_of
from qcompiler.targets.cpu.plain import plain_products
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
    choices = _choices(workload, isa)
    if not choices:
        return None
    shapes = workload.x_shape, workload.y_shape
    plain = plain_products(_as_dense(workload), "depthwise", *shapes, workload.requantize, spec)
    return decide(Space(plain, choices, lambda choice: _kernel(workload, choice, weights, bias, spec)))


def _kernel(
    workload: ConvWorkload, choice: DepthwiseChoice, weights: np.ndarray, bias: np.ndarray, spec: TargetSpec
) -> Kernel:
    channels, form, isa = workload.oc, choice.form, choice.form.isa
    rows, columns, group = form.rows, form.columns, isa.bytes
    count = -(-channels // group)
    stored, merged = min(channels, group), form.merged
    # Channels of group, vector, lane.
    order = np.array([[isa.place_of(v, lane) for lane in range(isa.lanes)] for v in range(PARTS)])
    starts = [min(first, channels - stored) for first in range(0, channels, group)]
    table = np.where(order < stored * merged, np.add.outer(starts, order % stored), -1)
    packed = form.pack(np.where(table[..., None, None] < 0, 0, weights[:, 0][table]))
    shifted = bias.astype(np.int64) - isa.bias_offset(workload.x_dtype) * weights.sum((1, 2, 3), np.int64)
    constants = (packed, *packed_parameters(shifted, workload.requantize, 1, table))

    x = buffer("x", workload.x_shape, workload.x_dtype)
    y = buffer("y", workload.y_shape, workload.requantize.out_dtype)
    weight_buffer, bias_buffer, *parameters = constant_buffers(constants)
    epilogue = Epilogue(isa, workload.requantize, parameters, workload.acc_bound)
    x_row, y_row = workload.x_shape[1], workload.y_shape[1]
    x_image, y_image = (shape[0] // workload.n * shape[1] for shape in (workload.x_shape, workload.y_shape))

    # LLVM would keep weights for the next tile, where that has the same ones, even on the stack.
    hides = (count == 1 or not choice.stripe) and not form.keeps(workload.kh)

    def body(n: Expr, h: Expr, w: Expr, g: Expr) -> list[Stmt]:
        row, column = tile_start(h, rows, workload.oh), tile_start(w, columns * merged, workload.ow)
        channel = tile_start(g, stored, channels)
        number = tile.local(1, "int32")
        statements = [store(number, 0, isa.hidden(g) if hides else g)]
        source = n * x_image + row * (workload.strides[0] * x_row) + workload.x_origin + channel
        source = source + column * (workload.strides[1] * workload.ic)
        accumulators = {
            (o, p, v): tile.local(isa.lanes, "int32") for o, p, v in product(range(rows), range(columns), range(PARTS))
        }
        statements += [
            store(acc, 0, load(bias_buffer, (g * PARTS + v) * isa.lanes, isa.lanes), isa.lanes)
            for (_, _, v), acc in accumulators.items()
        ]
        statements += form.products(tile, x, source, weight_buffer, load(number, 0), accumulators)
        target = n * y_image + row * y_row + channel + workload.y_origin + column * channels
        if isa.stores_whole:
            outputs = [
                Part(
                    accumulators[o, p, v],
                    (g * PARTS + v) * isa.lanes,
                    (Target(target + o * y_row, (o, 0)).after(p * merged * channels + v * isa.lanes),),
                    max(0, min(isa.lanes, stored * merged - v * isa.lanes)),
                )
                for o, p, v in product(range(rows), range(columns), range(PARTS))
            ]
            return statements + epilogue.store(tile, y, outputs)
        constants, magic = epilogue.magic(tile)
        statements += constants
        for o, p in product(range(rows), range(columns)):
            result = tile.local(group, workload.requantize.out_dtype)
            parts = [(accumulators[o, p, v], (g * PARTS + v) * isa.lanes) for v in range(PARTS)]
            statements.append(store(result, 0, epilogue.stored(parts, magic), group))
            whole = load(result, 0, group)
            piece = whole if stored == group else shuffle([whole], range(stored))
            statements.append(store(y, target + (o * y_row + p * channels), piece, stored))
        return statements

    loops = {
        "n": workload.n,
        "h": -(-workload.oh // rows),
        "w": -(-workload.ow // (columns * merged)),
        "g": count,
    }
    reads = [x, weight_buffer, bias_buffer, *parameters]
    nest = "n h w g" if choice.stripe else "n g h w"
    tile = Tile("tile", loops, body, reads, [y], order=nest, definitions=isa.definitions)
    func = function([*reads, y], [tile]).mod["main"]
    return scheduled_kernel(func, f"{spec.instruction_set}-depthwise-{rows}x{columns * merged}x{isa.bytes}", constants)


def is_regular(workload: ConvWorkload, weights: np.ndarray) -> bool:
    """Whether activations are bytes, results one of `STORED`, and the weights fit int8."""
    types_fit = workload.x_dtype in BYTES and workload.requantize.out_dtype in STORED
    return types_fit and weights.min() >= -128 and weights.max() <= 127


@dataclass(frozen=True)
class DepthwiseChoice:
    form: DepthwiseTile
    stripe: int
    """1: every tile takes all groups of channels, one after the other; 0: all tiles take one group after the other."""

    @property
    def decisions(self) -> dict[str, int | str]:
        return {"rows": self.form.rows, "columns": self.form.columns, "stripe": self.stripe}


def _choices(workload: ConvWorkload, isa: Isa) -> list[DepthwiseChoice]:
    """All choices, those with the fewest estimated cycles first; none if the kernel is too large for this rule."""
    neighbours = workload.dilations[1] == 1
    merged = max(1, min(isa.bytes // workload.oc, workload.ow)) if isa.stores_whole and neighbours else 1
    most_columns = min(4, workload.ow // merged) if neighbours else 1
    kind = Widened if isa.multiplies_words else Interleaved
    candidates = [
        kind(workload, isa, rows, columns, merged)
        for rows, columns in product(range(1, min(3, workload.oh) + 1), range(1, most_columns + 1))
    ]

    def cycles(tile: DepthwiseTile) -> float:
        return -(-workload.oh // tile.rows) * -(-workload.ow // (tile.columns * tile.merged)) * tile.cycles

    fitting = sorted([tile for tile in candidates if tile.fits] or candidates[:1], key=cycles)
    if fitting[0].input_vectors > _MOST_VECTORS:
        return []
    groups = -(-workload.oc // isa.bytes)
    found = []
    for tile in fitting:
        usual = int(groups * tile.weight_bytes <= isa.kept_weights)
        found += [DepthwiseChoice(tile, stripe) for stripe in ((usual, 1 - usual) if groups > 1 else (usual,))]
    return [choice for choice in found if choice.form.input_vectors <= _MOST_VECTORS]


def _as_dense(workload: ConvWorkload) -> Dense:
    """The workload as a product of groups of one channel."""
    x_row, y_row = workload.x_shape[1], workload.y_shape[1]
    x_image, y_image = (shape[0] // workload.n * shape[1] for shape in (workload.x_shape, workload.y_shape))
    return Dense(
        grid=(workload.n, workload.oh, workload.ow),
        x_steps=(x_image, workload.strides[0] * x_row, workload.strides[1] * workload.ic),
        x_origin=workload.x_origin,
        y_steps=(y_image, y_row, workload.oc),
        y_origin=workload.y_origin,
        taps=(workload.kh, workload.kw),
        tap_steps=(workload.dilations[0] * x_row, workload.dilations[1] * workload.ic),
        run=1,
        groups=workload.oc,
        channels=1,
        x_dtype=workload.x_dtype,
    )
