"""From int32 accumulators in registers to stored integers: requantize, narrow four vectors at a time, store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from tvm import tirx

from qcompiler.arithmetic.requantize import multiplier_fp32
from qcompiler.lowering.requantize import MAGIC_BITS, clamp_float, requantize_expression
from qcompiler.lowering.tir import Buffer, Expr, Stmt, Tile, load, shuffle, splat, store, vector
from qcompiler.lowering.workload import Requantize
from qcompiler.targets.cpu.isa import Isa

PARTS = 4
"""Accumulators that one narrowing turns into one vector of stored integers."""

STORED = ("uint8", "int8", "int16")
"""Types that `Epilogue` stores."""

_INT32_LIMIT = float((1 << 31) - 1024)
"""A float32 product proven not to exceed this rounds to an int32."""
_INT16_LIMIT = float((1 << 15) - 2)
"""A float32 product proven not to exceed this rounds to an int16."""
_LARGEST_MAGIC = 1 << 22
"""Integers below this in magnitude can be added to 1.5 * 2^23 without rounding."""


@dataclass(frozen=True)
class Target:
    """Where the results of one pixel of an accumulator are stored."""

    output: Expr
    """Offset in the output's buffer."""
    position: tuple[int, int]
    """The output's row in the tile and the element in it, for all parts from one element on: those that touch are
    stored together."""

    def after(self, elements: int) -> Target:
        row, first = self.position
        return Target(self.output + elements, (row, first + elements))


@dataclass(frozen=True)
class Part:
    """An accumulator, where the parameters of its lanes start, and where each of its pixels is stored."""

    accumulator: Buffer
    parameter: Expr | int
    targets: tuple[Target, ...]
    """One for each of `Isa.pixels`."""
    lanes: int
    """Channels of a pixel to be stored."""


@dataclass(frozen=True)
class Epilogue:
    """The requantize of one kernel and its parameter buffers."""

    isa: Isa
    requantize: Requantize
    parameters: Sequence[Buffer]
    acc_bound: int
    """Proven upper bound of |accumulator|."""
    start: int = 0
    """What the accumulators hold beyond their value: 0 or `start_of` the kernel."""

    @property
    def saturates(self) -> bool:
        """Whether narrowing clamps: its saturation is not lost by a zero point that it adds."""
        return _saturates(self.requantize, self.acc_bound) or self._twice

    @property
    def _twice(self) -> bool:
        """Whether the instruction set's own `fixed2` form serves."""
        made = self.requantize
        return (
            made.rounding == "fixed2" and self.isa.rounds_twice and not (made.out_dtype == "int16" and made.zero_point)
        )

    @property
    def halves(self) -> bool:
        """Whether rounding leaves int16, by adding a constant that makes the integer the low bits of a float32."""
        largest = _largest(self.requantize, self.acc_bound) + abs(self.requantize.zero_point)
        return self.isa.adds_magic and _saturates(self.requantize, self.acc_bound) and largest < _INT16_LIMIT

    def stored(self, parts: Sequence[tuple[Buffer, Expr | int]], magic: Mapping[int, Expr]) -> Expr:
        """Stored integers of up to four (accumulator, parameter offset), in the order `Isa.narrow` gives.

        `magic` is what `Epilogue.magic` tells.
        """
        filled = [parts[min(i, len(parts) - 1)] for i in range(PARTS)]
        rounded = [self._rounded(*part, magic) for part in filled]
        requantize = self.requantize
        zero_point = requantize.zero_point if requantize.rounding == "fp32" or self._twice else 0
        if self.halves:
            zero_point -= self._magic_zero_point
        packed = self.isa.narrow(rounded, zero_point, requantize.out_dtype, self.halves)
        return clamped(packed, requantize.clamp, requantize.out_dtype, self.isa) if self.saturates else packed

    @property
    def _magic_zero_point(self) -> int:
        """What of the zero point rounding can add: an even number, which leaves ties as they are."""
        zero_point = self.requantize.zero_point
        return 0 if zero_point % 2 else zero_point

    @property
    def _magic_words(self) -> list[int]:
        """Bits of the float32 that is taken off before scaling, where accumulators start at it, and of that added after
        it, where rounding leaves int16."""
        return [MAGIC_BITS] * (self.start > 0) + [MAGIC_BITS + self._magic_zero_point] * self.halves

    def _rounded(self, accumulator: Buffer, offset: Expr | int, magic: Mapping[int, Expr]) -> Expr:
        lanes = self.isa.lanes
        acc = load(accumulator, 0, lanes)
        parameters = [load(parameter, offset, lanes) for parameter in self.parameters]
        if self._twice:
            return self.isa.requantize_twice(acc, *parameters, self.requantize)
        if self.requantize.rounding != "fp32":
            return requantize_expression(acc, parameters, self.requantize, lanes)
        if not self.saturates:
            return self.isa.round(clamp_float(acc, parameters[0], self.requantize, lanes))
        real = acc.astype(vector("float32", lanes))
        if self.start:
            real = tirx.reinterpret(vector("float32", lanes), acc) - magic[MAGIC_BITS]
        real = real * parameters[0]
        if not self.halves:
            return self.isa.round(real)
        return tirx.reinterpret(vector("int32", lanes), real + magic[MAGIC_BITS + self._magic_zero_point])

    def store(self, tile: Tile, output: Buffer, parts: Sequence[Part]) -> list[Stmt]:
        """Requantizes and stores `parts`, neighbouring ones together."""
        if self.isa.stores_whole:
            return self._store_whole(tile, output, parts)
        statements, magic = self.magic(tile)
        size, pixels = self.isa.bytes, self.isa.pixels
        for first in range(0, len(parts), PARTS * pixels):
            group = parts[first : first + PARTS * pixels]
            narrowed = []
            for i in range(0, len(group), PARTS):
                narrowed.append(tile.local(size, self.requantize.out_dtype))
                value = self.stored([(part.accumulator, part.parameter) for part in group[i : i + PARTS]], magic)
                statements.append(store(narrowed[-1], 0, value, size))
            for pixel, run in product(range(pixels), _runs(group)):
                lanes = sum(group[i].lanes for i in run)
                used = range(run[0] // PARTS, run[-1] // PARTS + 1)
                order = [
                    (i // PARTS - used[0]) * size + self.isa.place_of(i % PARTS, pixel * self.isa.channels + lane)
                    for i in run
                    for lane in range(group[i].lanes)
                ]
                vectors = [load(narrowed[i], 0, size) for i in used]
                piece = vectors[0] if order == list(range(size)) else shuffle(vectors, order)
                statements.append(store(output, group[run[0]].targets[pixel].output, piece, lanes))
        return statements

    def magic(self, tile: Tile) -> tuple[list[Stmt], dict[int, Expr]]:
        """The vectors that `stored` takes, made in each tile, by their bits."""
        lanes = self.isa.lanes
        cells = {word: tile.local(lanes, "float32") for word in self._magic_words}
        statements = [store(cell, 0, self.isa.repeated(word), lanes) for word, cell in cells.items()]
        return statements, {word: load(cell, 0, lanes) for word, cell in cells.items()}

    def _store_whole(self, tile: Tile, output: Buffer, parts: Sequence[Part]) -> list[Stmt]:
        """As `store`, by vectors that end with what touches in the output and may overlap, wherever they fit."""
        statements, magic = self.magic(tile)
        size, narrowed = self.isa.bytes, []
        places: dict[tuple[int, int], tuple[int, Expr]] = {}
        for first in range(0, len(parts), PARTS):
            group = parts[first : first + PARTS]
            narrowed.append(tile.local(size, self.requantize.out_dtype))
            value = self.stored([(part.accumulator, part.parameter) for part in group], magic)
            statements.append(store(narrowed[-1], 0, value, size))
            for i, part in enumerate(group):
                row, element = part.targets[0].position
                for lane in range(part.lanes):
                    place = (first // PARTS * size + self.isa.place_of(i, lane), part.targets[0].output + lane)
                    places.setdefault((row, element + lane), place)
        for run in _touching(sorted(places)):
            length = min(size, len(run))
            for first in sorted({*range(0, len(run) - length + 1, length), len(run) - length}):
                found = [places[position] for position in run[first : first + length]]
                pieces = [
                    (load(narrowed[place // size], 0, size), place % size, count)
                    for place, count in _consecutive([place for place, _ in found], size)
                ]
                whole = self.isa.join(pieces)
                piece = whole if length == size else shuffle([whole], range(length))
                statements.append(store(output, found[0][1], piece, length))
        return statements


def start_of(isa: Isa, requantize: Requantize, acc_bound: int) -> int:
    """What to add to the first value of every accumulator, for the conversion to float32 that is cheapest.

    0x4B400000 plus a small integer are the bits of 1.5 * 2^23 plus that integer.
    """
    exact = acc_bound < _LARGEST_MAGIC
    return MAGIC_BITS if isa.adds_magic and exact and _saturates(requantize, acc_bound) else 0


def _runs(parts: Sequence[Part]) -> list[list[int]]:
    """Indices of `parts` cut where one does not start where the one before it ends."""
    runs: list[list[int]] = []
    for i, part in enumerate(parts):
        row, column = part.targets[0].position
        before = parts[i - 1]
        if i and before.targets[0].position == (row, column - before.lanes):
            runs[-1].append(i)
        else:
            runs.append([i])
    return runs


def _touching(positions: Sequence[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Sorted (row, element) cut where one element does not follow the one before it."""
    runs: list[list[tuple[int, int]]] = []
    for row, element in positions:
        if runs and runs[-1][-1] == (row, element - 1):
            runs[-1].append((row, element))
        else:
            runs.append([(row, element)])
    return runs


def _consecutive(places: Sequence[int], size: int) -> list[tuple[int, int]]:
    """First place and number of those that follow each other, within one of the vectors of `size`."""
    runs: list[tuple[int, int]] = []
    for place in places:
        first, count = runs[-1] if runs else (place, -1)
        if place == first + count and place % size:
            runs[-1] = (first, count + 1)
        else:
            runs.append((place, 1))
    return runs


def is_bounded(requantize: Requantize, acc_bound: int) -> bool:
    """Whether `|acc| * m` is proven to stay inside int32 for the `fp32` form."""
    return requantize.rounding == "fp32" and _largest(requantize, acc_bound) < _INT32_LIMIT


def _saturates(requantize: Requantize, acc_bound: int) -> bool:
    return is_bounded(requantize, acc_bound) and not (requantize.out_dtype == "int16" and requantize.zero_point)


def _largest(requantize: Requantize, acc_bound: int) -> float:
    """Proven upper bound of `|acc| * m` in the `fp32` form."""
    return acc_bound * float(multiplier_fp32(requantize.multiplier).max())


def clamped(value: Expr, clamp: tuple[int, int], dtype: str, isa: Isa) -> Expr:
    """A whole vector of stored integers, clamped where the clamp is narrower than the type."""
    lo, hi = clamp
    limits = np.iinfo(dtype)
    if lo > limits.min:
        value = tirx.max(value, splat(lo, dtype, isa.bytes))
    return tirx.min(value, splat(hi, dtype, isa.bytes)) if hi < limits.max else value
