"""From regions to integer kernels inside the module, for TVM to build."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import nullcontext

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Expr
from tvm.ir.transform import Pass, PassContext, Sequential
from tvm.relax import Function
from tvm.s_tir.meta_schedule.database import Database
from tvm.target import Target

from qcompiler.errors import TargetError
from qcompiler.ir.values import body, shape
from qcompiler.lowering.lower import Lowering, lower
from qcompiler.lowering.program import Program, Step
from qcompiler.lowering.tensors import padded, tensor_function
from qcompiler.targets.spec import TargetSpec, resolve_target
from qcompiler.tvm.regions import region_model, regions

_OPAQUE = 8
"""The pattern of a function (`OpPatternKind`) that fusion leaves alone."""


def target(name: str = "host") -> Target:
    """TVM's target for one of ours, for `relax.build` and `with target:`.

    Raises:
        TargetError: the name is unknown, or TVM cannot build modules for the target.
    """
    machine = Target(_machine(resolve_target(name)))
    return machine.with_host(machine)


def _machine(spec: TargetSpec) -> dict[str, object]:
    from importlib import import_module

    if spec.driver:
        raise TargetError(f"{spec.name}: its kernels run on a device with a driver of ours, not in TVM's runtime")
    return import_module(spec.kernels).tvm_target(spec)


def Lower(name: str = "host", database: Database | None = None, *, schedule: bool = True) -> Pass:
    """A pass that replaces each region by calls of the scheduled integer kernels of a target, in place.

    The kernels are private TIR functions named after the nodes they compute. They are marked as scheduled, and as
    opaque to fusion. Their results are those of the interpreter and of the bundle, to the bit. Choices that a tuning
    database has (`qcompiler.tvm.tune`) are taken from `database`, or from the one in effect (`with database:`).
    Without `schedule`, functions that have loops to schedule are left plain for `schedule_rules`.

    Raises:
        TargetError: as `target` does.
        PipelineError: in the pass: a region is not at stage `laid_out`, which `Quantize` brings it to.
    """
    spec = resolve_target(name)
    _machine(spec)

    def run(module: tvm.IRModule, _: PassContext) -> tvm.IRModule:
        builder = relax.BlockBuilder(module)
        found = regions(module)
        lowered = {}
        for region, variable in found.items():
            with database or nullcontext():
                lowering = lower(region_model(module, region), spec)
            lowered[variable] = _function(builder, lowering, module[variable], region, schedule)
        module = builder.get()
        for variable, function in list(module.functions_items()):
            if variable in lowered:
                del module[variable]
            elif isinstance(function, Function):
                module.update_func(variable, function.inline_functions(lowered))
        return module

    return tvm.transform.module_pass(run, opt_level=0, name="qcompiler.lower")


def pipeline(name: str = "host", database: Database | None = None) -> Pass:
    """A pipeline for `relax.build(module, target(name), relax_pipeline=pipeline(name))`: `Lower`, then TVM's own.

    `database` is as in `Lower`.

    Raises:
        TargetError: as `target` does.
    """
    return Sequential([Lower(name, database), relax.get_default_pipeline(target(name))], name="qcompiler.pipeline")


def _function(builder: relax.BlockBuilder, lowering: Lowering, old: Function, region: str, schedule: bool) -> Function:
    """The region's function with calls of kernels as its body.

    Tensors between kernels are flat and longer than their contents (`padded`).
    """
    program, block = lowering.program, body(lowering.model.module)
    results = dict(zip(program.outputs, block.last_op.operands, strict=True))
    extents = {name: shape(value) for name, value in results.items()}
    parameters = [relax.Var(p.name, p.ty) for p in old.params]
    values: dict[str, Expr] = dict(zip(program.inputs, parameters, strict=True))
    extents |= {n: shape(a) for n, a in zip(program.inputs, block.args, strict=True)}
    constants: dict[tuple[bytes, str], Expr] = {}
    with builder.function(f"{region}_lowered", parameters, private=True):
        with builder.dataflow():
            for step in program.steps:
                called = _call(builder, step, program, extents, values, constants, region, schedule)
                names = [*step.outputs, *("" for _ in step.kernel.scratch)]
                if len(names) == 1:
                    values[names[0]] = builder.emit(called)
                    continue
                parts = builder.emit(called)
                for i, each in enumerate(step.outputs):
                    values[each] = builder.emit(relax.TupleGetItem(parts, i))
            given = [values[name] for name in program.outputs]
            result = builder.emit_output(given[0] if len(given) == 1 else relax.Tuple(given))
        builder.emit_func_output(result)
    variable = builder.get().get_global_var(f"{region}_lowered")
    function = builder.get()[variable]
    del builder.get()[variable]
    return function


def _call(
    builder: relax.BlockBuilder,
    step: Step,
    program: Program,
    extents: Mapping[str, tuple[int, ...]],
    values: Mapping[str, Expr],
    constants: dict[tuple[bytes, str], Expr],
    region: str,
    schedule: bool,
) -> Expr:
    """The call of one step's kernel; scratch memory is further results that nobody reads."""

    def kind(name: str) -> tuple[tuple[int, ...], str]:
        buffer = program.buffers[name]
        return (tuple(extents[name]), buffer.dtype) if name in extents else padded(buffer.shape, buffer.dtype)

    inputs = [kind(name) for name in step.inputs]
    fixed = [padded(array.shape, str(array.dtype)) for array in step.kernel.constants]
    outputs = [kind(name) for name in step.outputs]
    outputs += [padded(extent, dtype) for extent, dtype in step.kernel.scratch]
    function = tensor_function(step.kernel, [*inputs, *fixed, *outputs], schedule=schedule).with_attr(
        "op_pattern", _OPAQUE
    )
    label = re.sub("[^0-9A-Za-z]+", "_", f"{region}_{step.location}").strip("_")[:80]
    variable = builder.add_func(function, label)
    arguments = [values[name] for name in step.inputs] + [_constant(a, constants) for a in step.kernel.constants]
    kinds = [relax.TensorType(extent, dtype) for extent, dtype in outputs]
    return relax.op.call_tir(variable, relax.Tuple(arguments), kinds[0] if len(kinds) == 1 else kinds)


def _constant(array: np.ndarray, known: dict[tuple[bytes, str], Expr]) -> Expr:
    """The array, flat and with slack; equal arrays are one constant."""
    key = (array.tobytes(), str(array.dtype))
    if key not in known:
        memory = np.zeros(*padded(array.shape, str(array.dtype)))
        memory[: array.size] = array.reshape(-1)
        known[key] = relax.const(memory, str(array.dtype))
    return known[key]
