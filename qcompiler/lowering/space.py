"""Choices that a kernel rule leaves open, and the tuning databases of TVM that can make them.

A rule describes what it computes as a plain function (the workload), lists its choices and makes the kernel of any of
them. A choice stands in a database as a trace on the workload: each decision is sampled from its values and annotated
on the block `products`. Where a database is in effect (`with database:`), `decide` takes the choice of its best record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir.meta_schedule.database import Database

from .program import Kernel

BLOCK = "products"
_PREFIX = "qcompiler."


class Choice(Protocol):
    @property
    def decisions(self) -> Mapping[str, int | str]:
        """All that tells the choice from the others of its rule."""
        ...


@dataclass(frozen=True, eq=False)
class Space:
    """All choices of a rule for one kernel, the default first; they give the same results."""

    workload: Callable[[], tvm.IRModule]
    """Makes the module whose function `main` computes the same by plain loops in the block `products`."""
    choices: Sequence[Choice]
    make: Callable[[Any], Kernel]


def decide(space: Space) -> Kernel:
    """The kernel that the database in effect asks for, else the default."""
    chosen = recorded(space)
    return replace(space.make(chosen or space.choices[0]), space=space, is_tuned=chosen is not None)


def recorded(space: Space) -> Choice | None:
    """The choice of the best record in the database in effect; None without one, or if it is none of the space."""
    database = Database.current()
    if database is None or not database.has_workload(workload := space.workload()):
        return None
    schedule = database.query_schedule(workload, workload["main"].attrs["target"], "main")
    if schedule is None:
        return None
    annotations = schedule.get(schedule.get_sblock(BLOCK)).annotations
    found = {str(key).removeprefix(_PREFIX): value for key, value in annotations.items()}
    return next((choice for choice in space.choices if choice.decisions == found), None)


def schedule_of(space: Space, choice: Choice) -> Schedule:
    """The workload with the decisions of a choice as annotations, and the trace that makes them."""
    schedule = Schedule(space.workload())
    block = schedule.get_sblock(BLOCK)
    for name, value in choice.decisions.items():
        if isinstance(value, int):
            values = sorted({int(other.decisions[name]) for other in space.choices})
            even = [1 / len(values)] * len(values)
            schedule.annotate(
                block, _PREFIX + name, schedule.sample_categorical(values, even, decision=values.index(value))
            )
        else:
            schedule.annotate(block, _PREFIX + name, value)
    return schedule
