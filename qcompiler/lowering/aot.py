"""Ahead-of-time build: a `Program` becomes object files with plain C entries and no run-time library.

For the prefix `model` the objects export

    int32_t model_run(const void* const* inputs, void* const* outputs, const void* weights, void* arena);
    int32_t model_trace(const void* const* inputs, void* const* outputs, const void* weights, void* arena);
    int32_t model_step(const void* const* inputs, void* const* outputs, const void* weights, void* arena,
                       int32_t step);

`inputs` and `outputs` hold one pointer for each program input and output, in the program's order; all
pointers are aligned to `Program.alignment` bytes. `model_run` needs `plan.arena_bytes` of arena; `model_trace` gives
every buffer its own place, so that all of them can be read afterwards, and needs `trace_plan.arena_bytes`.
`model_step` runs one step of `model_run`. All return 0. The functions keep no state: calls with different
arenas may run in parallel.

With threads there is also a variable, at first NULL:

    typedef void (*model_task)(void* context, int32_t task, int32_t tasks);
    extern void (*model_parallel_launch)(model_task task, void* context);

`model_run` and `model_step` call it for work that threads may share. It chooses a number of tasks, at least 1, calls
`task` once with each number from 0 to `tasks - 1`, in any order and on any threads, and returns when all have
returned. While it is NULL the work is one task. `model_trace` never calls it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from .memory import MemoryPlan, align, plan_memory, scratch_name
from .program import Program

if TYPE_CHECKING:
    from .kernels import LoweredKernel


@dataclass(frozen=True)
class Weights:
    """All constants of a program in one array of bytes, with slack behind the last."""

    blob: np.ndarray
    offsets: tuple[tuple[int, ...], ...]
    """Offset in bytes of each constant of each step."""


@dataclass(frozen=True)
class Place:
    """Memory that an entry hands to a kernel: one of the caller's buffers, or a place in the weights or the arena."""

    base: Literal["inputs", "outputs", "weights", "arena"]
    position: int
    """Index of the buffer, or offset in bytes."""


@dataclass(frozen=True)
class Call:
    """What `model_run` does for one step: calls the kernel `symbol` with a pointer to each of `arguments`."""

    symbol: str
    arguments: tuple[Place, ...]
    parts: tuple[bool, ...]
    """For each part of the kernel, in order, whether threads may share it."""

    @property
    def is_shared(self) -> bool:
        """Whether threads may share a part; the kernel then takes three numbers more: part, task, number of tasks."""
        return any(self.parts)


@dataclass(frozen=True)
class CompiledProgram:
    """Object files in memory and what a caller of their entries has to know."""

    objects: tuple[bytes, ...]
    """Object files: the kernels, the entries that call them, and with threads what passes work to the launcher."""
    prefix: str
    weights: Weights
    plan: MemoryPlan
    trace_plan: MemoryPlan
    kernels: int
    """Number of distinct kernels; steps with structurally equal functions share one."""
    calls: tuple[Call, ...]
    """The calls of `model_run`, one for each step."""
    threads: bool
    """Whether there is a launcher to assign."""


def build_object(program: Program, target: dict, *, prefix: str = "model", threads: bool = False) -> CompiledProgram:
    """Compiles `program` for the TVM target `target` (a JSON dict of kind `llvm` with `mtriple`).

    With `threads` the work is cut so that threads can share it.

    Raises:
        ValueError: the program is malformed (see `Program.check`).
    """
    from tvm.target import Target

    from .entries import Entries, launcher_text
    from .kernels import lower_kernels
    from .native import assemble, generate

    program.check()
    machine = Target(target)
    kernels = lower_kernels(program.steps, machine, prefix, threads=threads, alignment=program.alignment)
    program = _with_hoisted_scratch(program, kernels)
    weights = pack_weights(program)
    plan, trace_plan = plan_memory(program), plan_memory(program, reuse=False)
    calls = _calls(program, kernels, weights, plan)
    entries = Entries(prefix, _address_type(target))
    functions = {
        f"{prefix}_run": entries.run(calls, launch=True),
        f"{prefix}_trace": entries.run(_calls(program, kernels, weights, trace_plan), launch=False),
        f"{prefix}_step": entries.step(calls),
    }
    if threads:
        functions[f"{prefix}_part"] = entries.part(calls)
    # TVM tells LLVM that buffers of different names never overlap, which holds inside a kernel but not between kernels
    # that share the arena. In an object of their own the entries cannot have the kernels inlined.
    objects = [generate({kernel.symbol: kernel.func for kernel in kernels}, machine), generate(functions, machine)]
    if threads:
        objects.append(assemble(launcher_text(prefix), target))
    distinct = len({kernel.symbol for kernel in kernels})
    return CompiledProgram(tuple(objects), prefix, weights, plan, trace_plan, distinct, calls, threads)


def pack_weights(program: Program, alignment: int | None = None) -> Weights:
    """Places every constant at a multiple of `alignment`, or of the program's; identical arrays once."""
    alignment = alignment or program.alignment
    placed: dict[bytes, int] = {}
    pieces: list[tuple[int, np.ndarray]] = []
    end = 0
    offsets = []
    for step in program.steps:
        row = []
        for constant in step.kernel.constants:
            data = np.ascontiguousarray(constant).reshape(-1).view(np.uint8)
            key = hashlib.sha256(data).digest()
            if key not in placed:
                placed[key] = end
                pieces.append((end, data))
                end = align(end + data.size, alignment)
            row.append(placed[key])
        offsets.append(tuple(row))
    blob = np.zeros(align(end + program.alignment, alignment), np.uint8)
    for offset, data in pieces:
        blob[offset : offset + data.size] = data
    return Weights(blob, tuple(offsets))


def _with_hoisted_scratch(program: Program, kernels: Sequence[LoweredKernel]) -> Program:
    steps = []
    for step, lowered in zip(program.steps, kernels, strict=True):
        kernel = replace(step.kernel, scratch=step.kernel.scratch + lowered.hoisted)
        steps.append(replace(step, kernel=kernel))
    return replace(program, steps=steps)


def _calls(program: Program, kernels: Sequence[LoweredKernel], weights: Weights, plan: MemoryPlan) -> tuple[Call, ...]:
    external = {name: Place("inputs", i) for i, name in enumerate(program.inputs)}
    external |= {name: Place("outputs", i) for i, name in enumerate(program.outputs)}

    def place(name: str) -> Place:
        return external.get(name) or Place("arena", plan.offsets[name])

    found = []
    for number, (step, lowered) in enumerate(zip(program.steps, kernels, strict=True)):
        arguments = [place(name) for name in step.inputs]
        arguments += [Place("weights", offset) for offset in weights.offsets[number]]
        arguments += [place(name) for name in step.outputs]
        arguments += [place(scratch_name(number, i)) for i in range(len(step.kernel.scratch))]
        found.append(Call(lowered.symbol, tuple(arguments), lowered.parts))
    return tuple(found)


def _address_type(target: dict) -> str:
    """The integer type of a pointer; LLVM's 64-bit architectures carry the number in their names."""
    return "uint64" if "64" in target["mtriple"].split("-")[0] else "uint32"
