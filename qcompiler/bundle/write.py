"""Writes a bundle folder, all of it or nothing."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import BundleError
from ..lowering.aot import CompiledProgram
from ..lowering.program import ALIGNMENT, Program
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
    Manifest,
    StepInfo,
    TensorInfo,
    ValueInfo,
)
from .runtime import Bundle, load_bundle, sha256


@dataclass(frozen=True)
class BundleContents:
    """What `write_bundle` writes.

    `inputs` and `outputs` describe the program's inputs and outputs in its order. `files` maps further names
    (relative, with `/`) to their content or to a file to copy; `cpu_flags` and `metadata` go to the
    manifest as they are. With `embed_weights` the libraries hold the weights.
    """

    program: Program
    compiled: CompiledProgram
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
    manifest = _manifest(contents)
    exports = [f"{manifest.prefix}_{entry}" for entry in ("run", "trace", "step")]
    (folder / HEADER).write_text(c_header(manifest), encoding="utf-8")
    for name in (EXAMPLE, CMAKE, *([PARALLEL] if manifest.threads else [])):
        (folder / name).write_text(source_text(name, manifest.prefix), encoding="utf-8")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        objects = [Path(scratch) / f"{number}.o" for number in range(len(contents.compiled.objects))]
        for path, code in zip(objects, contents.compiled.objects, strict=True):
            path.write_bytes(code)
        weights = (Path(scratch) if contents.embed_weights else folder) / WEIGHTS
        contents.compiled.weights.blob.tofile(weights)
        if contents.embed_weights:
            exports.append(f"{manifest.prefix}_weights")
            objects.append(Path(scratch) / "weights.o")
            weights_object(weights, exports[-1], manifest.alignment, objects[-1], contents.toolchain)
        if manifest.threads:
            exports += [f"{manifest.prefix}_parallel_launch", f"{manifest.prefix}_set_threads"]
            objects.append(Path(scratch) / "parallel.o")
            compile_source(folder / PARALLEL, objects[-1], contents.toolchain)
        link_shared(objects, folder / manifest.library, exports, contents.toolchain)
        archive(objects, folder / manifest.archive, contents.toolchain)
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


def source_text(name: str, prefix: str) -> str:
    """A file of the folder `c`, for the functions and constants of a prefix."""
    text = (Path(__file__).parent / "c" / name).read_text(encoding="utf-8")
    text = re.sub(r"\b(lib)?model(?=_|\.a\b)", rf"\g<1>{prefix}", text)
    return re.sub(r"\bMODEL_", f"{prefix.upper()}_", text)


def _manifest(contents: BundleContents) -> Manifest:
    program, compiled = contents.program, contents.compiled
    written = set(program.inputs).union(*(step.outputs for step in program.steps))
    return Manifest(
        prefix=compiled.prefix,
        target=contents.target,
        versions={package: version(package) for package in ("qcompiler", "apache-tvm", "xdsl", "numpy")},
        alignment=ALIGNMENT,
        weight_bytes=int(compiled.weights.blob.size),
        arena_bytes=compiled.plan.arena_bytes,
        arena_lower_bound=compiled.plan.lower_bound,
        trace_arena_bytes=compiled.trace_plan.arena_bytes,
        kernels=compiled.kernels,
        inputs=contents.inputs,
        outputs=contents.outputs,
        steps=tuple(
            StepInfo(s.kernel.rule, s.location, s.inputs, s.outputs, call.symbol, s.macs)
            for s, call in zip(program.steps, compiled.calls, strict=True)
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
        threads=compiled.threads,
        metadata=contents.metadata,
    )
