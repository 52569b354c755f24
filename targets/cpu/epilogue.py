"""From int32 accumulators in registers to stored integers: requantize, narrow four vectors at a time, store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from qcompiler.arithmetic.requantize import multiplier_fp32
from qcompiler.lowering.requantize import clamp_float, requantize_expression
from qcompiler.lowering.tir import Buffer, Expr, Stmt, Tile, load, shuffle, splat, store, vector
from qcompiler.lowering.workload import Requantize
from qcompiler.targets.cpu.isa import Isa

PARTS = 4
"""Accumulators that one narrowing turns into one vector of stored integers."""

STORED = ("uint8", "int8", "int16")
"""Types that `Epilogue` stores."""

_INT32_LIMIT = float((1 << 31) - 1024)
"""A float32 product proven not to exceed this rounds to an int32."""


@dataclass(frozen=True)
class Part:
    """An accumulator, where the parameters of its channels start, and where its first lanes are stored."""

    accumulator: Buffer
    parameter: Expr | int
    output: Expr
    """Offset in the output's buffer."""
    position: tuple[int, int]
    """Any key of the output's row, and the element in it: parts that touch are stored together."""
    lanes: int


@dataclass(frozen=True)
class Epilogue:
    """The requantize of one kernel and its parameter buffers."""

    isa: Isa
    requantize: Requantize
    parameters: Sequence[Buffer]
    bounded: bool
    """Whether the rounded product of the `fp32` form is proven to fit int32."""

    @property
    def saturates(self) -> bool:
        """Whether narrowing clamps: its saturation is not lost by a zero point that it adds."""
        return self.bounded and not (self.requantize.out_dtype == "int16" and self.requantize.zero_point)

    def stored(self, parts: Sequence[tuple[Buffer, Expr | int]]) -> Expr:
        """Stored integers of up to four (accumulator, parameter offset), in the order `Isa.narrow` gives."""
        filled = [parts[min(i, len(parts) - 1)] for i in range(PARTS)]
        rounded = [self._rounded(*part) for part in filled]
        requantize = self.requantize
        zero_point = requantize.zero_point if requantize.rounding == "fp32" else 0
        packed = self.isa.narrow(rounded, zero_point, requantize.out_dtype)
        if self.saturates:
            limits, (lo, hi) = np.iinfo(requantize.out_dtype), requantize.clamp
            if lo > limits.min:
                packed = tirx.max(packed, splat(lo, requantize.out_dtype, self.isa.bytes))
            if hi < limits.max:
                packed = tirx.min(packed, splat(hi, requantize.out_dtype, self.isa.bytes))
        return packed

    def _rounded(self, accumulator: Buffer, offset: Expr | int) -> Expr:
        lanes = self.isa.lanes
        acc = load(accumulator, 0, lanes)
        parameters = [load(parameter, offset, lanes) for parameter in self.parameters]
        if self.requantize.rounding != "fp32":
            return requantize_expression(acc, parameters, self.requantize, lanes)
        if self.saturates:
            return self.isa.round(acc.astype(vector("float32", lanes)) * parameters[0])
        return self.isa.round(clamp_float(acc, parameters[0], self.requantize, lanes))

    def store(self, tile: Tile, output: Buffer, parts: Sequence[Part]) -> list[Stmt]:
        """Requantizes and stores `parts`, neighbouring ones together."""
        statements = []
        for first in range(0, len(parts), PARTS):
            group = parts[first : first + PARTS]
            packed = tile.local(self.isa.bytes, self.requantize.out_dtype)
            value = self.stored([(part.accumulator, part.parameter) for part in group])
            statements.append(store(packed, 0, value, self.isa.bytes))
            for run in _runs(group):
                lanes = sum(group[i].lanes for i in run)
                order = [self.isa.place_of(i, lane) for i in run for lane in range(group[i].lanes)]
                whole = load(packed, 0, self.isa.bytes)
                piece = whole if order == list(range(self.isa.bytes)) else shuffle([whole], order)
                statements.append(store(output, group[run[0]].output, piece, lanes))
        return statements


def _runs(parts: Sequence[Part]) -> list[list[int]]:
    """Indices of `parts` cut where one does not start where the one before it ends."""
    runs: list[list[int]] = []
    for i, part in enumerate(parts):
        row, column = part.position
        before = parts[i - 1]
        if i and before.position == (row, column - before.lanes):
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs


def is_bounded(requantize: Requantize, acc_bound: int) -> bool:
    """Whether `|acc| * m` is proven to stay inside int32 for the `fp32` form."""
    if requantize.rounding != "fp32":
        return False
    return acc_bound * float(multiplier_fp32(requantize.multiplier).max()) < _INT32_LIMIT
