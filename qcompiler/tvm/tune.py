"""Tuning of integer kernels through TVM's builders, runners and databases."""

from __future__ import annotations

import tvm
from tvm.s_tir.meta_schedule.builder import Builder
from tvm.s_tir.meta_schedule.database import Database
from tvm.s_tir.meta_schedule.runner import Runner

from qcompiler.api import Quantized
from qcompiler.lowering.lower import lower
from qcompiler.lowering.tune import Tuned
from qcompiler.lowering.tune import tune as tune_program
from qcompiler.pipeline import Progress
from qcompiler.targets.spec import resolve_target
from qcompiler.tvm.lower import target as tvm_target
from qcompiler.tvm.regions import region_model, regions


def tune(
    source: tvm.IRModule | Quantized,
    trials: int,
    database: Database,
    *,
    target: str = "host",
    builder: Builder | None = None,
    runner: Runner | None = None,
    progress: Progress | None = None,
) -> list[Tuned]:
    """Measures `trials` choices of the kernels of quantized regions, or of what `qcompiler.quantize` made.

    What the database has is not measured again. `Lower` and `pipeline` inside `with database:`, and
    `qcompiler.compile(..., tuning_database=)`, then use it.

    Args:
        target: of the kernels; that of a `Quantized` is its own.
        builder: TVM's builder of kernels; None: one on this machine, with files that `runner` can load here.
        runner: what measures them; None: this machine. `RPCRunner` measures on a phone.

    Raises:
        TargetError: the target is unknown or has no kernels inside TVM, or a kernel cannot be built or measured.
        PipelineError: a region is not at stage `laid_out`.
    """
    name = source.target if isinstance(source, Quantized) else target
    tvm_target(name)  # refuses targets that TVM cannot build for
    models = [source.model] if isinstance(source, Quantized) else [region_model(source, r) for r in regions(source)]
    found: list[Tuned] = []
    for model in models:
        program = lower(model, resolve_target(name)).program
        rest = max(0, trials - sum(each.trials for each in found))
        found += tune_program(program, rest, database, builder=builder, runner=runner, progress=progress)
    return found
