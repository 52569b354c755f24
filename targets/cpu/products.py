"""The inner nest of a register tile: dot products of several pixels with several vectors of channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from tvm import tirx

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
    sums: Sequence[Buffer]
    """The sum of the activations of each group, where weights are stored with an `offset`."""
    offset: int
    """What stored weights hold beyond their value: `Isa.weight_offset`, and a zero point there."""

    @staticmethod
    def of(tile: Tile, isa: Isa, x: Buffer, dtype: str, pixels: int, vectors: int, zero_point: int = 0) -> Products:
        groups = range(pixels // isa.pixels)
        accumulators = [[tile.local(isa.lanes, "int32") for _ in range(vectors)] for _ in groups]
        kept = [[tile.local(*kind) for kind in isa.registers_of(dtype)] for _ in groups]
        offset = isa.weight_offset + zero_point
        sums = [tile.local(1, "int64") for _ in groups] if offset else []
        return Products(isa, x, dtype, accumulators, kept, sums, offset)

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
            *(
                store(acc, 0, value(g, v), self.isa.lanes)
                for g, line in enumerate(self.accumulators)
                for v, acc in enumerate(line)
            ),
            *(store(total, 0, tirx.const(0, "int64")) for total in self.sums),
        ]

    def finish(self) -> list[Stmt]:
        """Takes off the accumulators what the weights' offset has added."""
        isa = self.isa
        return [
            store(acc, 0, isa.less_sum(load(acc, 0, isa.lanes), load(total, 0), self.offset), isa.lanes)
            for line, total in zip(self.accumulators, self.sums, strict=False)
            for acc in line
        ]

    def add(self, first: Expr, steps: Sequence[int], weights: Buffer, weight: Expr, count: int) -> list[Stmt]:
        """Adds `count` (at most `Isa.together`) dot products of the pixels, which start `steps` behind `first` in `x`.

        Their weights start at `weight`: `[dot product][vector]` of `Isa.bytes`.
        """
        isa = self.isa
        statements: list[Stmt] = []
        operands: list[list[Expr]] = []
        fetched = isa.fetch(self.x, first, steps, count)
        for group in range(len(self.accumulators)):
            pixels = fetched[group * isa.pixels : (group + 1) * isa.pixels]
            values = isa.kept([loaded for pixel in pixels for loaded in pixel], self.dtype)
            if self.kept[group]:
                registers = [(b, int(b.shape[0])) for b, _ in zip(self.kept[group], values, strict=False)]
                statements += [store(b, 0, v, n) for (b, n), v in zip(registers, values, strict=True)]
                values = [load(b, 0, n) for b, n in registers]
            if self.sums:
                total = self.sums[group]
                statements.append(store(total, 0, isa.add_sum(load(total, 0), values)))
            operands.append(values)
        for index, group in product(range(count), range(len(self.accumulators))):
            line = self.accumulators[group]
            statements += self._in_order(self.kept[group])
            operand = isa.step(operands[group], index, self.dtype)
            for v, acc in enumerate(line):
                place = weight + (index * self.step_bytes + v * isa.bytes)
                statements.append(store(acc, 0, isa.dot(load(acc, 0, isa.lanes), operand, weights, place), isa.lanes))
            statements += self._in_order(line)
        return statements

    def _in_order(self, registers: Sequence[Buffer]) -> list[Stmt]:
        if not self.isa.ordered:
            return []
        sizes = [int(register.shape[0]) for register in registers]
        return [store(b, 0, self.isa.in_order(load(b, 0, n)), n) for b, n in zip(registers, sizes, strict=True)]

    def parts(
        self,
        parameter: Expr,
        outputs: Sequence[Target],
        starts: Sequence[int],
        lanes: int,
        values: Sequence = (),
    ) -> list[Part]:
        """What the epilogue takes: parameters from `parameter`, results of pixel `i` from `outputs[i]` on.

        `starts` and `lanes` are those of the block's `ChannelBlocks`.
        """
        isa = self.isa
        return [
            Part(
                acc,
                parameter + v * isa.lanes,
                tuple(target.after(starts[v]) for target in outputs[g * isa.pixels : (g + 1) * isa.pixels]),
                lanes,
            )
            for g, line in enumerate(values or self.accumulators)
            for v, acc in enumerate(line)
        ]
