"""Runs a bundle for another machine: a static program around its library, in the emulator of its target, or a program
around its driver, on an OpenCL device of this machine."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from ..errors import BundleError, TargetError
from ..targets.spec import resolve_target
from ..targets.toolchain import NATIVE, Toolchain
from .link import link_driver, link_program
from .manifest import KERNELS, MANIFEST, WEIGHTS, Manifest, TensorInfo
from .runtime import Arrays, Bundle, Clock, Executed, load_bundle
from .source import source_text

Mode = Literal["run", "trace", "step", "count"]

OPENCL_INSTALL = "apt-get install pocl-opencl-icd ocl-icd-libopencl1"

_NO_DEVICE = (11, 12)
"""Exit codes of `c/opencl/emulated.c`: ten more than the driver's MODEL_NO_LIBRARY and MODEL_NO_DEVICE."""

_EMULATED_HALF = "-DQCOMPILER_EMULATE_HALF"
"""Lets a device without float16 do it by float32, with the same results."""

_BATCH_BYTES = 64 << 20
"""A process gets as many samples as keep its files below this size."""


def load_emulated(path: str | Path) -> EmulatedBundle:
    """Opens the bundle folder `path`, to run in the emulator of its target.

    Raises:
        BundleError: the folder is no bundle, a file is missing or altered, or the target has no emulator.
        TargetError: the bundle's target is unknown here.
    """
    bundle = load_bundle(path)
    if bundle.manifest.driver:
        return DeviceBundle(bundle.path, bundle.manifest, NATIVE)
    target = str(bundle.manifest.target["name"])
    toolchain = resolve_target(target).toolchain
    if not toolchain.emulator:
        raise BundleError(f"{bundle.path} is for {target}, which has no emulator; run it without --emulate")
    return EmulatedBundle(bundle.path, bundle.manifest, toolchain)


class EmulatedBundle(Bundle):
    """A bundle that runs under an emulator: the same integers, at a hundredth of the speed or so."""

    def __init__(self, path: Path, manifest: Manifest, toolchain: Toolchain) -> None:
        super().__init__(path, manifest)
        self.toolchain = toolchain
        self._threads = 1

    _source = "emulated.c"
    """Of the folder `c`: the program that runs the model on files of samples."""

    @cached_property
    def program(self) -> Path:
        """The static executable of `c/emulated.c` and the bundle's library, made once for each bundle.

        Raises:
            TargetError: the toolchain is not installed, or fails.
        """
        sources = {
            name: source_text(file, self.manifest.prefix)
            for name, file in (("emulated.c", self._source), ("samples.h", "samples.h"))
        }
        key = hashlib.sha256((self.path / MANIFEST).read_bytes())
        key.update("\0".join([*sources.values(), *self.toolchain.compiler]).encode())
        program = _cache() / key.hexdigest()[:32]
        if not program.exists():
            with tempfile.TemporaryDirectory(dir=program.parent) as folder:
                for name, source in sources.items():
                    (Path(folder) / name).write_text(source, encoding="utf-8")
                self._link(Path(folder) / "emulated.c", Path(folder) / "program")
                os.replace(Path(folder) / "program", program)
        return program

    def _link(self, source: Path, program: Path) -> None:
        link_program(source, self.path / self.manifest.archive, self.path, program, self.toolchain)

    def execute(
        self,
        mode: Mode,
        samples: Sequence[Mapping[str, np.ndarray]],
        *,
        repeats: int = 1,
        options: Sequence[str] = (),
    ) -> list[Executed]:
        """Runs all samples in one process, each `repeats` times; `options` are further ones of the emulator.

        `step` runs the model with one call for each step, and `count` too, with an emulator that has counters. Arenas
        are returned by `trace` only; in place of them `count` returns what `c/emulated.c` says.

        Raises:
            BundleError: the inputs do not fit, or the program fails.
            TargetError: the toolchain is not installed.
        """
        return self._process(mode, [self._checked(sample) for sample in samples], repeats, options)

    def set_threads(self, count: int) -> None:
        """As in `Bundle`; each process has its threads."""
        self._check_threads(count)
        self._threads = count

    def bench(
        self, repeats: int, inputs: Mapping[str, np.ndarray] | None = None, clock: Clock | None = None
    ) -> list[float]:
        """Raises BundleError: the time of an emulator says nothing about the machine."""
        raise BundleError(f"{self.path} runs under an emulator, whose time says nothing about {self._target}")

    profile = bench

    @property
    def _target(self) -> str:
        return str(self.manifest.target["name"])

    def _execute(
        self, entry: Literal["run", "trace"], samples: Iterable[Mapping[str, np.ndarray]]
    ) -> Iterator[tuple[list[np.ndarray], Executed]]:
        manifest = self.manifest
        each = sum(t.nbytes for t in (*manifest.inputs, *manifest.outputs))
        each += manifest.trace_arena_bytes if entry == "trace" else 0
        rest = iter(samples)
        while batch := [self._checked(sample) for sample in islice(rest, max(1, _BATCH_BYTES // each))]:
            yield from zip(batch, self._process(entry, batch), strict=True)

    def _process(
        self, mode: Mode, samples: Sequence[list[np.ndarray]], repeats: int = 1, options: Sequence[str] = ()
    ) -> list[Executed]:
        with tempfile.TemporaryDirectory() as folder:
            files = {name: Path(folder) / name for name in ("inputs", "outputs", "arenas")}
            with open(files["inputs"], "wb") as file:
                for sample in samples:
                    for array in sample:
                        file.write(array.tobytes())
            self._call_emulator(mode, repeats, [str(file) for file in files.values()], options)
            results = files["outputs"].read_bytes()
            arenas = np.fromfile(files["arenas"], np.uint8) if mode in ("trace", "count") else np.zeros(0, np.uint8)
        step, arena = (len(data) // max(len(samples), 1) for data in (results, arenas))
        return [
            Executed(self._split(results[n * step : (n + 1) * step]), arenas[n * arena : (n + 1) * arena])
            for n in range(len(samples))
        ]

    def _call_emulator(self, mode: Mode, repeats: int, files: Sequence[str], options: Sequence[str]) -> None:
        """Runs the program on files of inputs, outputs and arenas."""
        emulator = self.toolchain.find("emulator", [self.toolchain.emulator])
        arguments = [mode, str(repeats), str(self.path / WEIGHTS), *files, str(self._threads)]
        command = [*emulator, *options, str(self.program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = done.stderr.strip() or "no message"
            raise BundleError(f"{self.path}: {emulator[0]} ended with code {done.returncode} ({reason})")

    def _split(self, data: bytes) -> Arrays:
        """The outputs of one sample, as arrays of their own."""
        found: Arrays = {}
        for tensor in self.manifest.outputs:
            found[tensor.name] = _array(data[: tensor.nbytes], tensor)
            data = data[tensor.nbytes :]
        return found


class DeviceBundle(EmulatedBundle):
    """A bundle with a driver, on an OpenCL device of this machine: a GPU, or PoCL, which plays one on the CPU.

    `build_options` are further ones of the OpenCL compiler, such as `-DQCOMPILER_NO_DOT`; the options of `execute` too.
    """

    build_options: tuple[str, ...] = ()
    _source = "opencl/emulated.c"

    def _link(self, source: Path, program: Path) -> None:
        link_driver(source, self.path, program, self.toolchain)

    def _call_emulator(self, mode: Mode, repeats: int, files: Sequence[str], options: Sequence[str]) -> None:
        further = " ".join([_EMULATED_HALF, *self.build_options, *options])
        compiled = f"{self.program}.{hashlib.sha256(further.encode()).hexdigest()[:16]}"
        arguments = [mode, str(repeats), str(self.path / KERNELS), str(self.path / WEIGHTS), *files, compiled, further]
        done = subprocess.run([str(self.program), *arguments], capture_output=True, text=True, check=False)
        reason = done.stderr.strip() or f"ended with code {done.returncode}, no message"
        if done.returncode in _NO_DEVICE:
            raise TargetError(f"{self.path}: {reason}; to run it on this machine's CPU: {OPENCL_INSTALL}")
        if done.returncode != 0:
            raise BundleError(f"{self.path}: the driver failed: {reason}")


def _array(data: bytes, tensor: TensorInfo) -> np.ndarray:
    return np.frombuffer(data, tensor.dtype).reshape(tensor.shape).copy()


def _cache() -> Path:
    """A folder of this user alone for executables, among the temporary files.

    Raises:
        BundleError: others could write to it.
    """
    folder = Path(tempfile.gettempdir()) / f"qcompiler-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise BundleError(f"{folder} is not a folder that this user alone may write to; remove it, or set TMPDIR")
    return folder
