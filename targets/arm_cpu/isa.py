"""The instruction sets of 64-bit ARM: NEON's dot products over four bytes a lane, and narrowing their results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import tirx

from qcompiler.lowering.tir import Buffer, Expr, llvm, load, shuffle, splat
from qcompiler.targets.cpu.isa import Isa

_NEON = "llvm.aarch64.neon"


@dataclass(frozen=True)
class Neon(Isa):
    """Rounding and narrowing; elements stay in their order."""

    def round(self, real: Expr) -> Expr:
        return llvm(f"{_NEON}.fcvtns", "int32x4", real)

    def narrow(self, parts: list[Expr], zero_point: int, dtype: str) -> Expr:
        if dtype == "int16" and zero_point:
            parts = [part + splat(zero_point, "int32", 4) for part in parts]
        words = [llvm(f"{_NEON}.sqxtn", "int16x4", part) for part in parts]
        halves = [shuffle(words[i : i + 2], range(8)) for i in (0, 2)]
        if dtype == "int16":
            return shuffle(halves, range(16))
        name = f"{_NEON}.{'sqxtun' if dtype == 'uint8' else 'sqxtn'}"
        if zero_point:
            halves = [llvm("llvm.sadd.sat", "int16x8", half, splat(zero_point, "int16", 8)) for half in halves]
        packed = shuffle([llvm(name, "int8x8", half) for half in halves], range(16))
        return packed if dtype == "int8" else tirx.reinterpret("uint8x16", packed)

    def place_of(self, part: int, lane: int) -> int:
        return part * 4 + lane


@dataclass(frozen=True)
class Dotprod(Neon):
    """ARMv8.2 `sdot` of signed bytes with one quad of four that a register holds.

    Unsigned activations are shifted by 128.
    """

    quads: ClassVar[int] = 4

    def operand(self, x: Expr, dtype: str) -> tuple[Expr, ...]:
        return (tirx.reinterpret("int8x16", self.loaded(tirx.reinterpret(f"{dtype}x16", x), dtype)),)

    def loaded(self, x: Expr, dtype: str) -> Expr:
        return x ^ splat(128, "uint8", 16) if dtype == "uint8" else x

    def quad(self, x: Expr, index: int, dtype: str) -> tuple[Expr, ...]:
        words = tirx.reinterpret("int32x4", x)
        return (tirx.reinterpret("int8x16", tirx.Broadcast(shuffle([words], [index]), 4)),)

    def dot(self, acc: Expr, x: tuple[Expr, ...], weights: Buffer, offset: Expr | int) -> Expr:
        # The repeated quad has to be the last operand for LLVM to choose the form by element.
        return llvm(f"{_NEON}.sdot", "int32x4", acc, load(weights, offset, self.bytes), x[0])

    def arrange(self, quads: np.ndarray) -> np.ndarray:
        return quads.reshape(*quads.shape[:-2], self.bytes)

    def bias_offset(self, dtype: str) -> int:
        return -128 if dtype == "uint8" else 0


ISAS: dict[str, tuple[Isa, ...]] = {"dotprod": (Dotprod(4, 32, 16, 1.0, 0.0, 0.0),)}
