"""A `Program` becomes OpenCL source and launches: `build_device_program`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import tvm
from tvm import s_tir, tirx
from tvm.ir import Expr, TensorLoad
from tvm.ir.transform import Sequential
from tvm.target import Target
from tvm.tirx import AllocBuffer, BufferStore, DeclBuffer, PrimFunc, Stmt, Var
from tvm_ffi import StructuralKey, structural_map

from qcompiler.errors import ModelError
from qcompiler.targets.spec import TargetSpec

from .aot import pack_weights
from .device import RANGE_ALIGNMENT, DeviceProgram, Launch, LaunchCost, Range
from .kernels import opaque_blocks
from .memory import MemoryPlan, plan_memory, scratch_name
from .native import pointer
from .opencl_cost import PRODUCTS, ProductCost, choose_work_group, launch_cost
from .opencl_forms import HALF, in_memory, to_opencl
from .opencl_grid import Part, parts_of_grid, spread
from .opencl_prelude import EXTENSIONS, check_source, prelude_of
from .parallel import owners_of
from .program import SLACK, Program, Step
from .work_groups import Size, check_work_groups

_DEVICE_CALL = 2
"""TVM's calling convention of functions that a device launches (kDeviceKernelLaunch)."""
_OPENCL = {"kind": "opencl", "device": "mali", "max_num_threads": 256, "thread_warp_size": 16}


@dataclass(frozen=True)
class _DeviceKernel:
    """One kernel of a step: its name, its part, the grid, and which of the step's buffers it takes, in order."""

    name: str
    part: Part
    grid: Size
    local: Size
    arguments: tuple[int, ...]
    """Positions among the parameters of the step's function and then its temporaries."""
    func: PrimFunc
    cost: LaunchCost


@dataclass(frozen=True)
class _DeviceStep:
    kernels: tuple[_DeviceKernel, ...]
    temporaries: tuple[tuple[tuple[int, ...], str], ...]
    """Further scratch buffers: memory that the kernels pass on to each other."""


def build_device_program(
    program: Program, spec: TargetSpec, work_groups: Mapping[str, Size] | None = None, *, prefix: str = "model"
) -> DeviceProgram:
    """The program of a device whose driver is OpenCL's.

    `work_groups` gives sizes of work-groups by kernel, as tuning found them; a small search over a cost model chooses
    the others.

    Raises:
        ValueError: the program is malformed.
        ModelError: a step has no form in OpenCL.
        PipelineError: a work-group is for a kernel that there is not, or that has not its dimensions.
        TargetError: the source has a pattern that is known to go wrong.
    """
    program.check()
    steps = _device_steps(program.steps, PRODUCTS[spec.instruction_set], work_groups or {})
    found = (kernel for step in steps for kernel in step.kernels)
    check_work_groups(work_groups or {}, {kernel.name: kernel.part.extents for kernel in found})
    program = _with_temporaries(program, steps)
    weights = pack_weights(program, RANGE_ALIGNMENT)
    plan = plan_memory(program, alignment=RANGE_ALIGNMENT)
    trace_plan = plan_memory(program, reuse=False, alignment=RANGE_ALIGNMENT)
    functions = {kernel.name: kernel.func for step in steps for kernel in step.kernels}
    kernels = _source(functions)
    check_source(kernels)
    launches = []
    for number, (step, device) in enumerate(zip(program.steps, steps, strict=True)):
        ranges = _ranges(program, number, step, weights.offsets[number], plan, trace_plan)
        for kernel in device.kernels:
            arguments = tuple(ranges[i] for i in kernel.arguments)
            launches.append(Launch(kernel.name, number, arguments, kernel.grid, kernel.local, kernel.part.serial))
    return DeviceProgram(
        prelude_of(kernels) + kernels,
        tuple(launches),
        weights,
        plan,
        trace_plan,
        len(functions),
        ("-cl-std=CL1.2",),
        tuple(name for name, pattern in EXTENSIONS.items() if re.search(pattern, kernels)),
        prefix=prefix,
        costs=tuple(kernel.cost for step in steps for kernel in step.kernels),
    )


def _device_steps(steps: Sequence[Step], products: ProductCost, work_groups: Mapping[str, Size]) -> list[_DeviceStep]:
    """The kernels of each step. Structurally equal functions are lowered once and shared."""
    keys = [StructuralKey(step.kernel.func.without_attr("global_symbol")) for step in steps]
    named: dict[StructuralKey, tvm.ir.GlobalVar] = {}
    for key, step in zip(keys, steps, strict=True):
        if key not in named:
            rule = re.sub("[^0-9A-Za-z]", "_", step.kernel.rule)
            named[key] = tvm.ir.GlobalVar(f"k{len(named)}_{rule}")
    module = tvm.IRModule({variable: key.key for key, variable in named.items()})
    module = _lowering_passes()(tirx.transform.BindTarget(Target(_OPENCL))(module))
    lowered: dict[StructuralKey, _DeviceStep] = {}
    for key, step in zip(keys, steps, strict=True):
        if key not in lowered:
            try:
                lowered[key] = _device_step(module[named[key]], named[key].name_hint, products, work_groups)
            except ValueError as error:
                raise ModelError(
                    f"{step.location} (rule {step.kernel.rule}) has no form in OpenCL: {error}; "
                    "keep the operation off the device, in a model of its own"
                ) from error
    return [lowered[key] for key in keys]


def _lowering_passes() -> Sequential:
    """From scheduled blocks to loops over flat buffers, as for a CPU, but for what would share or hoist values."""
    return Sequential(
        [
            *opaque_blocks(),
            s_tir.transform.LowerOpaqueBlock(),
            tirx.transform.FlattenBuffer(),
            tirx.transform.NarrowDataType(32),
            tirx.transform.VectorizeLoop(True),
            tirx.transform.UnrollLoop(),
            s_tir.transform.RenormalizeSplitPattern(),
            tirx.transform.StmtSimplify(),
            tirx.transform.RemoveNoOp(),
            tirx.transform.LowerIntrin(),
        ]
    )


WORK_GROUP = "qcompiler.work_group"
"""Attribute of a function: the size of the work-groups of its largest loop nest, as its schedule rule chose it."""


def _device_step(func: PrimFunc, name: str, products: ProductCost, work_groups: Mapping[str, Size]) -> _DeviceStep:
    parts, temporaries = parts_of_grid(func)
    known = [*func.params, *temporaries]
    largest = max(range(len(parts)), key=lambda i: prod(parts[i].extents))
    chosen = tuple(int(n) for n in func.attrs.get(WORK_GROUP, ())) or None
    kernels = []
    for number, part in enumerate(parts):
        kernel = f"{name}_{number}" if len(parts) > 1 else name
        arguments = tuple(i for i, buffer in enumerate(known) if buffer in part.buffers)
        views = {known[i]: _flat(known[i]) for i in arguments}
        halves = {v: tirx.decl_buffer(v.shape, in_memory(HALF), v.name) for v in views.values() if v.dtype == HALF}
        part = replace(part, body=_rewritten(func, part.body, views, halves))
        views = {buffer: halves.get(view, view) for buffer, view in views.items()}
        local = work_groups.get(kernel) or (chosen if number == largest else None)
        local = local or choose_work_group(part.body, part.items, part.extents)
        body, grid = spread(part, local)
        cost = launch_cost(part.body, part.extents, products)
        kernels.append(_DeviceKernel(kernel, part, grid, local, arguments, _with_pointers(kernel, body, views), cost))
    shapes = tuple((tuple(int(n) for n in b.shape), str(b.dtype)) for b in temporaries)
    return _DeviceStep(tuple(kernels), shapes)


def _rewritten(func: PrimFunc, body: Stmt, views: Mapping[Var, Var], halves: Mapping[Var, Var]) -> Stmt:
    """The body of a kernel in the forms of OpenCL on flat `views` of its buffers."""
    body = _renamed(_with_private_temporaries(body), _views_of(func, views))
    return to_opencl(PrimFunc([], body, attrs=func.attrs), halves)


def _with_pointers(name: str, body: Stmt, views: Mapping[Var, Var]) -> PrimFunc:
    """A kernel whose parameters are pointers to the views."""
    names = [pointer(f"{view.name}_pointer", str(view.dtype)) for view in views.values()]
    declared = [DeclBuffer(view, data=data) for view, data in zip(views.values(), names, strict=True)]
    made = PrimFunc(names, tirx.SeqStmt([*declared, body]))
    for key, value in {
        "calling_conv": _DEVICE_CALL,
        "global_symbol": name,
        "tirx.noalias": True,
        "tirx.is_global_func": True,
        "tirx.kernel_launch_params": [],
        "target": Target(_OPENCL),
    }.items():
        made = made.with_attr(key, value)
    return made


def _flat(buffer: Var) -> Var:
    size = int(np.prod([int(n) for n in buffer.shape], dtype=np.int64))
    return tirx.decl_buffer((size,), str(buffer.dtype), buffer.name)


def _views_of(func: PrimFunc, flat: Mapping[Var, Var]) -> dict[Var, Var]:
    """What takes the place of each buffer and of each view of it."""
    views = owners_of(func.body).items()
    return {**flat, **{view: flat[owner] for view, owner in views if owner in flat}}


def _with_private_temporaries(body: Stmt) -> Stmt:
    found: dict[Var, Var] = {}

    def allocate(node: AllocBuffer) -> AllocBuffer:
        buffer = node.buffer
        found[buffer] = tirx.decl_buffer(list(buffer.shape), str(buffer.dtype), buffer.name, scope="local")
        return AllocBuffer(found[buffer])

    body = structural_map(body, (AllocBuffer, allocate))
    return _renamed(body, found)


def _renamed(body: Stmt, new: Mapping[Var, Var]) -> Stmt:
    def load(access: TensorLoad) -> Expr:
        return tirx.BufferLoad(new[access.source], access.indices) if access.source in new else access

    def store(access: BufferStore) -> Stmt:
        return BufferStore(new[access.buffer], access.value, access.indices) if access.buffer in new else access

    return structural_map(body, [(TensorLoad, load), (BufferStore, store)])


def _source(functions: Mapping[str, PrimFunc]) -> str:
    """The text of all kernels. TVM repeats the declarations of all functions of a module before each of them."""
    generate = tvm.get_global_func("target.build.opencl")
    texts = []
    for name, func in functions.items():
        module = tirx.transform.LowerIntrin()(tvm.IRModule({tvm.ir.GlobalVar(name): func}))
        texts.append(generate(module, Target(_OPENCL)).inspect_source())
    return "".join(texts)


def _with_temporaries(program: Program, steps: Sequence[_DeviceStep]) -> Program:
    extended = []
    for step, device in zip(program.steps, steps, strict=True):
        kernel = replace(step.kernel, scratch=step.kernel.scratch + device.temporaries)
        extended.append(replace(step, kernel=kernel))
    return replace(program, steps=extended)


def _ranges(
    program: Program, number: int, step: Step, constants: Sequence[int], plan: MemoryPlan, trace: MemoryPlan
) -> list[Range]:
    """The memory of each parameter of a step, and of its temporaries."""
    inputs = {name: i for i, name in enumerate(program.inputs)}
    outputs = {name: i for i, name in enumerate(program.outputs)}

    def named(name: str) -> Range:
        nbytes = program.buffers[name].nbytes
        if name in inputs:
            return Range("inputs", inputs[name], inputs[name], nbytes)
        if name in outputs:
            return Range("outputs", outputs[name], outputs[name], nbytes)
        return Range("arena", plan.offsets[name], trace.offsets[name], nbytes + SLACK)

    found = [named(name) for name in step.inputs]
    for offset, array in zip(constants, step.kernel.constants, strict=True):
        found.append(Range("weights", offset, offset, array.nbytes + SLACK))
    found += [named(name) for name in step.outputs]
    for i, (shape, dtype) in enumerate(step.kernel.scratch):
        nbytes = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        name = scratch_name(number, i)
        found.append(Range("arena", plan.offsets[name], trace.offsets[name], nbytes + SLACK))
    return found
