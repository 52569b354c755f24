"""Depthwise convolution on Mali: four neighbouring channels of a few neighbouring pixels in each work-item.

A channel's taps are not neighbours in memory, so the products are those of `int4` vectors. Rows of the input are loaded
once for all pixels of the tile that meet them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcompiler.lowering.opencl_cost import WARP
from qcompiler.lowering.program import Kernel
from qcompiler.lowering.requantize import requantize_constants, requantize_expression
from qcompiler.lowering.schedule_generic import piece_start, power_of_two
from qcompiler.lowering.tir import (
    Buffer,
    Expr,
    Stmt,
    Tile,
    buffer,
    constant_buffers,
    function,
    load,
    loop,
    store,
    vector,
)
from qcompiler.lowering.workload import ConvWorkload
from qcompiler.targets.mali.machine import occupancy_factor, with_work_group
from qcompiler.targets.spec import TargetSpec

_LANES = 4
_PIXELS = (1, 2, 4, 6)
_MOST_TAPS = 128
"""Products of a row of taps that are written out; longer rows take the dense rule."""
_OTHER_REGISTERS = 12


@dataclass(frozen=True)
class _Tile:
    pixels: int
    lanes: int
    columns: int
    """Input columns that the pixels meet."""

    @property
    def registers(self) -> int:
        """Accumulators, the row of the input in bytes, one column and one tap of it in 32 bits, and addresses."""
        return self.pixels * self.lanes + self.columns + 3 * self.lanes + _OTHER_REGISTERS


def conv_depthwise(workload: ConvWorkload, weights: np.ndarray, bias: np.ndarray, spec: TargetSpec) -> Kernel | None:
    """One output channel for each input channel, operands of 8 bits."""
    channels = workload.oc
    if not workload.group == workload.ic == channels or workload.x_dtype != "int8" or weights.dtype != np.int8:
        return None
    tile = _choose(workload)
    if tile is None:
        return None
    lanes, pixels = tile.lanes, tile.pixels
    taps = np.ascontiguousarray(weights[:, 0].transpose(1, 2, 0)).reshape(-1)
    constants = (taps, bias.astype(np.int32), *requantize_constants(workload.requantize, channels))
    buffers = constant_buffers(constants)
    factors, start, *parameters = buffers
    x = buffer("x", workload.x_shape, workload.x_dtype)
    y = buffer("y", workload.y_shape, workload.requantize.out_dtype)
    x_row, y_row = workload.x_shape[1], workload.y_shape[1]
    x_image, y_image = (shape[0] // workload.n * shape[1] for shape in (workload.x_shape, workload.y_shape))
    stride, dilation = workload.strides[1], workload.dilations[1]
    wide = vector("int32", lanes)

    def body(n: Expr, h: Expr, w: Expr, c: Expr) -> list[Stmt]:
        column, channel = piece_start(w, pixels, workload.ow), piece_start(c, lanes, channels)
        acc = [nest.local(lanes, "int32") for _ in range(pixels)]
        row: dict[int, Buffer] = {}
        tap = nest.local(lanes, "int32")
        place = n * x_image + h * (workload.strides[0] * x_row) + column * (stride * channels) + channel
        place = place + workload.x_origin

        def kernel_row(i: Expr) -> list[Stmt]:
            statements = []
            for position in sorted({p * stride + j * dilation for p in range(pixels) for j in range(workload.kw)}):
                row.setdefault(position, nest.local(lanes, "int8"))
                value = load(x, place + i * (workload.dilations[0] * x_row) + position * channels, lanes)
                statements.append(store(row[position], 0, value, lanes))
            for j in range(workload.kw):
                value = load(factors, (i * workload.kw + j) * channels + channel, lanes).astype(wide)
                statements.append(store(tap, 0, value, lanes))
                for p in range(pixels):
                    value = load(row[p * stride + j * dilation], 0, lanes).astype(wide)
                    total = load(acc[p], 0, lanes) + value * load(tap, 0, lanes)
                    statements.append(store(acc[p], 0, total, lanes))
            return statements

        statements = [store(acc[p], 0, load(start, channel, lanes), lanes) for p in range(pixels)]
        statements += loop(workload.kh, kernel_row, "kh")
        for p in range(pixels):
            loaded = [load(parameter, channel, lanes) for parameter in parameters]
            stored = requantize_expression(load(acc[p], 0, lanes), loaded, workload.requantize, lanes)
            target = n * y_image + h * y_row + (column + p) * channels + channel + workload.y_origin
            statements.append(store(y, target, stored.astype(vector(workload.requantize.out_dtype, lanes)), lanes))
        return statements

    loops = {"n": workload.n, "h": workload.oh, "w": -(-workload.ow // pixels), "c": -(-channels // lanes)}
    nest = Tile("depthwise", loops, body, [x, *buffers], [y])
    func = function([x, *buffers, y], [nest]).mod["main"]
    across = power_of_two(min(WARP, loops["c"]))
    rows = min(64 // across, 1 << (loops["w"] - 1).bit_length())
    return Kernel(with_work_group(func, (across, rows, 1)), f"mali-depthwise.{pixels}x{lanes}", constants)


def _choose(workload: ConvWorkload) -> _Tile | None:
    """The tile with the fewest estimated cycles; None if its code would be too long."""
    lanes = power_of_two(min(_LANES, workload.oc))
    tiles = []
    for pixels in _PIXELS:
        met = {p * workload.strides[1] + j * workload.dilations[1] for p in range(pixels) for j in range(workload.kw)}
        tile = _Tile(pixels, lanes, len(met))
        if pixels <= workload.ow and tile.registers < 64 and pixels * workload.kw <= _MOST_TAPS:
            tiles.append(tile)
    return min(tiles, key=lambda tile: _cycles(workload, tile), default=None)


def _cycles(workload: ConvWorkload, tile: _Tile) -> float:
    """Cycles of one core: conversions and products, or loads, whichever take longer."""
    items = workload.n * workload.oh * -(-workload.ow // tile.pixels) * -(-workload.oc // tile.lanes)
    products = workload.kh * workload.kw * tile.pixels * tile.lanes
    conversions = workload.kh * (workload.kw + tile.columns) * tile.lanes
    loads = workload.kh * (tile.columns + workload.kw)
    work = max(products + conversions, loads) + 8 * tile.pixels * tile.lanes + 20
    return max(items / WARP, 64) * work * occupancy_factor(tile.registers)
