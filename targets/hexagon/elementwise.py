"""HVX forms of operations on single elements; what has none takes the generic rules.

The signatures of `lut`, `add` and `mul` are those of `qcompiler.targets.host.elementwise`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qcompiler.arithmetic.affine import dequantize
from qcompiler.lowering.requantize import requantize_constants
from qcompiler.lowering.tir import Buffer, Expr, llvm, shuffle, splat
from qcompiler.lowering.workload import Requantize
from qcompiler.targets.cpu.epilogue import clamped
from qcompiler.targets.cpu.isa import isa_of
from qcompiler.targets.hexagon.isa import BYTES, LANES, add_words, halves, hvx, is_native, pairs_of_words
from qcompiler.targets.hexagon.lookup import look_up, table_registers
from qcompiler.targets.hexagon.movement import move_planes
from qcompiler.targets.hexagon.quantize import quantize_words
from qcompiler.targets.hexagon.softmax import softmax_rows
from qcompiler.targets.spec import TargetSpec

Body = Callable[[list[Expr], int], Expr]
LookUp = Callable[[list[Expr], Sequence[Buffer]], Expr]

_LOW_BITS = 15


def lut_tables(table: np.ndarray, index_dtype: str, spec: TargetSpec) -> tuple[list[np.ndarray], int, LookUp] | None:
    """256 entries in two registers for each of their bytes, looked up by eight `vlut32`."""
    if table.shape != (256,):
        return None
    by_byte = np.roll(table, 128) if index_dtype == "int8" else table

    def body(operands: list[Expr], buffers: Sequence[Buffer]) -> Expr:
        return look_up(operands[0], buffers[0], str(table.dtype), isa_of(spec))

    return [table_registers(by_byte)], BYTES, body


def add_pairs(
    dtypes: Sequence[str],
    zero_points: tuple[int, int, int],
    parameters: tuple[int, int, int],
    clamp: tuple[int, int],
    spec: TargetSpec,
) -> tuple[int, Body] | None:
    """The sum as products of pairs `(a, b)` of 16-bit words (`vdmpy`), the factors split into high and low bits."""
    if "uint16" in dtypes or (dtypes[2] == "int16" and zero_points[2]):
        return None
    isa = isa_of(spec)
    factor_a, factor_b, shift = parameters
    offset = (1 << (shift - 1)) - zero_points[0] * factor_a - zero_points[1] * factor_b
    high = _pair(factor_a >> _LOW_BITS, factor_b >> _LOW_BITS)
    low = _pair(factor_a % (1 << _LOW_BITS), factor_b % (1 << _LOW_BITS))

    def body(operands: list[Expr], _: int) -> Expr:
        parts = []
        # All sums are modulo 2^32, since with the offset the whole sum is an int32; neither product saturates.
        for words in zip(*map(_as_words, operands, dtypes[:2]), strict=True):
            for half in (False, True):
                pairs = isa.interleave(*words, 2, half)
                products = [hvx("vdmpyhvsat", pairs, factors) for factors in (high, low)]
                acc = add_words(products[0] << _number(_LOW_BITS), products[1])
                parts.append(add_words(acc, _number(offset)) >> _number(shift))
        return clamped(isa.narrow(parts, zero_points[2], dtypes[2]), clamp, dtypes[2], isa)

    return BYTES, body


def dequantize_table(
    dtype: str, scale: float, zero_point: int, spec: TargetSpec
) -> tuple[list[np.ndarray], int, LookUp] | None:
    """The real numbers of all stored bytes as a table."""
    if np.dtype(dtype).itemsize > 1:
        return None
    stored = np.arange(np.iinfo(dtype).min, np.iinfo(dtype).max + 1)
    return lut_tables(dequantize(stored, scale, zero_point), dtype, spec)


def mul_words(
    dtypes: Sequence[str], zero_points: tuple[int, int], requantize: Requantize, spec: TargetSpec
) -> tuple[int, Body] | None:
    """The product of 16-bit words, even and odd ones apart, requantized in the `fixed2` form."""
    if any(np.dtype(dtype).itemsize > 1 for dtype in dtypes) or not is_native(requantize, 255 * 255):
        return None
    isa = isa_of(spec)
    mantissa, shift = (_number(int(constant[0])) for constant in requantize_constants(requantize, 1))

    def body(operands: list[Expr], _: int) -> Expr:
        words = [
            [hvx("vsubh", half, _pair(zero, zero)) for half in pairs_of_words(operand, dtype)]
            for operand, dtype, zero in zip(operands, dtypes, zero_points, strict=False)
        ]
        results = []
        for a, b in zip(*words, strict=True):
            even, odd = halves(llvm("llvm.hexagon.V6.vmpyhv.128B", f"int32x{2 * LANES}", a, b))
            made = [isa.requantize_twice(acc, mantissa, shift, requantize) for acc in (even, odd)]
            results.append(hvx("vsatwh", made[1], made[0]))
        packed = isa.pack_words(results, requantize.zero_point, dtypes[2])
        return clamped(packed, requantize.clamp, dtypes[2], isa)

    return BYTES, body


def requantize_words(
    requantize: Requantize, bound: int, spec: TargetSpec
) -> Callable[[Expr, Sequence[Expr], int], Expr | None] | None:
    """From accumulators up to `bound`, mantissas and shifts to stored integers: 32, 64 or 128 of them."""
    if not is_native(requantize, bound):
        return None
    isa = isa_of(spec)

    def finish(acc: Expr, parameters: Sequence[Expr], lanes: int) -> Expr | None:
        if lanes % LANES or lanes > BYTES:
            return None
        mantissa, shift = (shuffle([parameter], range(LANES)) for parameter in parameters)
        parts = [
            isa.requantize_twice(shuffle([acc], range(i, i + LANES)), mantissa, shift, requantize)
            for i in range(0, lanes, LANES)
        ]
        narrowed = isa.narrow((parts * 4)[:4], requantize.zero_point, requantize.out_dtype)
        stored = clamped(narrowed, requantize.clamp, requantize.out_dtype, isa)
        return stored if lanes == BYTES else shuffle([stored], range(lanes))

    return finish


RULES = {
    "lut": lut_tables,
    "add": add_pairs,
    "mul": mul_words,
    "dequantize": dequantize_table,
    "quantize": quantize_words,
    "move": move_planes,
    "requantize": requantize_words,
    "softmax": softmax_rows,
}


def _number(value: int) -> Expr:
    return splat(value, "int32", LANES)


def _pair(a: int, b: int) -> Expr:
    """The 16-bit words `a, b` again and again."""
    return _number(int(np.array([a, b], np.int16).view(np.int32)[0]))


def _as_words(value: Expr, dtype: str) -> tuple[Expr, Expr]:
    """128 elements as two registers of 64 words of 16 bits, in their order."""
    if dtype != "int16":
        return pairs_of_words(value, dtype)
    half = BYTES // 2
    first, second = (shuffle([value], range(start, start + half)) for start in (0, half))
    return first, second
