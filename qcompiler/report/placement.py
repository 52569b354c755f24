"""Which layers of a program for a GPU a CPU would do better, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from qcompiler.lowering.device import DeviceProgram, Launch
from qcompiler.lowering.program import Program

_WARP = 16
"""Work-items that a Mali core executes together (Arm, The Valhall Shader Core)."""

_NAMED = 8
"""So many layers are named for each reason."""


@dataclass(frozen=True)
class Placement:
    """A layer, the schedule rule of its kernels, and why it does not suit a GPU."""

    layer: str
    rule: str
    reason: str


def better_on_cpu(program: Program, device: DeviceProgram) -> list[Placement]:
    """The layers that keep at most one warp of the GPU busy. They run on it all the same, so that nothing is copied."""
    found = []
    for number, step in enumerate(program.steps):
        launches = [launch for launch in device.launches if launch.step == number]
        if reason := _reason(launches):
            found.append(Placement(step.location, step.kernel.rule, reason))
    return found


def _reason(launches: Sequence[Launch]) -> str:
    if all(launch.serial for launch in launches):
        return "a single work-item does all of it, as each of its steps needs the one before"
    if max((prod(launch.global_size) for launch in launches), default=_WARP) < _WARP:
        return f"it has less than {_WARP} work-items, one warp"
    return ""


def placement_notes(program: Program, device: DeviceProgram) -> list[str]:
    """One sentence for each reason, with the layers it holds for."""
    layers: dict[str, list[str]] = {}
    for placement in better_on_cpu(program, device):
        layers.setdefault(placement.reason, []).append(f"{placement.layer} ({placement.rule})")
    notes = []
    for reason, names in layers.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        notes.append(f"better left on the CPU, though the GPU runs it: {', '.join(names[:_NAMED])}{more}: {reason}")
    return notes
