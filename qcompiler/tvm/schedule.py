"""Our schedules as rules of TVM's dlight."""

from __future__ import annotations

from tvm.s_tir import Schedule
from tvm.s_tir.dlight.base import ScheduleRule
from tvm.target import Target
from tvm.tirx import PrimFunc

from qcompiler.lowering.schedules import is_plain, schedule_loops


def schedule_rules() -> list[ScheduleRule]:
    """Rules for `ApplyDefaultSchedule`, for the functions that `Lower(..., schedule=False)` leaves plain."""
    return [_Loops()]


class _Loops(ScheduleRule):
    """Schedules functions with blocks that say how their loops are to be ordered; None for all others."""

    def apply(self, func: PrimFunc, target: Target, tunable: bool) -> Schedule | None:
        return schedule_loops(func) if is_plain(func) else None
