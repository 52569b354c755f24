"""From a model to a bundle on disk."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation, SSAValue

from qcompiler.api import Calibration, Quantized, import_onnx, quantize
from qcompiler.bundle import Bundle, BundleContents, TensorInfo, ValueInfo, write_bundle
from qcompiler.bundle.link import link_shared
from qcompiler.errors import PipelineError, TargetError
from qcompiler.exporters.onnx_export import export_onnx, save_onnx
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.values import (
    body,
    dtype_of,
    input_names,
    is_quantized,
    location_names,
    output_names,
    quantized,
    rank,
    shape,
    small_type,
)
from qcompiler.lowering.aot import CompiledProgram
from qcompiler.lowering.device import DeviceProgram
from qcompiler.lowering.lower import Lowering
from qcompiler.lowering.work_groups import Size, WorkGroups, read_work_groups
from qcompiler.model import Model
from qcompiler.passes.plan_layout import channels_last
from qcompiler.pipeline import Progress
from qcompiler.report.describe import describe_model
from qcompiler.report.placement import placement_notes
from qcompiler.targets.spec import resolve_target
from qcompiler.targets.toolchain import AARCH64_LINUX
from qcompiler.tuning import Tuning

FORMS = ("bundle", "tvm")
TVM_LIBRARY = "model.tvm.so"


def write(
    model: Model | Quantized | Path,
    *,
    output: Path,
    target: str,
    calibration: Calibration | None,
    shapes: Mapping[str, tuple[int, ...]] | None,
    progress: Progress,
    dump_ir: Path | None,
    embed_weights: bool,
    form: str,
    threads: bool,
    prefix: str,
    tune: int,
    tuning_database: Path | None,
    work_groups: WorkGroups | None,
    options: Mapping[str, Any],
) -> Bundle:
    """See `qcompiler.compile`."""
    if form not in FORMS:
        raise PipelineError(f"unknown format '{form}': expected {' or '.join(FORMS)}")
    if not re.fullmatch("[A-Za-z][A-Za-z0-9_]*", prefix):
        raise PipelineError(
            f"the prefix {prefix!r} cannot begin the names of C functions: expected letters, digits and underscores, "
            "a letter first"
        )
    spec = resolve_target(target)
    if spec.driver:
        _check_for_device(target, embed_weights, threads, tune > 0 or tuning_database is not None)
    elif work_groups is not None:
        raise PipelineError(f"{target} has no work-groups, as GPUs have; leave out --work-groups (work_groups)")
    sizes = {} if work_groups is None else read_work_groups(work_groups)
    tuning = Tuning(tune, tuning_database, spec)
    with tempfile.TemporaryDirectory() as scratch:
        dumps = dump_ir or Path(scratch) / "ir"
        if not isinstance(model, Quantized):
            if not isinstance(model, Model):
                progress.step("import")
                model = import_onnx(model, shapes)
            model = quantize(model, calibration, target=target, progress=progress, dump_ir=dumps, **options)
        elif model.target != target:
            raise TargetError(f"the model was quantized for {model.target}, not for {target}; quantize it again")
        else:
            dumps = Path(scratch) / "ir"
            dumps.mkdir()
            model.model.save(dumps / "000_program.mlir")
        lowering = tuning.lower(model.model, progress)
        progress.step("build")
        machine = {"kind": spec.driver} if spec.driver else lowering.kernels.tvm_target(spec)
        compiled = _build(lowering, machine, threads, prefix, sizes)
        notes = [*model.notes, *tuning.notes]
        if isinstance(compiled, DeviceProgram):
            notes += placement_notes(lowering.program, compiled)
        files: dict[str, bytes | str | Path] = {
            f"ir/{file.name}": file for file in sorted(dumps.glob("[0-9][0-9][0-9]_*")) if dumps.is_dir()
        }
        qdq = export_onnx(model.qdq.module, model.qdq.store)
        files |= {file.name: file for file in save_onnx(qdq, Path(scratch) / "model.qdq.onnx")}
        files["report.json"] = json.dumps(
            {
                "passes": [asdict(r) for r in model.records],
                "notes": notes,
                "module": asdict(describe_model(model.model)),
            },
            indent=1,
        )
        files["recipe.toml"] = model.recipe.text()
        inputs, outputs = _arguments(lowering), _results(lowering)
        if form == "tvm":
            library = Path(scratch) / TVM_LIBRARY
            extents = {tensor.buffer: tensor.shape for tensor in (*inputs, *outputs)}
            _export_for_tvm(lowering, compiled, machine, extents, library)
            files[TVM_LIBRARY] = library
        progress.step("write")
        contents = BundleContents(
            program=lowering.program,
            compiled=compiled,
            target={"name": spec.name, **machine},
            inputs=inputs,
            outputs=outputs,
            values=_values(lowering),
            files=files,
            cpu_flags=() if spec.driver else tuple(lowering.kernels.cpu_flags(spec)),
            metadata={"model": model.model.source},
            toolchain=spec.toolchain,
            embed_weights=embed_weights,
        )
        return write_bundle(output, contents)


def _check_for_device(target: str, embed_weights: bool, threads: bool, tunes: bool) -> None:
    """Refuses options of code for a CPU."""
    if tunes:
        raise PipelineError(f"kernels for {target} are not tuned; leave out --tune and --tuning-database (tune=N)")
    if threads:
        raise PipelineError(f"{target} is a GPU, which shares its work by itself; leave out --threads (threads=True)")
    if embed_weights:
        raise PipelineError(
            f"a bundle for {target} has no library to hold the weights, its driver takes them from weights.bin; "
            "leave out --embed-weights (embed_weights=True)"
        )


def _build(
    lowering: Lowering, machine: dict[str, Any], threads: bool, prefix: str, work_groups: Mapping[str, Size]
) -> CompiledProgram | DeviceProgram:
    if lowering.spec.driver:
        from qcompiler.lowering.opencl import build_device_program

        return build_device_program(lowering.program, lowering.spec, work_groups, prefix=prefix)
    from qcompiler.lowering.aot import build_object

    return build_object(lowering.program, machine, threads=threads, prefix=prefix)


def _export_for_tvm(
    lowering: Lowering,
    compiled: CompiledProgram | DeviceProgram,
    machine: dict[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    library: Path,
) -> None:
    from qcompiler.lowering.relax_program import EXPORTS, export_executable

    toolchain = AARCH64_LINUX if isinstance(compiled, DeviceProgram) else lowering.spec.toolchain
    link = partial(link_shared, exports=EXPORTS, toolchain=toolchain, incomplete=True)
    if isinstance(compiled, DeviceProgram):
        from qcompiler.lowering.relax_device import PHONE, export_device_executable

        export_device_executable(lowering.program, compiled, PHONE, shapes, library, link)
    else:
        export_executable(lowering.program, compiled, machine, shapes, library, link)


def _tensor(name: str, buffer: str, value: SSAValue) -> TensorInfo:
    kind = quantized(value) if is_quantized(value) else None
    scale, zero = (None, None) if kind is None else (float(kind.scale), kind.zero_point)
    return TensorInfo(name, buffer, shape(value), str(dtype_of(value)), scale, zero, small_type(value))


def _arguments(lowering: Lowering) -> tuple[TensorInfo, ...]:
    module = lowering.model.module
    names = zip(input_names(module), lowering.program.inputs, body(module).args, strict=True)
    return tuple(_tensor(*triple) for triple in names)


def _results(lowering: Lowering) -> tuple[TensorInfo, ...]:
    module = lowering.model.module
    last = body(module).last_op
    assert isinstance(last, ReturnOp)
    names = zip(output_names(module), lowering.program.outputs, last.operands, strict=True)
    return tuple(_tensor(*triple) for triple in names)


def _values(lowering: Lowering) -> dict[str, ValueInfo]:
    """Where every value that the program stores lies in a traced run."""
    images = channels_last(lowering.model.module)
    found: dict[str, ValueInfo] = {}
    written = {name for step in lowering.program.steps for name in step.outputs}
    for value, place in lowering.places.items():
        if place not in written:
            continue
        view = lowering.views[value]
        image = value in images or any(view.halo)
        extent = tuple(shape(value))
        kind = quantized(value) if is_quantized(value) else None
        turned = image and rank(value) == 4
        found[lowering.names[value]] = ValueInfo(
            buffer=place,
            shape=(extent[0], extent[3], extent[1], extent[2]) if turned else extent,
            layout="NHWC-halo" if turned else "row-major",
            halo=view.halo,
            storage="" if kind is None else kind.storage,
            location="+".join(location_names(value.owner)) if isinstance(value.owner, Operation) else "",
            **_meaning(kind, turned),
        )
    return found


def _meaning(kind: UniformType | None, turned: bool) -> dict[str, Any]:
    """Scales and zero points of a value, as `ValueInfo` has them; a `turned` one is shown channels first."""
    if kind is None:
        return {}
    if kind.per_tensor:
        return {"scale": float(kind.scale), "zero_point": kind.zero_point}
    axis = 1 if turned else kind.axis
    return {"axis": axis, "scales": tuple(map(float, kind.scales)), "zero_points": tuple(map(int, kind.zero_points))}
