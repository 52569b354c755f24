"""Vector forms of ARM for operations on single elements; what has none takes the generic rules.

The signatures are those of `qcompiler.targets.host.elementwise`.
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
LookUp = Callable[[list[Expr], Sequence[Buffer]], Expr]

_BYTES = 16
_REGISTERS = 4
"""Registers that one `tbl` looks up in."""


def lut_tables(table: np.ndarray, index_dtype: str, spec: TargetSpec) -> tuple[list[np.ndarray], int, LookUp] | None:
    """256 entries in sixteen registers, looked up by `tbl` and three `tbx`, which leave what they do not find."""
    if table.dtype.itemsize != 1 or table.shape != (256,):
        return None
    by_byte = np.roll(table, 128) if index_dtype == "int8" else table
    kind, part = f"uint8x{_BYTES}", _REGISTERS * _BYTES

    def look_up(operands: list[Expr], buffers: Sequence[Buffer]) -> Expr:
        index = tirx.reinterpret(kind, operands[0])
        registers = [tirx.reinterpret(kind, load(buffers[0], start, _BYTES)) for start in range(0, 256, _BYTES)]
        found = llvm("llvm.aarch64.neon.tbl4", kind, *registers[:_REGISTERS], index)
        for i in range(1, 256 // part):
            chosen = registers[i * _REGISTERS : (i + 1) * _REGISTERS]
            rest = index - splat(i * part, "uint8", _BYTES)
            found = llvm("llvm.aarch64.neon.tbx4", kind, found, *chosen, rest)
        return tirx.reinterpret(f"{table.dtype}x{_BYTES}", found)

    return [by_byte], _BYTES, look_up


def add_widened(
    dtypes: Sequence[str],
    zero_points: tuple[int, int, int],
    parameters: tuple[int, int, int],
    clamp: tuple[int, int],
    spec: TargetSpec,
) -> tuple[int, Body] | None:
    """The sum of sixteen elements in int32, then narrowed with saturation."""
    if any(np.dtype(dtype).itemsize > 1 for dtype in dtypes):
        return None
    isa = isa_of(spec)
    factor_a, factor_b, shift = parameters
    offset = (1 << (shift - 1)) - zero_points[0] * factor_a - zero_points[1] * factor_b

    def body(operands: list[Expr], _: int) -> Expr:
        a, b = (operand.astype(f"int32x{_BYTES}") for operand in operands)
        products = splat(offset, "int32", _BYTES) + a * splat(factor_a, "int32", _BYTES)
        acc = (products + b * splat(factor_b, "int32", _BYTES)) >> splat(shift, "int32", _BYTES)
        return clamped(isa.narrow(_parts(acc, isa), zero_points[2], dtypes[2]), clamp, dtypes[2], isa)

    return _BYTES, body


def mul_widened(
    dtypes: Sequence[str], zero_points: tuple[int, int], requantize: Requantize, spec: TargetSpec
) -> tuple[int, Body] | None:
    """The product of sixteen elements in int32; `fp32` rounding of 8-bit operands and results."""
    if any(np.dtype(dtype).itemsize > 1 for dtype in dtypes) or not is_bounded(requantize, 255 * 255):
        return None
    isa = isa_of(spec)
    multiplier = splat(float(multiplier_fp32(requantize.multiplier.reshape(-1)[0])), "float32", isa.lanes)

    def body(operands: list[Expr], _: int) -> Expr:
        a, b = (
            (operand.astype(f"int16x{_BYTES}") - splat(zero, "int16", _BYTES)).astype(f"int32x{_BYTES}")
            for operand, zero in zip(operands, zero_points, strict=True)
        )
        parts = [isa.round(part.astype(f"float32x{isa.lanes}") * multiplier) for part in _parts(a * b, isa)]
        packed = isa.narrow(parts, requantize.zero_point, dtypes[2])
        return clamped(packed, requantize.clamp, dtypes[2], isa)

    return _BYTES, body


RULES = {"lut": lut_tables, "add": add_widened, "mul": mul_widened}


def _parts(value: Expr, isa: Isa) -> list[Expr]:
    """A vector of sixteen int32 as four registers."""
    return [shuffle([value], range(i, i + isa.lanes)) for i in range(0, _BYTES, isa.lanes)]
