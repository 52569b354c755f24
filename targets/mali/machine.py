"""What the schedule rules know of Mali's cores (Valhall; Arm, The Valhall Shader Core, and 101574_0302)."""

from __future__ import annotations

from tvm.tirx import PrimFunc

from qcompiler.lowering.opencl import WORK_GROUP
from qcompiler.lowering.opencl_cost import FULL_OCCUPANCY


def occupancy_factor(registers: int) -> float:
    """How much longer latencies are felt with fewer warps in flight: an estimate."""
    return 1.0 if registers <= FULL_OCCUPANCY else 1.25


def with_work_group(func: PrimFunc, size: tuple[int, int, int]) -> PrimFunc:
    """The function with a size for the work-groups of its largest loop nest."""
    return func.with_attr(WORK_GROUP, list(size))
