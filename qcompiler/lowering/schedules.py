"""Schedules of the loops around the blocks of kernels; what is inside a block is fast as it is.

A function is plain as long as a block carries the annotation `LOOPS`: the names of its loops, outermost first,
or `ACCUMULATE`. `w*4` among the names is a loop over 4 neighbouring iterations of `w`, while `w` counts groups of 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import IRModule
from tvm.s_tir import SBlock, Schedule
from tvm.tirx import PrimFunc
from tvm_ffi import structural_walk

from .program import Kernel
from .tir import LOOPS, loops_of

ACCUMULATE = "accumulate"
"""Said of a reduction whose results the next block, `requantize`, takes one by one; channels, `c`, become vectors."""

_VECTOR_LANES = (16, 8, 4)


def is_plain(func: PrimFunc) -> bool:
    """Whether there is something to schedule."""
    return bool(_annotated(func))


def schedule_loops(func: PrimFunc) -> Schedule:
    """The schedule of a plain function, which is `main` of its module."""
    schedule = Schedule(IRModule({"main": func}))
    for name, loops in _annotated(func).items():
        schedule.unannotate(schedule.get_sblock(name), LOOPS)
        if loops == ACCUMULATE:
            _vectorize(schedule, name)
        else:
            _reorder(schedule, name, loops.split())
    return schedule


def _annotated(func: PrimFunc) -> dict[str, str]:
    """Names of the annotated blocks, and what they say."""
    found: dict[str, str] = {}

    def visit(block: SBlock) -> None:
        if LOOPS in block.annotations:
            found[str(block.name_hint)] = str(block.annotations[LOOPS])

    structural_walk(func.body, (SBlock, visit))
    return found


def _reorder(schedule: Schedule, name: str, order: list[str]) -> None:
    loops = loops_of(schedule, name)
    for entry in order:
        loop, _, count = entry.partition("*")
        if count:
            loops[loop], loops[entry] = schedule.split(loops[loop], [None, int(count)])
    schedule.reorder(*(loops[entry] for entry in order))


def _vectorize(schedule: Schedule, name: str) -> None:
    loops = loops_of(schedule, "requantize")
    extent = int(schedule.get(loops["c"]).extent)
    lanes = next((lanes for lanes in _VECTOR_LANES if extent % lanes == 0), 1)
    outer, inner = schedule.split(loops["c"], [None, lanes])
    block = schedule.get_sblock(name)
    reductions = len(schedule.get_loops(block)) - len(loops)
    schedule.compute_at(block, outer, preserve_unit_loops=True)
    *_, lane = schedule.get_loops(block)[:-reductions]
    first, *rest = schedule.get_loops(block)[-reductions:]
    schedule.reorder(first, *rest, lane)
    if lanes > 1:
        schedule.vectorize(lane)
        schedule.vectorize(inner)
    schedule.decompose_reduction(block, first)


def scheduled_kernel(
    func: PrimFunc, rule: str, constants: Sequence[np.ndarray], scratch: Sequence[tuple[tuple[int, ...], str]] = ()
) -> Kernel:
    """The kernel of a plain function."""
    return Kernel(schedule_loops(func).mod["main"], rule, tuple(constants), tuple(scratch), plain=func)
