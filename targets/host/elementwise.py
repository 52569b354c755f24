"""Vector forms of the host for operations on single elements; what has none takes the generic rules.

Each rule gets what it needs to know of an op, and the target. It returns None where it does not apply, else how
many elements a vector has and the expression for one vector; the `lut` rule returns its constant arrays as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import tirx

from qcompiler.arithmetic.requantize import multiplier_fp32
from qcompiler.lowering.tir import Buffer, Expr, llvm, load, shuffle, splat
from qcompiler.lowering.workload import Requantize
from qcompiler.targets.cpu.epilogue import clamped, is_bounded
from qcompiler.targets.cpu.isa import Isa, isa_of
from qcompiler.targets.spec import TargetSpec

Body = Callable[[list[Expr], int], Expr]
"""From one whole vector for each operand, and their lanes, to the result's."""
LookUp = Callable[[list[Expr], Sequence[Buffer]], Expr]

_BYTES = 64
_WORDS = _BYTES // 2
_LOW_BITS = 15
_MULTIPLY_ADD = {16: "avx512.pmaddw.d.512", 8: "avx2.pmadd.wd", 4: "sse2.pmadd.wd"}


def lut_permute(table: np.ndarray, index_dtype: str, spec: TargetSpec) -> tuple[list[np.ndarray], int, LookUp] | None:
    """The table in four registers of 32 words, permuted by `vpermi2w`; AVX-512, 8-bit entries.

    Word `i` of the pair of registers `p` holds entries `i + 64*p` (low byte) and `i + 64*p + 128`: of an index
    byte the permutation takes the low six bits, bit 6 chooses the pair and bit 7 the byte.
    """
    if spec.instruction_set != "avx512-vnni" or table.dtype.itemsize != 1 or table.shape != (256,):
        return None
    by_byte = np.roll(table, 128) if index_dtype == "int8" else table
    words = by_byte.view(np.uint8).reshape(2, 2, 64).transpose(1, 2, 0)
    array = np.ascontiguousarray(words).reshape(-1).view(np.int16)
    kind = f"{table.dtype}x{_BYTES}"

    def look_up(operands: list[Expr], buffers: Sequence[Buffer]) -> Expr:
        registers = [load(buffers[0], i * _WORDS, _WORDS) for i in range(4)]
        x = tirx.reinterpret(f"uint16x{_WORDS}", operands[0])
        eight, low_byte = splat(8, "uint16", _WORDS), splat(255, "uint16", _WORDS)
        even, odd = _permuted(registers, x), _permuted(registers, x >> eight)
        first = (even & low_byte) | (odd << eight)
        second = (even >> eight) | (odd & splat(0xFF00, "uint16", _WORDS))
        first, second = tirx.reinterpret(kind, first), tirx.reinterpret(kind, second)
        top = tirx.reinterpret(f"int8x{_BYTES}", operands[0]) < splat(0, "int8", _BYTES)
        return tirx.Select(top, second, first)

    return [array], _BYTES, look_up


def add_pairs(
    dtypes: Sequence[str],
    zero_points: tuple[int, int, int],
    parameters: tuple[int, int, int],
    clamp: tuple[int, int],
    spec: TargetSpec,
) -> tuple[int, Body] | None:
    """The sum as products of pairs `(a, b)` of 16-bit words (`pmaddwd`), the factors split into high and low bits."""
    if any(np.dtype(dtype).itemsize > 1 for dtype in dtypes):
        return None
    isa = isa_of(spec)
    factor_a, factor_b, shift = parameters
    # Signed operands are shifted by 128, so that all of them are unsigned.
    zeros = [zero + 128 * (dtype == "int8") for zero, dtype in zip(zero_points[:2], dtypes[:2], strict=True)]
    offset = (1 << (shift - 1)) - zeros[0] * factor_a - zeros[1] * factor_b
    high = _pair(factor_a >> _LOW_BITS, factor_b >> _LOW_BITS, isa)
    low = _pair(factor_a % (1 << _LOW_BITS), factor_b % (1 << _LOW_BITS), isa)

    def number(value: int) -> Expr:
        return splat(value, "int32", isa.lanes)

    def body(operands: list[Expr], _: int) -> Expr:
        a, b = (_unsigned(v, dtype, isa) for v, dtype in zip(operands, dtypes, strict=False))
        zero = splat(0, "uint8", isa.bytes)
        parts = []
        for pairs in _interleave(a, b, 16):
            for words in _interleave(pairs, zero, 16):
                products = [_multiply_add(words, factor, isa) for factor in (high, low)]
                acc = (products[0] << number(_LOW_BITS)) + products[1] + number(offset)
                parts.append(acc >> number(shift))
        return clamped(isa.narrow(parts, zero_points[2], dtypes[2]), clamp, dtypes[2], isa)

    return isa.bytes, body


def mul_words(
    dtypes: Sequence[str], zero_points: tuple[int, int], requantize: Requantize, spec: TargetSpec
) -> tuple[int, Body] | None:
    """The product of 16-bit words, high and low halves apart; `fp32` rounding of 8-bit operands and results."""
    if any(np.dtype(dtype).itemsize > 1 for dtype in dtypes) or not is_bounded(requantize, 255 * 255):
        return None
    isa = isa_of(spec)
    half = isa.bytes // 2
    multiplier = splat(float(multiplier_fp32(requantize.multiplier.reshape(-1)[0])), "float32", isa.lanes)

    def words(value: Expr, dtype: str, zero_point: int) -> list[Expr]:
        zero = zero_point + 128 * (dtype == "int8")
        wide = _interleave(_unsigned(value, dtype, isa), splat(0, "uint8", isa.bytes), 16)
        return [tirx.reinterpret(f"int16x{half}", part) - splat(zero, "int16", half) for part in wide]

    def body(operands: list[Expr], _: int) -> Expr:
        parts = []
        for a, b in zip(*map(words, operands, dtypes, zero_points), strict=True):
            wide = [v.astype(f"int32x{half}") for v in (a, b)]
            product = wide[0] * wide[1]
            high = (product >> splat(16, "int32", half)).astype(f"int16x{half}")
            for part in _interleave(a * b, high, 8):
                acc = tirx.reinterpret(f"int32x{isa.lanes}", part)
                parts.append(isa.round(acc.astype(f"float32x{isa.lanes}") * multiplier))
        packed = isa.narrow(parts, requantize.zero_point, dtypes[2])
        return clamped(packed, requantize.clamp, dtypes[2], isa)

    return isa.bytes, body


RULES = {"lut": lut_permute, "add": add_pairs, "mul": mul_words}


def _permuted(registers: list[Expr], words: Expr) -> Expr:
    """For each word, that of the 128 table words which its low seven bits name."""
    kind = f"int16x{_WORDS}"
    index = tirx.reinterpret(kind, words)
    low, high = (llvm("llvm.x86.avx512.vpermi2var.hi.512", kind, registers[i], index, registers[i + 1]) for i in (0, 2))
    bit = (index & splat(64, "int16", _WORDS)).equal(splat(0, "int16", _WORDS))
    return tirx.reinterpret(f"uint16x{_WORDS}", tirx.Select(bit, low, high))


def _interleave(a: Expr, b: Expr, group: int) -> tuple[Expr, Expr]:
    """Elements of `a` and `b` in turn, of the first and of the second half of each 128 bits (`group` elements)."""
    lanes = a.ty.dtype.lanes
    starts = range(0, lanes, group)
    order = [i for start in starts for j in range(start, start + group // 2) for i in (j, lanes + j)]
    return shuffle([a, b], order), shuffle([a, b], [i + group // 2 for i in order])


def _unsigned(value: Expr, dtype: str, isa: Isa) -> Expr:
    """Bytes as they are, or plus 128 if signed."""
    value = tirx.reinterpret(f"uint8x{isa.bytes}", value)
    return value ^ splat(128, "uint8", isa.bytes) if dtype == "int8" else value


def _pair(a: int, b: int, isa: Isa) -> Expr:
    """The 16-bit words `a, b` again and again."""
    return shuffle(
        [splat(a, "int16", isa.lanes), splat(b, "int16", isa.lanes)],
        [i for lane in range(isa.lanes) for i in (lane, isa.lanes + lane)],
    )


def _multiply_add(words: Expr, factors: Expr, isa: Isa) -> Expr:
    words = tirx.reinterpret(f"int16x{isa.bytes // 2}", words)
    return llvm(f"llvm.x86.{_MULTIPLY_ADD[isa.lanes]}", f"int32x{isa.lanes}", words, factors)
