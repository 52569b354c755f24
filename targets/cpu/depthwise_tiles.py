"""The products of a tile of a depthwise convolution, in two forms.

`Interleaved`: the pixels `x0..x3` of a row are interleaved once into four vectors; each lane then holds four taps
of one channel for a dot product. Every output column that sees these pixels reuses them with its taps shifted, and
every output row of the tile reuses the input row. Narrowing undoes the order that interleaving leaves.

`Widened`: every pixel is widened to 16 bits once and multiplied tap by tap; for instruction sets without a dot
product.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from qcompiler.lowering.tir import Buffer, Expr, Stmt, Tile, load, shuffle, store
from qcompiler.lowering.workload import ConvWorkload
from qcompiler.targets.cpu.epilogue import PARTS
from qcompiler.targets.cpu.isa import QUAD, Isa

_PARTIAL_STORE = 20
"""Cycles to store less than a vector, where that is dear."""

Accumulators = Mapping[tuple[int, int, int], Buffer]
"""By output row, output column and vector of channels."""


@dataclass(frozen=True)
class DepthwiseTile(ABC):
    """`rows x columns` outputs of `4 * lanes` channels."""

    workload: ConvWorkload
    isa: Isa
    rows: int
    columns: int
    merged: int = 1
    """Neighbouring output pixels of a column, whose channels lie behind each other in its vectors."""

    @property
    def stride(self) -> int:
        """Pixels from one output column to the next; a dilated row has only one, whose taps are neighbours here."""
        return self.workload.strides[1] * self.merged if self.workload.dilations[1] == 1 else 1

    @property
    def stores_partly(self) -> bool:
        """Whether the results of a row are less than a vector, where that is dear."""
        return self.isa.stores_whole and self.columns * self.merged * self.workload.oc < self.isa.bytes

    @property
    def pixels(self) -> int:
        """Input pixels of one row that the tile sees."""
        return (self.columns - 1) * self.stride + self.workload.kw

    @property
    def uses(self) -> dict[int, list[tuple[int, int]]]:
        """Input rows below the tile's first one to the (output row, kernel row) pairs that use them."""
        workload, uses = self.workload, {}
        for o, kh in product(range(self.rows), range(workload.kh)):
            uses.setdefault(o * workload.strides[0] + kh * workload.dilations[0], []).append((o, kh))
        return dict(sorted(uses.items()))

    def tap(self, column: int, pixel: int) -> int | None:
        """The tap that a pixel is for an output column; None if the column does not see it."""
        tap = pixel - column * self.stride
        return tap if 0 <= tap < self.workload.kw else None

    def pixel(self, x: Buffer, source: Expr, row: int, pixel: int) -> Expr:
        """`4 * lanes` channels of a pixel and those merged with it, from where the tile's first one lies."""
        workload, size = self.workload, self.isa.bytes
        start = source + row * workload.x_shape[1] + pixel * workload.dilations[1] * workload.ic
        step = workload.strides[1] * workload.ic
        if self.merged == 1 or workload.strides[1] == 1:
            return load(x, start, size)
        counts = [workload.ic] * (self.merged - 1) + [size - workload.ic * (self.merged - 1)]
        return self.isa.join([(load(x, start + i * step, size), 0, count) for i, count in enumerate(counts)])

    @property
    @abstractmethod
    def input_vectors(self) -> int:
        """Vectors of bytes in the code of one tile."""

    @property
    @abstractmethod
    def fits(self) -> bool:
        """Whether the tile stays in registers."""

    @property
    @abstractmethod
    def cycles(self) -> float:
        """Estimated cycles of one tile."""

    @property
    @abstractmethod
    def weight_bytes(self) -> int:
        """Bytes of packed weights of one group of channels."""

    @abstractmethod
    def pack(self, weights: np.ndarray) -> np.ndarray:
        """Weights `[group, vector, lane, KH, KW]` in the order in which the tile reads them, group by group."""

    @abstractmethod
    def products(
        self, tile: Tile, x: Buffer, source: Expr, weights: Buffer, group: Expr, accumulators: Accumulators
    ) -> list[Stmt]:
        """Adds all products to the accumulators."""


@dataclass(frozen=True)
class Interleaved(DepthwiseTile):
    """Dot products over four neighbouring pixels."""

    @property
    def quads(self) -> int:
        return -(-self.pixels // QUAD)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(column, quad) where the output column sees a pixel of the quad."""
        columns, quads = range(self.columns), range(self.quads)
        return [
            (column, quad)
            for column, quad in product(columns, quads)
            if any(self.tap(column, quad * QUAD + j) is not None for j in range(QUAD))
        ]

    @property
    def input_vectors(self) -> int:
        return len(self.uses) * self.quads * QUAD

    @property
    def fits(self) -> bool:
        return PARTS * self.rows * self.columns <= self.isa.registers // 2

    @property
    def cycles(self) -> float:
        isa = self.isa
        weights = self.workload.kh * len(self.pairs) * PARTS
        return (
            len(self.uses) * self.quads * (8 + PARTS * isa.operand_cost)
            + self.rows * weights * isa.dot_cost
            + weights * (0.5 + isa.weight_cost)
            + self.rows * self.columns * PARTS * 2.5
            + (self.rows * _PARTIAL_STORE if self.stores_partly else 0)
            + 10
        )

    @property
    def weight_bytes(self) -> int:
        return self.workload.kh * len(self.pairs) * PARTS * self.isa.bytes

    def pack(self, weights: np.ndarray) -> np.ndarray:
        taps = np.zeros((*weights.shape[:4], len(self.pairs), QUAD), np.int8)
        for i, (column, quad) in enumerate(self.pairs):
            for j in range(QUAD):
                tap = self.tap(column, quad * QUAD + j)
                if tap is not None:
                    taps[..., i, j] = weights[..., tap]
        # [group, vector, lane, kernel row, pair, 4] to [group, kernel row, pair, vector, lane, 4]
        return np.ascontiguousarray(self.isa.arrange(taps.transpose(0, 3, 4, 1, 2, 5)))

    def products(
        self, tile: Tile, x: Buffer, source: Expr, weights: Buffer, group: Expr, accumulators: Accumulators
    ) -> list[Stmt]:
        isa, dtype, size = self.isa, self.workload.x_dtype, self.isa.bytes
        pairs = self.pairs
        statements: list[Stmt] = []
        interleaved = [[tile.local(size, dtype) for _ in range(PARTS)] for _ in range(self.quads)]
        halves = [tile.local(size, dtype) for _ in range(PARTS)]
        for row, outputs in self.uses.items():
            for quad, vectors in enumerate(interleaved):
                seen = {(p, q) for p, q in pairs if q == quad}
                numbers = [quad * QUAD + j for j in range(QUAD)]
                used = [n for n in numbers if any(self.tap(p, n) is not None for p, _ in seen)]
                pixels = [self.pixel(x, source, row, n if n in used else used[-1]) for n in numbers]
                statements += _interleave(isa, pixels, halves, vectors)
            for (o, kh), (i, (p, quad)), v in product(outputs, enumerate(pairs), range(PARTS)):
                acc = accumulators[o, p, v]
                operand = isa.operand(load(interleaved[quad][v], 0, size), dtype)
                offset = (((group * self.workload.kh + kh) * len(pairs) + i) * PARTS + v) * size
                statements.append(store(acc, 0, isa.dot(load(acc, 0, isa.lanes), operand, weights, offset), isa.lanes))
        return statements


@dataclass(frozen=True)
class Widened(DepthwiseTile):
    """One multiplication of 16-bit words a tap."""

    @property
    def input_vectors(self) -> int:
        return len(self.uses) * self.pixels

    @property
    def fits(self) -> bool:
        words = 2 * (self.pixels + 1)
        return PARTS * self.rows * self.columns + words <= self.isa.registers

    @property
    def cycles(self) -> float:
        taps = self.workload.kh * self.workload.kw
        outputs = self.rows * self.columns * PARTS
        return len(self.uses) * self.pixels * 3 + self.rows * taps + outputs * (taps + 5) + 20

    @property
    def weight_bytes(self) -> int:
        return self.workload.kh * self.workload.kw * PARTS * self.isa.lanes * 2

    def pack(self, weights: np.ndarray) -> np.ndarray:
        # [group, vector, lane, kernel row, tap] to [group, kernel row, tap, vector, lane]
        return np.ascontiguousarray(weights.transpose(0, 3, 4, 1, 2)).astype(np.int16)

    def products(
        self, tile: Tile, x: Buffer, source: Expr, weights: Buffer, group: Expr, accumulators: Accumulators
    ) -> list[Stmt]:
        isa, workload, half = self.isa, self.workload, self.isa.bytes // 2
        words = [[tile.local(half, "int16") for _ in range(2)] for _ in range(self.pixels)]
        statements: list[Stmt] = []
        for row, outputs in self.uses.items():
            for number, parts in enumerate(words):
                if all(self.tap(p, number) is None for p in range(self.columns)):
                    continue
                whole = tile.local(isa.bytes, workload.x_dtype)
                statements.append(store(whole, 0, self.pixel(x, source, row, number), isa.bytes))
                for i, part in enumerate(parts):
                    narrow = shuffle([load(whole, 0, isa.bytes)], range(i * half, (i + 1) * half))
                    statements.append(store(part, 0, narrow.astype(f"int16x{half}"), half))
            for (o, kh), kw, v, p in product(outputs, range(workload.kw), range(PARTS), range(self.columns)):
                offset = (((group * workload.kh + kh) * workload.kw + kw) * 2 + v // 2) * half
                lanes = range(v % 2 * isa.lanes, (v % 2 + 1) * isa.lanes)
                operand = shuffle([load(words[p * self.stride + kw][v // 2], 0, half)], lanes)
                weight = shuffle([load(weights, offset, half)], lanes)
                acc = accumulators[o, p, v]
                value = load(acc, 0, isa.lanes) + isa.multiply_words(operand, weight)
                statements.append(store(acc, 0, value, isa.lanes))
        return statements


def _interleave(isa: Isa, pixels: list[Expr], halves: list, vectors: list) -> list[Stmt]:
    """Byte-interleaves four whole vectors through `halves` into the four `vectors`."""
    size, statements = isa.bytes, []
    for i, pair in enumerate((pixels[:2], pixels[2:])):
        for j in range(2):
            statements.append(store(halves[2 * i + j], 0, isa.interleave(*pair, 1, bool(j)), size))
    for v, vector in enumerate(vectors):
        pair = [load(halves[v // 2], 0, size), load(halves[2 + v // 2], 0, size)]
        statements.append(store(vector, 0, isa.interleave(*pair, 2, bool(v % 2)), size))
    return statements
