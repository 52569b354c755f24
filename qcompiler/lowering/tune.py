"""Tuning: choices of kernel rules, measured by TVM's runners and kept in its databases.

The default is measured with every choice, in turns, and a choice has to be faster than it by `_GAIN` in the median.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from math import inf
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import tvm
from tvm.s_tir.meta_schedule.arg_info import ArgInfo
from tvm.s_tir.meta_schedule.builder import Builder, BuilderInput, BuilderResult, LocalBuilder
from tvm.s_tir.meta_schedule.database import Database, JSONDatabase, TuningRecord
from tvm.s_tir.meta_schedule.runner import EvaluatorConfig, LocalRunner, Runner, RunnerInput
from tvm.target import Target
from tvm_ffi import StructuralKey

from qcompiler.errors import PipelineError, TargetError
from qcompiler.pipeline import Progress

from .program import Kernel, Program
from .space import Choice, Space, recorded, schedule_of
from .tensors import padded, tensor_function

if TYPE_CHECKING:
    from collections.abc import Iterator

_GAIN = 0.98
_FIRST_ROUNDS, _FINAL_ROUNDS = 3, 5
"""Measurements in turns: of the default and all choices, then of the default and the best `_FINALISTS`."""
_FINALISTS = 3
_SECONDS = 120.0
"""Most that building or measuring one kernel may take."""


@dataclass(frozen=True)
class Tuned:
    """What tuning found for the steps that have one workload."""

    locations: tuple[str, ...]
    trials: int
    """Choices measured besides the default."""
    default: str
    """Rule of the default kernel."""
    rule: str
    """Rule of the fastest."""
    gain: float
    """Time of the default over that of the fastest; 1 if that is the default."""


def open_database(folder: Path, *, create: bool) -> Database:
    """TVM's database in a folder: `database_workload.json` and `database_tuning_record.json`.

    Raises:
        PipelineError: there is none and it is not to be created, or the files hold no database.
    """
    if not create and not (folder / "database_workload.json").exists():
        raise PipelineError(f"{folder} holds no tuning database; tuning (--tune N, tune=N) writes one")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return JSONDatabase(work_dir=str(folder))
    except (OSError, RuntimeError, ValueError, TypeError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise PipelineError(
            f"{folder}: the tuning database cannot be opened ({reason}); remove it to tune anew"
        ) from None


def tune(
    program: Program,
    trials: int,
    database: Database,
    *,
    builder: Builder | None = None,
    runner: Runner | None = None,
    progress: Progress | None = None,
) -> list[Tuned]:
    """Measures `trials` choices of the kernels of a program and commits the fastest to the database.

    Kernels of which the database has a record are left alone. Those with the most multiply-adds get the most trials.
    Without `builder` and `runner` kernels are built and measured on this machine.

    Raises:
        TargetError: the default of a kernel cannot be built or measured, or a package is missing that TVM needs for it.
    """
    progress = progress or Progress()
    sites = _sites(program, database)
    given = _allot([site.macs for site in sites], [len(site.space.choices) - 1 for site in sites], trials)
    chosen = [(site, site.space.choices[: count + 1]) for site, count in zip(sites, given, strict=True) if count]
    if not chosen:
        return []
    if builder is None or runner is None:
        _check_packages()
    progress.step("build candidates")
    builder = builder or LocalBuilder(max_workers=os.cpu_count() or 1, timeout_sec=_SECONDS, f_build=build_kernel)
    candidates = [(site, [_Candidate.of(site.space, choice) for choice in choices]) for site, choices in chosen]
    with _built([c for _, group in candidates for c in group], builder) as artifacts:
        progress.step("tune")
        config = EvaluatorConfig(number=1, repeat=3, min_repeat_ms=10)
        runner = runner or LocalRunner(timeout_sec=_SECONDS, evaluator_config=config)
        tracked = progress.track(candidates, "tuning kernels", len(candidates))
        return [_tune_site(site, group, artifacts, database, runner) for site, group in tracked]


def build_kernel(module: tvm.IRModule, target: Target, _: object) -> tvm.runtime.Module:
    """What builds a kernel for measuring, in place of TVM's default, which first parses all its tensor intrinsics."""
    return tvm.compile(module, target=target).mod


def _check_packages() -> None:
    """TVM's builder and runner import these in processes of their own, whose errors say little."""
    if missing := [name for name in ("psutil", "cloudpickle") if find_spec(name) is None]:
        raise TargetError(f"tuning needs the packages {' and '.join(missing)}: pip install 'qcompiler[tune]'")


@dataclass(frozen=True)
class _Site:
    """Steps that share a workload."""

    space: Space
    locations: tuple[str, ...]
    macs: int
    """Multiply-adds of all of them."""


@dataclass(frozen=True, eq=False)
class _Candidate:
    choice: Choice
    kernel: Kernel
    module: tvm.IRModule
    target: Target

    @staticmethod
    def of(space: Space, choice: Choice) -> _Candidate:
        kernel = space.make(choice)
        kinds = [padded([int(extent) for extent in p.shape], str(p.dtype)) for p in kernel.func.params]
        function = tensor_function(kernel, kinds).with_attr("global_symbol", "main")
        target = space.workload()["main"].attrs["target"]
        return _Candidate(choice, kernel, tvm.IRModule({"main": function}), target.with_host(target))

    @property
    def arguments(self) -> list[ArgInfo]:
        return ArgInfo.from_prim_func(self.module["main"])


def _sites(program: Program, database: Database) -> list[_Site]:
    """What has choices, and no record in the database."""
    found: dict[StructuralKey, _Site] = {}
    with database:
        for step in program.steps:
            space = step.kernel.space
            if space is None or len(space.choices) < 2 or recorded(space) is not None:
                continue
            key = StructuralKey(space.workload())
            known = found.get(key) or _Site(space, (), 0)
            found[key] = _Site(known.space, (*known.locations, step.location), known.macs + step.macs)
    return list(found.values())


def _allot(costs: Sequence[int], limits: Sequence[int], trials: int) -> list[int]:
    """Trials for each, in proportion to its cost (by D'Hondt's method), none above its limit."""
    given = [0] * len(costs)
    for _ in range(trials):
        unfinished = [i for i, limit in enumerate(limits) if given[i] < limit]
        if not unfinished:
            break
        given[max(unfinished, key=lambda i: costs[i] / (given[i] + 1))] += 1
    return given


@contextmanager
def _built(candidates: Sequence[_Candidate], builder: Builder) -> Iterator[Mapping[_Candidate, BuilderResult]]:
    """The files of the built candidates, which are removed in the end."""
    results = builder.build([BuilderInput(c.module, c.target) for c in candidates])
    try:
        yield dict(zip(candidates, results, strict=True))
    finally:
        for result in results:
            if result.artifact_path is not None:
                shutil.rmtree(Path(result.artifact_path).parent, ignore_errors=True)


def _tune_site(
    site: _Site,
    candidates: Sequence[_Candidate],
    built: Mapping[_Candidate, BuilderResult],
    database: Database,
    runner: Runner,
) -> Tuned:
    default, *others = candidates
    if built[default].artifact_path is None:
        raise TargetError(f"{site.locations[0]}: its kernel cannot be built for measuring: {built[default].error_msg}")
    others = [c for c in others if built[c].artifact_path is not None]
    times: dict[_Candidate, list[float]] = {c: [] for c in (default, *others)}

    def measure(group: Sequence[_Candidate], rounds: int) -> None:
        inputs = [RunnerInput(built[c].artifact_path, "cpu", c.arguments) for c in group]
        for _ in range(rounds):
            for candidate, future in zip(group, runner.run(inputs), strict=True):
                result = future.result()
                if result.run_secs is not None:
                    times[candidate].append(median(map(float, result.run_secs)))
                elif candidate is default:
                    raise TargetError(f"{site.locations[0]}: its kernel cannot be measured: {result.error_msg}")
                else:
                    times[candidate].append(inf)

    def relative(candidate: _Candidate) -> float:
        """Its time over that of the default, in the median of the rounds."""
        return median(a / b for a, b in zip(times[candidate], times[default], strict=False))

    measure([default, *others], _FIRST_ROUNDS)
    finalists = sorted(others, key=relative)[:_FINALISTS]
    measure([default, *finalists], _FINAL_ROUNDS)
    fastest = min(finalists, key=relative, default=default)
    if relative(fastest) > _GAIN:
        fastest = default
    workload = database.commit_workload(site.space.workload())
    trace = schedule_of(site.space, fastest.choice).trace
    database.commit_tuning_record(
        TuningRecord(trace, workload, times[fastest], fastest.target, ArgInfo.from_entry_func(workload.mod))
    )
    gain = 1 / relative(fastest)
    return Tuned(site.locations, len(candidates) - 1, default.kernel.rule, fastest.kernel.rule, gain)
