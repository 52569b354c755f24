"""A program of two hand-written OpenCL kernels with its reference in numpy, for tests of the driver."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qcompiler.bundle import Bundle, BundleContents, TensorInfo, ValueInfo, write_bundle
from qcompiler.lowering.aot import Weights
from qcompiler.lowering.device import DeviceProgram, Launch, Range
from qcompiler.lowering.memory import plan_memory
from qcompiler.lowering.program import Buffer, Kernel, Program, Step

SIZE = 512
SOURCE = """\
__kernel void scale(__global const uchar* x, __global const uchar* m, __global uchar* y) {
  int i = get_global_id(0);
  y[i] = (uchar)min(x[i] * m[i] / 16, 255);
}
__kernel void add(__global uchar* sum, __global const uchar* a, __global const uchar* b) {
  int i = get_global_id(1) * 64 + get_global_id(0);
  sum[i] = (uchar)min(a[i] + b[i], 255);
}
"""


def small_device(**changes: object) -> DeviceProgram:
    """`a = scale(x, m)`, `b = scale(a, m)`, `y = a + b`; `changes` are fields that are otherwise."""
    program, weights = small_device_program(), np.random.default_rng(0).integers(0, 40, SIZE + 256, dtype=np.uint8)
    plan, trace = (plan_memory(program, reuse=reuse, alignment=256) for reuse in (True, False))

    def arena(name: str) -> Range:
        return Range("arena", plan.offsets[name], trace.offsets[name], SIZE + 64)

    m = Range("weights", 256, 256, SIZE)
    launches = (
        Launch("scale", 0, (Range("inputs", 0, 0, SIZE), m, arena("a")), (SIZE, 1, 1), (64, 1, 1)),
        Launch("scale", 1, (arena("a"), m, arena("b")), (SIZE, 1, 1), (32, 1, 1)),
        Launch("add", 2, (Range("outputs", 0, 0, SIZE), arena("a"), arena("b")), (64, SIZE // 64, 1), (16, 4, 1)),
    )
    fields = {"source": SOURCE, "launches": launches, "weights": Weights(weights, ((256,), (256,), ()))}
    fields |= {"plan": plan, "trace_plan": trace, "kernels": 2, "build_options": ("-cl-std=CL1.2",)}
    return DeviceProgram(**{**fields, **changes})  # type: ignore[arg-type]


def reference(device: DeviceProgram, x: np.ndarray) -> dict[str, np.ndarray]:
    m = device.weights.blob[256 : 256 + SIZE].astype(np.int32)
    a = np.minimum(x * m // 16, 255)
    b = np.minimum(a * m // 16, 255)
    return {name: v.astype(np.uint8) for name, v in {"a": a, "b": b, "y": np.minimum(a + b, 255)}.items()}


def small_bundle(path: Path, **changes: object) -> Bundle:
    """The bundle of `small_device(**changes)`."""
    contents = BundleContents(
        program=small_device_program(),
        compiled=small_device(**changes),
        target={"name": "mali"},
        inputs=(TensorInfo("x", "x", (SIZE,), "uint8"),),
        outputs=(TensorInfo("y", "y", (SIZE,), "uint8", 0.5, 3),),
        values={"%a": ValueInfo("a", (2, SIZE // 2))},
    )
    return write_bundle(path, contents)


def small_device_program() -> Program:
    """The program that the launches belong to; its kernels have no functions."""
    buffers = {name: Buffer(name, (SIZE,), "uint8") for name in ("x", "a", "b", "y")}
    scale, add = (Kernel(None, rule) for rule in ("scale", "add"))  # type: ignore[arg-type]
    steps = [
        Step(scale, ("x",), ("a",), "node1"),
        Step(scale, ("a",), ("b",), 'node "2"'),
        Step(add, ("a", "b"), ("y",), "node3"),
    ]
    return Program(buffers, ["x"], ["y"], steps)
