"""The products of a tile of a depthwise convolution, in two forms.

`Interleaved`: the pixels `x0..x3` of a row are interleaved once into four vectors; each lane then holds four taps
of one channel for a dot product. Every output column that sees these pixels reuses them with its taps shifted, and
every output row of the tile reuses the input row. Narrowing undoes the order that interleaving leaves.

`Widened`: every pixel is widened to 16 bits once and multiplied tap by tap; for instruction sets without a dot
product.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from qcompiler.lowering.tir import Buffer, Expr, Stmt, Tile, load, shuffle, store
from qcompiler.lowering.workload import ConvWorkload
from qcompiler.targets.cpu.epilogue import PARTS
from qcompiler.targets.cpu.isa import QUAD, Isa

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
        """Whether the results of a row are less than a vector."""
        return self.columns * self.merged * self.workload.oc < self.isa.bytes

    @property
    def pixels(self) -> int:
        """Input pixels of one row that the tile sees."""
        return (self.columns - 1) * self.stride + self.workload.kw

    @property
    def uses(self) -> dict[int, list[tuple[int, int]]]:
        """Input rows below the tile's first one to the (output row, kernel row) pairs that use them.

        Kernel rows that an earlier input row has used come first.
        """
        workload, uses = self.workload, {}
        for o, kh in product(range(self.rows), range(workload.kh)):
            uses.setdefault(o * workload.strides[0] + kh * workload.dilations[0], []).append((o, kh))
        return {row: sorted(uses[row], key=lambda use: use[1]) for row in sorted(uses)}

    @property
    def reused(self) -> int:
        """Most kernel rows that were used and will be again, from one input row to the next."""
        users: dict[int, list[int]] = {}
        for row, outputs in self.uses.items():
            for _, kh in outputs:
                users.setdefault(kh, []).append(row)
        return max(sum(rows[0] <= row < rows[-1] for rows in users.values()) for row in self.uses)

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
    def weight_bytes(self) -> int:
        """Bytes of packed weights of one group of channels."""
        return self.workload.kh * self.weight_vectors * self.isa.bytes

    @abstractmethod
    def pack(self, weights: np.ndarray) -> np.ndarray:
        """Weights `[group, vector, lane, KH, KW]` in the order in which the tile reads them, group by group."""

    @property
    @abstractmethod
    def registers(self) -> int:
        """Vectors that a tile needs at once: accumulators, input, and weights as they are read."""

    @property
    @abstractmethod
    def weight_vectors(self) -> int:
        """Vectors of weights of one kernel row."""

    def products(
        self, tile: Tile, x: Buffer, source: Expr, weights: Buffer, group: Expr, accumulators: Accumulators
    ) -> list[Stmt]:
        """Adds all products to the accumulators, one input row after the other.

        LLVM would load several rows first, and keep weights for the next rows where there is no register for them.
        """
        place = tile.local(1, "int32")
        statements: list[Stmt] = [store(place, 0, group * math.prod(map(int, weights.shape[1:])))]
        kept = self.keeps(self.reused)
        for row in self.uses:
            if not kept:
                statements.append(store(place, 0, self.isa.hidden(load(place, 0))))
            statements += self.row_products(tile, x, source, row, weights, load(place, 0), accumulators)
        return statements

    def in_order(self, accumulators: Accumulators) -> list[Stmt]:
        """No load moves from one side of this to the other."""
        isa = self.isa
        return [store(acc, 0, isa.in_order(load(acc, 0, isa.lanes)), isa.lanes) for acc in accumulators.values()]

    def keeps(self, kernel_rows: int) -> bool:
        """Whether there are registers for the weights of so many kernel rows."""
        return self.registers + kernel_rows * self.weight_vectors <= self.isa.registers

    @abstractmethod
    def row_products(
        self, tile: Tile, x: Buffer, source: Expr, row: int, weights: Buffer, place: Expr, accumulators: Accumulators
    ) -> list[Stmt]:
        """Adds the products of an input row, in order; the group's weights start at `place`."""


@dataclass(frozen=True)
class Interleaved(DepthwiseTile):
    """Dot products over four neighbouring pixels."""

    @property
    def quads(self) -> int:
        return -(-self.pixels // QUAD)

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(column, quad) where the output column sees a pixel of the quad, quad by quad."""
        columns, quads = range(self.columns), range(self.quads)
        return [
            (column, quad)
            for quad, column in product(quads, columns)
            if any(self.tap(column, quad * QUAD + j) is not None for j in range(QUAD))
        ]

    @property
    def input_vectors(self) -> int:
        return len(self.uses) * self.quads * QUAD

    @property
    def registers(self) -> int:
        return PARTS * self.rows * self.columns + 2 * PARTS

    @property
    def weight_vectors(self) -> int:
        return PARTS * len(self.pairs)

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
            + (self.rows * isa.partial_store if self.stores_partly else 0)
            + 10
        )

    def pack(self, weights: np.ndarray) -> np.ndarray:
        taps = np.zeros((*weights.shape[:4], len(self.pairs), QUAD), np.int8)
        for i, (column, quad) in enumerate(self.pairs):
            for j in range(QUAD):
                tap = self.tap(column, quad * QUAD + j)
                if tap is not None:
                    taps[..., i, j] = weights[..., tap]
        # [group, vector, lane, kernel row, pair, 4] to [group, kernel row, pair, vector, lane, 4]
        return np.ascontiguousarray(self.isa.arrange(taps.transpose(0, 3, 4, 1, 2, 5)))

    def row_products(
        self, tile: Tile, x: Buffer, source: Expr, row: int, weights: Buffer, place: Expr, accumulators: Accumulators
    ) -> list[Stmt]:
        isa, dtype, size = self.isa, self.workload.x_dtype, self.isa.bytes
        statements: list[Stmt] = []
        for quad in sorted({quad for _, quad in self.pairs}):
            pairs = [(i, p) for i, (p, seen) in enumerate(self.pairs) if seen == quad]
            numbers = [quad * QUAD + j for j in range(QUAD)]
            used = [n for n in numbers if any(self.tap(p, n) is not None for _, p in pairs)]
            pixels = [self.pixel(x, source, row, n if n in used else used[-1]) for n in numbers]
            halves, vectors = ([tile.local(size, dtype) for _ in range(PARTS)] for _ in range(2))
            statements += _interleave(isa, pixels, halves, vectors)
            for (o, kh), (i, p), v in product(self.uses[row], pairs, range(PARTS)):
                acc = accumulators[o, p, v]
                operand = isa.operand(load(vectors[v], 0, size), dtype)
                offset = place + (kh * self.weight_vectors + i * PARTS + v) * size
                statements.append(store(acc, 0, isa.dot(load(acc, 0, isa.lanes), operand, weights, offset), isa.lanes))
            statements += self.in_order(accumulators)
        return statements


@dataclass(frozen=True)
class Widened(DepthwiseTile):
    """One multiplication of 16-bit words a tap."""

    @property
    def input_vectors(self) -> int:
        return len(self.uses) * self.pixels

    @property
    def registers(self) -> int:
        window = min((self.columns - 1) * self.stride + 1, self.pixels)
        return PARTS * self.rows * self.columns + 2 * window + 5

    @property
    def weight_vectors(self) -> int:
        return 2 * self.workload.kw

    @property
    def fits(self) -> bool:
        return self.registers <= self.isa.registers

    @property
    def cycles(self) -> float:
        taps = self.workload.kh * self.workload.kw
        outputs = self.rows * self.columns * PARTS
        return len(self.uses) * self.pixels * 3 + self.rows * taps + outputs * (taps + 5) + 20

    def pack(self, weights: np.ndarray) -> np.ndarray:
        # [group, vector, lane, kernel row, tap] to [group, kernel row, tap, vector, lane]
        return np.ascontiguousarray(weights.transpose(0, 3, 4, 1, 2)).astype(np.int16)

    def row_products(
        self, tile: Tile, x: Buffer, source: Expr, row: int, weights: Buffer, place: Expr, accumulators: Accumulators
    ) -> list[Stmt]:
        isa, workload, half = self.isa, self.workload, self.isa.bytes // 2
        words: dict[int, list[Buffer]] = {}
        statements: list[Stmt] = []
        for kw in range(workload.kw):
            for number in (p * self.stride + kw for p in range(self.columns)):
                if number not in words:
                    words[number] = [tile.local(half, "int16") for _ in range(2)]
                    statements += self._widen(tile, self.pixel(x, source, row, number), words[number])
            for (o, kh), v, p in product(self.uses[row], range(PARTS), range(self.columns)):
                offset = place + (kh * self.weight_vectors + kw * 2 + v // 2) * half
                lanes = range(v % 2 * isa.lanes, (v % 2 + 1) * isa.lanes)
                operand = shuffle([load(words[p * self.stride + kw][v // 2], 0, half)], lanes)
                weight = shuffle([load(weights, offset, half)], lanes)
                acc = accumulators[o, p, v]
                value = load(acc, 0, isa.lanes) + isa.multiply_words(operand, weight)
                statements.append(store(acc, 0, value, isa.lanes))
        return statements + self.in_order(accumulators)

    def _widen(self, tile: Tile, pixel: Expr, words: list[Buffer]) -> list[Stmt]:
        """The halves of a pixel's bytes in `words`."""
        size = self.isa.bytes
        whole, half = tile.local(size, self.workload.x_dtype), size // 2
        statements = [store(whole, 0, pixel, size)]
        for i, part in enumerate(words):
            narrow = shuffle([load(whole, 0, size)], range(i * half, (i + 1) * half))
            statements.append(store(part, 0, narrow.astype(f"int16x{half}"), half))
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
