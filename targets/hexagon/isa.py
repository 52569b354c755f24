"""HVX with vectors of 128 bytes: `vrmpy`, requantizing in 32-bit fixed point, and packing with saturation.

Instructions: Qualcomm Hexagon V66 HVX Programmer's Reference Manual. LLVM's intrinsics take every vector as int32x32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
from tvm import tirx
from tvm.sym import Analyzer

from qcompiler.arithmetic.requantize import multiplier_fixed2
from qcompiler.lowering.tir import Buffer, Expr, int32, llvm, load, shuffle, splat
from qcompiler.lowering.workload import Requantize
from qcompiler.targets.cpu.isa import BYTES as BYTE_TYPES
from qcompiler.targets.cpu.isa import QUAD, Isa

LANES = 32
BYTES = 4 * LANES
WORDS = f"int32x{LANES}"

_LARGEST_SHIFT = 30

_CONSTANTS = 3
"""Vectors of bias, mantissas and shifts for each vector of channels."""

_PAIR = 2 * QUAD
"""Bytes of two dot products' activations."""
_SIGNS = int(np.array([128] * _PAIR, np.uint8).view(np.int64)[0])

_VRMPY = {
    ("uint8", "int8"): "vrmpybusv",
    ("uint8", "uint8"): "vrmpyubv",
    ("int8", "int8"): "vrmpybv",
}
"""By the types of both operands; products of signed by unsigned bytes are `vrmpybusv` with the operands exchanged."""


def hvx(name: str, *operands: Expr) -> Expr:
    """An instruction of HVX on whole vectors; operands and result are int32x32."""
    return llvm(f"llvm.hexagon.V6.{name}.128B", WORDS, *(_as_words(operand) for operand in operands))


def vrmpy(acc: Expr, a: Expr, b: Expr, a_dtype: str, b_dtype: str) -> Expr:
    """`acc` plus, in each lane, four products of the bytes of `a` and `b`, whose types are given."""
    if (a_dtype, b_dtype) == ("int8", "uint8"):
        a, b, a_dtype, b_dtype = b, a, b_dtype, a_dtype
    return hvx(f"{_VRMPY[a_dtype, b_dtype]}.acc", acc, a, b)


def add_words(a: Expr, b: Expr) -> Expr:
    """The sum modulo 2^32; LLVM takes it for granted that other sums do not leave int32."""
    return hvx("vaddw", a, b)


def subtract_words(a: Expr, b: Expr) -> Expr:
    """The difference modulo 2^32."""
    return hvx("vsubw", a, b)


def multiply_words(a: Expr, b: Expr) -> Expr:
    """The product modulo 2^32."""
    return hvx("vmpyiewuh.acc", hvx("vmpyieoh", a, b), a, b)


def multiply_high(a: Expr, b: Expr, is_short: bool = False) -> Expr:
    """The upper half of twice the product, rounded half up and saturated; `is_short` if the lower half of `b` is 0."""
    if is_short:
        return hvx("vmpyowh.rnd", a, b)
    return hvx("vmpyowh.rnd.sacc", hvx("vmpyewuh", a, b), a, b)


def _as_words(vector: Expr) -> Expr:
    return vector if str(vector.ty.dtype) in (WORDS, "int32") else tirx.reinterpret(WORDS, vector)


def _rotated(vector: Expr, first: int) -> Expr:
    """The vector's bytes from `first` on, then those before it."""
    return hvx("vror", vector, int32(first % BYTES)) if first % BYTES else _as_words(vector)


def halves(pair: Expr) -> tuple[Expr, Expr]:
    """The lower and the upper of two registers."""
    low, high = (llvm(f"llvm.hexagon.V6.{half}.128B", WORDS, pair) for half in ("lo", "hi"))
    return low, high


def pairs_of_words(vector: Expr, dtype: str) -> tuple[Expr, Expr]:
    """128 bytes of a type as two registers of 64 words of 16 bits, in their order."""
    name = "vunpackub" if dtype == "uint8" else "vunpackb"
    return halves(llvm(f"llvm.hexagon.V6.{name}.128B", f"int32x{2 * LANES}", _as_words(vector)))


@dataclass(frozen=True)
class Hvx(Isa):
    """Costs count packets. Elements stay in their order."""

    prefetches: ClassVar[bool] = False
    partial_store: ClassVar[float] = 25.0
    rounds_twice: ClassVar[bool] = True
    kept_weights: ClassVar[int] = 32 * 1024
    packs: ClassVar[int] = 4
    stripe_bytes: ClassVar[int] = 64 * 1024

    def fits(self, pixels: int, vectors: int) -> bool:
        return (
            pixels * vectors <= self.accumulators and pixels * vectors + min(pixels, 8) + vectors <= self.registers - 2
        )

    def step_cycles(self, pixels: int, vectors: int, dots: int, steps: int) -> float:
        products = pixels * vectors
        return max((products * self.dot_cost + pixels) / 2, float(vectors), (pixels + vectors) / 2) + 1

    def tile_cycles(self, accumulators: int) -> float:
        return 2.0 * accumulators + 12.0

    def operand(self, x: Expr, dtype: str) -> tuple[Expr, ...]:
        return (tirx.reinterpret(f"{dtype}x{BYTES}", x),)

    def step(self, kept: list[Expr], index: int, dtype: str) -> tuple[Expr, ...]:
        word = tirx.reinterpret("int32", kept[0])
        return (tirx.reinterpret(f"{dtype}x{BYTES}", tirx.Broadcast(word, LANES)),)

    def interleave(self, a: Expr, b: Expr, unit: int, high: bool) -> Expr:
        """Of the whole vectors, not of each 128 bits."""
        pair = llvm("llvm.hexagon.V6.vshuffvdd.128B", f"int32x{2 * LANES}", _as_words(b), _as_words(a), int32(-unit))
        return tirx.reinterpret(str(a.ty.dtype), halves(pair)[high])

    def row_bytes(self, vectors: int) -> int:
        return BYTES

    def woven(self, rows: list[Expr]) -> list[Expr]:
        unit, groups = 1, [[row] for row in rows]
        while len(groups) > 1:
            pairs = zip(groups[::2], groups[1::2], strict=True)
            groups = [
                [self.interleave(*both, unit, high) for both in zip(*pair, strict=True) for high in (False, True)]
                for pair in pairs
            ]
            unit *= 2
        return groups[0]

    def dot(self, acc: Expr, x: tuple[Expr, ...], weights: Buffer, offset: Expr | int) -> Expr:
        return vrmpy(acc, x[0], load(weights, offset, BYTES), str(x[0].ty.dtype).partition("x")[0], "int8")

    def arrange(self, quads: np.ndarray) -> np.ndarray:
        return quads.reshape(*quads.shape[:-2], BYTES)

    def bias_offset(self, dtype: str) -> int:
        return 0

    def round(self, real: Expr) -> Expr:
        raise NotImplementedError("HVX of v66 has no floats")

    def requantize_twice(self, acc: Expr, mantissa: Expr, shift: Expr, requantize: Requantize) -> Expr:
        """Accumulators and halves of the last bit together must fit int32, and shifts below 32: see `is_native`."""
        one, zero = splat(1, "int32", LANES), splat(0, "int32", LANES)
        if not requantize.shifts_left:
            # A shift by -1 is one to the left: fractions times accumulators leave room for it.
            high = multiply_high(acc, mantissa, requantize.is_short)
            return hvx("vavgwrnd", hvx("vasrwv", high, shift - one), zero)
        # Where this saturates too early, the result is beyond any 16-bit range all the same.
        left = tirx.max(zero - shift, zero)
        most = hvx("vasrwv", splat((1 << 31) - 1, "int32", LANES), left)
        acc = hvx("vaslwv", tirx.max(tirx.min(acc, most), zero - most), left)
        shift = tirx.max(shift, zero)
        half = hvx("vaslwv", one, shift) >> one
        return hvx("vasrwv", multiply_high(acc, mantissa, requantize.is_short) + half, shift)

    def narrow(self, parts: list[Expr], zero_point: int, dtype: str, halves: bool = False) -> Expr:
        words = [hvx("vpackwh.sat", parts[i + 1], parts[i]) for i in (0, 2)]
        if dtype == "int16":
            return shuffle([tirx.reinterpret(f"int16x{BYTES // 2}", word) for word in words], range(BYTES))
        return self.pack_words(words, zero_point, dtype)

    def pack_words(self, words: list[Expr], zero_point: int, dtype: str) -> Expr:
        """Two vectors of int16 plus the zero point as bytes, with saturation."""
        if zero_point:
            both = np.array([zero_point] * 2, np.int16).view(np.int32)[0]
            words = [hvx("vaddhsat", word, splat(int(both), "int32", LANES)) for word in words]
        name = {"uint8": "vpackhub.sat", "int8": "vpackhb.sat"}[dtype]
        return tirx.reinterpret(f"{dtype}x{BYTES}", hvx(name, words[1], words[0]))

    def join(self, pieces: Sequence[tuple[Expr, int, int]]) -> Expr:
        dtype = str(pieces[0][0].ty.dtype)
        if dtype.startswith("int16"):
            return super().join(pieces)
        # What is joined so far lies at the end of a vector.
        (vector, first, joined), *others = pieces
        whole = _rotated(vector, first + joined)
        for vector, first, count in others:
            whole = hvx("valignb", _rotated(vector, first), whole, int32(count))
            joined += count
        return tirx.reinterpret(dtype, _rotated(whole, -joined))

    def place_of(self, part: int, lane: int) -> int:
        return part * LANES + lane


@dataclass(frozen=True)
class Scalar(Hvx):
    """Products of a register of weights with four activations from a scalar register: two of them fit into a packet.

    Both are unsigned, so weights are stored with 128 added, and signed activations are.
    """

    together: ClassVar[int] = 4
    weight_offset: ClassVar[int] = 128
    most_pixels: ClassVar[int] = 8
    """Pixels whose activations and sums find scalar registers."""

    def fits(self, pixels: int, vectors: int) -> bool:
        return pixels <= self.most_pixels and pixels * vectors <= self.accumulators

    def step_cycles(self, pixels: int, vectors: int, dots: int, steps: int) -> float:
        loads = pixels * -(-dots // 2) / dots
        sums = pixels * -(-dots // 4) / dots
        packets = max((pixels * vectors + sums) / 2, float(vectors), (vectors + loads) / 2)
        # Scalar registers run short, and sooner where there is less to do for each pixel.
        spilled = (0.1 if vectors > 1 else 1.3) * max(0, pixels - 4)
        return packets + 0.5 + spilled + _CONSTANTS * vectors / steps

    def hides_constants(self, pixels: int, vectors: int, steps: int) -> bool:
        kept = steps if steps <= 2 * self.together else 0
        return vectors * (pixels + kept + _CONSTANTS) > self.registers - 3

    def fetch(self, x: Buffer, first: Expr, steps: Sequence[int], count: int) -> list[list[Expr]]:
        """Two dot products' activations in each int64, as unsigned bytes; 0 beyond the last."""
        known = int(Analyzer().modular_set(first).coeff)
        fetched: list[list[Expr]] = []
        if math.gcd(known, *steps) % QUAD == 0:
            fetched = [_words(x, first + step, -(-count // 2)) for step in steps]
        else:
            for row in _rows(steps, QUAD * count):
                start = first + row[0]
                length = -(-(row[-1] - row[0] + QUAD * count) // _PAIR)
                down = tirx.floordiv(start, int32(_PAIR)) * _PAIR
                whole = [
                    llvm("llvm.hexagon.S2.valignrb", "int64", high, low, start)
                    for low, high in pairwise(_words(x, down, length + 1))
                ]
                fetched += [_pieces(whole, step - row[0], count) for step in row]
        if str(x.dtype) == "int8":
            fetched = [[word ^ tirx.const(_SIGNS, "int64") for word in words] for words in fetched]
        if count % 2:
            fetched = [[*words[:-1], words[-1] & tirx.const(0xFFFFFFFF, "int64")] for words in fetched]
        return fetched

    def registers_of(self, dtype: str) -> list[tuple[int, str]]:
        return [(1, "int64")] * (self.together // 2)

    def step(self, kept: list[Expr], index: int, dtype: str) -> tuple[Expr, ...]:
        pair = kept[index // 2]
        return ((tirx.shift_right(pair, tirx.const(32, "int64")) if index % 2 else pair).astype("int32"),)

    def dot(self, acc: Expr, x: tuple[Expr, ...], weights: Buffer, offset: Expr | int) -> Expr:
        return hvx("vrmpyub.acc", acc, load(weights, offset, BYTES), x[0])

    def arrange(self, quads: np.ndarray) -> np.ndarray:
        return super().arrange(quads) ^ np.int8(-128)

    def bias_offset(self, dtype: str) -> int:
        return 0 if dtype == "uint8" else 128

    def add_sum(self, total: Expr, kept: list[Expr]) -> Expr:
        zero = tirx.const(0, "int64")
        pairs = kept + [zero] * (len(kept) % 2)
        for i in range(0, len(pairs), 2):
            total = llvm("llvm.hexagon.A2.vraddub.acc", "int64", total, pairs[i], pairs[i + 1])
        return total

    def less_sum(self, acc: Expr, total: Expr, offset: int) -> Expr:
        low, high = total.astype("int32"), tirx.shift_right(total, tirx.const(32, "int64")).astype("int32")
        # As intrinsics, for LLVM makes more instructions of plain additions of the halves of a pair.
        both = llvm("llvm.hexagon.A2.add", "int32", low, high)
        return acc - tirx.Broadcast(both * offset, LANES)

    def ones(self) -> tuple[Expr, ...]:
        return (int32(0x01010101),)


def _words(x: Buffer, first: Expr, count: int) -> list[Expr]:
    return [tirx.reinterpret("int64", load(x, first + i * _PAIR, _PAIR)) for i in range(count)]


def _rows(steps: Sequence[int], length: int) -> list[list[int]]:
    """Ascending `steps` cut where `length` bytes from one end before those from the next begin."""
    rows: list[list[int]] = []
    for step in steps:
        if rows and step <= rows[-1][-1] + length:
            rows[-1].append(step)
        else:
            rows.append([step])
    return rows


def _pieces(words: Sequence[Expr], first: int, count: int) -> list[Expr]:
    """`count` dot products' activations from byte `first` of the words on."""
    index, offset = divmod(first, _PAIR)
    pieces = []
    for i in range(index, index + -(-count // 2)):
        following = words[min(i + 1, len(words) - 1)]
        pieces.append(
            llvm("llvm.hexagon.S2.valignib", "int64", following, words[i], int32(offset)) if offset else words[i]
        )
    return pieces


def is_native(requantize: Requantize, acc_bound: int) -> bool:
    """Whether `Hvx` requantizes to these results: `fixed2` to 8 bits, or to int16 around 0; nothing leaves int32."""
    is_stored = requantize.out_dtype in BYTE_TYPES or (requantize.out_dtype == "int16" and requantize.zero_point == 0)
    if requantize.rounding != "fixed2" or not is_stored:
        return False
    _, shift = multiplier_fixed2(requantize.multiplier)
    return bool(np.max(shift) <= _LARGEST_SHIFT and acc_bound < 1 << _LARGEST_SHIFT)


_HVX = Hvx(LANES, 32, 20, 1.0, 1.0, 0.0)
ISAS: dict[str, tuple[Isa, ...]] = {version: (_HVX,) for version in ("v66", "v68", "v69", "v73", "v75")}
_SCALAR = Scalar(LANES, 32, 24, 0.5, 0.0, 0.0)
PRODUCT_ISAS: dict[str, tuple[Isa, ...]] = {version: (_SCALAR,) for version in ISAS}
