"""A `Program` as a Relax module: the same PrimFuncs, called by TVM's own executor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .contraction import forbid_contraction
from .program import Program, Step

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr, GlobalVar
    from tvm.relax import BlockBuilder


def to_relax(program: Program) -> tvm.IRModule:
    """A module whose function `main` computes `program`.

    `main` takes the program's inputs in order, in physical shape, and returns a tuple of its outputs. Weights
    are constants of the function; scratch buffers are outputs that nobody reads. `tvm.relax.build` compiles
    the module for the virtual machine, which gives the same integers as the ahead-of-time build. Relax
    reserves no bytes behind a tensor, so kernels that read into the slack read whatever lies there, without
    effect on the result.

    Raises:
        ValueError: the program is malformed (see `Program.check`).
    """
    from tvm import relax
    from tvm_ffi import StructuralKey

    program.check()
    builder = relax.BlockBuilder()
    kernels: dict[StructuralKey, GlobalVar] = {}
    types = {name: relax.TensorType(b.shape, b.dtype) for name, b in program.buffers.items()}
    parameters = {name: relax.Var(f"input{i}", types[name]) for i, name in enumerate(program.inputs)}
    with builder.function("main", list(parameters.values())):
        with builder.dataflow():
            values: dict[str, Expr] = dict(parameters)
            for step in program.steps:
                key = StructuralKey(step.kernel.func.without_attr("global_symbol"))
                if key not in kernels:
                    kernels[key] = builder.add_func(forbid_contraction(key.key), "kernel")
                _emit(builder, kernels[key], step, program, values)
            result = builder.emit_output(relax.Tuple([values[name] for name in program.outputs]))
        builder.emit_func_output(result)
    return builder.get()


def _emit(builder: BlockBuilder, kernel: GlobalVar, step: Step, program: Program, values: dict[str, Expr]) -> None:
    """Calls the kernel of `step` on `values` and adds its outputs to them."""
    from tvm import relax

    parameters = [([int(extent) for extent in p.shape], str(p.dtype)) for p in step.kernel.func.params]
    constants = [relax.const(array) for array in step.kernel.constants]
    operands = [*(values[name] for name in step.inputs), *constants]
    arguments = [
        _reshaped(builder, operand, shape)
        for operand, (shape, _) in zip(operands, parameters[: len(operands)], strict=True)
    ]
    written = [relax.TensorType(shape, dtype) for shape, dtype in parameters[len(operands) :]]
    call = builder.emit(relax.call_tir(kernel, relax.Tuple(arguments), written))
    for index, name in enumerate(step.outputs):
        value = builder.emit(relax.TupleGetItem(call, index)) if len(written) > 1 else call
        values[name] = _reshaped(builder, value, program.buffers[name].shape)


def _reshaped(builder: BlockBuilder, value: Expr, shape: tuple[int, ...] | list[int]) -> Expr:
    from tvm import relax

    if [int(extent) for extent in value.ty.shape] == list(shape):
        return value
    return builder.emit(relax.op.reshape(value, tuple(shape)))
