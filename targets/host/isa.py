"""The instruction sets of the host: one dot product over four bytes a lane, and the narrowing of its results.

Activations and weights of a dot product come in groups of four reduction elements ("quads"): lane `i` of an
accumulator gains `sum_{j<4} x[i, j] * w[i, j]`. All forms are exact: none uses `vpmaddubsw`, which saturates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from tvm import tirx

from qcompiler.lowering.tir import Buffer, Expr, llvm, load, shuffle, splat

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
    pack16: str
    pack_unsigned: str
    pack_signed: str

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

    def round(self, real: Expr) -> Expr:
        """float32 to int32, half to even; the value must fit."""
        return llvm("llvm.lrint", f"int32x{self.lanes}", real)

    def narrow(self, parts: list[Expr], zero_point: int, dtype: str) -> Expr:
        """Four int32 vectors plus the zero point, saturated to `dtype`; `place_of` tells the elements' order.

        The sums of int16 must fit int32; those of 8-bit types may lie anywhere.
        """
        half = self.lanes * 2
        if dtype == "int16" and zero_point:
            parts = [part + splat(zero_point, "int32", self.lanes) for part in parts]
        low, high = (llvm(self.pack16, f"int16x{half}", a, b) for a, b in (parts[:2], parts[2:]))
        if dtype == "int16":
            blocks = range(0, half, 2 * QUAD)
            order = [start + block + i for block in blocks for start in (0, half) for i in range(2 * QUAD)]
            return shuffle([low, high], order)
        low, high = (
            llvm("llvm.sadd.sat", f"int16x{half}", words, splat(zero_point, "int16", half)) for words in (low, high)
        )
        name = self.pack_unsigned if dtype == "uint8" else self.pack_signed
        packed = llvm(name, f"int8x{self.bytes}", low, high)
        return packed if dtype == "int8" else tirx.reinterpret(f"uint8x{self.bytes}", packed)

    def place_of(self, part: int, lane: int) -> int:
        """Where `narrow` puts a lane of one of its four parts: packing stays inside 128 bits."""
        return lane // QUAD * 16 + part * QUAD + lane % QUAD


@dataclass(frozen=True)
class Vnni(Isa):
    """AVX-512 VNNI: `vpdpbusd` of unsigned by signed bytes; signed activations are shifted by 128."""

    def operand(self, x: Expr, dtype: str) -> tuple[Expr, ...]:
        if dtype == "int8":
            x = x ^ splat(-128, "int8", self.bytes)
        return (tirx.reinterpret(f"uint8x{self.bytes}", x),)

    def dot(self, acc: Expr, x: tuple[Expr, ...], weights: Buffer, offset: Expr | int) -> Expr:
        name = f"llvm.x86.avx512.vpdpbusd.{32 * self.lanes}"
        return llvm(name, f"int32x{self.lanes}", acc, x[0], load(weights, offset, self.bytes))

    def arrange(self, quads: np.ndarray) -> np.ndarray:
        return quads.reshape(*quads.shape[:-2], self.bytes)

    def bias_offset(self, dtype: str) -> int:
        return 128 if dtype == "int8" else 0


@dataclass(frozen=True)
class Madd(Isa):
    """SSE2 and AVX2: bytes widened to int16, even and odd ones apart, then `pmaddwd` of pairs."""

    madd: str

    def operand(self, x: Expr, dtype: str) -> tuple[Expr, ...]:
        half = self.bytes // 2
        kind = "int16" if dtype == "int8" else "uint16"
        words = tirx.reinterpret(f"{kind}x{half}", x)
        eight = splat(8, kind, half)
        even = words & splat(255, kind, half) if kind == "uint16" else (words << eight) >> eight
        return tuple(tirx.reinterpret(f"int16x{half}", part) for part in (even, words >> eight))

    def dot(self, acc: Expr, x: tuple[Expr, ...], weights: Buffer, offset: Expr | int) -> Expr:
        half = self.bytes // 2
        for i, part in enumerate(x):
            wide = load(weights, offset + i * half, half).astype(f"int16x{half}")
            acc = acc + llvm(self.madd, f"int32x{self.lanes}", part, wide)
        return acc

    def arrange(self, quads: np.ndarray) -> np.ndarray:
        halves = quads.reshape(*quads.shape[:-1], 2, 2)
        return np.moveaxis(halves, -1, -3).reshape(*quads.shape[:-2], self.bytes)

    def bias_offset(self, dtype: str) -> int:
        return 0


_PACKS = {
    16: ("llvm.x86.avx512.packssdw.512", "llvm.x86.avx512.packuswb.512", "llvm.x86.avx512.packsswb.512"),
    8: ("llvm.x86.avx2.packssdw", "llvm.x86.avx2.packuswb", "llvm.x86.avx2.packsswb"),
    4: ("llvm.x86.sse2.packssdw.128", "llvm.x86.sse2.packuswb.128", "llvm.x86.sse2.packsswb.128"),
}
_MADDS = {8: "llvm.x86.avx2.pmadd.wd", 4: "llvm.x86.sse2.pmadd.wd"}


def _vnni(lanes: int) -> Vnni:
    return Vnni(lanes, 32, 15, 0.5, 0.0, 0.0, *_PACKS[lanes])


_ISAS: dict[str, tuple[Isa, ...]] = {
    "avx512-vnni": (_vnni(16), _vnni(8), _vnni(4)),
    "avx2": tuple(Madd(n, 16, 9, 1.3, 0.7, 0.7, *_PACKS[n], _MADDS[n]) for n in (8, 4)),
    "portable": (Madd(4, 16, 6, 1.5, 1.3, 1.3, *_PACKS[4], _MADDS[4]),),
}


def isas_of(instruction_set: str) -> tuple[Isa, ...]:
    """The vector widths of `TargetSpec.instruction_set`, widest first."""
    return _ISAS[instruction_set]


def isa_of(instruction_set: str) -> Isa:
    """The widest vectors of `TargetSpec.instruction_set`."""
    return _ISAS[instruction_set][0]
