"""A device program as a Relax executable: TVM's virtual machine launches the kernels of the bundle through OpenCL.

TVM's runtime has no parts of buffers: every range of the arena is a tensor of its own here, and TVM plans their memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import tvm
from tvm import relax, tirx
from tvm.target import Target
from tvm_ffi.registry import remove_global_func

from .device import DeviceProgram, Launch, Range
from .native import pointer
from .program import Program
from .relax_program import Link, Shapes

if TYPE_CHECKING:
    from tvm.ir import Expr
    from tvm.runtime import Module
    from tvm.tirx import PrimFunc

PHONE = {"kind": "llvm", "mtriple": "aarch64-linux-gnu"}
"""The processor beside a Mali GPU."""

_DEVICE_LAUNCH = 2
"""TVM's calling convention of functions that a device launches (kDeviceKernelLaunch)."""
_EXTENTS = ("blockIdx.x", "blockIdx.y", "blockIdx.z", "threadIdx.x", "threadIdx.y", "threadIdx.z")
_POSTPROC = "tvm_callback_opencl_postproc"


def export_device_executable(
    program: Program, device: DeviceProgram, host: Mapping[str, str], shapes: Shapes, library: Path, link: Link
) -> None:
    """Writes the shared library that `tvm.runtime.load_module` opens for `tvm.relax.VirtualMachine` on OpenCL.

    Its function `main` is that of `to_relax`. `host` is the TVM target of the processor that launches the kernels.

    Raises:
        TargetError: as `link` does.
    """
    target = Target({"kind": "opencl", "device": "mali"}, host=dict(host))
    # The pipeline of GPUs would schedule the functions that launch kernels; this one leaves them as they are.
    executable = relax.build(to_relax(program, device, shapes), target, relax_pipeline="default_build")
    executable.mod.imports[0].import_module(_kernels(device, target))
    with TemporaryDirectory() as folder:

        def compile_library(output: str, files: Sequence[str], **_: object) -> None:
            link([*map(Path, files)], Path(output))

        executable.export_library(str(library), fcompile=compile_library, workspace_dir=folder)


def to_relax(program: Program, device: DeviceProgram, shapes: Shapes) -> tvm.IRModule:
    """A module whose function `main` launches the kernels of `device` one after the other.

    `main` takes the program's inputs in order and returns a tuple of its outputs. Weights are constants, one for each
    range; each launch is a call of its own, of a function named after the kernel, so that TVM's profiler tells them
    apart.
    """
    types = {name: relax.TensorType(shapes[name], program.buffers[name].dtype) for name in program.external}
    inputs = [relax.Var(f"input{number}", types[name]) for number, name in enumerate(program.inputs)]
    sizes: dict[int, int] = {}
    for range_ in (r for launch in device.launches for r in launch.arguments if r.base == "arena"):
        sizes[range_.trace_position] = max(range_.nbytes, sizes.get(range_.trace_position, 0))
    tensors: dict[tuple[str, int], Expr] = {("inputs", i): value for i, value in enumerate(inputs)}
    builder = relax.BlockBuilder()

    def allocate(shape: Sequence[int], dtype: str) -> Expr:
        return builder.emit(relax.op.builtin.alloc_tensor(relax.ShapeExpr(shape), dtype, 0))

    def tensor(range_: Range) -> Expr:
        key = (range_.base, range_.trace_position)
        if key not in tensors:
            if range_.base == "weights":
                end = range_.position + range_.nbytes
                tensors[key] = relax.const(device.weights.blob[range_.position : end])
            else:
                tensors[key] = allocate([sizes[range_.trace_position]], "uint8")
        return tensors[key]

    with builder.function("main", inputs, pure=False):
        outputs = [allocate(shapes[name], program.buffers[name].dtype) for name in program.outputs]
        tensors |= {("outputs", i): value for i, value in enumerate(outputs)}
        for launch in device.launches:
            arguments = [tensor(range_) for range_ in launch.arguments]
            function = builder.add_func(_launch(launch, arguments), f"call_{launch.kernel}")
            builder.emit(relax.Call(function, arguments, ty_args=[relax.TupleType([])]))
        builder.emit_func_output(relax.Tuple(outputs))
    return builder.get()


def _launch(launch: Launch, arguments: Sequence[Expr]) -> PrimFunc:
    """A TIR function on tensors of the types of `arguments` that launches the kernel, which its module has imported."""
    buffers = [
        tirx.decl_buffer(tuple(map(int, argument.ty.shape)), str(argument.ty.dtype), f"argument{i}")
        for i, argument in enumerate(arguments)
    ]
    groups = [whole // local for whole, local in zip(launch.global_size, launch.local_size, strict=True)]
    extents = [tirx.const(extent, "int64") for extent in (*groups, *launch.local_size)]
    call = tirx.call_packed(launch.kernel, *(buffer.data for buffer in buffers), *extents)
    return tirx.PrimFunc(buffers, tirx.Evaluate(call))


def _kernels(device: DeviceProgram, target: Target) -> Module:
    """TVM's module of the device's source, made of functions with the kernels' parameters and no body."""
    functions = {launch.kernel: _signature(launch, target) for launch in device.launches}
    module = tvm.IRModule({tvm.ir.GlobalVar(name): function for name, function in functions.items()})
    with _source_of(_texts(device.source)):
        return tvm.get_global_func("target.build.opencl")(module, target)


def _signature(launch: Launch, target: Target) -> PrimFunc:
    parameters = [pointer(f"argument{i}", "uint8") for i in range(len(launch.arguments))]
    function = tirx.PrimFunc(parameters, tirx.Evaluate(tirx.const(0, "int32")))
    attributes = {
        "calling_conv": _DEVICE_LAUNCH,
        "global_symbol": launch.kernel,
        "tirx.is_global_func": True,
        "tirx.kernel_launch_params": list(_EXTENTS),
        "target": target,
    }
    for key, value in attributes.items():
        function = function.with_attr(key, value)
    return function


def _texts(source: str) -> dict[str, str]:
    """The text of each kernel, what stands in front of all included: TVM's runtime compiles each by itself."""
    prelude, *parts = re.split(r"^// Function: (\w+)\n", source, flags=re.MULTILINE)
    return {name: prelude + text for name, text in zip(parts[::2], parts[1::2], strict=True)}


@contextmanager
def _source_of(texts: Mapping[str, str]) -> Iterator[None]:
    """Lets TVM's generator put these texts in place of its own."""

    def text(generated: str, _: object) -> str:
        return next(texts[name] for name in re.findall(r"__kernel void (\w+)\([^)]*\) {", generated))

    tvm.register_global_func(_POSTPROC, text, override=True)
    try:
        yield
    finally:
        remove_global_func(_POSTPROC)
