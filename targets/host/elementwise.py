"""Vector forms of the host for operations on single elements; what has none takes the generic rules.

`RULES["lut"]` gets the table of a look-up, the dtype of its index and the target, and returns None or the
constant arrays, the lanes of a vector, and `look_up(indices, buffers, lanes)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from qcompiler.targets.spec import TargetSpec
from tvm import tirx

from qcompiler.lowering.tir import Buffer, Expr, llvm, load, shuffle, splat

LookUp = Callable[[Expr, Sequence[Buffer], int], Expr]

_BYTES = 64
_WORDS = _BYTES // 2


def lut_permute(
    table: np.ndarray, index_dtype: str, spec: TargetSpec
) -> tuple[list[np.ndarray], int, LookUp] | None:
    """The table in four registers of 32 words, permuted by `vpermi2w`; AVX-512, 8-bit entries.

    Word `i` of the pair of registers `p` holds entries `i + 64*p` (low byte) and `i + 64*p + 128`: of
    an index byte the permutation takes the low six bits, bit 6 chooses the pair and bit 7 the byte.
    """
    if spec.instruction_set != "avx512-vnni" or table.dtype.itemsize != 1:
        return None
    by_byte = np.roll(table, 128) if index_dtype == "int8" else table
    words = by_byte.view(np.uint8).reshape(2, 2, 64).transpose(1, 2, 0)
    array = np.ascontiguousarray(words).reshape(-1).view(np.int16)
    kind = str(table.dtype)

    def look_up(indices: Expr, buffers: Sequence[Buffer], lanes: int) -> Expr:
        if lanes < _BYTES:
            whole = shuffle([indices] * (_BYTES // lanes), range(_BYTES))
            return shuffle([look_up(whole, buffers, _BYTES)], range(lanes))
        registers = [load(buffers[0], i * _WORDS, _WORDS) for i in range(4)]
        x = tirx.reinterpret(f"uint16x{_WORDS}", indices)
        eight, low_byte = splat(8, "uint16", _WORDS), splat(255, "uint16", _WORDS)
        even, odd = _permuted(registers, x), _permuted(registers, x >> eight)
        first = (even & low_byte) | (odd << eight)
        second = (even >> eight) | (odd & splat(0xFF00, "uint16", _WORDS))
        first, second = (tirx.reinterpret(f"{kind}x{_BYTES}", v) for v in (first, second))
        top = tirx.reinterpret(f"int8x{_BYTES}", indices) < splat(0, "int8", _BYTES)
        return tirx.Select(top, second, first)

    return [array], _BYTES, look_up


def _permuted(registers: list[Expr], words: Expr) -> Expr:
    """For each word, that of the 128 table words which its low seven bits name."""
    kind = f"int16x{_WORDS}"
    index = tirx.reinterpret(kind, words)
    low, high = (
        llvm("llvm.x86.avx512.vpermi2var.hi.512", kind, registers[i], index, registers[i + 1]) for i in (0, 2)
    )
    bit = (index & splat(64, "int16", _WORDS)).equal(splat(0, "int16", _WORDS))
    return tirx.reinterpret(f"uint16x{_WORDS}", tirx.Select(bit, low, high))


RULES = {"lut": lut_permute}
