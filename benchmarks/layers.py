"""Time of single layers: our host kernels against onnxruntime's, each layer on the same integers.

    python benchmarks/layers.py [--target host:avx2] [--repeats 15] [name ...]

Both run on one thread, take turns, and must agree bit for bit; times are medians of CPU time. Convolutions
compare with `com.microsoft.QLinearConv` with channels last, so that neither side changes layouts; matrix
products with `QLinearMatMul`. A name selects the layers that contain it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import tvm
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.table import Table
from timing import medians

from qcompiler.arithmetic.conv import acc_bound
from qcompiler.lowering.program import ALIGNMENT, SLACK, Kernel
from qcompiler.lowering.workload import ConvWorkload, MatmulWorkload, Requantize
from qcompiler.targets.host.kernels import conv_kernel, matmul_kernel, tvm_target
from qcompiler.targets.spec import TargetSpec, resolve_target

X_ZERO_POINT, Y_ZERO_POINT = 117, 3


@dataclass(frozen=True)
class Conv:
    """Square images and kernels; the padding keeps the size (divided by the stride)."""

    size: int
    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    group: int = 1


@dataclass(frozen=True)
class Product:
    """`[batch, m, k] @ [batch, k, n]`; a constant right-hand side has no batch."""

    batch: int
    m: int
    k: int
    n: int
    constant: bool = True


LAYERS: dict[str, Conv | Product] = {
    "mobilenet first 3x3/2 224 3-32": Conv(224, 3, 32, 3, 2),
    "mobilenet 1x1 112 32-16": Conv(112, 32, 16, 1),
    "mobilenet 1x1 112 16-96": Conv(112, 16, 96, 1),
    "mobilenet 1x1 56 24-144": Conv(56, 24, 144, 1),
    "mobilenet 1x1 28 192-32": Conv(28, 192, 32, 1),
    "mobilenet 1x1 14 384-64": Conv(14, 384, 64, 1),
    "mobilenet 1x1 14 96-576": Conv(14, 96, 576, 1),
    "mobilenet 1x1 7 960-320": Conv(7, 960, 320, 1),
    "mobilenet 1x1 7 320-1280": Conv(7, 320, 1280, 1),
    "depthwise 3x3 112 32": Conv(112, 32, 32, 3, 1, 32),
    "depthwise 3x3/2 112 96": Conv(112, 96, 96, 3, 2, 96),
    "depthwise 3x3 56 144": Conv(56, 144, 144, 3, 1, 144),
    "depthwise 3x3 14 576": Conv(14, 576, 576, 3, 1, 576),
    "depthwise 3x3/2 14 576": Conv(14, 576, 576, 3, 2, 576),
    "depthwise 5x5 28 120": Conv(28, 120, 120, 5, 1, 120),
    "depthwise 5x5/2 14 672": Conv(14, 672, 672, 5, 2, 672),
    "resnet first 7x7/2 224 3-64": Conv(224, 3, 64, 7, 2),
    "resnet 1x1 56 64-256": Conv(56, 64, 256, 1),
    "resnet 3x3 56 64-64": Conv(56, 64, 64, 3),
    "resnet 3x3/2 56 128-128": Conv(56, 128, 128, 3, 2),
    "resnet 3x3 14 256-256": Conv(14, 256, 256, 3),
    "resnet 3x3 7 512-512": Conv(7, 512, 512, 3),
    "resnet 1x1 14 1024-256": Conv(14, 1024, 256, 1),
    "shufflenet 1x1 28 240-60 in 4 groups": Conv(28, 240, 60, 1, 1, 4),
    "resnext 3x3 28 256-256 in 32 groups": Conv(28, 256, 256, 3, 1, 32),
    "classifier 1280-1000": Product(1, 1, 1280, 1000),
    "transformer 197x192 192-576": Product(1, 197, 192, 576),
    "transformer 197x768 768-192": Product(1, 197, 768, 192),
    "attention scores 3x197x64x197": Product(3, 197, 64, 197, False),
    "attention values 3x197x197x64": Product(3, 197, 197, 64, False),
}


@dataclass(frozen=True)
class Contest:
    ours: Callable[[], object]
    theirs: Callable[[], object]
    rule: str
    macs: int


def conv_contest(layer: Conv, spec: TargetSpec, rng: np.random.Generator) -> Contest:
    pad = layer.kernel // 2
    x = rng.integers(0, 256, (1, layer.size, layer.size, layer.inputs), np.uint8)
    weights = rng.integers(-127, 127, (layer.outputs, layer.inputs // layer.group, *[layer.kernel] * 2), np.int8, True)
    bias = rng.integers(-2000, 2000, layer.outputs, np.int32)
    multiplier = _multiplier(rng, layer.outputs, weights[0].size)
    folded = (bias - X_ZERO_POINT * weights.sum((1, 2, 3), np.int64)).astype(np.int32)
    workload = ConvWorkload(
        n=1,
        h=layer.size,
        w=layer.size,
        ic=layer.inputs,
        oc=layer.outputs,
        kh=layer.kernel,
        kw=layer.kernel,
        strides=(layer.stride, layer.stride),
        dilations=(1, 1),
        pads=(pad, pad, pad, pad),
        group=layer.group,
        x_dtype="uint8",
        x_halo=(pad, pad, pad, pad),
        y_halo=(0, 0, 0, 0),
        pad_value=X_ZERO_POINT,
        requantize=Requantize("fp32", multiplier.astype(np.float64), Y_ZERO_POINT, (0, 255), "uint8"),
        acc_bound=int(acc_bound(weights, 0, 255, 0, 0, folded).max()),
    )
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), constant_values=X_ZERO_POINT)
    kernel = conv_kernel(workload, weights, folded, spec)
    ours, y = _ours(kernel, [padded.reshape(workload.x_shape)], workload.y_shape, spec)
    attributes = {
        "kernel_shape": [layer.kernel] * 2,
        "strides": [layer.stride] * 2,
        "pads": [pad] * 4,
        "group": layer.group,
        "channels_last": 1,
        "domain": "com.microsoft",
    }
    constants = {"w": weights, "ws": multiplier, "wz": np.zeros(layer.outputs, np.int8), "bias": bias}
    theirs, expected = _theirs(
        "QLinearConv", {"x": x}, constants, (1, workload.oh, workload.ow, layer.outputs), attributes
    )
    return _checked(ours, theirs, y, expected, kernel.rule, workload.macs)


def product_contest(layer: Product, spec: TargetSpec, rng: np.random.Generator) -> Contest:
    batch = () if layer.constant else (layer.batch,)
    a = rng.integers(0, 256, (*batch, layer.m, layer.k), np.uint8)
    b = rng.integers(-127, 127, (*batch, layer.k, layer.n), np.int8, True)
    multiplier = _multiplier(rng, 1, layer.k)
    workload = MatmulWorkload(
        a_batch=batch,
        b_batch=batch,
        m=layer.m,
        k=layer.k,
        n=layer.n,
        a_dtype="uint8",
        b_dtype="int8",
        a_zero_point=X_ZERO_POINT,
        b_zero_point=0,
        requantize=Requantize("fp32", multiplier.astype(np.float64), Y_ZERO_POINT, (0, 255), "uint8"),
        acc_bound=layer.k * 255 * 127,
    )
    kernel = matmul_kernel(workload, b if layer.constant else None, None, spec)
    ours, y = _ours(kernel, [a] if layer.constant else [a, b], workload.y_shape, spec)
    right = {"w": b}
    constants = {"ws": multiplier[0], "wz": np.int8(0)}
    inputs = {"x": a}
    (constants if layer.constant else inputs).update(right)
    theirs, expected = _theirs("QLinearMatMul", inputs, constants, workload.y_shape, {})
    return _checked(ours, theirs, y, expected, kernel.rule, workload.macs)


def _multiplier(rng: np.random.Generator, channels: int, terms: int) -> np.ndarray:
    """Float32 multipliers that spread the results over the output's range."""
    return (rng.uniform(0.5, 2.0, channels) * 60 / (73 * 74 * np.sqrt(terms))).astype(np.float32)


def _ours(
    kernel: Kernel, inputs: list[np.ndarray], shape: tuple[int, ...], spec: TargetSpec
) -> tuple[Callable[[], object], np.ndarray]:
    """A call without arguments, and the array it writes."""
    output = np.zeros(shape, np.uint8)
    scratch = [np.zeros(extents, dtype) for extents, dtype in kernel.scratch]
    arrays = [_with_slack(array) for array in [*inputs, *kernel.constants, output, *scratch]]
    tensors = [tvm.runtime.from_dlpack(array) for array in arrays]
    function = tvm.compile(kernel.func, target=tvm.target.Target(tvm_target(spec)))["main"]
    return lambda: function(*tensors), arrays[len(inputs) + len(kernel.constants)]


def _with_slack(array: np.ndarray) -> np.ndarray:
    memory = np.zeros(array.nbytes + SLACK + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def _theirs(
    op: str,
    inputs: dict[str, np.ndarray],
    constants: dict[str, np.ndarray],
    shape: tuple[int, ...],
    attributes: dict[str, object],
) -> tuple[Callable[[], object], np.ndarray]:
    """onnxruntime with bound buffers: nothing is allocated or copied in the timed call."""
    one = np.float32(1)
    constants = {
        "xs": one,
        "xz": np.uint8(X_ZERO_POINT),
        "ys": one,
        "yz": np.uint8(Y_ZERO_POINT),
        **constants,
    }
    names = ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz", *(["bias"] if "bias" in constants else [])]
    node = helper.make_node(op, names, ["y"], **attributes)
    types = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.int8): TensorProto.INT8}
    graph = helper.make_graph(
        [node],
        "layer",
        [helper.make_tensor_value_info(n, types[v.dtype], v.shape) for n, v in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    y = np.zeros(shape, np.uint8)
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_cpu_input(name, value)
    binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_numpy(y))
    run_options = onnxruntime.RunOptions()

    def call() -> np.ndarray:
        session.run_with_iobinding(binding, run_options)
        return binding.get_outputs()[0].numpy()

    expected = call().copy()
    return lambda: session.run_with_iobinding(binding, run_options), expected


def _checked(ours, theirs, y: np.ndarray, expected: np.ndarray, rule: str, macs: int) -> Contest:
    ours()
    if not np.array_equal(y.reshape(expected.shape), expected):
        raise SystemExit(f"{rule}: results differ from onnxruntime's")
    return Contest(ours, theirs, rule, macs)


def main() -> None:
    parser = argparse.ArgumentParser(description="Host kernels against onnxruntime, layer by layer.")
    parser.add_argument("names", nargs="*", help="run only layers whose name contains one of these")
    parser.add_argument("--target", default="host")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    spec = resolve_target(arguments.target)
    table = Table("layer", "rule", *("ours us", "GOP/s", "onnxruntime us", "GOP/s", "ratio"))
    for column in table.columns[2:]:
        column.justify = "right"
    rng = np.random.default_rng(0)
    for name, layer in LAYERS.items():
        if arguments.names and not any(part in name for part in arguments.names):
            continue
        contest = (conv_contest if isinstance(layer, Conv) else product_contest)(layer, spec, rng)
        ours, theirs = medians([contest.ours, contest.theirs], arguments.repeats)
        rates = [f"{2e-9 * contest.macs / seconds:.0f}" for seconds in (ours, theirs)]
        table.add_row(
            name,
            contest.rule,
            f"{ours * 1e6:.1f}",
            rates[0],
            f"{theirs * 1e6:.1f}",
            rates[1],
            f"{theirs / ours:.2f}",
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
