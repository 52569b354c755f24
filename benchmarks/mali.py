"""Mali: each layer of a model against the least it could cost, and what TVM's own pipelines emit for the same model.

    python benchmarks/mali.py [MODEL] [--target TARGET] [--calibration DATA] [--peers] [--json FILE]

MODEL is a name of the pretrained models beside the repository (default: resnet8), or a path with --calibration. The
table of layers is that of `bench --emulate` by layer, with two ratios: operations to a fourth of the multiply-adds,
which dot products of four need at least, and bytes accessed to those of weights, inputs and outputs taken once.
Accesses that a cache serves count too, so the second is far above 1 where operands are used again and again.

With --peers the float model goes through TVM: `default` is its pipeline for GPUs with dlight's rules for matrix
products and reductions, `fallback` dlight's rule for anything on its own, `threads` the pass DefaultGPUSchedule, which
binds loops to threads. What fails is said, with the reason. Their kernels and ours run on this machine's
OpenCL device, such as PoCL: a functional machine, whose times (of 5 runs, copies included) say nothing about Mali.
Needs g++, ocl-icd-opencl-dev and pocl-opencl-icd.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import tvm
import tvm_ffi
from accuracy import catalogue
from tvm import relax
from tvm.ir.transform import Pass, Sequential
from tvm.relax.frontend.onnx import from_onnx
from tvm.s_tir import dlight
from tvm.s_tir.transform import DefaultGPUSchedule
from tvm.target import Target

import qcompiler
from qcompiler.bundle import Bundle, Manifest
from qcompiler.cli.output import bytes_text, print_table
from qcompiler.lowering.program import SLACK

CALIBRATION_SAMPLES = 8
RUNS = 5
RUNTIME = Path(__file__).resolve().parent.parent / "tests" / "tvm_opencl.cc"
"""An OpenCL device for TVM's runtime."""


@dataclass(frozen=True)
class Layer:
    """All launches of a step. Ratios are None where the layer has no multiply-adds."""

    name: str
    rule: str
    macs: int
    operations: int
    operations_to_least: float | None
    bytes_accessed: int
    bytes_to_least: float
    registers: int
    occupancy: str


@dataclass(frozen=True)
class Emitted:
    """What a compiler emits: kernels, places with local memory and barriers, and seconds of a run here.

    `fails` says why there is none of that, or no seconds; numbers that are not there are None.
    """

    by: str
    kernels: int | None = None
    local: int | None = None
    barriers: int | None = None
    seconds: float | None = None
    fails: str = ""


def layers(bundle: Bundle) -> list[Layer]:
    """One row a step."""
    manifest, weights = bundle.manifest, weight_bytes(bundle)
    found = []
    for number, step in enumerate(manifest.steps):
        launches = [launch for launch in manifest.launches if launch.step == number]
        operations = sum(launch.operations or 0 for launch in launches)
        accessed = sum((launch.bytes_read or 0) + (launch.bytes_written or 0) for launch in launches)
        least = sum(nbytes(manifest, name) for name in (*step.inputs, *step.outputs)) + weights[number]
        most = max(launches, key=lambda launch: launch.registers or 0)
        ratio = operations / (step.macs / 4) if step.macs else None
        registers = most.registers or 0
        found.append(
            Layer(
                step.location,
                step.rule,
                step.macs,
                operations,
                ratio,
                accessed,
                accessed / least,
                registers,
                most.occupancy,
            )
        )
    return found


def nbytes(manifest: Manifest, buffer: str) -> int:
    info = manifest.buffers[buffer]
    return int(np.prod(info.shape, dtype=np.int64)) * np.dtype(info.dtype).itemsize


def weight_bytes(bundle: Bundle) -> list[int]:
    """Bytes of weights that the launches of each step read, from the driver's tables."""
    plan = (bundle.path / "plan.h").read_text(encoding="utf-8")
    ranges = re.findall(r"^    \{(IN_\w+), (\d+), \d+, (\d+)\},$", plan, re.MULTILINE)
    table = re.search(r"ARGUMENTS\[\] = \{(.*?)\};", plan, re.DOTALL)
    assert table is not None
    arguments = [int(number) for number in re.findall(r"\d+", table[1])]
    used: list[set[int]] = [set() for _ in bundle.manifest.steps]
    rows = re.findall(r'", (\d+), (\d+), \{\d+, \d+, \d+\}, \{', plan)
    for launch, (first, count) in zip(bundle.manifest.launches, rows, strict=True):
        used[launch.step] |= set(arguments[int(first) : int(first) + int(count)])
    return [sum(int(ranges[i][2]) - SLACK for i in step if ranges[i][0] == "IN_WEIGHTS") for step in used]


def print_layers(bundle: Bundle, rows: list[Layer]) -> None:
    cells = [
        [
            row.name,
            row.rule,
            f"{row.macs:,}" if row.macs else "",
            f"{row.operations:,}",
            f"{row.operations_to_least:.2f}" if row.operations_to_least else "",
            f"{row.bytes_accessed:,}",
            f"{row.bytes_to_least:.1f}",
            str(row.registers),
            row.occupancy,
        ]
        for row in rows
    ]
    columns = ("layer", "rule", ">multiply-adds", ">operations", ">to least", ">bytes", ">to least", ">registers", "")
    print_table("Estimates of each layer", columns, cells)
    manifest = bundle.manifest
    operations, macs = sum(row.operations for row in rows), sum(row.macs for row in rows)
    most = max(row.registers for row in rows)
    print(
        f"{len(manifest.launches)} launches of {manifest.kernels} kernels, {operations:,} operations for {macs:,} "
        f"multiply-adds; at most {most} registers, {'below' if most < 64 else 'NOT below'} 64; "
        f"arena {bytes_text(manifest.arena_bytes)}, {manifest.arena_bytes / manifest.arena_lower_bound:.2f} times the "
        f"bytes that live at the same time; weights {bytes_text(manifest.weight_bytes)}\n"
    )


# ------------------------------------------------------------------------------------------------------------ TVM's own


def pipelines() -> dict[str, Callable[[tvm.IRModule], relax.VMExecutable]]:
    """From a float model to an executable, by name."""
    target = Target(
        {"kind": "opencl", "device": "mali", "max_num_threads": 256, "max_shared_memory_per_block": 32768},
        host={"kind": "llvm", "mtriple": "x86_64-linux-gnu"},
    )
    fused = (
        relax.transform.LegalizeOps(),
        relax.transform.AnnotateTIROpPattern(),
        relax.transform.FoldConstant(),
        relax.transform.FuseOps(),
        relax.transform.FuseTIR(),
    )

    def scheduled(schedules: Pass, module: tvm.IRModule) -> relax.VMExecutable:
        with target:
            module = Sequential([*fused, schedules])(module)
        return relax.build(module, target, relax_pipeline="default_build")

    return {
        "default": lambda module: relax.build(module, target),
        "fallback": partial(scheduled, dlight.ApplyDefaultSchedule(dlight.gpu.Fallback())),
        "threads": partial(scheduled, DefaultGPUSchedule()),
    }


def peers(path: Path, bundle: Bundle) -> list[Emitted]:
    """Our bundle, and what TVM makes of the float model, on this machine's OpenCL device."""
    feed = {t.name: np.zeros(t.shape, t.dtype) for t in bundle.manifest.inputs}
    source = (bundle.path / "kernels.cl").read_text(encoding="utf-8")
    found = [emitted("qcompiler", source, ours(bundle, feed))]
    with tempfile.TemporaryDirectory() as name:
        device = opencl(Path(name))
        module = relax.transform.DecomposeOpsForInference()(from_onnx(onnx.load(path), keep_params_in_input=False))
        for by, compile_float in pipelines().items():
            found.append(peer(by, compile_float, module, feed, device, Path(name) / f"{by}.so"))
    return found


def peer(
    by: str,
    compile_float: Callable[[tvm.IRModule], relax.VMExecutable],
    module: tvm.IRModule,
    feed: dict[str, np.ndarray],
    device: tvm.runtime.Device,
    library: Path,
) -> Emitted:
    """What one of TVM's pipelines emits; if it fails, at what, and why."""
    try:
        executable = compile_float(module)
    except Exception as error:  # whatever TVM raises
        return Emitted(by, fails=f"compiling: {reason(error)}")
    (kernels,) = (m for m in executable.mod.imports[0].imports if m.kind == "opencl")
    source = kernels.inspect_source()
    try:
        executable.export_library(str(library))
        run = relax.VirtualMachine(tvm.runtime.load_module(str(library)), device)["main"]
        inputs = [tvm.runtime.tensor(array, device) for array in feed.values()]
        seconds = timed(lambda: (run(*inputs), device.sync()))
    except Exception as error:  # whatever TVM or the device raises
        return replace(emitted(by, source, None), fails=f"running: {reason(error)}")
    return emitted(by, source, seconds)


def reason(error: Exception) -> str:
    """The last line of an error's text that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:160] if lines else 'no message'}"


def print_peers(found: list[Emitted]) -> None:
    cells = []
    for one in found:
        counts = ["-" if n is None else str(n) for n in (one.kernels, one.local, one.barriers)]
        time = "-" if one.seconds is None else f"{1e3 * one.seconds:.1f}"
        cells.append([one.by, *counts, time, f"fails: {one.fails}" if one.fails else ""])
    columns = ("by", ">kernels", ">local memory", ">barriers", ">ms here", "")
    print_table("Emitted for the same model, ours in integers, TVM's in float", columns, cells)


def emitted(by: str, source: str, seconds: float | None) -> Emitted:
    counts = (len(re.findall(pattern, source)) for pattern in (r"(?m)^// Function: ", r"\b__local\b", r"\bbarrier\("))
    return Emitted(by, *counts, seconds)


def ours(bundle: Bundle, feed: dict[str, np.ndarray]) -> float:
    """Seconds of a run by the bundle's driver: what five more of them add to one process."""
    emulated = qcompiler.load_bundle(bundle.path, emulate=True)
    emulated.run(feed)
    begin = time.perf_counter()
    emulated.run(feed)
    between = time.perf_counter()
    list(emulated.run_many([feed] * (1 + RUNS)))
    return max(0.0, (time.perf_counter() - between) - (between - begin)) / RUNS


def opencl(folder: Path) -> tvm.runtime.Device:
    """TVM's OpenCL device; its wheel has none."""
    packages = Path(tvm.__file__).parent, Path(tvm_ffi.__file__).parent
    headers = (packages[0] / "include", packages[1] / "include", packages[1] / "3rdparty" / "dlpack" / "include")
    library = folder / "tvm_opencl.so"
    command = ["g++", "-std=c++20", "-O1", "-shared", "-fPIC", "-w", *(f"-I{path}" for path in headers)]
    subprocess.run([*command, "-o", str(library), str(RUNTIME), "-lOpenCL"], check=True)
    ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    return tvm.device("opencl", 0)


def timed(run: Callable[[], object]) -> float:
    """Median seconds, after a run that compiles."""
    run()
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="resnet8")
    parser.add_argument("--target", default="mali")
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.calibration:
        path, data = Path(options.model), options.calibration
    else:
        model = catalogue().MODELS[options.model]
        path, data = model.path(), model.calibration(limit=CALIBRATION_SAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        bundle = qcompiler.compile(path, output=Path(folder) / "out", target=options.target, calibration=data)
        rows = layers(bundle)
        print_layers(bundle, rows)
        document: dict[str, object] = {"model": options.model, "layers": [asdict(row) for row in rows]}
        if options.peers:
            found = peers(path, bundle)
            print_peers(found)
            document["peers"] = [asdict(one) for one in found]
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
