"""What register tiles ask of an instruction set: a dot product over a few bytes a lane, and narrowing its results.

One `dot` adds the products of `depth` reduction elements to every lane of an accumulator, whose lanes are the
`channels` of each of `pixels` pixels, pixel by pixel. Four elements are a quad: where `depth` is 4, lane `i`
gains `sum_{j<4} x[i, j] * w[i, j]`. All forms are exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import ClassVar

import numpy as np
from tvm import tirx

from qcompiler.lowering.tir import Buffer, Expr, Stmt, load, shuffle, splat
from qcompiler.lowering.workload import Requantize
from qcompiler.targets.spec import TargetSpec

QUAD = 4
BYTES = ("uint8", "int8")
"""Types of the operands of a dot product."""

_DOT_LATENCY = 5.0
"""Cycles before an accumulator can take its next dot product."""


@dataclass(frozen=True)
class Isa(ABC):
    """Vectors of `lanes` int32. `x` operands are made by `operand` from bytes and may be several vectors."""

    lanes: int
    registers: int
    accumulators: int
    """Most accumulators a register tile may have without spilling."""
    dot_cost: float
    """Cycles of one `dot`."""
    operand_cost: float
    """Cycles of one `operand` beyond its load."""
    weight_cost: float
    """Cycles to make a weight ready for several `dot`, beyond its load."""

    depth: ClassVar[int] = QUAD
    """Reduction elements of one `dot`."""
    pixels: ClassVar[int] = 1
    """Pixels of one accumulator."""
    together: ClassVar[int] = 1
    """Dot products of one pixel whose activations are loaded together, into one vector."""
    form: ClassVar[str] = ""
    """What the names of rules say beside the instruction set, if it has several forms."""
    stripe_bytes: ClassVar[int] = 0
    """Bytes of activations and results to pass over for each block of small weights; 0 for those of one tile."""
    packs: ClassVar[int] = 1
    """Vectors of a right-hand side that are packed together at run time."""
    prefetches: ClassVar[bool] = True
    """Whether fetching the next block of weights ahead pays."""
    ordered: ClassVar[bool] = False
    """Whether tiles multiply pixel by pixel, by `in_order`: where products need temporaries."""
    partial_store: ClassVar[float] = 0.0
    """Cycles to store less than a vector, where that is so dear that stores shall rather overlap."""
    adds_magic: ClassVar[bool] = False
    """Whether small products are rounded by adding 1.5 * 2^23, which leaves an int16 in the low half of a lane."""
    rounds_twice: ClassVar[bool] = False
    """Whether there are instructions for the `fixed2` form of requantize: `requantize_twice`."""
    multiplies_words: ClassVar[bool] = False
    """Whether depthwise convolutions gain by `multiply_words` instead of `dot`."""
    weight_offset: ClassVar[int] = 0
    """What `arrange` adds to every weight; results then hold so many sums of activations more, see `less_sum`."""
    definitions: ClassVar[str] = ""
    """LLVM IR of the functions that `hidden`, `in_order`, `fence` and `repeated` call, for `Tile.definitions`."""
    kept_weights: ClassVar[int] = 8 * 1024
    """Most bytes of depthwise weights to read again for every pixel, instead of the pixels again for every vector."""

    @property
    def stores_whole(self) -> bool:
        """Whether results are stored by whole vectors, which may overlap, wherever they fit."""
        return self.partial_store > 0

    @property
    def bytes(self) -> int:
        return QUAD * self.lanes

    @property
    def channels(self) -> int:
        """Channels of one accumulator."""
        return self.lanes // self.pixels

    def spread(self, channels: np.ndarray) -> np.ndarray:
        """Channel numbers `[..., channels]` as those of the lanes of an accumulator."""
        return np.concatenate([channels] * self.pixels, axis=-1)

    def fits(self, pixels: int, vectors: int) -> bool:
        """Whether a tile of so many pixels by vectors of channels stays in registers with its operands."""
        return pixels * vectors <= self.accumulators * self.pixels

    def takes(self, weights: np.ndarray) -> bool:
        """Whether `dot` is exact with these int8 weights."""
        return True

    def step_cycles(self, pixels: int, vectors: int, dots: int, steps: int) -> float:
        """Estimated cycles of one `dot` for every accumulator of a tile.

        Each takes `steps` of them, over runs of `dots`.
        """
        accumulators = pixels * vectors
        loads = (pixels + vectors) * 0.5
        arithmetic = accumulators * self.dot_cost + pixels * self.operand_cost + vectors * self.weight_cost
        issue = (accumulators + pixels + vectors) / 4
        return max(arithmetic, loads, issue, _DOT_LATENCY) + 0.1 * loads

    def tile_cycles(self, accumulators: int) -> float:
        """Estimated cycles of a tile beside its dot products: loop control, addresses, requantizing and storing."""
        return -(-accumulators // 4) * 4 * 2.0 + accumulators + 12.0

    def hides_constants(self, pixels: int, vectors: int, steps: int) -> bool:
        """Whether LLVM has to be kept from loading the constants of all tiles at once.

        It moves loads of an unrolled loop in front of the loops around it, and then spills them. A constant that
        LLVM does not know to be 0 then is part of their addresses.
        """
        return False

    def hidden(self, value: Expr) -> Expr:
        """An int32 or int64 of which LLVM does not know that it is `value`, so what is loaded there is loaded anew."""
        return value

    def in_order(self, acc: Expr) -> Expr:
        """A vector as it is; LLVM moves no load from one side of this to the other, nor one of these before another."""
        return acc

    def fence(self) -> list[Stmt]:
        """LLVM moves no load from one side of this to the other."""
        return []

    def repeated(self, word: int) -> Expr:
        """32 bits in all lanes of a float32 vector, made there and then."""
        return tirx.reinterpret(f"float32x{self.lanes}", splat(word, "int32", self.lanes))

    def fences(self, pixels: int, vectors: int, dtype: str) -> bool:
        """Whether a tile loads activations only after the products with those before them, by `fence`."""
        return False

    def broadcast(self, quad: Expr) -> Expr:
        """Four bytes repeated in every lane."""
        word = tirx.reinterpret("int32", quad)
        return tirx.reinterpret(f"int8x{self.bytes}", tirx.Broadcast(word, self.lanes))

    @abstractmethod
    def operand(self, x: Expr, dtype: str) -> tuple[Expr, ...]:
        """The left operand of `dot` from `4 * lanes` bytes that hold activations of type `dtype`."""

    def interleave(self, a: Expr, b: Expr, unit: int, high: bool) -> Expr:
        """Elements of `unit` bytes of two whole vectors in turn: the lower or upper half of them, of each 128 bits."""
        lanes = self.bytes
        order = [
            source + start + high * 8 + element * unit + byte
            for start in range(0, lanes, 16)
            for element in range(8 // unit)
            for source in (0, lanes)
            for byte in range(unit)
        ]
        return shuffle([a, b], order)

    @abstractmethod
    def dot(self, acc: Expr, x: tuple[Expr, ...], weights: Buffer, offset: Expr | int) -> Expr:
        """`acc` plus the products with the arranged weights at `offset`."""

    @abstractmethod
    def arrange(self, quads: np.ndarray) -> np.ndarray:
        """Weights `[..., lanes, 4]` as `[..., 4*lanes]` in the order `dot` reads them."""

    @abstractmethod
    def bias_offset(self, dtype: str) -> int:
        """What `operand` adds to every activation of type `dtype`."""

    def registers_of(self, dtype: str) -> list[tuple[int, str]]:
        """Elements and type of each vector that `kept` gives; none if they need no register of their own."""
        return []

    def fetch(self, x: Buffer, first: Expr, steps: Sequence[int], count: int) -> list[list[Expr]]:
        """The activations of `count` (at most `together`) dot products of each pixel; up to 31 bytes more are read.

        Those of pixel `i` begin `steps[i]` behind `first`.
        """
        return [[load(x, first + step, self.depth * self.together)] for step in steps]

    def kept(self, x: list[Expr], dtype: str) -> list[Expr]:
        """What `dots` of the instruction read: made of what `fetch` gives for each of its pixels."""
        return x

    def step(self, kept: list[Expr], index: int, dtype: str) -> tuple[Expr, ...]:
        """The left operand of the dot product number `index` (below `together`) of what was `kept`."""
        return self.operand(self.broadcast(kept[0]), dtype)

    def add_sum(self, total: Expr, kept: list[Expr]) -> Expr:
        """`total`, an int64, plus the activations in what is `kept`; only where there is a `weight_offset`."""
        raise NotImplementedError(f"{type(self).__name__} has a weight_offset, but no add_sum")

    def less_sum(self, acc: Expr, total: Expr, offset: int) -> Expr:
        """`acc` less `offset` times the activations that `total` holds."""
        raise NotImplementedError(f"{type(self).__name__} has a weight_offset, but no less_sum")

    def ones(self) -> tuple[Expr, ...]:
        """The left operand of `dot` that adds up arranged weights."""
        unchanged = next(dtype for dtype in BYTES if self.bias_offset(dtype) == 0)
        return self.operand(splat(1, unchanged, self.bytes), unchanged)

    def row_bytes(self, vectors: int) -> int:
        """Bytes of a row that `woven` has to be given for so many vectors."""
        return vectors * self.channels

    def woven(self, rows: list[Expr]) -> list[Expr]:
        """The first bytes of all rows (a power of two of them), the second ones, and so on, arranged for `dot`."""
        width, count, size = rows[0].ty.dtype.lanes, len(rows), 1
        while len(rows) > 1:
            zipped = np.arange(2 * width * size).reshape(2, width, size).swapaxes(0, 1).reshape(-1)
            rows = [shuffle(rows[i : i + 2], zipped) for i in range(0, len(rows), 2)]
            size *= 2
        order = self.arrange(np.arange(self.bytes).reshape(-1, count)).tolist()
        return [shuffle(rows, [first + i for i in order]) for first in range(0, width * count, self.bytes)]

    def multiply_words(self, a: Expr, b: Expr) -> Expr:
        """The products of `lanes` int16 as int32; only where the instruction set `multiplies_words`."""
        raise NotImplementedError(f"{type(self).__name__} has multiplies_words, but no multiply_words")

    @abstractmethod
    def round(self, real: Expr) -> Expr:
        """float32 to int32, half to even; the value must fit."""

    def requantize_twice(self, acc: Expr, mantissa: Expr, shift: Expr, requantize: Requantize) -> Expr:
        """The `fixed2` form before its clamp; only where the instruction set `rounds_twice`.

        Shifts may be negative if it `shifts_left`.
        """
        raise NotImplementedError(f"{type(self).__name__} has rounds_twice, but no requantize_twice")

    @abstractmethod
    def narrow(self, parts: list[Expr], zero_point: int, dtype: str, halves: bool = False) -> Expr:
        """Four int32 vectors plus the zero point, saturated to `dtype`; `place_of` tells the elements' order.

        The sums of int16 must fit int32; those of 8-bit types may lie anywhere. With `halves` (where the
        instruction set `adds_magic`) only the low halves of the lanes count, as int16.
        """

    def join(self, pieces: Sequence[tuple[Expr, int, int]]) -> Expr:
        """Stored integers (vectors that `narrow` gives, first element, number) in a row, filled up with anything."""
        size = self.bytes
        order = [i * size + first + j for i, (_, first, count) in enumerate(pieces) for j in range(count)]
        order += [0] * (size - len(order))
        return shuffle([vector for vector, _, _ in pieces], order)

    @abstractmethod
    def place_of(self, part: int, lane: int) -> int:
        """Where `narrow` puts a lane of one of its four parts."""


def isas_of(spec: TargetSpec) -> tuple[Isa, ...]:
    """The vector widths of a target, widest first, exact with any operands and `depth` 4: `ISAS` (see `_module`)."""
    return _module(spec).ISAS[spec.instruction_set]


def isa_of(spec: TargetSpec) -> Isa:
    """The widest vectors of a target."""
    return isas_of(spec)[0]


def product_isas_of(spec: TargetSpec) -> tuple[Isa, ...]:
    """The forms of products with constant weights, preferred one first where costs are equal: `PRODUCT_ISAS`."""
    return _module(spec).PRODUCT_ISAS[spec.instruction_set]


def _module(spec: TargetSpec) -> ModuleType:
    """The module `isa` beside the target's `kernels`: tables by the name of the instruction set."""
    return import_module(f"{spec.kernels.rpartition('.')[0]}.isa")
