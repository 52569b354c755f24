"""From the scheduled functions of a program's steps to functions on pointers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import tvm
from tvm import s_tir, tirx
from tvm.ir import GlobalVar, StringImm
from tvm.ir.transform import Pass, Sequential
from tvm.target import Target
from tvm.tirx import PrimFunc, Stmt, Var
from tvm_ffi import StructuralKey

from .contraction import forbid_contraction, has_fence, with_scalar_products
from .hoist import Scratch, hoist_allocations
from .native import int32, int_function, pointer
from .parallel import is_shared, keep_independent, mark_parallel, parts_of, share_of, without_marks
from .program import ALIGNMENT, Step

Parts = tuple[bool, ...]
"""For each part of a kernel, in order, whether threads may share it."""

SERIAL: Parts = (False,)


@dataclass(frozen=True)
class LoweredKernel:
    """A function on pointers: one for each buffer parameter of the original, one for each hoisted scratch.

    Unless its `parts` are `SERIAL`, three numbers follow: which part to run, and which task of how many.
    """

    symbol: str
    func: PrimFunc
    hoisted: Scratch
    parts: Parts


def lower_kernels(
    steps: Sequence[Step], target: Target, prefix: str, *, threads: bool, alignment: int = ALIGNMENT
) -> list[LoweredKernel]:
    """The lowered kernel of each step. Structurally equal PrimFuncs are lowered once and shared.

    With `threads`, loops that are worth it become parts that several threads may share. An `alignment` of buffers
    beyond the usual one is for machines whose vectors have to be aligned; LLVM is then told of it.
    """
    keys = [StructuralKey(step.kernel.func.without_attr("global_symbol")) for step in steps]
    variables: dict[StructuralKey, GlobalVar] = {}
    for key, step in zip(keys, steps, strict=True):
        if key not in variables:
            rule = re.sub("[^0-9A-Za-z]", "_", step.kernel.rule)
            variables[key] = GlobalVar(f"{prefix}_kernel{len(variables)}_{rule}")
    fenced = has_fence(target)
    functions = {variable: forbid_contraction(key.key) if fenced else key.key for key, variable in variables.items()}
    if threads:
        functions = {variable: mark_parallel(func) for variable, func in functions.items()}
    module = tirx.transform.BindTarget(target.with_host(target))(tvm.IRModule(functions))
    module = _lowering_passes()(module)
    lowered = {}
    for key, variable in variables.items():
        func = keep_independent(module[variable]) if threads else without_marks(module[variable])
        func, hoisted = hoist_allocations(func if fenced else with_scalar_products(func))
        native, parts = _with_pointers(func, alignment)
        lowered[key] = LoweredKernel(variable.name_hint, native, hoisted, parts)
    return [lowered[key] for key in keys]


def opaque_blocks() -> list[Pass]:
    """From scheduled blocks to blocks without iteration variables, around buffers no larger than they have to be."""
    return [
        s_tir.transform.CanonicalizeLoop(),
        s_tir.transform.LowerInitBlock(),
        s_tir.transform.PlanAndUpdateBufferAllocationLocation(),
        s_tir.transform.ConvertBlocksToOpaque(),
        s_tir.transform.CompactBufferAllocation(),
        s_tir.transform.LowerMatchBuffer(),
        s_tir.transform.StmtSimplify(),
    ]


def _lowering_passes() -> Pass:
    """What TVM's default pipeline does for a function that runs on a CPU, up to the calling convention."""
    return Sequential(
        [
            *opaque_blocks(),
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


def _with_pointers(func: PrimFunc, alignment: int) -> tuple[PrimFunc, Parts]:
    """Turns buffer parameters into pointers, and shared loops into parts that further parameters choose."""
    pointers = [pointer(f"{buffer.name}_pointer", str(buffer.dtype)) for buffer in func.params]
    numbers = [Var(name, "int32") for name in ("part", "task", "tasks")]
    declarations, statements = parts_of(func.body)
    parts = tuple(is_shared(part[0]) for part in statements)
    if any(parts):
        body = tirx.SeqStmt([*declarations, *(_part(part, i, *numbers) for i, part in enumerate(statements))])
    else:
        body, parts, numbers = func.body, SERIAL, []
    # Lowering of allocations asks for the device that they are on; 1 is the CPU (kDLCPU).
    for key, value in (("device_type", 1), ("device_id", 0)):
        body = tirx.AttrStmt(StringImm("default"), key, int32(value), body)
    if alignment > ALIGNMENT:
        for buffer in func.params:
            body = tirx.AttrStmt(buffer, "storage_alignment", int32(alignment), body)
    views = [tirx.DeclBuffer(buffer, data=pointer) for buffer, pointer in zip(func.params, pointers, strict=True)]
    native = int_function([*pointers, *numbers], [*views, body])
    return native.with_attr("tirx.noalias", True), parts


def _part(statements: Sequence[Stmt], index: int, part: Var, task: Var, tasks: Var) -> Stmt:
    """One part of a kernel, executed if `part` is its index; of a shared loop, the task's share."""
    shares = [share_of(s, task, tasks) if is_shared(s) else s for s in statements]
    return tirx.IfThenElse(part.equal(index), shares[0] if len(shares) == 1 else tirx.SeqStmt(shares), None)
