"""The compiler's passes as passes of TVM on modules with regions."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import tvm
from tvm.ir.transform import Pass, PassContext, Sequential
from xdsl.passes import ModulePass

from qcompiler.api import Calibration, plan
from qcompiler.options import QuantizeOptions
from qcompiler.pipeline import CompilerContext, PassManager, Progress, parse
from qcompiler.recipe import Recipe
from qcompiler.targets.spec import resolve_target
from qcompiler.tvm.partition import Partition
from qcompiler.tvm.regions import region_feeds, region_model, regions, with_model

_IMPROVEMENTS = frozenset(
    ("assign-precision", "correct-bias", "correct-bias-empirical", "cse", "equalize", "round-weights", "smooth")
)
"""Passes that a program can do without: those of optimization level 1."""


def passes(
    pipeline: str,
    *,
    calibration: Calibration | None = None,
    target: str | None = None,
    recipe: Recipe | None = None,
) -> Sequential:
    """The passes of a pipeline's text, `choose-scheme{policy=affine},insert-qdq`, each applied to all regions.

    A pass named `dce` is the TVM pass `qcompiler.dce`, to PassContext's `disabled_pass` too.

    Args:
        calibration: samples of the function that was partitioned, for passes that need them.
        target: name of the target, for passes that ask for it.

    Raises:
        QCompilerError: the text does not parse, or the target is unknown; in the passes as they do themselves.
    """
    spec = None if target is None else resolve_target(target)

    def context(module: tvm.IRModule, name: str) -> CompilerContext:
        feeds = None if calibration is None else region_feeds(module, name, calibration, None)
        return CompilerContext(calibration=feeds, target=spec, recipe=recipe, source=name)  # type: ignore[arg-type]

    return Sequential([_as_pass(each, context) for each in parse(pipeline)], name="qcompiler.passes")


def Quantize(
    calibration: Calibration | None = None, target: str = "host", *, function: str = "main", **options: object
) -> Pass:
    """A pass that brings all that is understood of a function to the integer program of a target.

    Partitions the function if that has not been done. Each region then holds a module of stage `laid_out`.

    Args:
        calibration: samples of the function's inputs, as `qcompiler.quantize` takes them; None for a module that is
            quantized already, with `R.quantize` and `R.dequantize`.
        options: the fields of `qcompiler.options.QuantizeOptions`.

    Raises:
        QCompilerError: an unknown target or option; in the pass as `qcompiler.quantize` does.
    """
    spec = resolve_target(target)
    chosen = QuantizeOptions.of(**options)

    def quantize(module: tvm.IRModule, _: PassContext) -> tvm.IRModule:
        module = Partition(function)(module)
        for name in regions(module):
            model = region_model(module, name)
            feeds = None if calibration is None else region_feeds(module, name, calibration, chosen.limit)
            with tempfile.TemporaryDirectory() as folder:
                steps = plan(model, feeds, chosen, Path(folder), target=target, progress=Progress())  # type: ignore[arg-type]
                context = CompilerContext(calibration=steps.feeds, target=spec, recipe=steps.recipe, source=name)
                context.notes.extend(steps.notes)
                each = [_as_pass(p, lambda *_, own=context: own, [name]) for p in steps.passes]
                module = Sequential(each, name="qcompiler.region")(module)
        return module

    return tvm.transform.module_pass(quantize, opt_level=0, name="qcompiler.quantize")


def _as_pass(
    step: ModulePass, context: Callable[[tvm.IRModule, str], CompilerContext], only: Iterable[str] | None = None
) -> Pass:
    """One of our passes as a TVM pass on all regions, or on those named."""

    def run(module: tvm.IRModule, _: PassContext) -> tvm.IRModule:
        chosen = regions(module)
        module = tvm.IRModule(module.functions, attrs=module.attrs, global_infos=module.global_infos)
        for name in only or chosen:
            model, surroundings = region_model(module, name), context(module, name)
            PassManager((step,)).run(model, surroundings)
            model.notes = list(dict.fromkeys([*model.notes, *surroundings.notes]))
            module.update_func(chosen[name], with_model(module[chosen[name]], model))
        return module

    level = 1 if step.name in _IMPROVEMENTS else 0
    return tvm.transform.module_pass(run, opt_level=level, name=f"qcompiler.{step.name}")
