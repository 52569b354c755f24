"""What tests of bundles with a driver share: what they need, and the driver's example made and run."""

from __future__ import annotations

import os
import shutil
import subprocess
from ctypes.util import find_library
from pathlib import Path

import pytest

from qcompiler.bundle.emulate import OPENCL_INSTALL

STUB = Path(__file__).parent / "opencl_stub.c"
STRICT = (
    "-std=c11",
    "-O1",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wconversion",
    "-Wshadow",
    "-Wstrict-prototypes",
    "-Werror",
)

needs_opencl = pytest.mark.skipif(
    not list(Path("/etc/OpenCL/vendors").glob("*.icd")) or find_library("OpenCL") is None,
    reason=f"no OpenCL device: {OPENCL_INSTALL}",
)
needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs apt-get install gcc")


def call(*command: object, cwd: Path | None = None, code: int = 0, **environment: str) -> str:
    """What a command prints, errors last; fails unless it ends with `code`."""
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def build_example(bundle: Path, folder: Path, compiler: str = "gcc", source: Path | None = None) -> Path:
    """The bundle's example, or another program with its driver, compiled without a warning."""
    program = folder / (source or Path("example")).stem
    files = [source or bundle / "main.c", bundle / "model.c"]
    call(compiler, *STRICT, f"-I{bundle}", "-o", program, *files, "-ldl")
    return program


def build_stub(folder: Path, compiler: str = "gcc", *options: str) -> Path:
    """The faulty OpenCL library of opencl_stub.c."""
    library = folder / "stub.so"
    call(compiler, "-std=c11", "-shared", "-fPIC", "-w", *options, "-o", library, STUB)
    return library
