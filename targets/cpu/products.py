"""The inner nest of a register tile: dot products of several pixels with several vectors of channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from qcompiler.lowering.tir import Buffer, Expr, Stmt, Tile, load, store
from qcompiler.targets.cpu.epilogue import Part, Target
from qcompiler.targets.cpu.isa import Isa


@dataclass(frozen=True)
class Products:
    """Accumulators `[group of pixels][vector]` of one tile, and the registers that keep loaded activations.

    A group is the `Isa.pixels` pixels that share an accumulator; the pixels of a tile are a multiple of it.
    """

    isa: Isa
    x: Buffer
    dtype: str
    """Type of the activations."""
    accumulators: Sequence[Sequence[Buffer]]
    kept: Sequence[Sequence[Buffer]]
    """Empty where activations are not loaded `together`."""

    @staticmethod
    def of(tile: Tile, isa: Isa, x: Buffer, dtype: str, pixels: int, vectors: int) -> Products:
        groups = range(pixels // isa.pixels)
        accumulators = [[tile.local(isa.lanes, "int32") for _ in range(vectors)] for _ in groups]
        kept = [[tile.local(*kind) for kind in isa.registers_of(dtype)] for _ in groups]
        return Products(isa, x, dtype, accumulators, kept)

    @property
    def vectors(self) -> int:
        return len(self.accumulators[0])

    @property
    def step_bytes(self) -> int:
        """Bytes of weights that one dot product of every accumulator reads."""
        return self.vectors * self.isa.bytes

    def start(self, value: Callable[[int, int], Expr]) -> list[Stmt]:
        """Sets every accumulator to `value(group, vector)`."""
        return [
            store(acc, 0, value(g, v), self.isa.lanes)
            for g, line in enumerate(self.accumulators)
            for v, acc in enumerate(line)
        ]

    def add(self, offsets: Sequence[Expr], weights: Buffer, weight: Expr, count: int) -> list[Stmt]:
        """Adds `count` (at most `Isa.together`) dot products of the pixels that start at `offsets` in `x`.

        Their weights start at `weight`: `[dot product][vector]` of `Isa.bytes`.
        """
        isa = self.isa
        size = isa.depth * isa.together
        statements: list[Stmt] = []
        operands: list[list[Expr]] = []
        for group in range(len(self.accumulators)):
            first = group * isa.pixels
            loaded = [load(self.x, offset, size) for offset in offsets[first : first + isa.pixels]]
            values = isa.kept(loaded, self.dtype)
            if self.kept[group]:
                registers = [(register, int(register.shape[0])) for register in self.kept[group]]
                statements += [store(b, 0, v, n) for (b, n), v in zip(registers, values, strict=True)]
                values = [load(b, 0, n) for b, n in registers]
            operands.append(values)
        for index, (values, line) in product(range(count), zip(operands, self.accumulators, strict=True)):
            operand = isa.step(values, index, self.dtype)
            for v, acc in enumerate(line):
                place = weight + (index * self.step_bytes + v * isa.bytes)
                statements.append(store(acc, 0, isa.dot(load(acc, 0, isa.lanes), operand, weights, place), isa.lanes))
        return statements

    def parts(
        self, parameter: Expr, pixels: Sequence[Expr], starts: Sequence[int], lanes: int, values: Sequence = ()
    ) -> list[Part]:
        """What the epilogue takes: parameters from `parameter`, results of pixel `i` from `pixels[i]` on.

        `starts` and `lanes` are those of the block's `ChannelBlocks`.
        """
        isa = self.isa
        return [
            Part(
                acc,
                parameter + v * isa.lanes,
                tuple(
                    Target(pixels[pixel] + starts[v], (pixel, starts[v]))
                    for pixel in range(g * isa.pixels, (g + 1) * isa.pixels)
                ),
                lanes,
            )
            for g, line in enumerate(values or self.accumulators)
            for v, acc in enumerate(line)
        ]
