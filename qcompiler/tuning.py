"""Tuning as a part of compiling: a program lowered with the choices of a database, or with those found now."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from qcompiler.bundle.runtime import machine, own_cpu_flags
from qcompiler.errors import PipelineError, TargetError
from qcompiler.lowering.lower import Lowering, lower
from qcompiler.model import Model
from qcompiler.pipeline import Progress
from qcompiler.targets.spec import TargetSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tvm.s_tir.meta_schedule.database import Database

    from qcompiler.lowering.tune import Tuned


@dataclass
class Tuning:
    """`trials` choices to measure (0: none), and the folder of the database to read and to extend.

    Raises:
        PipelineError: a negative number of trials, or a folder without a database and no trials to make one.
        TargetError: there are trials to measure, and this machine cannot run the target's code.
    """

    trials: int
    folder: Path | None
    spec: TargetSpec
    notes: list[str] = field(default_factory=list)
    """A sentence for the user about what tuning found."""

    def __post_init__(self) -> None:
        if self.trials < 0:
            raise PipelineError(f"expected a number of trials for tuning, at least 1; got {self.trials}")
        if self.folder is not None and not self.trials:
            self._database()
        if self.trials and (reason := _why_not_here(self.spec)):
            raise TargetError(
                f"tuning for {self.spec.name} measures its kernels here, and {reason}; measure on such a machine by "
                "TVM's RPC (qcompiler.tvm.tune), then compile with --tuning-database (tuning_database=DIR)"
            )

    def lower(self, model: Model, progress: Progress) -> Lowering:
        """See `qcompiler.lowering.lower.lower`.

        Raises:
            PipelineError: the folder's files hold no database.
        """
        progress.step("lower")
        if not self.trials and self.folder is None:
            return lower(model, self.spec, progress)
        from qcompiler.lowering.tune import tune

        database = self._database()
        with database:
            lowering = lower(model, self.spec, progress)
        if self.trials and (tuned := tune(lowering.program, self.trials, database, progress=progress)):
            self.notes.append(_note(tuned))
            progress.step("lower")
            with database:
                lowering = lower(model, self.spec, progress)
        return lowering

    def _database(self) -> Database:
        from tvm.s_tir.meta_schedule.database import MemoryDatabase

        from qcompiler.lowering.tune import open_database

        return MemoryDatabase() if self.folder is None else open_database(self.folder, create=self.trials > 0)


def _why_not_here(spec: TargetSpec) -> str:
    """Why this machine cannot run the target's code; empty if it can."""
    kernels = import_module(spec.kernels)
    wanted = str(kernels.tvm_target(spec)["mtriple"]).partition("-")[0]
    if wanted != machine():
        return f"this machine is {machine()}"
    available = own_cpu_flags()
    lacking = [] if available is None else sorted(set(kernels.cpu_flags(spec)) - available)
    return f"this machine's CPU lacks {', '.join(lacking)}" if lacking else ""


def _note(tuned: Sequence[Tuned]) -> str:
    better = [each for each in tuned if each.gain > 1]
    trials = sum(each.trials for each in tuned)
    text = (
        f"tuning measured {trials} choices of {len(tuned)} kernels; {len(better) or 'none'} are faster than by default"
    )
    if not better:
        return text
    best = sorted(better, key=lambda each: -each.gain)[:3]
    return f"{text}: {', '.join(f'{each.locations[0]} {each.gain:.2f} times' for each in best)}"
