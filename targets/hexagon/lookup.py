"""Tables of 256 entries in registers of HVX, of bytes or of wider types, a byte of each entry at a time."""

from __future__ import annotations

import numpy as np
from tvm import tirx

from qcompiler.lowering.tir import Buffer, Expr, int32, load
from qcompiler.targets.cpu.isa import Isa
from qcompiler.targets.hexagon.isa import BYTES, WORDS, hvx

ENTRIES = 256
_AT_ONCE = 32
"""Entries of a table that one `vlut32` looks up in."""


def table_registers(table: np.ndarray) -> np.ndarray:
    """256 entries as vectors of bytes: two for the first byte of all entries, two for the next, and so on.

    Of a register, the low bytes of its words are the first 64 entries and the high bytes the next.
    """
    planes = np.ascontiguousarray(table).view(np.uint8).reshape(ENTRIES, -1).T
    return np.ascontiguousarray(planes.reshape(-1, 2, 2, BYTES // 2).transpose(0, 1, 3, 2)).reshape(-1)


def look_up_bytes(index: Expr, registers: Buffer, plane: int = 0) -> Expr:
    """A byte of the entries that 128 bytes name, by eight `vlut32`, which give 0 for what they do not find."""
    starts = (2 * plane * BYTES, (2 * plane + 1) * BYTES)
    loaded = [load(registers, start, BYTES) for start in starts]
    found = hvx("vlutvvb", index, loaded[0], int32(0))
    for part in range(1, ENTRIES // _AT_ONCE):
        found = hvx("vlutvvb.oracc", found, index, loaded[part * _AT_ONCE // BYTES], int32(part))
    return found


def look_up_words(index: Expr, registers: Buffer, isa: Isa) -> list[Expr]:
    """The entries of 32 bits that 128 bytes name, in four vectors, in their order."""
    planes = [tirx.reinterpret(f"uint8x{BYTES}", look_up_bytes(index, registers, plane)) for plane in range(4)]
    low, high = ([isa.interleave(*planes[i : i + 2], 1, half) for half in (False, True)] for i in (0, 2))
    words = [isa.interleave(*pair, 2, half) for pair in zip(low, high, strict=True) for half in (False, True)]
    return [tirx.reinterpret(WORDS, vector) for vector in words]
