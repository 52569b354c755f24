"""A compiled program as a Relax executable: the bundle's kernels, called by the virtual machine of TVM's runtime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from .aot import Call, CompiledProgram, Place
from .program import Program

if TYPE_CHECKING:
    import tvm
    from tvm.ir import Expr
    from tvm.tirx import PrimFunc, Stmt

EXPORTS = ("__tvm_ffi_*", "__TVM*")
"""Symbols of the library that TVM's runtime looks up: functions and data, and the pointers that it sets."""

_TASKS = 32
"""Tasks in which the runtime's threads share the work of a part, if the program is compiled for threads."""

Shapes = Mapping[str, tuple[int, ...]]
"""Shapes in which the caller sees program inputs and outputs, by buffer name."""

Link = Callable[[Sequence[Path], Path], None]
"""Links object files to a shared library, which may lack functions of TVM's runtime."""


def export_executable(
    program: Program, compiled: CompiledProgram, target: dict, shapes: Shapes, library: Path, link: Link
) -> None:
    """Writes the shared library that `tvm.runtime.load_module` opens for `tvm.relax.VirtualMachine`.

    Its function `main` is that of `to_relax`. `target` is the one that `compiled` was built for.

    Raises:
        TargetError: as `link` does.
    """
    from tvm import relax
    from tvm.target import Target

    machine = Target(target)
    executable = relax.build(to_relax(program, compiled, shapes), machine.with_host(machine))
    with TemporaryDirectory() as folder:
        kernels = Path(folder) / "kernels.o"
        kernels.write_bytes(compiled.objects[0])

        def compile_library(output: str, files: Sequence[str], **_: object) -> None:
            link([*map(Path, files), kernels], Path(output))

        executable.export_library(str(library), fcompile=compile_library, workspace_dir=folder)


def to_relax(program: Program, compiled: CompiledProgram, shapes: Shapes) -> tvm.IRModule:
    """A module whose function `main` calls the kernels of `compiled` one after the other.

    `main` takes the program's inputs in order and returns a tuple of its outputs. The weights are one constant; all
    buffers lie in one tensor, the arena, where the bundle has them, with as many bytes behind them that may be read.
    Threads of the runtime share the parts that `compiled` has for them.
    Each step is a call of its own, of a function named after the kernel, so that TVM's profiler tells them apart.
    """
    from tvm import relax

    types = {name: relax.TensorType(shapes[name], program.buffers[name].dtype) for name in program.external}
    tensors: dict[str, list[Expr]] = {
        "inputs": [relax.Var(f"input{number}", types[name]) for number, name in enumerate(program.inputs)],
        "weights": [relax.const(compiled.weights.blob)],
    }
    builder = relax.BlockBuilder()

    def allocate(shape: Sequence[int], dtype: str) -> Expr:
        return builder.emit(relax.op.builtin.alloc_tensor(relax.ShapeExpr(shape), dtype, 0))

    with builder.function("main", tensors["inputs"], pure=False):
        tensors["arena"] = [allocate([max(compiled.plan.arena_bytes, program.alignment)], "uint8")]
        tensors["outputs"] = [allocate(shapes[name], program.buffers[name].dtype) for name in program.outputs]
        for call in compiled.calls:
            used = list(dict.fromkeys(map(_tensor_of, call.arguments)))
            arguments = [tensors[base][index] for base, index in used]
            function = builder.add_func(_step(call, used, arguments), f"call_{call.symbol}")
            builder.emit(relax.Call(function, arguments, ty_args=[relax.TupleType([])]))
        builder.emit_func_output(relax.Tuple(tensors["outputs"]))
    return builder.get()


_Tensor = tuple[str, int]
"""A program input or output, the weights or the arena: what a `Place` lies in."""


def _tensor_of(place: Place) -> _Tensor:
    return place.base, place.position if place.base in ("inputs", "outputs") else 0


def _step(call: Call, used: Sequence[_Tensor], arguments: Sequence[Expr]) -> PrimFunc:
    """A TIR function on the tensors `used`, of the types of `arguments`, that calls the kernel."""
    from tvm import tirx

    buffers = [
        tirx.decl_buffer(tuple(map(int, argument.ty.shape)), str(argument.ty.dtype), base)
        for (base, _), argument in zip(used, arguments, strict=True)
    ]

    def pointer(place: Place) -> Expr:
        base, index = _tensor_of(place)
        buffer = buffers[used.index((base, index))]
        indices = [place.position] if base in ("weights", "arena") else [0] * len(buffer.shape)
        return tirx.address_of(tirx.BufferLoad(buffer, [tirx.const(i, "int64") for i in indices]))

    def execute(*numbers: int | Expr) -> Stmt:
        return tirx.Evaluate(tirx.call_extern("int32", call.symbol, *map(pointer, call.arguments), *numbers))

    if not call.is_shared:
        return tirx.PrimFunc(buffers, execute())
    statements = []
    for part, shared in enumerate(call.parts):
        if shared:
            task = tirx.Var("task", "int32")
            statements.append(tirx.For(task, 0, _TASKS, tirx.ForKind.PARALLEL, execute(part, task, _TASKS)))
        else:
            statements.append(execute(part, 0, 1))
    return tirx.PrimFunc(buffers, statements[0] if len(statements) == 1 else tirx.SeqStmt(statements))
