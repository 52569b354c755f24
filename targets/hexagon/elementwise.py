"""HVX forms of operations on single bytes; what has none takes the generic rules.

The signatures are those of `qcompiler.targets.host.elementwise`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import tirx

from qcompiler.lowering.requantize import LARGEST_FRACTION, requantize_constants
from qcompiler.lowering.tir import Buffer, Expr, llvm, splat
from qcompiler.lowering.workload import Requantize
from qcompiler.targets.cpu.epilogue import clamped
from qcompiler.targets.cpu.isa import isa_of
from qcompiler.targets.hexagon.isa import BYTES, LANES, halves, hvx, is_native, pairs_of_words
from qcompiler.targets.hexagon.lookup import look_up_bytes, table_registers
from qcompiler.targets.hexagon.movement import move_planes
from qcompiler.targets.hexagon.quantize import quantize_words
from qcompiler.targets.hexagon.softmax import softmax_rows
from qcompiler.targets.spec import TargetSpec

Body = Callable[[list[Expr], int], Expr]
LookUp = Callable[[list[Expr], Sequence[Buffer]], Expr]

_LOW_BITS = 15


def lut_tables(table: np.ndarray, index_dtype: str, spec: TargetSpec) -> tuple[list[np.ndarray], int, LookUp] | None:
    """256 entries in two registers, looked up by eight `vlut32`."""
    if table.dtype.itemsize != 1 or table.shape != (256,):
        return None
    by_byte = np.roll(table, 128) if index_dtype == "int8" else table

    def look_up(operands: list[Expr], buffers: Sequence[Buffer]) -> Expr:
        return tirx.reinterpret(f"{table.dtype}x{BYTES}", look_up_bytes(operands[0], buffers[0]))

    return [table_registers(by_byte)], BYTES, look_up


def add_pairs(
    dtypes: Sequence[str],
    zero_points: tuple[int, int, int],
    parameters: tuple[int, int, int],
    clamp: tuple[int, int],
    spec: TargetSpec,
) -> tuple[int, Body] | None:
    """The sum as products of pairs `(a, b)` of 16-bit words (`vdmpy`), the factors split into high and low bits."""
    if any(np.dtype(dtype).itemsize > 1 for dtype in dtypes):
        return None
    isa = isa_of(spec)
    factor_a, factor_b, shift = parameters
    # Signed operands are shifted by 128, so that all of them are unsigned.
    zeros = [zero + 128 * (dtype == "int8") for zero, dtype in zip(zero_points[:2], dtypes[:2], strict=True)]
    offset = (1 << (shift - 1)) - zeros[0] * factor_a - zeros[1] * factor_b
    high = _pair(factor_a >> _LOW_BITS, factor_b >> _LOW_BITS)
    low = _pair(factor_a % (1 << _LOW_BITS), factor_b % (1 << _LOW_BITS))

    def body(operands: list[Expr], _: int) -> Expr:
        a, b = (_unsigned(v, dtype) for v, dtype in zip(operands, dtypes, strict=False))
        parts = []
        for bytes_ in (isa.interleave(a, b, 1, False), isa.interleave(a, b, 1, True)):
            for words in pairs_of_words(bytes_, "uint8"):
                acc = hvx("vdmpyhvsat", words, high) << _number(_LOW_BITS)
                acc = hvx("vdmpyhvsat.acc", acc + _number(offset), words, low)
                parts.append(acc >> _number(shift))
        return clamped(isa.narrow(parts, zero_points[2], dtypes[2]), clamp, dtypes[2], isa)

    return BYTES, body


def mul_words(
    dtypes: Sequence[str], zero_points: tuple[int, int], requantize: Requantize, spec: TargetSpec
) -> tuple[int, Body] | None:
    """The product of 16-bit words, even and odd ones apart, requantized in the `fixed2` form."""
    if any(np.dtype(dtype).itemsize > 1 for dtype in dtypes) or not is_native(requantize, 255 * 255):
        return None
    isa = isa_of(spec)
    mantissa, shift = (_number(int(constant[0])) for constant in requantize_constants(requantize, 1))
    above_one = bool(np.max(requantize.multiplier) > LARGEST_FRACTION)

    def body(operands: list[Expr], _: int) -> Expr:
        words = [
            [hvx("vsubh", half, _pair(zero, zero)) for half in pairs_of_words(operand, dtype)]
            for operand, dtype, zero in zip(operands, dtypes, zero_points, strict=False)
        ]
        results = []
        for a, b in zip(*words, strict=True):
            even, odd = halves(llvm("llvm.hexagon.V6.vmpyhv.128B", f"int32x{2 * LANES}", a, b))
            made = [isa.requantize_twice(acc, mantissa, shift, above_one) for acc in (even, odd)]
            results.append(hvx("vsatwh", made[1], made[0]))
        packed = isa.pack_words(results, requantize.zero_point, dtypes[2])
        return clamped(packed, requantize.clamp, dtypes[2], isa)

    return BYTES, body


RULES = {
    "lut": lut_tables,
    "add": add_pairs,
    "mul": mul_words,
    "quantize": quantize_words,
    "move": move_planes,
    "softmax": softmax_rows,
}


def _number(value: int) -> Expr:
    return splat(value, "int32", LANES)


def _pair(a: int, b: int) -> Expr:
    """The 16-bit words `a, b` again and again."""
    return _number(int(np.array([a, b], np.int16).view(np.int32)[0]))


def _unsigned(value: Expr, dtype: str) -> Expr:
    """Bytes as they are, or plus 128 if signed."""
    value = tirx.reinterpret(f"uint8x{BYTES}", value)
    return value ^ splat(128, "uint8", BYTES) if dtype == "int8" else value
