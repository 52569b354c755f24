"""Static memory plan: an offset in one arena for every buffer that is not the caller's memory."""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx
import numpy as np

from .program import ALIGNMENT, Program


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets in bytes; `lower_bound` is the largest sum of sizes alive at once."""

    offsets: dict[str, int]
    arena_bytes: int
    lower_bound: int


@dataclass(frozen=True)
class _Live:
    """Bytes that a buffer takes, slack and padding included, from step `first` to step `last` inclusive."""

    nbytes: int
    first: int
    last: int


def scratch_name(step: int, index: int) -> str:
    """Name of a kernel's scratch buffer in a `MemoryPlan`."""
    return f"step{step}/scratch{index}"


def align(nbytes: int, alignment: int = ALIGNMENT) -> int:
    """Rounds up to a multiple of `alignment`."""
    return -(-nbytes // alignment) * alignment


def plan_memory(program: Program, *, reuse: bool = True, alignment: int | None = None) -> MemoryPlan:
    """Places buffers so that no two that live at the same time overlap: at multiples of `alignment`, or the program's.

    A buffer lives from the step that writes it to the last step that reads it, a scratch buffer in its own
    step. With `reuse=False` every buffer keeps its place to the end of the run, so that all of them can be
    read afterwards; scratch buffers may still share memory with each other.
    """
    live = _live_ranges(program, reuse, alignment or program.alignment)
    interference = _interference(live)
    orders = [
        sorted(live, key=lambda n: (-live[n].nbytes, live[n].first)),
        sorted(live, key=lambda n: (-live[n].nbytes * (live[n].last - live[n].first + 1), live[n].first)),
        sorted(live, key=lambda n: (-_pressure(interference, live, n), -live[n].nbytes, live[n].first)),
        sorted(live, key=lambda n: (live[n].first, -live[n].nbytes)),
    ]
    if not reuse:  # all tensors overlap in time: one order is as good as another
        del orders[1:]
    offsets = min((_place(order, interference, live) for order in orders), key=lambda o: _extent(o, live))
    return MemoryPlan(offsets, _extent(offsets, live), _lower_bound(live))


def _live_ranges(program: Program, reuse: bool, alignment: int) -> dict[str, _Live]:
    live: dict[str, _Live] = {}
    end = len(program.steps)
    external = program.external
    for index, step in enumerate(program.steps):
        for name in step.outputs:
            if name not in external:
                nbytes = align(program.buffers[name].nbytes + program.alignment, alignment)
                live[name] = _Live(nbytes, index, index) if reuse else _Live(nbytes, 0, end)
        for name in step.inputs:
            if reuse and name in live:
                live[name] = _Live(live[name].nbytes, live[name].first, index)
        for position, (shape, dtype) in enumerate(step.kernel.scratch):
            nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            live[scratch_name(index, position)] = _Live(align(nbytes + program.alignment, alignment), index, index)
    return live


def _interference(live: dict[str, _Live]) -> nx.Graph:
    """Graph with an edge between any two buffers that live at the same time."""
    graph = nx.Graph()
    graph.add_nodes_from(live)
    alive: list[str] = []
    for name in sorted(live, key=lambda n: live[n].first):
        alive = [other for other in alive if live[other].last >= live[name].first]
        graph.add_edges_from((name, other) for other in alive)
        alive.append(name)
    return graph


def _pressure(interference: nx.Graph, live: dict[str, _Live], name: str) -> int:
    return live[name].nbytes + sum(live[other].nbytes for other in interference[name])


def _place(order: list[str], interference: nx.Graph, live: dict[str, _Live]) -> dict[str, int]:
    """Gives each buffer the smallest gap between already placed, interfering ones that holds it."""
    offsets: dict[str, int] = {}
    for name in order:
        placed = [other for other in interference[name] if other in offsets]
        occupied = sorted((offsets[other], offsets[other] + live[other].nbytes) for other in placed)
        need, end = live[name].nbytes, 0
        gaps: list[tuple[int, int]] = []
        for first, last in occupied:
            if first - end >= need:
                gaps.append((first - end, end))
            end = max(end, last)
        offsets[name] = min(gaps)[1] if gaps else end
    return offsets


def _extent(offsets: dict[str, int], live: dict[str, _Live]) -> int:
    return max((offset + live[name].nbytes for name, offset in offsets.items()), default=0)


def _lower_bound(live: dict[str, _Live]) -> int:
    change: dict[int, int] = {}
    for buffer in live.values():
        change[buffer.first] = change.get(buffer.first, 0) + buffer.nbytes
        change[buffer.last + 1] = change.get(buffer.last + 1, 0) - buffer.nbytes
    total = peak = 0
    for time in sorted(change):
        total += change[time]
        peak = max(peak, total)
    return peak
