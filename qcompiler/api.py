"""The functions that `import qcompiler` offers: import, quantize, compile, run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from xdsl.passes import ModulePass

from qcompiler.errors import ModelError
from qcompiler.exporters.onnx_export import export_onnx
from qcompiler.ir.onnx_dialect import OnnxOp
from qcompiler.ir.values import body, dtype_of, shape
from qcompiler.model import Model
from qcompiler.pipeline import CompilerContext, PassManager, PassRecord, Progress, parse
from qcompiler.targets.spec import resolve_target

if TYPE_CHECKING:
    from onnx import ModelProto

    from qcompiler.bundle import Bundle
    from qcompiler.calibration.cache import SavedCalibration

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


def quantizing_passes(
    *,
    method: str,
    policy: str,
    per_channel: bool,
    keep_float: Sequence[str],
    limit: int | None,
    calibration_cache: Path_ | None = None,
    profile: str | None = None,
    weight_group: int = 0,
    weight_bits: int = 8,
) -> tuple[ModulePass, ...]:
    """From the float graph to quantize and dequantize around every op that is to run in integers."""
    from qcompiler.passes.assign_precision import AssignPrecision
    from qcompiler.passes.calibrate import Calibrate
    from qcompiler.passes.choose_scheme import ChooseScheme
    from qcompiler.passes.group_weights import GroupWeights
    from qcompiler.profiles import resolve_profile

    wide = profile is None or bool(resolve_profile(profile).wide_activations)
    return (
        *parse("canonicalize,fold-batch-norm,decompose-recurrent,canonicalize"),
        Calibrate(method, limit, None if calibration_cache is None else str(calibration_cache)),
        ChooseScheme(policy=policy, per_channel=per_channel, keep_float=tuple(keep_float), profile=profile),
        *((AssignPrecision(policy=policy),) if wide else ()),
        GroupWeights(group=weight_group, bits=weight_bits),
        *parse("correct-bias,insert-qdq"),
    )


def lowering_passes(rounding: str | None = None) -> tuple[ModulePass, ...]:
    """From the QDQ graph to the integer program of the target, ready for code."""
    from qcompiler.passes.legalize import Legalize

    return (*parse("integerize"), Legalize(rounding=rounding), *parse("fold-zero-point,plan-layout,cse,dce"))


def open_feeds(model: Model, calibration: Calibration, limit: int | None = None) -> Iterable[dict[str, np.ndarray]]:
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
    passes = quantizing_passes(
        method=method, policy="auto", per_channel=True, keep_float=(), limit=limit, calibration_cache=path
    )
    front = list(takewhile(lambda p: p.name != "choose-scheme", passes))
    feeds = open_feeds(model, calibration, limit)
    PassManager(tuple(front)).run(model, CompilerContext(calibration=feeds, progress=progress, source=model.source))
    return SavedCalibration.load(path)


def quantize(
    model: Model,
    calibration: Calibration | None,
    *,
    target: str = "host",
    policy: str = "auto",
    method: str | None = None,
    per_channel: bool = True,
    keep_float: Sequence[str] = (),
    limit: int | None = None,
    calibration_cache: Path_ | None = None,
    rounding: str | None = None,
    profile: str | None = None,
    weight_group: int = 0,
    weight_bits: int = 8,
    dump_ir: Path_ | None = None,
    progress: Progress | None = None,
) -> Quantized:
    """Turns a float model into the integer program of a target; `model` is not changed.

    Args:
        calibration: real inputs: a .npz file, a folder of them, or any iterable of dicts of arrays. None for a model
            that is quantized already (QDQ); its own scales are kept.
        target: name of the target, `host`, `host:avx2`...
        policy: auto, symmetric, affine or mixed.
        method: how ranges are taken from calibration: minmax, moving-average, percentile, entropy, mse.
        keep_float: names of nodes that stay float.
        limit: number of calibration samples to use at most.
        calibration_cache: a file for the statistics, used while model and data are the same, else made anew.
        rounding: fp32, fixed or fixed2, in place of the target's own form.
        profile: a runtime whose limits the types must keep, so that it can read an export: onnxruntime, tensorrt...
        weight_group: rows of a matrix product's constant that share a scale in each column; 0: all of a column.
        weight_bits: bits of weights in groups, 8 or 4.
        dump_ir: folder for the text of the module after each pass.

    Raises:
        QCompilerError: see the subclasses.
    """
    spec = resolve_target(target)
    model = model.clone()
    if is_quantized_already(model):
        front: tuple[ModulePass, ...] = parse("import-qdq,canonicalize")
        feeds = None
    else:
        if calibration is None:
            raise ModelError(f"{model.source} is a float model: quantizing it needs calibration data")
        feeds = open_feeds(model, calibration, limit)
        front = quantizing_passes(
            method=method or DEFAULT_METHOD,
            policy=policy,
            per_channel=per_channel,
            keep_float=keep_float,
            limit=limit,
            calibration_cache=calibration_cache,
            profile=profile,
            weight_group=weight_group,
            weight_bits=weight_bits,
        )
    passes = (*front, *lowering_passes(rounding))
    context = CompilerContext(model.store, calibration=feeds, target=spec, progress=progress, source=model.source)
    kept: list[Model] = []
    manager = PassManager(passes, Path(dump_ir) if dump_ir is not None else None)
    manager.after[len(front)] = lambda: kept.append(model.clone())
    manager.run(model, context)
    return Quantized(model, kept[0], target, manager.records, [*model.notes, *context.notes])


DEFAULT_METHOD = "minmax"


def compile(
    model: Model | Quantized | Path_,
    *,
    output: Path_,
    target: str = "host",
    calibration: Calibration | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    progress: Progress | None = None,
    dump_ir: Path_ | None = None,
    **options: Any,
) -> Bundle:
    """Compiles a model to a bundle: shared library, C header, weights, manifest, IR dumps, QDQ model, report.

    A float model, or the path of an ONNX file, is quantized first; `options` are those of `quantize`.

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
        options=options,
    )


def export(model: Model | Quantized, *, form: str = "qdq", profile: str | None = None) -> ModelProto:
    """A quantized model as ONNX for other runtimes, in the format `qdq` or `qoperator`.

    `profile` names the runtime that is to read it (qcompiler.profiles): types it does not take are refused.

    Raises:
        ModelError: the profile does not take it, with the node and the reason, or the module is integer already.
        PipelineError: an unknown format or profile, or a format that the profile does not read.
    """
    from qcompiler.exporters.export import export as write
    from qcompiler.profiles import resolve_profile

    limits = None if profile is None else resolve_profile(profile)
    return write(model.qdq if isinstance(model, Quantized) else model, form, limits)


def load_bundle(path: Path_) -> Bundle:
    """Opens a bundle; its files are checked against the hashes in its manifest.

    Raises:
        BundleError: a file is missing or altered.
    """
    from qcompiler.bundle import load_bundle as load

    return load(Path(path))


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
