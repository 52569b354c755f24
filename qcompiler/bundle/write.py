"""Writes a bundle folder, all of it or nothing."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import BundleError
from ..lowering.aot import CompiledProgram
from ..lowering.device import DeviceProgram
from ..lowering.program import Program
from ..targets.toolchain import NATIVE, Toolchain
from .header import c_header
from .link import archive, compile_source, link_shared, weights_object
from .manifest import (
    CMAKE,
    EXAMPLE,
    HEADER,
    MANIFEST,
    PARALLEL,
    WEIGHTS,
    BufferInfo,
    LaunchInfo,
    Manifest,
    StepInfo,
    TensorInfo,
    ValueInfo,
)
from .opencl import write_driver
from .runtime import Bundle, load_bundle, sha256
from .source import source_text


@dataclass(frozen=True)
class BundleContents:
    """What `write_bundle` writes.

    `inputs` and `outputs` describe the program's inputs and outputs in its order. `files` maps further names
    (relative, with `/`) to their content or to a file to copy; `cpu_flags` and `metadata` go to the
    manifest as they are. With `embed_weights` the libraries hold the weights.
    """

    program: Program
    compiled: CompiledProgram | DeviceProgram
    target: Mapping[str, Any]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    values: Mapping[str, ValueInfo] = field(default_factory=dict)
    files: Mapping[str, bytes | str | Path] = field(default_factory=dict)
    cpu_flags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    toolchain: Toolchain = NATIVE
    embed_weights: bool = False


def write_bundle(path: str | Path, contents: BundleContents) -> Bundle:
    """Writes `contents` to the folder `path` and opens it. An older bundle at `path` is replaced.

    Raises:
        BundleError: the folder cannot be written, the disk is full, or `path` is something else than a
        bundle. TargetError: the toolchain is not installed, or fails.
    """
    path = Path(path).absolute()
    _check(contents)
    temporary: Path | None = None
    try:
        if path.is_symlink() or (path.exists() and not _replaceable(path)):
            raise BundleError(f"{path} exists and is not a bundle; choose another folder or remove it")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        new = temporary / "new"
        new.mkdir()
        _fill(new, contents)
        _exchange(new, path, temporary / "old")
    except OSError as error:
        reason = error.strerror or str(error)
        raise BundleError(f"cannot write the bundle {path}: {reason}; free space or choose another folder") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return load_bundle(path)


def _exchange(new: Path, path: Path, old: Path) -> None:
    """Puts `new` at `path`; what was there goes to `old`, and back if the exchange fails."""
    if path.exists():
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise


def _replaceable(path: Path) -> bool:
    return path.is_dir() and ((path / MANIFEST).is_file() or not any(path.iterdir()))


def _check(contents: BundleContents) -> None:
    program = contents.program
    for kind, tensors, names in (
        ("input", contents.inputs, program.inputs),
        ("output", contents.outputs, program.outputs),
    ):
        if [tensor.buffer for tensor in tensors] != list(names):
            raise ValueError(f"{kind}s describe {[t.buffer for t in tensors]}, the program has {list(names)}")
        for tensor in tensors:
            buffer = program.buffers[tensor.buffer]
            if (tensor.nbytes, tensor.dtype) != (buffer.nbytes, buffer.dtype):
                raise ValueError(f"{kind} {tensor.name}: {tensor} does not fit {buffer}")
    for key, value in contents.values.items():
        buffer = program.buffers[value.buffer]
        try:
            value.logical(np.empty(buffer.shape, buffer.dtype))
        except ValueError as error:
            raise ValueError(f"value {key}: {value} does not fit {buffer}") from error
    own = {MANIFEST, WEIGHTS, *_manifest(contents).own_files}
    for name in contents.files:
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or name in own or name != str(parts):
            raise ValueError(f"{name!r} cannot be the name of a further file of a bundle")


def _fill(folder: Path, contents: BundleContents) -> None:
    manifest, compiled = _manifest(contents), contents.compiled
    if isinstance(compiled, DeviceProgram):
        write_driver(folder, manifest, compiled)
    else:
        _write_libraries(folder, manifest, compiled, contents.toolchain)
    for name, content in contents.files.items():
        destination = folder / name
        destination.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, destination)
        else:
            destination.write_bytes(content.encode() if isinstance(content, str) else content)
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    hashes = {file.relative_to(folder).as_posix(): sha256(file) for file in files}
    (folder / MANIFEST).write_text(replace(manifest, files=hashes).to_json(), encoding="utf-8")


def _write_libraries(folder: Path, manifest: Manifest, compiled: CompiledProgram, toolchain: Toolchain) -> None:
    """The libraries, the weights unless they are in them, and the C files for who links them."""
    exports = [f"{manifest.prefix}_{entry}" for entry in ("run", "trace", "step")]
    (folder / HEADER).write_text(c_header(manifest), encoding="utf-8")
    for name in (EXAMPLE, CMAKE, *([PARALLEL] if manifest.threads else [])):
        source = toolchain.launcher if name == PARALLEL else name
        (folder / name).write_text(source_text(source, manifest.prefix), encoding="utf-8")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        objects = [Path(scratch) / f"{number}.o" for number in range(len(compiled.objects))]
        for path, code in zip(objects, compiled.objects, strict=True):
            path.write_bytes(code)
        weights = (Path(scratch) if manifest.weights_embedded else folder) / WEIGHTS
        compiled.weights.blob.tofile(weights)
        if manifest.weights_embedded:
            exports.append(f"{manifest.prefix}_weights")
            objects.append(Path(scratch) / "weights.o")
            weights_object(weights, exports[-1], manifest.alignment, objects[-1], toolchain)
        if manifest.threads:
            exports += [f"{manifest.prefix}_parallel_launch", f"{manifest.prefix}_set_threads"]
            objects.append(Path(scratch) / "parallel.o")
            compile_source(folder / PARALLEL, objects[-1], toolchain)
        link_shared(objects, folder / manifest.library, exports, toolchain)
        archive(objects, folder / manifest.archive, toolchain)


def _manifest(contents: BundleContents) -> Manifest:
    program, compiled = contents.program, contents.compiled
    written = set(program.inputs).union(*(step.outputs for step in program.steps))
    return Manifest(
        prefix=compiled.prefix,
        target=contents.target,
        versions={package: version(package) for package in ("qcompiler", "apache-tvm", "xdsl", "numpy")},
        alignment=program.alignment,
        weight_bytes=int(compiled.weights.blob.size),
        arena_bytes=compiled.plan.arena_bytes,
        arena_lower_bound=compiled.plan.lower_bound,
        trace_arena_bytes=compiled.trace_plan.arena_bytes,
        kernels=compiled.kernels,
        inputs=contents.inputs,
        outputs=contents.outputs,
        steps=tuple(
            StepInfo(s.kernel.rule, s.location, s.inputs, s.outputs, symbol, s.macs, s.kernel.is_tuned)
            for s, symbol in zip(program.steps, _symbols(compiled), strict=True)
        ),
        buffers={
            name: BufferInfo(buffer.shape, buffer.dtype, compiled.trace_plan.offsets.get(name))
            for name, buffer in program.buffers.items()
            if name in written
        },
        values=contents.values,
        files={},
        cpu_flags=contents.cpu_flags,
        weights_embedded=contents.embed_weights,
        threads=isinstance(compiled, CompiledProgram) and compiled.threads,
        driver="opencl" if isinstance(compiled, DeviceProgram) else "",
        launches=_launches(compiled) if isinstance(compiled, DeviceProgram) else (),
        metadata=contents.metadata,
    )


def _launches(compiled: DeviceProgram) -> tuple[LaunchInfo, ...]:
    costs = [asdict(cost) for cost in compiled.costs] or [{} for _ in compiled.launches]
    return tuple(
        LaunchInfo(launch.kernel, launch.step, launch.global_size, launch.local_size, launch.serial, **cost)
        for launch, cost in zip(compiled.launches, costs, strict=True)
    )


def _symbols(compiled: CompiledProgram | DeviceProgram) -> list[str]:
    """For each step the function that it calls; of several kernels on a device the first."""
    if isinstance(compiled, CompiledProgram):
        return [call.symbol for call in compiled.calls]
    first: dict[int, str] = {}
    for launch in compiled.launches:
        first.setdefault(launch.step, launch.kernel)
    return [first[step] for step in sorted(first)]
