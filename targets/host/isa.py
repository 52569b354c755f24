"""The instruction sets of the host; none uses `vpmaddubsw`, which saturates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import tirx

from qcompiler.lowering.tir import Buffer, Expr, llvm, load, shuffle, splat
from qcompiler.targets.cpu.isa import QUAD, Isa


@dataclass(frozen=True)
class X86(Isa):
    """Rounding and packing; packing stays inside 128 bits."""

    pack16: str
    pack_unsigned: str
    pack_signed: str

    def round(self, real: Expr) -> Expr:
        return llvm("llvm.lrint", f"int32x{self.lanes}", real)

    def narrow(self, parts: list[Expr], zero_point: int, dtype: str, halves: bool = False) -> Expr:
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
        return lane // QUAD * 16 + part * QUAD + lane % QUAD


@dataclass(frozen=True)
class Vnni(X86):
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
class Madd(X86):
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


ISAS: dict[str, tuple[Isa, ...]] = {
    "avx512-vnni": (_vnni(16), _vnni(8), _vnni(4)),
    "avx2": tuple(Madd(n, 16, 9, 1.3, 0.7, 0.7, *_PACKS[n], _MADDS[n]) for n in (8, 4)),
    "portable": (Madd(4, 16, 6, 1.5, 1.3, 1.3, *_PACKS[4], _MADDS[4]),),
}
PRODUCT_ISAS = {name: isas[:1] for name, isas in ISAS.items()}
