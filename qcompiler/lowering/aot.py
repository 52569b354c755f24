"""Ahead-of-time build: a `Program` becomes object files with plain C entries and no run-time library.

For the prefix `model` the objects export

    int32_t model_run(const void* const* inputs, void* const* outputs, const void* weights, void* arena);
    int32_t model_trace(const void* const* inputs, void* const* outputs, const void* weights, void* arena);
    int32_t model_step(const void* const* inputs, void* const* outputs, const void* weights, void* arena,
                       int32_t step);

`inputs` and `outputs` hold one pointer for each program input and output, in the program's order; all
pointers are aligned to `ALIGNMENT` bytes. `model_run` needs `plan.arena_bytes` of arena; `model_trace` gives
every buffer its own place, so that all of them can be read afterwards, and needs `trace_plan.arena_bytes`.
`model_step` runs one step of `model_run`. All return 0. The functions keep no state: calls with different
arenas may run in parallel.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from .contraction import forbid_contraction
from .hoist import Scratch, hoist_allocations
from .memory import MemoryPlan, align, plan_memory, scratch_name
from .program import SLACK, Program

if TYPE_CHECKING:
    from tvm.ir import Expr, GlobalVar
    from tvm.ir.transform import Pass
    from tvm.target import Target
    from tvm.tirx import PrimFunc, Stmt, Var


@dataclass(frozen=True)
class Weights:
    """All constants of a program in one array of bytes, with `SLACK` bytes behind the last."""

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


@dataclass(frozen=True)
class CompiledProgram:
    """Object files in memory and what a caller of their entries has to know."""

    objects: tuple[bytes, ...]
    """Object files: the kernels, and the entries that call them."""
    prefix: str
    weights: Weights
    plan: MemoryPlan
    trace_plan: MemoryPlan
    kernels: int
    """Number of distinct kernels; steps with structurally equal functions share one."""
    calls: tuple[Call, ...]
    """The calls of `model_run`, one for each step."""


def build_object(program: Program, target: dict, *, prefix: str = "model") -> CompiledProgram:
    """Compiles `program` for the TVM target `target` (a JSON dict of kind `llvm` with `mtriple`).

    Raises:
        ValueError: the program is malformed (see `Program.check`).
    """
    import tvm

    program.check()
    tvm_target = tvm.target.Target(target)
    kernels = _lower_kernels(program, tvm_target, prefix)
    program = _with_hoisted_scratch(program, kernels)
    weights = pack_weights(program)
    plan, trace_plan = plan_memory(program), plan_memory(program, reuse=False)
    word = _address_type(target)
    calls = _calls(program, kernels, weights, plan)
    traced = _calls(program, kernels, weights, trace_plan)
    entries = {
        f"{prefix}_run": _entry(calls, word),
        f"{prefix}_trace": _entry(traced, word),
        f"{prefix}_step": _entry(calls, word, by_step=True),
    }
    # TVM tells LLVM that buffers of different names never overlap, which holds inside a kernel but not between kernels
    # that share the arena. In an object of their own the entries cannot have the kernels inlined.
    objects = tuple(
        _generate({tvm.ir.GlobalVar(n): f.with_attr("global_symbol", n) for n, f in group.items()}, tvm_target)
        for group in ({kernel.symbol: kernel.func for kernel in kernels}, entries)
    )
    distinct = len({kernel.symbol for kernel in kernels})
    return CompiledProgram(objects, prefix, weights, plan, trace_plan, distinct, calls)


def pack_weights(program: Program) -> Weights:
    """Places every constant at a multiple of `ALIGNMENT`, identical arrays once."""
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
                end = align(end + data.size)
            row.append(placed[key])
        offsets.append(tuple(row))
    blob = np.zeros(align(end + SLACK), np.uint8)
    for offset, data in pieces:
        blob[offset : offset + data.size] = data
    return Weights(blob, tuple(offsets))


@dataclass(frozen=True)
class _LoweredKernel:
    """A function on pointers: one for each buffer parameter of the original, one for each hoisted scratch."""

    symbol: str
    func: PrimFunc
    hoisted: Scratch


def _lower_kernels(program: Program, target: Target, prefix: str) -> list[_LoweredKernel]:
    """The lowered kernel of each step. Structurally equal PrimFuncs are lowered once and shared."""
    import tvm
    from tvm_ffi import StructuralKey

    keys = [StructuralKey(step.kernel.func.without_attr("global_symbol")) for step in program.steps]
    variables: dict[StructuralKey, GlobalVar] = {}
    for key, step in zip(keys, program.steps, strict=True):
        if key not in variables:
            rule = re.sub("[^0-9A-Za-z]", "_", step.kernel.rule)
            variables[key] = tvm.ir.GlobalVar(f"{prefix}_kernel{len(variables)}_{rule}")
    module = tvm.IRModule({variable: forbid_contraction(key.key) for key, variable in variables.items()})
    module = tvm.tirx.transform.BindTarget(target.with_host(target))(module)
    module = _lowering_passes()(module)
    lowered = {}
    for key, variable in variables.items():
        func, hoisted = hoist_allocations(module[variable])
        lowered[key] = _LoweredKernel(variable.name_hint, _with_pointers(func), hoisted)
    return [lowered[key] for key in keys]


def _lowering_passes() -> Pass:
    """What TVM's default pipeline does for a function that runs on a CPU, up to the calling convention."""
    from tvm import s_tir, tirx
    from tvm.ir.transform import Sequential

    return Sequential(
        [
            s_tir.transform.CanonicalizeLoop(),
            s_tir.transform.LowerInitBlock(),
            s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
            s_tir.transform.ConvertBlocksToOpaque(),
            s_tir.transform.CompactBufferAllocation(),
            s_tir.transform.LowerMatchBuffer(),
            s_tir.transform.StmtSimplify(),
            s_tir.transform.AnnotateIrregularLoop(),
            s_tir.transform.LowerOpaqueBlock(),
            tirx.transform.FlattenBuffer(),
            tirx.transform.BF16ComputeLegalize(),
            tirx.transform.NarrowDataType(32),
            s_tir.transform.LoopPartition(),
            tirx.transform.VectorizeLoop(True),
            tirx.transform.StorageRewrite(),
            s_tir.transform.HoistIfThenElse(),
            tirx.transform.UnrollLoop(),
            s_tir.transform.RenormalizeSplitPattern(),
            tirx.transform.StmtSimplify(),
            tirx.transform.RemoveNoOp(),
            s_tir.transform.RewriteUnsafeSelect(),
            tirx.transform.CommonSubexprElim(),
            tirx.transform.FP8ComputeLegalize(),
        ]
    )


def _with_pointers(func: PrimFunc) -> PrimFunc:
    """Turns buffer parameters into pointers and parallel loops into serial ones; the result is 0."""
    from tvm import tirx
    from tvm.ir import StringImm
    from tvm_ffi import structural_map

    def serial(loop: tirx.For):
        if loop.kind != tirx.ForKind.PARALLEL:
            return loop
        return tirx.For(loop.loop_var, loop.min, loop.extent, tirx.ForKind.SERIAL, loop.body)

    pointers = [_pointer(f"{buffer.name}_pointer", str(buffer.dtype)) for buffer in func.params]
    body = structural_map(func.body, (tirx.For, serial))
    # Lowering of allocations asks for the device that they are on; 1 is the CPU (kDLCPU).
    for key, value in (("device_type", 1), ("device_id", 0)):
        body = tirx.AttrStmt(StringImm("default"), key, _int32(value), body)
    views = [tirx.DeclBuffer(buffer, data=pointer) for buffer, pointer in zip(func.params, pointers, strict=True)]
    return _int_function(pointers, [*views, body]).with_attr("tirx.noalias", True)


def _with_hoisted_scratch(program: Program, kernels: Sequence[_LoweredKernel]) -> Program:
    steps = []
    for step, lowered in zip(program.steps, kernels, strict=True):
        kernel = replace(step.kernel, scratch=step.kernel.scratch + lowered.hoisted)
        steps.append(replace(step, kernel=kernel))
    return replace(program, steps=steps)


def _calls(program: Program, kernels: Sequence[_LoweredKernel], weights: Weights, plan: MemoryPlan) -> tuple[Call, ...]:
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
        found.append(Call(lowered.symbol, tuple(arguments)))
    return tuple(found)


def _entry(calls: Sequence[Call], word: str, *, by_step: bool = False) -> PrimFunc:
    """The C entry: calls each kernel with pointers into the caller's memory, the weights and the arena.

    `word` is the integer type as wide as a pointer: TIR has no type for a pointer in memory, and converts
    only 64-bit integers to pointers.
    """
    from tvm import tirx
    from tvm.ir import PointerType, PrimType

    byte_pointer = PointerType(PrimType("uint8"), "global")
    types = {"inputs": word, "outputs": word, "weights": "uint8", "arena": "uint8"}
    pointers = {name: _pointer(name, dtype) for name, dtype in types.items()}
    extents = {
        name: 1 + max((p.position for c in calls for p in c.arguments if p.base == name), default=0) for name in types
    }
    views = {name: tirx.decl_buffer((extents[name],), dtype, name=f"{name}_view") for name, dtype in types.items()}
    step_number = tirx.Var("step", "int32")

    def pointer(place: Place) -> Expr:
        element = tirx.BufferLoad(views[place.base], [tirx.const(place.position, "int64")])
        if place.base in ("weights", "arena"):
            return tirx.address_of(element)
        return tirx.reinterpret(byte_pointer, element.astype("uint64"))

    statements: list[Stmt] = []
    for number, call in enumerate(calls):
        value = tirx.call_extern("int32", call.symbol, *map(pointer, call.arguments))
        statement = tirx.Evaluate(value)
        statements.append(tirx.IfThenElse(step_number.equal(number), statement, None) if by_step else statement)
    parameters = [*pointers.values(), *([step_number] if by_step else [])]
    declared = [tirx.DeclBuffer(views[name], data=pointers[name]) for name in types]
    return _int_function(parameters, [*declared, *statements])


def _address_type(target: dict) -> str:
    """The integer type of a pointer; LLVM's 64-bit architectures carry the number in their names."""
    return "uint64" if "64" in target["mtriple"].split("-")[0] else "uint32"


def _generate(functions: dict[GlobalVar, PrimFunc], target: Target) -> bytes:
    """Object code of functions whose parameters are pointers and numbers."""
    import tvm

    module = tvm.tirx.transform.BindTarget(target.with_host(target))(tvm.IRModule(functions))
    for lowering in ("FP8StorageLegalize", "BF16StorageLegalize", "LowerTVMBuiltin", "LowerIntrin"):
        module = getattr(tvm.tirx.transform, lowering)()(module)
    library = tvm.get_global_func("target.build.llvm")(module, target)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "module.o"
        library.write_to_file(str(path))
        return path.read_bytes()


def _int_function(parameters: Sequence[Var], statements: Sequence[Stmt]) -> PrimFunc:
    """A function with C linkage of type `int32_t (...)` that executes `statements` and returns 0."""
    from tvm import tirx
    from tvm.ir import PrimType

    body = tirx.SeqStmt([*statements, tirx.Return(_int32(0))])
    return tirx.PrimFunc(parameters, body, ret_type=PrimType("int32")).with_attr("s_tir", True)


def _pointer(name: str, dtype: str) -> Var:
    from tvm import tirx
    from tvm.ir import PointerType, PrimType

    return tirx.Var(name, PointerType(PrimType(dtype), "global"))


def _int32(value: int) -> Expr:
    from tvm import tirx

    return tirx.const(value, "int32")
