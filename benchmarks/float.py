"""Time of float operators: the kernels of float islands against onnxruntime's float32, each on the same values.

    python benchmarks/float.py [--target host:avx2] [--repeats 15] [name ...]

Both run on one thread, take turns, and must agree to 1e-4 of the largest result; times are medians of CPU time. A ratio
above 1 means that ours is faster. A name selects the operators that contain it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table
from timing import medians

from qcompiler.ir.opset import OPSET
from qcompiler.lowering.float_island import lower_float
from qcompiler.lowering.program import ALIGNMENT, SLACK
from qcompiler.targets.host.spec import tvm_target
from qcompiler.targets.spec import TargetSpec, resolve_target


@dataclass(frozen=True)
class Case:
    """One node; its first input is the activation, the others are constants unless `free`."""

    op: str
    shapes: tuple[tuple[int, ...], ...]
    attributes: dict[str, object] = field(default_factory=dict)
    multiply_adds: int = 0
    free: bool = False
    """All inputs are activations."""


def conv(size: int, inputs: int, outputs: int, kernel: int, stride: int = 1, group: int = 1) -> Case:
    """A square image and kernel, padded to keep the size (divided by the stride), with bias."""
    before = (kernel - 1) // 2
    out = -(-size // stride)
    shapes = ((1, inputs, size, size), (outputs, inputs // group, kernel, kernel), (outputs,))
    attributes = {"pads": [before] * 4, "strides": [stride] * 2, "group": group}
    return Case("Conv", shapes, attributes, out * out * outputs * (inputs // group) * kernel * kernel)


def matmul(m: int, k: int, n: int, batch: int = 0) -> Case:
    """Constant second operand, or with a batch two activations."""
    if batch:
        return Case("MatMul", ((batch, m, k), (batch, k, n)), {}, batch * m * k * n, free=True)
    return Case("MatMul", ((m, k), (k, n)), {}, m * k * n)


CASES = {
    "conv 3x3/2 224 3-32": conv(224, 3, 32, 3, 2),
    "conv 7x7/2 224 3-64": conv(224, 3, 64, 7, 2),
    "conv 1x1 112 32-16": conv(112, 32, 16, 1),
    "conv 1x1 56 64-256": conv(56, 64, 256, 1),
    "conv 1x1 14 96-576": conv(14, 96, 576, 1),
    "conv 1x1 7 960-320": conv(7, 960, 320, 1),
    "conv 3x3 56 64-64": conv(56, 64, 64, 3),
    "conv 3x3 14 256-256": conv(14, 256, 256, 3),
    "conv 3x3/2 56 128-128": conv(56, 128, 128, 3, 2),
    "conv 3x3 7 512-512": conv(7, 512, 512, 3),
    "depthwise 3x3 112 32": conv(112, 32, 32, 3, 1, 32),
    "depthwise 3x3/2 112 96": conv(112, 96, 96, 3, 2, 96),
    "depthwise 3x3 14 576": conv(14, 576, 576, 3, 1, 576),
    "matmul 64x384x1536": matmul(64, 384, 1536),
    "matmul 64x1536x384": matmul(64, 1536, 384),
    "matmul 512x512x512": matmul(512, 512, 512),
    "matmul 1x1280x1000": matmul(1, 1280, 1000),
    "attention 12x64x32x64": matmul(64, 32, 64, 12),
    "softmax 768x64": Case("Softmax", ((768, 64),), {"axis": -1}),
    "softmax 128x197": Case("Softmax", ((128, 197),), {"axis": -1}),
    "layer norm 64x384": Case("LayerNormalization", ((64, 384), (384,), (384,)), {"axis": -1}),
    "sigmoid 1x64x52x52": Case("Sigmoid", ((1, 64, 52, 52),)),
    "tanh 64x1536": Case("Tanh", ((64, 1536),)),
    "erf 64x1536": Case("Erf", ((64, 1536),)),
    "add 1x256x56x56": Case("Add", ((1, 256, 56, 56), (1, 256, 56, 56)), free=True),
    "max pool 3x3/2 112 64": Case(
        "MaxPool", ((1, 64, 112, 112),), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    ),
    "global pool 7 1280": Case("GlobalAveragePool", ((1, 1280, 7, 7),)),
    "transpose 64x12x32": Case("Transpose", ((1, 64, 12, 32),), {"perm": [0, 2, 1, 3]}),
    "transpose 256x196": Case("Transpose", ((1, 256, 196),), {"perm": [0, 2, 1]}),
}


def model_of(case: Case, arrays: list[np.ndarray]) -> onnx.ModelProto:
    names = [f"x{i}" for i in range(len(arrays))]
    count = len(arrays) if case.free else 1
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in zip(names, arrays, strict=True)][
        :count
    ]
    constants = [numpy_helper.from_array(a, n) for n, a in zip(names, arrays, strict=True)][count:]
    node = helper.make_node(case.op, names, ["y"], **case.attributes)
    graph = helper.make_graph([node], "case", inputs, [onnx.ValueInfoProto(name="y")], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def ours(model: onnx.ModelProto, arrays: list[np.ndarray], spec: TargetSpec) -> tuple[Callable[[], None], np.ndarray]:
    """A call that runs all steps, and the array it writes."""
    program = lower_float(model, spec.vector_bytes)
    functions = {f"k{i}": s.kernel.func.with_attr("global_symbol", f"k{i}") for i, s in enumerate(program.steps)}
    library = tvm.compile(tvm.IRModule(functions), target=tvm.target.Target(tvm_target(spec)))
    memory = {name: _aligned(np.zeros(b.shape, b.dtype)) for name, b in program.buffers.items()}
    for name, array in zip(program.inputs, arrays, strict=False):
        memory[name][...] = array
    calls = []
    for i, step in enumerate(program.steps):
        parts = [memory[n] for n in step.inputs], step.kernel.constants, [memory[n] for n in step.outputs]
        flat = [_aligned(c).reshape(-1) if group is parts[1] else c.reshape(-1) for group in parts for c in group]
        calls.append((library[f"k{i}"], [tvm.runtime.from_dlpack(array) for array in flat]))

    def run() -> None:
        for function, tensors in calls:
            function(*tensors)

    return run, memory["y"]


def _aligned(array: np.ndarray) -> np.ndarray:
    memory = np.zeros(array.nbytes + SLACK + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def theirs(model: onnx.ModelProto, arrays: list[np.ndarray], shape: tuple[int, ...]) -> tuple[Callable, np.ndarray]:
    """onnxruntime with bound buffers: nothing is allocated or copied in the timed call."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    binding, result = session.io_binding(), np.zeros(shape, np.float32)
    for value, array in zip(session.get_inputs(), arrays, strict=False):
        binding.bind_cpu_input(value.name, array)
    binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_numpy(result))
    session.run_with_iobinding(binding)
    return lambda: session.run_with_iobinding(binding), binding.get_outputs()[0].numpy().copy()


def main() -> None:
    parser = argparse.ArgumentParser(description="Float kernels against onnxruntime, operator by operator.")
    parser.add_argument("names", nargs="*", help="run only operators whose name contains one of these")
    parser.add_argument("--target", default="host")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    spec = resolve_target(arguments.target)
    table = Table("operator", "ours us", "GFLOP/s", "onnxruntime us", "GFLOP/s", "ratio")
    for column in table.columns[1:]:
        column.justify = "right"
    rng = np.random.default_rng(0)
    for name, case in CASES.items():
        if arguments.names and not any(part in name for part in arguments.names):
            continue
        arrays = [rng.standard_normal(shape).astype(np.float32) for shape in case.shapes]
        model = model_of(case, arrays)
        run, found = ours(model, arrays, spec)
        other, expected = theirs(model, arrays, found.shape)
        run()
        if np.abs(found - expected).max() > 1e-4 * np.abs(expected).max():
            raise SystemExit(f"{name}: results differ from onnxruntime's")
        seconds = medians([run, other], arguments.repeats)
        rates = [f"{2e-9 * case.multiply_adds / s:.0f}" if case.multiply_adds else "" for s in seconds]
        times = [f"{s * 1e6:.1f}" for s in seconds]
        table.add_row(name, times[0], rates[0], times[1], rates[1], f"{seconds[1] / seconds[0]:.2f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
