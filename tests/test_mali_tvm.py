"""The Relax executable of `--format tvm` for Mali: what it holds, and its results through an OpenCL device for TVM."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tvm
import tvm_ffi
from mali_driver import needs_opencl
from small_device import SIZE, SOURCE, reference, small_device, small_device_program

import qcompiler
from qcompiler.api import open_feeds
from qcompiler.bundle.link import link_shared
from qcompiler.cli import main
from qcompiler.lowering.lower import lower
from qcompiler.lowering.opencl import build_device_program
from qcompiler.lowering.relax_device import export_device_executable
from qcompiler.lowering.relax_program import EXPORTS
from qcompiler.targets.spec import resolve_target
from qcompiler.targets.toolchain import AARCH64_LINUX, NATIVE

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits"
HEADERS = (
    Path(tvm.__file__).parent / "include",
    Path(tvm_ffi.__file__).parent / "include",
    Path(tvm_ffi.__file__).parent / "3rdparty" / "dlpack" / "include",
)
HOST = {"kind": "llvm", "mtriple": "x86_64-linux-gnu"}
LINK = partial(link_shared, exports=EXPORTS, toolchain=NATIVE, incomplete=True)


def marked(source: str) -> str:
    """The source with the lines that tell kernels apart."""
    return source.replace("__kernel void scale", "// Function: scale\n__kernel void scale").replace(
        "__kernel void add", "// Function: add\n__kernel void add"
    )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-gcc") is None, reason=f"needs {AARCH64_LINUX.install}")
def test_an_executable_for_the_phone(tmp_path: Path) -> None:
    data = ("--calibration", str(DIGITS / "calibration.npz"), "--limit", "8")
    given = ["compile", "-q", str(DIGITS / "digits.onnx"), *data, "--target", "mali", "--format", "tvm"]
    assert main([*given, "-o", str(tmp_path / "out")]) == 0
    library = tmp_path / "out" / "model.tvm.so"
    kernels = qcompiler.load_bundle(tmp_path / "out").manifest.launches
    content = library.read_bytes()
    assert all(f"__kernel void {launch.kernel}(".encode() in content for launch in kernels)
    listing = subprocess.run(["aarch64-linux-gnu-nm", "-D", library], capture_output=True, text=True, check=True)
    missing = {line.split()[-1] for line in listing.stdout.splitlines() if line.split()[-2] == "U"}
    assert {name.partition("@")[0] for name in missing} == {"TVMFFIErrorSetRaisedFromCStrParts"}


def test_without_an_opencl_runtime_tvm_says_so(tmp_path: Path) -> None:
    export(small_device(source=marked(SOURCE)), small_device_program(), {"x": (SIZE,), "y": (SIZE,)}, tmp_path)
    code = f"import tvm; tvm.runtime.load_module({str(tmp_path / 'model.so')!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ffi.Module.load_from_bytes.opencl" in done.stderr


def export(device, program, shapes, folder: Path) -> None:  # type: ignore[no-untyped-def]
    export_device_executable(program, device, HOST, shapes, folder / "model.so", LINK)


@pytest.fixture(scope="module")
def opencl(tmp_path_factory: pytest.TempPathFactory) -> tvm.runtime.Device:
    """TVM's OpenCL device, by the tests' own runtime."""
    library = tmp_path_factory.mktemp("runtime") / "tvm_opencl.so"
    source = Path(__file__).parent / "tvm_opencl.cc"
    command = ["g++", "-std=c++20", "-shared", "-fPIC", "-w", *(f"-I{path}" for path in HEADERS), "-o", library, source]
    done = subprocess.run([*command, "-lOpenCL"], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs apt-get install g++ ocl-icd-opencl-dev, and TVM's headers: {done.stderr[:200]}")
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    return tvm.device("opencl", 0)


def run(folder: Path, device: tvm.runtime.Device, *inputs: np.ndarray) -> list[np.ndarray]:
    machine = tvm.relax.VirtualMachine(tvm.runtime.load_module(str(folder / "model.so")), device)
    return [found.numpy() for found in machine["main"](*(tvm.runtime.tensor(x, device) for x in inputs))]


@pytest.mark.slow
@needs_opencl
def test_results_through_tvms_runtime(opencl: tvm.runtime.Device, tmp_path: Path) -> None:
    device = small_device(source=marked(SOURCE))
    export(device, small_device_program(), {"x": (SIZE,), "y": (SIZE,)}, tmp_path)
    x = np.random.default_rng(3).integers(0, 256, SIZE, dtype=np.uint8)
    (y,) = run(tmp_path, opencl, x)
    assert np.array_equal(y, reference(device, x)["y"])


@pytest.mark.slow
@needs_opencl
def test_a_model_through_tvms_runtime(opencl: tvm.runtime.Device, tmp_path: Path) -> None:
    imported = qcompiler.import_onnx(DIGITS / "digits.onnx")
    feeds = open_feeds(imported, str(DIGITS / "calibration.npz"), 8)
    quantized = qcompiler.quantize(imported, feeds, target="mali")
    spec = resolve_target("mali")
    program = lower(quantized.model, spec).program
    shapes = {program.inputs[0]: (1, 1, 8, 8), program.outputs[0]: (1, 10)}
    export(build_device_program(program, spec), program, shapes, tmp_path)
    for seed in range(3):
        image = np.random.default_rng(seed).random((1, 1, 8, 8), np.float32)
        (logits,) = run(tmp_path, opencl, image)
        assert np.array_equal(logits, qcompiler.interpret(quantized, {"image": image})["logits"])
