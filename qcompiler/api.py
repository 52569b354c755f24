"""The functions that `import qcompiler` offers: import, quantize, compile, run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from xdsl.passes import ModulePass

from qcompiler.errors import ModelError, PipelineError
from qcompiler.exporters.onnx_export import export_onnx
from qcompiler.ir.onnx_dialect import OnnxOp
from qcompiler.ir.values import body, dtype_of, shape
from qcompiler.model import Model
from qcompiler.options import QuantizeOptions
from qcompiler.pipeline import CompilerContext, PassManager, PassRecord, Progress, parse
from qcompiler.profiles import check_recipe, resolve_profile
from qcompiler.recipe import Recipe
from qcompiler.targets.spec import resolve_target

if TYPE_CHECKING:
    from onnx import ModelProto

    from qcompiler.bundle import Bundle
    from qcompiler.calibration.cache import SavedCalibration
    from qcompiler.lowering.work_groups import WorkGroups

Path_ = str | os.PathLike[str]
Calibration = Path_ | Iterable[Mapping[str, np.ndarray]]


@dataclass
class Quantized:
    """What `quantize` made: the integer program, the QDQ form it came from, and how it went."""

    model: Model
    qdq: Model
    target: str
    records: list[PassRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    recipe: Recipe = field(default_factory=Recipe)
    """What was in effect: quantizing with it again gives the same integers."""


def import_onnx(path: Path_, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Model:
    """Reads an ONNX model; `shapes` gives the shapes of inputs whose dimensions are symbolic.

    Raises:
        ModelError: the file cannot be read, or holds what cannot be compiled; the message names the node.
    """
    from qcompiler.frontends.onnx_import import import_graph
    from qcompiler.frontends.onnx_load import load_onnx

    loaded = load_onnx(Path(path), shapes)
    model = import_graph(loaded.proto, loaded.arrays, str(path))
    model.notes.extend(loaded.notes)
    return model


_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")


def is_quantized_already(model: Model) -> bool:
    """Whether the model came with quantized ops."""
    return any(isinstance(op, OnnxOp) and op.SCHEMA.name in _QUANTIZED for op in body(model.module).ops)


def front_passes(options: QuantizeOptions) -> tuple[ModulePass, ...]:
    """What becomes of the float graph before it is calibrated."""
    return parse("canonicalize,fold-batch-norm,decompose-recurrent,canonicalize" + (",equalize" * options.equalize))


def quantizing_passes(options: QuantizeOptions) -> tuple[ModulePass, ...]:
    """From the float graph to quantize and dequantize around every op that is to run in integers."""
    from qcompiler.passes.apply_recipe import ApplyRecipe
    from qcompiler.passes.assign_precision import AssignPrecision
    from qcompiler.passes.calibrate import Calibrate
    from qcompiler.passes.choose_scheme import ChooseScheme
    from qcompiler.passes.group_weights import GroupWeights
    from qcompiler.passes.smooth import Smooth

    cache = None if options.calibration_cache is None else str(options.calibration_cache)
    calibrate = Calibrate(options.method, options.limit)
    smooth = () if options.smooth is None else (calibrate, Smooth(options.smooth))
    layers = options.recipe.layers if options.recipe is not None else ()
    half = any(rule.precision == "float16" for rule in layers)
    wide = options.profile is None or bool(resolve_profile(options.profile).wide_activations)
    correct = {"none": "", "analytic": "correct-bias", "empirical": "correct-bias,correct-bias-empirical"}
    return (
        *front_passes(options),
        *smooth,
        replace(calibrate, cache=cache),
        *((ApplyRecipe(),) if layers or options.keep_float else ()),
        ChooseScheme(policy=options.policy, per_channel=options.per_channel, profile=options.profile),
        *((AssignPrecision(policy=options.policy),) if options.assign_precision and wide else ()),
        GroupWeights(group=options.weight_group, bits=options.weight_bits),
        *parse("round-weights" if options.weight_rounding == "gptq" else ""),
        *parse(correct[options.bias_correction]),
        *parse("store-float16,compute-float16" if half else ""),
        *parse("insert-qdq"),
    )


def lowering_passes(rounding: str | None = None) -> tuple[ModulePass, ...]:
    """From the QDQ graph to the integer program of the target, ready for code."""
    from qcompiler.passes.legalize import Legalize

    return (*parse("integerize"), Legalize(rounding=rounding), *parse("fold-zero-point,plan-layout,cse,dce"))


def open_feeds(model: Model, calibration: Calibration, limit: int | None = None) -> Iterable[Mapping[str, np.ndarray]]:
    """Checked feeds for a model from a file, a folder, or an iterable of dicts of arrays.

    Raises:
        CalibrationError: data that is empty, or of the wrong name, shape or type, or not finite.
    """
    from qcompiler.calibration.cache import SavedCalibration
    from qcompiler.calibration.data import open_calibration

    if isinstance(calibration, SavedCalibration):
        return calibration
    if isinstance(calibration, str | os.PathLike) and Path(calibration).suffix == ".safetensors":
        return SavedCalibration.load(Path(calibration))
    arguments = body(model.module).args
    inputs = {n: (shape(a), dtype_of(a)) for n, a in zip(model.inputs, arguments, strict=True)}
    return open_calibration(calibration, inputs, limit)


def calibrate(
    model: Model,
    calibration: Calibration,
    output: Path_,
    *,
    method: str = "minmax",
    limit: int | None = None,
    progress: Progress | None = None,
) -> SavedCalibration:
    """Writes the statistics that `quantize` takes of a model and a shard of data to a file, which can stand for it.

    Raises:
        QCompilerError: see the subclasses.
    """
    from itertools import takewhile

    from qcompiler.calibration.cache import SavedCalibration

    model = model.clone()
    path = Path(output)
    path.unlink(missing_ok=True)
    passes = quantizing_passes(QuantizeOptions(method=method, limit=limit, calibration_cache=path))
    front = list(takewhile(lambda p: p.name != "choose-scheme", passes))
    feeds = open_feeds(model, calibration, limit)
    PassManager(tuple(front)).run(model, CompilerContext(calibration=feeds, progress=progress, source=model.source))
    return SavedCalibration.load(path)


def quantize(
    model: Model,
    calibration: Calibration | None,
    *,
    target: str = "host",
    dump_ir: Path_ | None = None,
    write_recipe: Path_ | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Quantized:
    """Turns a float model into the integer program of a target; `model` is not changed.

    Args:
        calibration: real inputs: a .npz file, a folder of them, or any iterable of dicts of arrays. None for a model
            that is quantized already (QDQ); its own scales are kept.
        target: name of the target, `host`, `host:avx2`...
        dump_ir: folder for the text of the module after each pass.
        write_recipe: file for the recipe in effect; a search writes each improvement to it.
        options: the fields of qcompiler.options.QuantizeOptions: policy, method, keep_float, recipe, min_sqnr...

    Raises:
        QCompilerError: see the subclasses.
    """
    spec = resolve_target(target)
    chosen = QuantizeOptions.of(**options)
    progress = progress or Progress()
    model = model.clone()
    with tempfile.TemporaryDirectory() as folder:
        steps = plan(
            model, calibration, chosen, Path(folder), target=target, progress=progress, write_recipe=write_recipe
        )
        recipe = steps.recipe
        context = CompilerContext(
            model.store, calibration=steps.feeds, target=spec, recipe=recipe, progress=progress, source=model.source
        )
        kept: list[Model] = []
        manager = PassManager(steps.passes, Path(dump_ir) if dump_ir is not None else None)
        manager.after[len(steps.front)] = lambda: kept.append(model.clone())
        manager.run(model, context)
    if write_recipe is not None:
        recipe.save(write_recipe)
    return Quantized(model, kept[0], target, manager.records, [*steps.notes, *context.notes], recipe)


@dataclass(frozen=True)
class Plan:
    """What `quantize` does to one model: passes up to the QDQ form, those behind it, and what they need."""

    front: tuple[ModulePass, ...]
    back: tuple[ModulePass, ...]
    feeds: Iterable[Mapping[str, np.ndarray]] | None
    recipe: Recipe
    notes: tuple[str, ...]

    @property
    def passes(self) -> tuple[ModulePass, ...]:
        return (*self.front, *self.back)


def plan(
    model: Model,
    calibration: Calibration | None,
    options: QuantizeOptions,
    folder: Path,
    *,
    target: str,
    progress: Progress,
    write_recipe: Path_ | None = None,
) -> Plan:
    """The passes that quantize a model, with the recipe that a search found if the options name a goal.

    `folder` holds the statistics of a search; it has to last until the passes have run.

    Raises:
        QCompilerError: as `quantize` does.
    """
    back = lowering_passes(options.rounding)
    if is_quantized_already(model):
        if options.searches or options.keep_float or (options.recipe is not None and options.recipe.layers):
            raise PipelineError(f"{model.source} is quantized already; a recipe cannot change its types")
        return Plan(parse("import-qdq,canonicalize"), back, None, Recipe(), tuple(model.notes))
    if calibration is None:
        raise ModelError(f"{model.source} is a float model: quantizing it needs calibration data")
    feeds = open_feeds(model, calibration, options.limit)
    notes = list(model.notes)
    if options.searches:
        options = replace(options, calibration_cache=options.calibration_cache or folder / "calibration.safetensors")
        options, note = _search(model, feeds, options, target, progress, write_recipe)
        notes.append(note)
    recipe = options.in_effect(model.source)
    if options.profile is not None:
        check_recipe(recipe, resolve_profile(options.profile))
    return Plan(quantizing_passes(options), back, feeds, recipe, tuple(notes))


def _search(
    model: Model,
    feeds: Calibration,
    options: QuantizeOptions,
    target: str,
    progress: Progress,
    write_recipe: Path_ | None,
) -> tuple[QuantizeOptions, str]:
    """Options with the recipe that reaches their goal, or comes closest, and a sentence about it."""
    from qcompiler.precision_search import search

    progress.step("search")
    base = options.in_effect(model.source)
    start = options.with_recipe(base)
    goal = {"min_sqnr": options.min_sqnr, "accuracy_drop": options.accuracy_drop}
    found = search(model, feeds, output=write_recipe, target=target, progress=progress, **{**vars(start), **goal})
    recipe = base.extended(found.recipe.layers)
    if write_recipe is not None:
        recipe.save(write_recipe)
    if found.interrupted:
        raise KeyboardInterrupt
    unit = " dB" if options.min_sqnr is not None else " of the outputs agree"
    best = "" if found.met else "; this is the best found, the goal was not reached"
    note = (
        f"the search names {len(found.recipe.layers)} layers, and simulates {found.value:.4g}{unit} where "
        f"{found.wanted:.4g} are wanted; the integer program has {found.confirmed:.1f} dB{best}"
    )
    return options.with_recipe(recipe), note


def compile(
    model: Model | Quantized | Path_,
    *,
    output: Path_,
    target: str = "host",
    calibration: Calibration | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    progress: Progress | None = None,
    dump_ir: Path_ | None = None,
    write_recipe: Path_ | None = None,
    embed_weights: bool = False,
    form: str = "bundle",
    threads: bool = False,
    prefix: str = "model",
    tune: int = 0,
    tuning_database: Path_ | None = None,
    work_groups: WorkGroups | None = None,
    **options: Any,
) -> Bundle:
    """Compiles a model to a bundle: libraries, C header, weights, manifest, IR dumps, QDQ model, report, recipe.

    A float model, or the path of an ONNX file, is quantized first; `options` are those of `quantize`. With
    `embed_weights` the libraries hold the weights, and there is no weights.bin. With the form `tvm` the bundle also
    holds `model.tvm.so`, a Relax executable for TVM's runtime (docs/bundle.md). With `threads` the work is cut so that
    threads can share it; how many is decided when it runs (`Bundle.set_threads`). `prefix` begins all C names and
    the libraries' names, so that several models fit into one program. `work_groups` are sizes by kernel, or a JSON file
    of them, for a GPU (docs/mali.md).

    With `tune`, so many choices of kernels are measured on this machine, and the fastest taken. `tuning_database` is a
    folder for what was found, TVM's own database: its kernels need no measuring again (docs/tvm.md).

    Raises:
        QCompilerError: see the subclasses. Nothing is written then.
    """
    from qcompiler.compiler import write

    progress = progress or Progress()
    return write(
        model if isinstance(model, Model | Quantized) else Path(model),
        output=Path(output),
        target=target,
        calibration=calibration,
        shapes=shapes,
        progress=progress,
        dump_ir=None if dump_ir is None else Path(dump_ir),
        embed_weights=embed_weights,
        form=form,
        threads=threads,
        prefix=prefix,
        tune=tune,
        tuning_database=None if tuning_database is None else Path(tuning_database),
        work_groups=work_groups,
        options={"write_recipe": write_recipe, **options},
    )


def export(model: Model | Quantized, *, form: str = "qdq", profile: str | None = None) -> ModelProto:
    """A quantized model as ONNX for other runtimes, in the format `qdq` or `qoperator`.

    `profile` names the runtime that is to read it (qcompiler.profiles): types it does not take are refused.

    Raises:
        ModelError: the profile does not take it, with the node and the reason, or the module is integer already.
        PipelineError: an unknown format or profile, or a format that the profile does not read.
    """
    from qcompiler.exporters.export import export as write

    limits = None if profile is None else resolve_profile(profile)
    return write(model.qdq if isinstance(model, Quantized) else model, form, limits)


def load_bundle(path: Path_, *, emulate: bool = False) -> Bundle:
    """Opens a bundle; its files are checked against the hashes in its manifest.

    With `emulate` it runs in the emulator of its target: for bundles that were compiled for another machine.

    Raises:
        BundleError: a file is missing or altered, or the target has no emulator.
    """
    from qcompiler.bundle import load_bundle, load_emulated

    return load_emulated(Path(path)) if emulate else load_bundle(Path(path))


def interpret(model: Model | Quantized, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of a model on one set of inputs, computed by the interpreter."""
    from qcompiler.interpreter import interpret as run

    return run(model.model if isinstance(model, Quantized) else model, feeds)


__all__ = [
    "Quantized",
    "compile",
    "export",
    "export_onnx",
    "import_onnx",
    "interpret",
    "load_bundle",
    "quantize",
]
