"""The OpenCL driver on machines that cannot run the model: a code and a message each time, and nothing left behind.

An OpenCL library of the tests' own plays devices with one fault each.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from mali_driver import build_example, build_stub, call, needs_gcc
from small_device import SIZE, small_bundle

from qcompiler.bundle import load_emulated
from qcompiler.errors import BundleError, TargetError

pytestmark = needs_gcc

NO_LIBRARY, NO_DEVICE, UNSUPPORTED, WORK_GROUP, OUT_OF_MEMORY, BUILD_FAILED, BAD_ARGUMENT, DEVICE_ERROR = range(1, 9)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with OUT, whose model wants two extensions, its example, the stub and an input."""
    folder = tmp_path_factory.mktemp("errors")
    small_bundle(folder / "OUT", extensions=("cl_khr_fp16", "cl_khr_more"))
    build_example(folder / "OUT", folder)
    build_stub(folder)
    (folder / "x").write_bytes(bytes(SIZE))
    return folder


def run(work: Path, *options: str, code: int = 0, **environment: str) -> str:
    known = {"STUB_EXTENSIONS": "cl_khr_more cl_khr_fp16", **environment}
    return call("./example", *options, "-l", "./stub.so", "OUT", "x", "y", cwd=work, code=code, **known)


def test_a_device_without_faults(work: Path) -> None:
    assert "stub: program compiled" in run(work, "-p")
    assert (work / "y").read_bytes() == bytes(SIZE)


FAULTS = {
    "no platform": (NO_DEVICE, "0 platforms, and no device", {"STUB_PLATFORMS": "0"}),
    "no device": (NO_DEVICE, "1 platforms, and no device", {"STUB_DEVICES": "0"}),
    "no extension": (UNSUPPORTED, "stub lacks the extension cl_khr_fp16", {"STUB_EXTENSIONS": "cl_khr_more"}),
    "part of a name": (
        UNSUPPORTED,
        "extension cl_khr_more",
        {"STUB_EXTENSIONS": "cl_khr_fp16 cl_khr_more2 x_cl_khr_more"},
    ),
    "no extensions": (UNSUPPORTED, "extension cl_khr_fp16", {"STUB_EXTENSIONS": ""}),
    "no compiler": (UNSUPPORTED, "no compiler for OpenCL C", {"STUB_COMPILER": "0"}),
    "alignment": (UNSUPPORTED, "aligned to 4096 bits, the model's are to 256 bytes", {"STUB_ALIGN": "4096"}),
    "rounding": (UNSUPPORTED, "does not round float32 to nearest", {"STUB_ROUNDING": "2"}),
    "group": (WORK_GROUP, "kernel scale has work-groups of 64 items, stub runs it with 63", {"STUB_GROUP": "63"}),
    "group of two dimensions": (WORK_GROUP, "scale has work-groups of 64 items in dimension 0", {"STUB_ITEMS": "32"}),
    "largest buffer": (OUT_OF_MEMORY, "buffers of 767 bytes, the model needs one of 1536", {"STUB_MOST": "767"}),
    "compiler's errors": (BUILD_FAILED, "1:2: no such thing", {"STUB_FAIL": "clBuildProgram", "STUB_ERROR": "-11"}),
    "property": (DEVICE_ERROR, "does not tell its property", {"STUB_FAIL": "clGetDeviceInfo"}),
    "kernel": (DEVICE_ERROR, "scale: OpenCL error -46", {"STUB_FAIL": "clCreateKernel", "STUB_ERROR": "-46"}),
    "argument": (DEVICE_ERROR, "scale: OpenCL error -38", {"STUB_FAIL": "clSetKernelArg", "STUB_ERROR": "-38"}),
    "launch": (DEVICE_ERROR, "scale: OpenCL error -54", {"STUB_FAIL": "clEnqueueNDRangeKernel", "STUB_ERROR": "-54"}),
    "times": (DEVICE_ERROR, "scale: OpenCL error -7", {"STUB_FAIL": "clGetEventProfilingInfo", "STUB_ERROR": "-7"}),
    "end": (DEVICE_ERROR, "running the kernels: OpenCL error -14", {"STUB_FAIL": "clFinish", "STUB_ERROR": "-14"}),
}
MEMORY = {
    "clCreateContext": "a context",
    "clCreateCommandQueue": "a queue",
    "clCreateBuffer": "a buffer of 768 bytes for the weights",
    "clCreateSubBuffer": "a part of a buffer",
    "clCreateProgramWithSource": "taking the kernels",
    "clCreateKernel": "scale",
    "clEnqueueNDRangeKernel": "scale",
    "clEnqueueWriteBuffer": "writing an input",
    "clEnqueueReadBuffer": "reading an output",
}
FAULTS |= {
    f"memory, {name}": (OUT_OF_MEMORY, f"{what}: out of memory", {"STUB_FAIL": name, "STUB_ERROR": str(error)})
    for (name, what), error in zip(MEMORY.items(), [-4, -5, -61, -6, -4, -5, -6, -4, -5], strict=True)
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_device_is_told(work: Path, fault: str) -> None:
    status, message, environment = FAULTS[fault]
    (work / "y").unlink(missing_ok=True)
    printed = run(work, "-p", code=1, **environment)
    assert f"error {status}: " in printed
    assert message in printed
    assert "objects left: 0" in printed
    assert not (work / "y").exists()


def test_long_messages_are_cut(work: Path) -> None:
    printed = run(work, code=1, STUB_FAIL="clBuildProgram")
    assert 4000 < len(printed) < 4300


def test_no_library(work: Path, tmp_path: Path) -> None:
    printed = call("./example", "-l", "./missing.so", "OUT", "x", "y", cwd=work, code=1)
    assert "error 1: no OpenCL library found (./missing.so: cannot open" in printed
    stub = build_stub(tmp_path, "gcc", "-DSTUB_WITHOUT_RELEASE")
    printed = call("./example", "-l", stub, "OUT", "x", "y", cwd=work, code=1)
    assert f"error 1: no OpenCL library found ({stub} has no function clReleaseContext)" in printed


MISUSE = """
#include <stdio.h>
#include "model.h"
static char kernels[MODEL_KERNELS_BYTES];
static uint8_t weights[MODEL_WEIGHTS_BYTES], input[MODEL_INPUT0_BYTES], arena[MODEL_TRACE_ARENA_BYTES];
#define EXPECT(condition) if (!(condition)) return __LINE__
int main(int argc, char** argv) {
  model_instance* it;
  model_options options = {0};
  EXPECT(argc == 2 && model_open(&options, &it) == MODEL_BAD_ARGUMENT);
  puts(model_message(it));
  model_close(it);
  model_close(NULL);
  options.kernels = kernels, options.weights = weights, options.library = argv[1];
  EXPECT(!model_open(&options, &it));
  const void *inputs[] = {NULL}, *result = arena;
  void *outputs[] = {NULL}, *memory = arena;
  double seconds[MODEL_LAUNCHES];
  EXPECT(model_run(it, inputs, outputs) == MODEL_BAD_ARGUMENT);
  puts(model_message(it));
  EXPECT(model_map_input(it, 1, &memory) == MODEL_BAD_ARGUMENT && !memory);
  EXPECT(model_map_input(it, -1, &memory) == MODEL_BAD_ARGUMENT);
  EXPECT(model_map_output(it, 1, &result) == MODEL_BAD_ARGUMENT && !result);
  puts(model_message(it));
  EXPECT(model_profile(it, seconds) == MODEL_BAD_ARGUMENT);
  puts(model_message(it));
  EXPECT(model_read_arena(it, arena) == MODEL_BAD_ARGUMENT);
  puts(model_message(it));
  inputs[0] = input;
  EXPECT(!model_run(it, inputs, outputs));
  model_close(it);
  options.profile = 1;
  EXPECT(!model_open(&options, &it) && model_profile(it, seconds) == MODEL_BAD_ARGUMENT);
  puts(model_message(it));
  model_close(it);
  return 0;
}
"""


def test_faults_of_the_caller(work: Path, tmp_path: Path) -> None:
    (tmp_path / "misuse.c").write_text(MISUSE)
    program = build_example(work / "OUT", tmp_path, source=tmp_path / "misuse.c")
    printed = call(program, work / "stub.so", STUB_EXTENSIONS="cl_khr_more cl_khr_fp16")
    assert printed.splitlines() == [
        "kernels and weights have to be given",
        "input 0 is NULL and was never filled through model_map_input",
        "there is no output 1",
        "model_profile needs an instance opened with profile",
        "model_read_arena needs an instance opened with trace",
        "model_profile needs a run before it",
        "objects left: 0",
    ]


def test_the_example_tells_what_is_wrong_with_files(work: Path) -> None:
    assert "usage: ./example [-p]" in call("./example", "OUT", "x", cwd=work, code=2)
    assert "usage: ./example [-p]" in call("./example", "-c", cwd=work, code=2)
    assert "./kernels.cl: cannot be read, or does not hold" in call("./example", ".", "x", "y", cwd=work, code=1)
    assert "missing: cannot be read, or does not hold 512" in call("./example", "OUT", "missing", "y", cwd=work, code=1)


# ------------------------------------------------------------------------------------------------------ from Python


def emulated(path: Path, monkeypatch: pytest.MonkeyPatch, **changes: object):  # type: ignore[no-untyped-def]
    monkeypatch.setattr("tempfile.tempdir", str(path))
    small_bundle(path / "OUT", **changes)
    return load_emulated(path / "OUT")


def test_no_device_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = emulated(tmp_path, monkeypatch)
    monkeypatch.setenv("OCL_ICD_VENDORS", str(tmp_path))
    with pytest.raises(
        TargetError, match="to run it on this machine's CPU: apt-get install pocl-opencl-icd ocl-icd-libopencl1"
    ):
        bundle.run({"x": np.zeros(SIZE, np.uint8)})


def test_what_a_bundle_for_a_gpu_cannot_do_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = emulated(tmp_path, monkeypatch)
    x = {"x": np.zeros(SIZE, np.uint8)}
    with pytest.raises(BundleError, match="is for a GPU, which shares its work by itself; leave out --threads"):
        bundle.set_threads(2)
    with pytest.raises(BundleError, match="time says nothing about mali"):
        bundle.bench(1)
    from qcompiler import load_bundle

    with pytest.raises(BundleError, match=r"is for mali and has a driver in C .model.c., not a library: .*--emulate"):
        load_bundle(bundle.path).run(x)
