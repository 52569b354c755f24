"""The instruction sets of 64-bit ARM: products of bytes in several forms, and narrowing their results.

Costs and limits are those at which LLVM's code for a range of layers takes the fewest instructions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import tirx

from qcompiler.lowering.tir import Buffer, Expr, Stmt, llvm, load, shuffle, splat
from qcompiler.lowering.workload import Requantize
from qcompiler.targets.cpu.isa import QUAD, Isa

_NEON = "llvm.aarch64.neon"
_SCALARS = {"int32": "i32", "int64": "i64"}
_VECTORS = {"int32x4": "<4 x i32>", "int16x8": "<8 x i16>", "int8x16": "<16 x i8>", "uint8x16": "<16 x i8>"}


def _assembly(name: str, result: str, operand: str, text: str, constraints: str) -> str:
    """A function of one line of assembly, which LLVM neither looks into nor moves loads across.

    Source: LLVM Language Reference, Inline Assembler Expressions.
    """
    return f"""
define {result} @qcompiler_{name}({operand} %value) alwaysinline {{
  %made = call {result} asm sideeffect "{text}", "{constraints}"({operand} %value)
  ret {result} %made
}}
"""


_FENCE = """
define void @qcompiler_fence() alwaysinline {
  call void asm sideeffect "", ""()
  ret void
}
"""
_DEFINITIONS = "".join(
    [
        *(_assembly(f"hidden_{name}", kind, kind, "", "=r,0") for name, kind in _SCALARS.items()),
        *(_assembly(f"in_order_{name}", kind, kind, "", "=w,0") for name, kind in _VECTORS.items()),
        _assembly("repeated", "<4 x float>", "i32", "dup $0.4s, ${1:w}", "=w,r"),
        _FENCE,
    ]
)
_ISSUE = 2.0
"""Vector instructions a cycle."""


@dataclass(frozen=True)
class Neon(Isa):
    """Rounding and narrowing; elements stay in their order. Costs count instructions."""

    stripe_bytes: ClassVar[int] = 64 * 1024
    packs: ClassVar[int] = 4
    prefetches: ClassVar[bool] = False
    adds_magic: ClassVar[bool] = True
    rounds_twice: ClassVar[bool] = True
    definitions: ClassVar[str] = _DEFINITIONS
    kept_weights: ClassVar[int] = 32 * 1024
    free: ClassVar[int] = 3
    """Registers that a tile leaves to LLVM's scheduling of loads."""
    most_vectors: ClassVar[int] = 32
    """Vectors of channels beyond which LLVM's scheduling runs out of registers, where products need temporaries."""
    load_cost: ClassVar[float] = 1.0
    """Instructions to load activations of one pixel."""
    loop_cost: ClassVar[float] = 3.0
    """Instructions of the reduction's loop itself."""

    def fits(self, pixels: int, vectors: int) -> bool:
        in_registers = self._registers(pixels, vectors) <= self.registers - self.free
        return super().fits(pixels, vectors) and in_registers and vectors <= self.most_vectors

    def _registers(self, pixels: int, vectors: int) -> int:
        return pixels * vectors // self.pixels + pixels + vectors

    def step_cycles(self, pixels: int, vectors: int, dots: int, steps: int) -> float:
        accumulators = pixels * vectors // self.pixels
        loads = self.load_cost * pixels * -(-dots // self.together) / dots
        addresses = pixels / dots if dots < steps else 0
        weights = vectors * 0.5  # loaded in pairs
        instructions = accumulators * self.dot_cost + pixels * self.operand_cost + vectors * self.weight_cost
        return (instructions + loads + addresses + weights + self.loop_cost / self.together) / _ISSUE

    def tile_cycles(self, accumulators: int) -> float:
        return (6.5 * accumulators + 10) / _ISSUE

    def registers_of(self, dtype: str) -> list[tuple[int, str]]:
        return [(self.depth * self.together, dtype)] * self.pixels

    def hidden(self, value: Expr) -> Expr:
        dtype = str(value.ty.dtype)
        return tirx.call_extern(dtype, f"qcompiler_hidden_{dtype}", value)

    def in_order(self, acc: Expr) -> Expr:
        dtype = str(acc.ty.dtype)
        return tirx.call_extern(dtype, f"qcompiler_in_order_{dtype}", acc)

    def fence(self) -> list[Stmt]:
        return [tirx.Evaluate(tirx.call_extern("void", "qcompiler_fence"))]

    def repeated(self, word: int) -> Expr:
        return tirx.call_extern("float32x4", "qcompiler_repeated", tirx.const(word, "int32"))

    def round(self, real: Expr) -> Expr:
        return llvm(f"{_NEON}.fcvtns", "int32x4", real)

    def requantize_twice(self, acc: Expr, mantissa: Expr, shift: Expr, requantize: Requantize) -> Expr:
        right = splat(0, "int32", 4) - shift
        if requantize.shifts_left:
            zero = splat(0, "int32", 4)
            acc = llvm(f"{_NEON}.sqshl", "int32x4", acc, tirx.max(right, zero))
            right = tirx.min(right, zero)
        return llvm(f"{_NEON}.srshl", "int32x4", llvm(f"{_NEON}.sqrdmulh", "int32x4", acc, mantissa), right)

    def narrow(self, parts: list[Expr], zero_point: int, dtype: str, halves: bool = False) -> Expr:
        if dtype == "int16" and zero_point:
            parts = [part + splat(zero_point, "int32", 4) for part in parts]
        if halves:
            low = [tirx.reinterpret("int16x8", part) for part in parts]
            words = [shuffle(low[i : i + 2], range(0, 16, 2)) for i in (0, 2)]
        else:
            narrowed = [llvm(f"{_NEON}.sqxtn", "int16x4", part) for part in parts]
            words = [shuffle(narrowed[i : i + 2], range(8)) for i in (0, 2)]
        if dtype == "int16":
            return shuffle(words, range(16))
        name = f"{_NEON}.{'sqxtun' if dtype == 'uint8' else 'sqxtn'}"
        if zero_point:
            words = [llvm("llvm.sadd.sat", "int16x8", word, splat(zero_point, "int16", 8)) for word in words]
        packed = shuffle([llvm(name, "int8x8", word) for word in words], range(16))
        return packed if dtype == "int8" else tirx.reinterpret("uint8x16", packed)

    def place_of(self, part: int, lane: int) -> int:
        return part * 4 + lane

    def arrange(self, quads: np.ndarray) -> np.ndarray:
        return quads.reshape(*quads.shape[:-2], self.bytes)


@dataclass(frozen=True)
class Signed(Neon):
    """Products of signed bytes, 16 activations of a pixel in a register; unsigned ones are shifted by 128."""

    together: ClassVar[int] = 4

    def kept(self, x: list[Expr], dtype: str) -> list[Expr]:
        return [x[0] ^ splat(128, "uint8", 16)] if dtype == "uint8" else x

    def bias_offset(self, dtype: str) -> int:
        return -128 if dtype == "uint8" else 0


@dataclass(frozen=True)
class Dotprod(Signed):
    """ARMv8.2 `sdot` with one quad of four that a register holds."""

    free: ClassVar[int] = 7
    load_cost: ClassVar[float] = 0.5  # LLVM unrolls the loop, and then loads in pairs
    loop_cost: ClassVar[float] = 1.0

    def fences(self, pixels: int, vectors: int, dtype: str) -> bool:
        # LLVM loads in pairs: the next activations too, and shifts them.
        shifting = 2 if self.bias_offset(dtype) else 0
        return self._registers(pixels, vectors) + pixels + shifting >= self.registers

    def operand(self, x: Expr, dtype: str) -> tuple[Expr, ...]:
        return (_signed(x, dtype),)

    def step(self, kept: list[Expr], index: int, dtype: str) -> tuple[Expr, ...]:
        return (_element(kept[0], index),)

    def dot(self, acc: Expr, x: tuple[Expr, ...], weights: Buffer, offset: Expr | int) -> Expr:
        # The repeated quad has to be the last operand for LLVM to choose the form by element.
        return llvm(f"{_NEON}.sdot", "int32x4", acc, load(weights, offset, self.bytes), x[0])


@dataclass(frozen=True)
class Mixed(Dotprod):
    """ARMv8.6 i8mm: `sdot`, and `sudot` or `usdot` for unsigned activations as they are."""

    def operand(self, x: Expr, dtype: str) -> tuple[Expr, ...]:
        return (tirx.reinterpret(f"{dtype}x16", x),)

    def kept(self, x: list[Expr], dtype: str) -> list[Expr]:
        return x

    def step(self, kept: list[Expr], index: int, dtype: str) -> tuple[Expr, ...]:
        return (tirx.reinterpret(f"{dtype}x16", _element(kept[0], index)),)

    def dot(self, acc: Expr, x: tuple[Expr, ...], weights: Buffer, offset: Expr | int) -> Expr:
        if str(x[0].ty.dtype).startswith("int8"):
            return super().dot(acc, x, weights, offset)
        # LLVM takes `sudot` by element for a repeated unsigned operand.
        return llvm(f"{_NEON}.usdot", "int32x4", acc, x[0], load(weights, offset, self.bytes))

    def bias_offset(self, dtype: str) -> int:
        return 0


@dataclass(frozen=True)
class Mmla(Neon):
    """ARMv8.6 i8mm: `smmla` and `usmmla`, two pixels by two channels and eight reduction elements."""

    depth: ClassVar[int] = 2 * QUAD
    pixels: ClassVar[int] = 2
    together: ClassVar[int] = 2
    form: ClassVar[str] = "-mmla"

    def operand(self, x: Expr, dtype: str) -> tuple[Expr, ...]:
        return (x,)

    def kept(self, x: list[Expr], dtype: str) -> list[Expr]:
        return [shuffle(x, [*range(i, i + 8), *range(i + 16, i + 24)]) for i in (0, 8)]

    def step(self, kept: list[Expr], index: int, dtype: str) -> tuple[Expr, ...]:
        return (kept[index],)

    def dot(self, acc: Expr, x: tuple[Expr, ...], weights: Buffer, offset: Expr | int) -> Expr:
        name = "smmla" if str(x[0].ty.dtype).startswith("int8") else "usmmla"
        return llvm(f"{_NEON}.{name}", "int32x4", acc, x[0], load(weights, offset, self.bytes))

    def bias_offset(self, dtype: str) -> int:
        return 0


@dataclass(frozen=True)
class Long(Neon):
    """ARMv8.0: `smlal` of four widened weights with one widened activation of eight that a register holds."""

    together: ClassVar[int] = 2
    most_vectors: ClassVar[int] = 4
    free: ClassVar[int] = 13
    ordered: ClassVar[bool] = True
    form: ClassVar[str] = "-long"
    multiplies_words: ClassVar[bool] = True

    def operand(self, x: Expr, dtype: str) -> tuple[Expr, ...]:
        words = tirx.reinterpret(f"{dtype}x16", x).astype("int16x16")
        return tuple(shuffle([words], range(j, 16, QUAD)) for j in range(QUAD))

    def registers_of(self, dtype: str) -> list[tuple[int, str]]:
        return [(8, "int16")]

    def kept(self, x: list[Expr], dtype: str) -> list[Expr]:
        return [x[0].astype("int16x8")]

    def step(self, kept: list[Expr], index: int, dtype: str) -> tuple[Expr, ...]:
        return tuple(tirx.Broadcast(shuffle([kept[0]], [index * QUAD + j]), 4) for j in range(QUAD))

    def dot(self, acc: Expr, x: tuple[Expr, ...], weights: Buffer, offset: Expr | int) -> Expr:
        for j, word in enumerate(x):
            wide = load(weights, offset + j // 2 * 8, 8).astype("int16x8")
            half = shuffle([wide], range(j % 2 * 4, j % 2 * 4 + 4))
            acc = acc + self.multiply_words(half, word)
        return acc

    def multiply_words(self, a: Expr, b: Expr) -> Expr:
        return llvm(f"{_NEON}.smull", "int32x4", a, b)

    def arrange(self, quads: np.ndarray) -> np.ndarray:
        return np.moveaxis(quads, -1, -2).reshape(*quads.shape[:-2], self.bytes)

    def bias_offset(self, dtype: str) -> int:
        return 0


@dataclass(frozen=True)
class Pairs(Signed):
    """ARMv8.0: products of bytes in int16, two of them added there, then pairs of lanes in int32.

    Two products of -128 by -128 do not fit int16.
    """

    most_vectors: ClassVar[int] = 4
    ordered: ClassVar[bool] = True

    def takes(self, weights: np.ndarray) -> bool:
        return weights.min() > -128

    def operand(self, x: Expr, dtype: str) -> tuple[Expr, ...]:
        pairs = tirx.reinterpret("int16x8", _signed(x, dtype))
        return tuple(tirx.reinterpret("int8x8", shuffle([pairs], range(i, 8, 2))) for i in (0, 1))

    def step(self, kept: list[Expr], index: int, dtype: str) -> tuple[Expr, ...]:
        pairs = tirx.reinterpret("int16x8", kept[0])
        repeated = [tirx.Broadcast(shuffle([pairs], [2 * index + i]), 4) for i in (0, 1)]
        return tuple(tirx.reinterpret("int8x8", pair) for pair in repeated)

    def dot(self, acc: Expr, x: tuple[Expr, ...], weights: Buffer, offset: Expr | int) -> Expr:
        half = self.bytes // 2
        low, high = (
            llvm(f"{_NEON}.smull", "int16x8", load(weights, offset + i * half, half), pair) for i, pair in enumerate(x)
        )
        return acc + llvm(f"{_NEON}.saddlp", "int32x4", low + high)

    def arrange(self, quads: np.ndarray) -> np.ndarray:
        pairs = quads.reshape(*quads.shape[:-1], 2, 2)
        return np.moveaxis(pairs, -2, -3).reshape(*quads.shape[:-2], self.bytes)


def _signed(x: Expr, dtype: str) -> Expr:
    x = tirx.reinterpret(f"{dtype}x16", x)
    return tirx.reinterpret("int8x16", x ^ splat(128, "uint8", 16)) if dtype == "uint8" else x


def _element(x: Expr, index: int) -> Expr:
    """One quad of 16 bytes in every lane."""
    words = tirx.reinterpret("int32x4", x)
    return _bytes(tirx.Broadcast(shuffle([words], [index]), 4))


def _bytes(x: Expr) -> Expr:
    return tirx.reinterpret("int8x16", x)


_DOTPROD = Dotprod(4, 32, 16, 1.0, 0.0, 0.0)
_MIXED = Mixed(4, 32, 16, 1.0, 0.0, 0.0)
_LONG = Long(4, 32, 14, 4.0, 0.25, 1.0)

ISAS: dict[str, tuple[Isa, ...]] = {"dotprod": (_DOTPROD,), "i8mm": (_MIXED,), "neon": (_LONG,)}
"""What lowering asks of an ARM CPU; see `TargetSpec.kernels`."""
PRODUCT_ISAS: dict[str, tuple[Isa, ...]] = {
    "dotprod": (_DOTPROD,),
    "i8mm": (Mmla(4, 32, 16, 1.0, 0.5, 0.0), _MIXED),
    "neon": (Pairs(4, 32, 12, 3.0, 2.0, 0.5), _LONG),
}
