"""What register tiles ask of an instruction set: one dot product over four bytes a lane, and narrowing its results.

Activations and weights of a dot product come in groups of four reduction elements ("quads"): lane `i` of an
accumulator gains `sum_{j<4} x[i, j] * w[i, j]`. All forms are exact.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar

import numpy as np
from tvm import tirx

from qcompiler.lowering.tir import Buffer, Expr
from qcompiler.targets.spec import TargetSpec

QUAD = 4
BYTES = ("uint8", "int8")
"""Types of the operands of a dot product."""


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

    quads: ClassVar[int] = 1
    """Quads of one pixel that are loaded together, into one vector."""

    @property
    def bytes(self) -> int:
        return QUAD * self.lanes

    def broadcast(self, quad: Expr) -> Expr:
        """Four bytes repeated in every lane."""
        word = tirx.reinterpret("int32", quad)
        return tirx.reinterpret(f"int8x{self.bytes}", tirx.Broadcast(word, self.lanes))

    @abstractmethod
    def operand(self, x: Expr, dtype: str) -> tuple[Expr, ...]:
        """The left operand of `dot` from `4 * lanes` bytes that hold activations of type `dtype`."""

    @abstractmethod
    def dot(self, acc: Expr, x: tuple[Expr, ...], weights: Buffer, offset: Expr | int) -> Expr:
        """`acc` plus the products with the arranged weights at `offset`."""

    @abstractmethod
    def arrange(self, quads: np.ndarray) -> np.ndarray:
        """Weights `[..., lanes, 4]` as `[..., 4*lanes]` in the order `dot` reads them."""

    @abstractmethod
    def bias_offset(self, dtype: str) -> int:
        """What `operand` adds to every activation of type `dtype`."""

    def loaded(self, x: Expr, dtype: str) -> Expr:
        """What to keep of `4 * quads` loaded bytes of type `dtype`."""
        return x

    def quad(self, x: Expr, index: int, dtype: str) -> tuple[Expr, ...]:
        """One quad of what `loaded` kept, in every lane, as the left operand of `dot`."""
        return self.operand(self.broadcast(x), dtype)

    @abstractmethod
    def round(self, real: Expr) -> Expr:
        """float32 to int32, half to even; the value must fit."""

    @abstractmethod
    def narrow(self, parts: list[Expr], zero_point: int, dtype: str) -> Expr:
        """Four int32 vectors plus the zero point, saturated to `dtype`; `place_of` tells the elements' order.

        The sums of int16 must fit int32; those of 8-bit types may lie anywhere.
        """

    @abstractmethod
    def place_of(self, part: int, lane: int) -> int:
        """Where `narrow` puts a lane of one of its four parts."""


def isas_of(spec: TargetSpec) -> tuple[Isa, ...]:
    """The vector widths of a target, widest first: `ISAS` of the module `isa` beside its `kernels`."""
    return import_module(f"{spec.kernels.rpartition('.')[0]}.isa").ISAS[spec.instruction_set]


def isa_of(spec: TargetSpec) -> Isa:
    """The widest vectors of a target."""
    return isas_of(spec)[0]
