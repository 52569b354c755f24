"""Runs kernels of a target for another machine under its emulator, on arrays, for the tests of kernels."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from opencl_device import missing, run_device_calls

from qcompiler.bundle.link import c_library
from qcompiler.lowering.aot import build_object
from qcompiler.lowering.memory import align
from qcompiler.lowering.program import Buffer, Kernel, Program, Step
from qcompiler.targets.arm_cpu.spec import names
from qcompiler.targets.spec import TargetSpec, resolve_target

MAIN = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
int32_t model_run(const void *const *inputs, void *const *outputs, const void *weights, void *arena);
static const long inputs[] = {%(inputs)s}, outputs[] = {%(outputs)s};
static char *read_all(const char *path, long size) {
  char *memory = aligned_alloc(%(alignment)d, size);
  FILE *file = fopen(path, "rb");
  if (!memory || !file || (long)fread(memory, 1, size, file) != size || fclose(file)) exit(2);
  return memory;
}
int main(void) {
  char *memory = read_all("memory", %(memory)d), *weights = read_all("weights", %(weights)d);
  void *arena = aligned_alloc(%(alignment)d, %(arena)d), *in[%(n_in)d + 1], *out[%(n_out)d];
  for (int i = 0; i < %(n_in)d; i++) in[i] = memory + inputs[i];
  for (int i = 0; i < %(n_out)d; i++) out[i] = memory + outputs[i];
  if (!arena || model_run((const void *const *)in, out, weights, arena)) return 3;
  FILE *file = fopen("memory", "wb");
  return !file || (long)fwrite(memory, 1, %(memory)d, file) != %(memory)d || fclose(file) ? 4 : 0;
}
"""


@dataclass(frozen=True)
class Call:
    """A kernel, the whole buffers it reads, and what its output buffers hold before."""

    kernel: Kernel
    inputs: Sequence[np.ndarray]
    outputs: Sequence[np.ndarray]


def missing_tools(name: str) -> str:
    """Why kernels of a target cannot run here, with what to install; empty if they can."""
    toolchain = resolve_target(name).toolchain
    lacking = [c[0][0] for c in (toolchain.compilers, (toolchain.emulator,)) if c[0] and not shutil.which(c[0][0])]
    return f"{', '.join(lacking)} not found: {toolchain.install}" if lacking else ""


def emulated(name: str, *marks: pytest.MarkDecorator):  # type: ignore[no-untyped-def]
    """A parameter for tests: the spec of a target that is emulated, skipped where its tools are missing."""
    reason = missing_tools(name)
    return pytest.param(resolve_target(name), id=name, marks=[pytest.mark.skipif(bool(reason), reason=reason), *marks])


def run_calls(calls: Sequence[Call], spec: TargetSpec) -> list[list[np.ndarray]]:
    """The output buffers of each call, all in one process. Every buffer is followed by slack that holds something.

    Fails if a byte outside the outputs changes.
    """
    if spec.driver:
        return run_device_calls(calls, spec)
    program = Program(alignment=spec.alignment)
    layout: list[tuple[str, np.ndarray, int]] = []
    end = 0
    for i, call in enumerate(calls):
        inputs = [f"in{i}.{j}" for j in range(len(call.inputs))]
        outputs = [f"out{i}.{j}" for j in range(len(call.outputs))]
        for name, array in zip(inputs + outputs, [*call.inputs, *call.outputs], strict=True):
            program.buffers[name] = Buffer(name, array.shape, str(array.dtype))
            layout.append((name, array, end))
            end += align(array.nbytes + spec.alignment, spec.alignment)
        program.inputs += inputs
        program.outputs += outputs
        program.steps.append(Step(call.kernel, tuple(inputs), tuple(outputs), f"call {i}"))
    memory = np.full(end, 0xA5, np.uint8)
    for _, array, start in layout:
        memory[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    after = _run(program, {name: start for name, _, start in layout}, memory, spec)
    results = {}
    for name, array, start in layout:
        found = after[start : start + array.nbytes].copy()
        results[name] = found.view(array.dtype).reshape(array.shape)
        if name in program.outputs:
            memory[start : start + array.nbytes] = found
    assert np.array_equal(memory, after), "a kernel wrote outside its outputs"
    return [[results[name] for name in step.outputs] for step in program.steps]


def _run(program: Program, offsets: dict[str, int], memory: np.ndarray, spec: TargetSpec) -> np.ndarray:
    compiled = build_object(program, import_module(spec.kernels).tvm_target(spec))
    source = MAIN % {
        "inputs": ", ".join(str(offsets[name]) for name in program.inputs) or "0",
        "outputs": ", ".join(str(offsets[name]) for name in program.outputs),
        "n_in": len(program.inputs),
        "n_out": len(program.outputs),
        "memory": memory.size,
        "weights": compiled.weights.blob.size,
        "arena": align(max(compiled.plan.arena_bytes, 1), spec.alignment),
        "alignment": spec.alignment,
    }
    toolchain = spec.toolchain
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        memory.tofile(path / "memory")
        compiled.weights.blob.tofile(path / "weights")
        (path / "main.c").write_text(source, encoding="utf-8")
        objects = [f"{i}.o" for i in range(len(compiled.objects))]
        for name, code in zip(objects, compiled.objects, strict=True):
            (path / name).write_bytes(code)
        command = [*toolchain.compiler, "-O1", "-static", "main.c", *objects, *c_library(toolchain), "-o", "main"]
        subprocess.run(command, cwd=path, check=True)
        subprocess.run([*toolchain.emulator, "./main"], cwd=path, check=True, timeout=120)
        return np.fromfile(path / "memory", np.uint8)


_ARM_SETS = {resolve_target(name).instruction_set: name for name in reversed(names())}
ARM = [emulated(name, pytest.mark.slow) for name in _ARM_SETS.values()]
"""One target for each instruction set of ARM."""

HEXAGON = [emulated("hexagon", pytest.mark.slow)]

MALI = [
    pytest.param(
        resolve_target("mali"),
        id="mali",
        marks=[pytest.mark.skipif(bool(missing()), reason=missing()), pytest.mark.slow],
    )
]
"""Mali, its kernels executed by PoCL."""
