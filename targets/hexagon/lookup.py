"""Tables of 256 entries in registers of HVX, of bytes or of wider types, a byte of each entry at a time."""

from __future__ import annotations

import numpy as np
from tvm import tirx

from qcompiler.lowering.tir import Buffer, Expr, int32, load, shuffle
from qcompiler.targets.cpu.isa import Isa
from qcompiler.targets.hexagon.isa import BYTES, hvx

ENTRIES = 256
_AT_ONCE = 32
"""Entries of a table that one `vlut32` looks up in."""


def table_registers(table: np.ndarray) -> np.ndarray:
    """256 entries as vectors of bytes: two for the first byte of all entries, two for the next, and so on.

    Of a register, the low bytes of its words are the first 64 entries and the high bytes the next.
    """
    planes = np.ascontiguousarray(table).view(np.uint8).reshape(ENTRIES, -1).T
    return np.ascontiguousarray(planes.reshape(-1, 2, 2, BYTES // 2).transpose(0, 1, 3, 2)).reshape(-1)


def look_up(index: Expr, registers: Buffer, dtype: str, isa: Isa) -> Expr:
    """The entries of 1, 2 or 4 bytes that 128 bytes name, as a vector of that type."""
    planes = [_look_up_bytes(index, registers, plane) for plane in range(np.dtype(dtype).itemsize)]
    vectors = planes
    if len(planes) > 1:
        vectors = [isa.interleave(*planes[:2], 1, half) for half in (False, True)]
    if len(planes) > 2:
        upper = [isa.interleave(*planes[2:], 1, half) for half in (False, True)]
        pairs = zip(vectors, upper, strict=True)
        vectors = [isa.interleave(*pair, 2, half) for pair in pairs for half in (False, True)]
    lanes = BYTES // len(planes)
    typed = [tirx.reinterpret(f"{dtype}x{lanes}", vector) for vector in vectors]
    return shuffle(typed, range(BYTES)) if len(typed) > 1 else typed[0]


def _look_up_bytes(index: Expr, registers: Buffer, plane: int) -> Expr:
    """One byte of the entries, by eight `vlut32`, which give 0 for what they do not find."""
    loaded = [load(registers, (2 * plane + i) * BYTES, BYTES) for i in range(2)]
    found = hvx("vlutvvb", index, loaded[0], int32(0))
    for part in range(1, ENTRIES // _AT_ONCE):
        found = hvx("vlutvvb.oracc", found, index, loaded[part * _AT_ONCE // BYTES], int32(part))
    return tirx.reinterpret(f"uint8x{BYTES}", found)
