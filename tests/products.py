"""Runs the kernel of a convolution or matrix product on arrays with slack, and shows its assembly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import pytest
import tvm
from emulated import Call, run_calls

from qcompiler.lowering.contraction import forbid_contraction
from qcompiler.lowering.program import ALIGNMENT, SLACK, Kernel
from qcompiler.targets.host.spec import runnable
from qcompiler.targets.spec import TargetSpec, resolve_target

SPECS = [resolve_target(f"host:{name}") for name in runnable()]
"""Every instruction set this machine can run, best first."""

HOSTS = [
    pytest.param(spec, id=spec.name, marks=[] if i in (0, len(SPECS) - 1) else pytest.mark.slow)
    for i, spec in enumerate(SPECS)
]
"""The same as parameters of tests: the best and the portable one every day, those between with the slow tests."""

UNWRITTEN = 99
"""What outputs and scratch buffers hold before the call."""


def with_slack(array: np.ndarray) -> np.ndarray:
    """A copy that is aligned and followed by `SLACK` bytes of something."""
    memory = np.full(array.nbytes + SLACK + ALIGNMENT, 0xA5, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def compile_kernel(kernel: Kernel, spec: TargetSpec):
    module = tvm.IRModule({"main": forbid_contraction(kernel.func)})
    return tvm.compile(module, target=tvm.target.Target(import_module(spec.kernels).tvm_target(spec)))


def run(kernel: Kernel, inputs: list[np.ndarray], shape: tuple[int, ...], dtype: str, spec: TargetSpec) -> np.ndarray:
    """The output buffer after one call; what the kernel did not write is `UNWRITTEN`."""
    output = np.full(shape, UNWRITTEN, dtype)
    scratch = [np.full(extents, UNWRITTEN, kind) for extents, kind in kernel.scratch]
    arrays = [with_slack(array) for array in [*inputs, *kernel.constants, output, *scratch]]
    tensors = [tvm.runtime.from_dlpack(array) for array in arrays]
    compile_kernel(kernel, spec)["main"](*tensors)
    return arrays[len(inputs) + len(kernel.constants)]


@dataclass(frozen=True)
class Expectation:
    """A kernel, the buffers it reads, and its whole output buffer after the call."""

    kernel: Kernel
    inputs: list[np.ndarray]
    expected: np.ndarray

    def check(self, spec: TargetSpec) -> str:
        """Runs the kernel, compares, returns the rule's name."""
        found = run(self.kernel, self.inputs, self.expected.shape, str(self.expected.dtype), spec)
        np.testing.assert_array_equal(found, self.expected)
        return self.kernel.rule


def check_emulated(cases: Sequence[Expectation], spec: TargetSpec) -> list[str]:
    """As `Expectation.check` for all cases, run in one process; the names of their rules."""
    calls = [Call(c.kernel, c.inputs, [np.full_like(c.expected, UNWRITTEN)]) for c in cases]
    for i, (case, (found,)) in enumerate(zip(cases, run_calls(calls, spec), strict=True)):
        assert np.array_equal(found, case.expected), f"case {i}, rule {case.kernel.rule}"
    return [case.kernel.rule for case in cases]


def assembly(kernel: Kernel, spec: TargetSpec) -> str:
    return compile_kernel(kernel, spec).mod.inspect_source("asm")


def innermost_loops(text: str) -> list[str]:
    """Runs of assembly from a label to a jump back to it with no other label between."""
    pieces = re.split(r"^(\.LBB\w+):.*$", text, flags=re.M)
    bodies = []
    for label, code in zip(pieces[1::2], pieces[2::2], strict=True):
        jump = re.search(rf"^\t(?:j\w+|b\.\w+|cbn?z\t\w+,|tbn?z\t\w+, #\d+,)\s+{re.escape(label)}$", code, flags=re.M)
        if jump:
            bodies.append(code[: jump.end()])
    return bodies


def lines_in_loops(text: str) -> list[str]:
    """Lines of assembly from a label to the last jump back to it: those of all loops, inner and outer."""
    lines = text.splitlines()
    places = {line.split(":")[0]: i for i, line in enumerate(lines) if re.match(r"\.LBB\w+:", line)}
    ends: dict[int, int] = {}
    for i, line in enumerate(lines):
        jump = re.match(r"\t(?:j\w+|b(?:\.\w+)?|cbn?z\t\w+,|tbn?z\t\w+, #\d+,)\s+(\.LBB\w+)$", line)
        if jump and places[jump[1]] < i:
            ends[places[jump[1]]] = i
    return [line for i, line in enumerate(lines) if any(start < i <= end for start, end in ends.items())]


def random_stored(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
