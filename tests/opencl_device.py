"""Runs programs and kernels for OpenCL devices on PoCL, for the tests of kernels."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import numpy as np
from xdsl.ir import Operation

from qcompiler.interpreter import Interpreter
from qcompiler.ir.onnx_dialect import OnnxOp
from qcompiler.ir.values import input_names
from qcompiler.lowering.device import DeviceProgram, Range
from qcompiler.lowering.lower import Lowering
from qcompiler.lowering.opencl import build_device_program
from qcompiler.lowering.program import SLACK, Buffer, Program, Step
from qcompiler.targets.spec import TargetSpec

NO_DOT = ("-DQCOMPILER_NO_DOT",)
EMULATED_HALF = "-DQCOMPILER_EMULATE_HALF"
EMULATED_DOT = ("-DQCOMPILER_EMULATE_DOT",)
INSTALL = "apt-get install pocl-opencl-icd ocl-icd-libopencl1 and pip install pyopencl"


@cache
def missing() -> str:
    """Why nothing can run here, with what to install; empty if it can."""
    os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", "1")
    try:
        import pyopencl
    except ImportError:
        return f"pyopencl not found: {INSTALL}"
    try:
        return "" if pyopencl.get_platforms() else f"no OpenCL device found: {INSTALL}"
    except pyopencl.Error as error:
        return f"{error}: {INSTALL}"


@cache
def device_queue():
    """The queue of the OpenCL device of all tests: PoCL's or oclgrind's, else the first there is."""
    import pyopencl

    platforms = pyopencl.get_platforms()
    platform = next((p for p in platforms if "Portable" in p.name or "Oclgrind" in p.name), platforms[0])
    context = pyopencl.Context(platform.get_devices()[:1])
    return pyopencl.CommandQueue(context)


def run_program(
    device: DeviceProgram,
    inputs: Sequence[np.ndarray],
    outputs: Sequence[np.ndarray],
    options: Sequence[str] = (),
    *,
    trace: bool = False,
    slack: int = 0,
) -> np.ndarray:
    """Makes all launches; `outputs` hold the results afterwards. Returns the arena.

    Inputs are followed by `slack` bytes of something.
    """
    import pyopencl as cl

    queue = device_queue()
    context, flags = queue.context, cl.mem_flags
    built = cl.Program(context, device.source).build([*device.build_options, EMULATED_HALF, *options], cache_dir=False)
    kernels = {name: cl.Kernel(built, name) for name in {launch.kernel for launch in device.launches}}
    plan = device.trace_plan if trace else device.plan
    arena = cl.Buffer(context, flags.READ_WRITE, max(plan.arena_bytes, 256))
    weights = cl.Buffer(context, flags.READ_ONLY | flags.COPY_HOST_PTR, hostbuf=device.weights.blob)
    blocks = {"weights": weights, "arena": arena}
    padding = np.full(slack, 0xA5, np.uint8)
    memories = [np.concatenate([np.ascontiguousarray(a).reshape(-1).view(np.uint8), padding]) for a in inputs]
    given = [cl.Buffer(context, flags.READ_ONLY | flags.COPY_HOST_PTR, hostbuf=a) for a in memories]
    taken = [cl.Buffer(context, flags.READ_WRITE | flags.COPY_HOST_PTR, hostbuf=a) for a in outputs]

    @cache
    def memory(range_: Range):
        if range_.base in ("inputs", "outputs"):
            return (given if range_.base == "inputs" else taken)[range_.position]
        start = range_.trace_position if trace else range_.position
        whole = blocks[range_.base]
        return whole.get_sub_region(start, min(range_.nbytes, whole.size - start))

    for launch in device.launches:
        kernel = kernels[launch.kernel]
        kernel.set_args(*[memory(r) for r in launch.arguments])
        cl.enqueue_nd_range_kernel(queue, kernel, launch.global_size, launch.local_size)
    for array, buffer in zip(outputs, taken, strict=True):
        cl.enqueue_copy(queue, array, buffer)
    result = np.empty(arena.size, np.uint8)
    cl.enqueue_copy(queue, result, arena)
    queue.finish()
    return result


def run_device_calls(calls: Sequence, spec: TargetSpec) -> list[list[np.ndarray]]:
    """The output buffers of each call of a kernel (`emulated.Call`), all in one program; both forms of the products.

    Fails if the forms differ. Oclgrind declares Arm's function, which it does not have: there the products are plain.
    """
    program, read, written = program_of(calls)
    device = build_device_program(program, spec)
    both = re.search(r"= qc_dot", device.source) and "Oclgrind" not in device_queue().device.platform.name
    forms = [NO_DOT, EMULATED_DOT] if both else [NO_DOT]
    found = []
    for options in forms:
        results = [array.copy() for array in written]
        run_program(device, read, results, options, slack=SLACK)
        found.append(results)
    for one, other in zip(found[0], found[-1], strict=True):
        assert np.array_equal(one, other), "the forms of the products differ"
    ends = np.cumsum([0, *(len(call.outputs) for call in calls)])
    return [found[0][a:b] for a, b in pairwise(ends)]


def program_of(calls: Sequence) -> tuple[Program, list[np.ndarray], list[np.ndarray]]:
    """Calls of kernels as one program, with the arrays it reads and writes."""
    program = Program()
    read: list[np.ndarray] = []
    written: list[np.ndarray] = []
    for number, call in enumerate(calls):
        inputs = [f"in{number}.{i}" for i in range(len(call.inputs))]
        outputs = [f"out{number}.{i}" for i in range(len(call.outputs))]
        for name, array in zip(inputs + outputs, [*call.inputs, *call.outputs], strict=True):
            program.buffers[name] = Buffer(name, array.shape, str(array.dtype))
        program.inputs += inputs
        program.outputs += outputs
        read += call.inputs
        written += call.outputs
        program.steps.append(Step(call.kernel, tuple(inputs), tuple(outputs), f"call {number}"))
    return program, read, written


def differences(lowering: Lowering, device: DeviceProgram, feed: dict[str, np.ndarray], options: Sequence[str]):
    """Runs one input and compares every stored value with the interpreter's: (integers compared, what differs).

    The results of float operations give way to the device's, and the interpreter goes on with those.
    """
    module, program = lowering.model.module, lowering.program
    inputs = [np.ascontiguousarray(feed[name]) for name in input_names(module)]
    outputs = [np.zeros(program.buffers[name].shape, program.buffers[name].dtype) for name in program.outputs]
    arena = run_program(device, inputs, outputs, options, trace=True)
    memory = dict(zip(program.outputs, outputs, strict=True))
    written = {name for step in program.steps for name in step.outputs}
    found: list[tuple[str, int, float]] = []
    count = 0

    def watch(op: Operation, results: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        nonlocal count
        taken = list(results)
        for index, value in enumerate(op.results):
            place = lowering.places.get(value)
            if place not in written:
                continue
            view = lowering.views[value]
            if place not in memory:
                buffer = program.buffers[place]
                start = device.trace_plan.offsets[place]
                memory[place] = arena[start : start + buffer.nbytes].view(buffer.dtype)
            flat = memory[place].reshape(-1)
            strides = [stride * flat.itemsize for stride in view.strides]
            stored = np.lib.stride_tricks.as_strided(flat[view.origin :], view.shape, strides)
            stored = stored.reshape(results[index].shape)
            if isinstance(op, OnnxOp):
                taken[index] = stored.copy()
            if results[index].dtype.kind == "f":
                scale = max(float(np.abs(results[index]).max(initial=0)), 1e-30)
                error = float(np.abs(stored - results[index]).max(initial=0)) / scale
                if not error < 1e-4:
                    found.append((lowering.names[value], -1, error))
            else:
                count += 1
                if different := int(np.count_nonzero(stored != results[index])):
                    found.append((lowering.names[value], different, 0.0))
        return tuple(taken)

    Interpreter(lowering.model).run(dict(feed), watch)
    return count, found
