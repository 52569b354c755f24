"""Opens and runs a bundle with ctypes; needs neither TVM nor the compiler's other parts."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from ..arithmetic.formats import presented, stored
from ..errors import BundleError
from .manifest import MANIFEST, WEIGHTS, Manifest, TensorInfo

CPUINFO = Path("/proc/cpuinfo")

Arrays = dict[str, np.ndarray]
Clock = Callable[[], float]


def load_bundle(path: str | Path) -> Bundle:
    """Opens the bundle folder `path` and verifies every file's hash.

    Raises:
        BundleError: the folder is no bundle, or a file is missing or altered.
    """
    path = Path(path)
    try:
        text = (path / MANIFEST).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is not a bundle: cannot read {MANIFEST} ({error})") from error
    manifest = Manifest.from_json(text, str(path / MANIFEST))
    if missing := manifest.own_files - set(manifest.files):
        raise BundleError(f"{path / MANIFEST} lists no hash of {', '.join(sorted(missing))}; compile the model again")
    for name, expected in manifest.files.items():
        try:
            found = sha256(path / name)
        except OSError as error:
            raise BundleError(f"{path / name} cannot be read ({error.strerror}); compile the model again") from error
        if found != expected:
            raise BundleError(
                f"{path / name} was altered: its SHA-256 is {found}, {MANIFEST} says {expected}; "
                "compile the model again"
            )
    return Bundle(path, manifest)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Executed:
    """What a call left behind: outputs by name, in C's types, and the arena if it was a traced run."""

    outputs: Arrays
    arena: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint8))


@dataclass(frozen=True)
class _Call:
    """Arguments of an entry; `alive` keeps the memory that they point to."""

    arguments: tuple
    outputs: Arrays
    alive: list[np.ndarray]


class Bundle:
    """A compiled model, opened by `load_bundle`. Runs from several threads wait for each other."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._lock = threading.Lock()

    def set_threads(self, count: int) -> None:
        """Lets `count` threads share the work of `run`, `bench` and `profile`; at first it is one.

        Raises:
            BundleError: the count is below 1, or the bundle was compiled without threads.
        """
        self._check_threads(count)
        with self._lock:
            getattr(self._library, f"{self.manifest.prefix}_set_threads")(ctypes.c_int32(count))

    def _check_threads(self, count: int) -> None:
        if count < 1:
            raise BundleError(f"{self.path}: {count} threads, expected at least 1")
        if self.manifest.driver:
            raise BundleError(f"{self.path} is for a GPU, which shares its work by itself; leave out --threads")
        if not self.manifest.threads:
            raise BundleError(f"{self.path} was compiled for one thread; compile it with --threads (threads=True)")

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Runs the model on arrays of exactly the shapes and dtypes of `manifest.inputs`.

        Tensors with an `element` type are arrays of that type of ml_dtypes; as inputs, those of `dtype` are taken too.

        Raises:
            BundleError: the inputs do not fit, or the library cannot be loaded on this machine.
        """
        return next(self.run_many([inputs]))

    def run_many(self, samples: Iterable[Mapping[str, np.ndarray]]) -> Iterator[Arrays]:
        """`run` on each sample; they are read ahead where several go to one process."""
        for _, executed in self._execute("run", samples):
            yield {t.name: presented(executed.outputs[t.name], t.element) for t in self.manifest.outputs}

    def trace(self, inputs: Mapping[str, np.ndarray], *, logical: bool = False) -> Arrays:
        """Runs the model and returns every intermediate tensor.

        By default the keys are buffer names and the arrays physical (see `ValueInfo`), program inputs and
        outputs included. With `logical=True` the keys are those of `manifest.values` and the arrays have
        logical shapes.
        """
        return next(self.trace_many([inputs], logical=logical))

    def trace_many(self, samples: Iterable[Mapping[str, np.ndarray]], *, logical: bool = False) -> Iterator[Arrays]:
        """`trace` on each sample; they are read ahead where several go to one process."""
        for inputs, executed in self._execute("trace", samples):
            buffers = self._buffers(inputs, executed)
            if logical:
                yield {key: value.logical(buffers[value.buffer]) for key, value in self.manifest.values.items()}
            else:
                yield buffers

    def _buffers(self, inputs: list[np.ndarray], executed: Executed) -> Arrays:
        """All buffers of a traced run, in physical shape."""
        external = {t.buffer: array for t, array in zip(self.manifest.inputs, inputs, strict=True)}
        external |= {t.buffer: executed.outputs[t.name] for t in self.manifest.outputs}
        buffers = {}
        for name, info in self.manifest.buffers.items():
            if info.offset is None:
                buffers[name] = external[name].reshape(info.shape)
            else:
                size = int(np.prod(info.shape, dtype=np.int64)) * np.dtype(info.dtype).itemsize
                data = executed.arena[info.offset : info.offset + size].view(info.dtype)
                buffers[name] = data.reshape(info.shape).copy()
        return buffers

    def bench(
        self, repeats: int, inputs: Mapping[str, np.ndarray] | None = None, clock: Clock = time.perf_counter
    ) -> list[float]:
        """Seconds by `clock` of each of `repeats` runs after one to warm up; inputs are zeros unless given."""
        with self._lock:
            call = self._call(self._checked(self._or_zeros(inputs)), self._arena)
            entry = self._entry("run")
            entry(*call.arguments)
            times = []
            for _ in range(repeats):
                start = clock()
                entry(*call.arguments)
                times.append(clock() - start)
        return times

    def profile(
        self, repeats: int, inputs: Mapping[str, np.ndarray] | None = None, clock: Clock = time.perf_counter
    ) -> list[float]:
        """Seconds of each of `manifest.steps`, median of `repeats` runs; inputs are zeros unless given."""
        with self._lock:
            call = self._call(self._checked(self._or_zeros(inputs)), self._arena)
            entry = self._entry("step")
            times = np.empty((repeats, len(self.manifest.steps)))
            for run in range(repeats):
                for step in range(times.shape[1]):
                    start = clock()
                    entry(*call.arguments, step)
                    times[run, step] = clock() - start
        return np.median(times, axis=0).tolist()

    def _execute(
        self, entry: Literal["run", "trace"], samples: Iterable[Mapping[str, np.ndarray]]
    ) -> Iterator[tuple[list[np.ndarray], Executed]]:
        """Calls an entry on each sample: the checked inputs, and what came of them. Arenas are those of `trace`."""
        for sample in samples:
            inputs = self._checked(sample)
            if entry == "trace":
                arena = aligned_zeros(self.manifest.trace_arena_bytes, self.manifest.alignment)
                call = self._call(inputs, arena)
                self._entry(entry)(*call.arguments)
                yield inputs, Executed(call.outputs, arena)
                continue
            with self._lock:
                call = self._call(inputs, self._arena)
                self._entry(entry)(*call.arguments)
            yield inputs, Executed(call.outputs)

    @cached_property
    def _library(self) -> ctypes.CDLL:
        if self.manifest.driver:
            raise BundleError(
                f"{self.path} is for {self.manifest.target.get('name')} and has a driver in C (model.c), not a "
                "library: run it there, or here with --emulate (load_bundle(..., emulate=True))"
            )
        architecture = str(self.manifest.target.get("mtriple", "")).partition("-")[0]
        if architecture and architecture != machine():
            raise BundleError(
                f"{self.path} is for {self.manifest.target.get('name', architecture)}, and this machine is "
                f"{machine()}: run it there, or here with --emulate (load_bundle(..., emulate=True))"
            )
        available = own_cpu_flags()
        if available is not None and (lacking := sorted(set(self.manifest.cpu_flags) - available)):
            raise BundleError(
                f"{self.path} needs the CPU features {', '.join(lacking)}, which this machine lacks; "
                f"it was compiled for {dict(self.manifest.target)}, compile the model for this machine"
            )
        # The loader takes a library of a path that it has loaded before for the same, even if the file is another by
        # now: a bundle compiled anew in its folder would run old code. So each bundle loads through a path of its own.
        try:
            with tempfile.TemporaryDirectory() as folder:
                link = Path(folder) / self.manifest.library
                link.symlink_to((self.path / self.manifest.library).absolute())
                return ctypes.CDLL(str(link))
        except OSError as error:
            raise BundleError(
                f"{self.path / self.manifest.library} cannot be loaded on this machine ({error}); "
                f"it was compiled for {dict(self.manifest.target)}"
            ) from error

    @cached_property
    def _weights(self) -> np.ndarray:
        if self.manifest.weights_embedded:
            kind = ctypes.c_uint8 * self.manifest.weight_bytes
            return np.ctypeslib.as_array(kind.in_dll(self._library, f"{self.manifest.prefix}_weights"))
        return np.memmap(self.path / WEIGHTS, np.uint8, mode="r")

    @cached_property
    def _arena(self) -> np.ndarray:
        return aligned_zeros(self.manifest.arena_bytes, self.manifest.alignment)

    def _entry(self, name: str) -> ctypes._FuncPointer:
        entry = getattr(self._library, f"{self.manifest.prefix}_{name}")
        entry.restype = ctypes.c_int32
        entry.argtypes = [ctypes.c_void_p] * 4 + ([ctypes.c_int32] if name == "step" else [])
        return entry

    def _call(self, read: list[np.ndarray], arena: np.ndarray) -> _Call:
        written = {tensor.name: self._aligned_zeros(tensor) for tensor in self.manifest.outputs}
        pointers = [_pointers(read), _pointers(list(written.values()))]
        return _Call((*pointers, self._weights.ctypes.data, arena.ctypes.data), written, [*read, arena])

    def _checked(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The inputs in order, copied where they are not contiguous and aligned."""
        expected = [tensor.name for tensor in self.manifest.inputs]
        if set(inputs) != set(expected):
            raise BundleError(f"{self.path}: inputs are named {sorted(inputs)}, expected {expected}")
        arrays = []
        for tensor in self.manifest.inputs:
            array = stored(np.asarray(inputs[tensor.name]))
            if array.shape != tensor.shape or array.dtype != np.dtype(tensor.dtype):
                raise BundleError(
                    f"{self.path}: input {tensor.name!r} is {array.dtype}{list(array.shape)}, "
                    f"expected {tensor.dtype}{list(tensor.shape)}"
                )
            if not array.flags.c_contiguous or array.ctypes.data % self.manifest.alignment:
                copy = self._aligned_zeros(tensor)
                copy[...] = array
                array = copy
            arrays.append(array)
        return arrays

    def _or_zeros(self, inputs: Mapping[str, np.ndarray] | None) -> Mapping[str, np.ndarray]:
        return inputs if inputs is not None else {t.name: self._aligned_zeros(t) for t in self.manifest.inputs}

    def _aligned_zeros(self, tensor: TensorInfo) -> np.ndarray:
        data = aligned_zeros(tensor.nbytes, self.manifest.alignment)
        return data.view(tensor.dtype).reshape(tensor.shape)


def machine() -> str:
    """The architecture of this machine as LLVM's triples spell it."""
    name = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(name, name)


def own_cpu_flags() -> set[str] | None:
    """Features of this machine's CPU, None where the system does not tell."""
    try:
        text = CPUINFO.read_text(encoding="utf-8")
    except OSError:
        return None
    lines = (line.partition(":") for line in text.splitlines())
    return next((set(value.split()) for key, _, value in lines if key.strip() in ("flags", "Features")), None)


def _pointers(arrays: Sequence[np.ndarray]) -> ctypes.Array:
    return (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))


def aligned_zeros(nbytes: int, alignment: int) -> np.ndarray:
    """`nbytes` zero bytes whose address is a multiple of `alignment`."""
    data = np.zeros(nbytes + alignment, np.uint8)
    start = -data.ctypes.data % alignment
    return data[start : start + nbytes]
