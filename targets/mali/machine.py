"""What the schedule rules know of Mali's cores (Valhall; Arm, The Valhall Shader Core, and 101574_0302)."""

from __future__ import annotations

from tvm.tirx import PrimFunc

from qcompiler.lowering.opencl import WORK_GROUP

WARP = 16
"""Work-items that execute together."""
LINE_BYTES = 64
"""A cache line; a load of a warp takes a cycle for each that it touches."""
FULL_OCCUPANCY_REGISTERS = 32
"""32-bit registers of a work-item up to which a core holds as many warps as it can; half as many up to twice that."""
MOST_REGISTERS = 64


def occupancy_factor(registers: int) -> float:
    """How much longer latencies are felt with fewer warps in flight: an estimate."""
    return 1.0 if registers <= FULL_OCCUPANCY_REGISTERS else 1.25


def with_work_group(func: PrimFunc, size: tuple[int, int, int]) -> PrimFunc:
    """The function with a size for the work-groups of its largest loop nest."""
    return func.with_attr(WORK_GROUP, list(size))
