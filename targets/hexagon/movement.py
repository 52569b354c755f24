"""Movements of bytes that HVX has instructions for; what has none takes the generic rules."""

from __future__ import annotations

import numpy as np
from tvm import tirx

from qcompiler.lowering.schedule_generic import Elementwise, piece_start, power_of_two
from qcompiler.lowering.tir import Expr, Stmt, Tile, int32, load, shuffle, store
from qcompiler.targets.cpu.isa import isa_of
from qcompiler.targets.hexagon.isa import BYTES, LANES, hvx
from qcompiler.targets.spec import TargetSpec

_PLANES = (2, 3, 4, 8, 16)
"""How many planes are interleaved in registers."""
_FEWEST = 32
"""Elements of a plane that are worth whole vectors."""


def move_planes(problem: Elementwise, spec: TargetSpec) -> Tile | None:
    """A few planes of bytes interleaved, as from `[C, H, W]` to `[H, W, C]`; vectors are read past rows' ends."""
    x, y = problem.inputs[0], problem.output
    planes = problem.extents[-1]
    if (
        np.dtype(str(y.buffer.dtype)).itemsize > 1
        or x.selectors
        or planes not in _PLANES
        or y.strides[-1] != 1
        or 1 not in x.strides[:-1]
    ):
        return None
    across = x.strides.index(1)
    width = problem.extents[across]
    if y.strides[across] != planes or width < _FEWEST:
        return None
    pixels = power_of_two(min(BYTES, width))
    isa = isa_of(spec)

    def body(*indices: Expr) -> list[Stmt]:
        indices = (*indices[:across], piece_start(indices[across], pixels, width), *indices[across + 1 :])
        start = x.offset(indices)
        vectors = [load(x.buffer, start + plane * x.strides[-1], BYTES) for plane in range(planes)]
        vectors = isa.woven([*vectors, vectors[-1]] if planes == 3 else vectors)
        if planes == 3:
            vectors = _without_every_fourth(vectors)
        return _stored(y.buffer, y.offset(indices), vectors, pixels * planes)

    loops = {f"i{axis}": extent for axis, extent in enumerate((*problem.extents[:-1], 1))}
    loops[f"i{across}"] = -(-width // pixels)
    return Tile("planes", loops, body, problem.reads, [y.buffer])


def _without_every_fourth(vectors: list[Expr]) -> list[Expr]:
    """Four vectors of bytes as three, without the last of each four bytes.

    The kept bytes of each vector are moved together, and round to where they stand in the results.
    """
    kept = np.flatnonzero(np.arange(BYTES) % 4 < 3)
    moved = []
    for i, vector in enumerate(vectors):
        control = _route(kept, (np.arange(kept.size) + i * kept.size) % BYTES)
        moved.append(hvx("vrdelta", vector, shuffle([int32(int(word)) for word in control], range(LANES))))
    bytes_ = [tirx.reinterpret(str(vectors[0].ty.dtype), vector) for vector in moved]
    firsts = [(i + 1) * kept.size % BYTES or BYTES for i in range(3)]
    return [
        shuffle([bytes_[i], bytes_[i + 1]], [lane + BYTES * (lane >= first) for lane in range(BYTES)])
        for i, first in enumerate(firsts)
    ]


def _route(sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The words of control by which `vrdelta` moves bytes from their sources to their targets.

    Its stages exchange neighbours at distances 1, 2, 4, ... 64: after each, a byte's place has one more bit of its
    target. No two bytes may meet on the way, and where an order is kept, around the end, and gaps close, none do.
    """
    control = np.zeros(BYTES, np.uint8)
    places = sources
    for distance in (1 << bit for bit in range(BYTES.bit_length() - 1)):
        moved = (places & ~distance) | (targets & distance)
        assert np.unique(moved).size == moved.size, "bytes meet"
        control[moved] |= np.where(moved != places, distance, 0).astype(np.uint8)
        places = moved
    return control.view(np.int32)


def _stored(buffer: tirx.Var, offset: Expr, vectors: list[Expr], size: int) -> list[Stmt]:
    """Stores the first `size` bytes of vectors."""
    statements, at = [], 0
    while at < size:
        lanes = power_of_two(min(BYTES, size - at))
        vector, lane = divmod(at, BYTES)
        value = vectors[vector] if lanes == BYTES else shuffle([vectors[vector]], range(lane, lane + lanes))
        statements.append(store(buffer, offset + at, value, lanes))
        at += lanes
    return statements
