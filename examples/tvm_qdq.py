"""A QDQ model through TVM's own importer: built by TVM as it is, and with the compiler's passes in between.

    python examples/tvm_qdq.py [MODEL.qdq.onnx]

Without an argument, the digits classifier of `examples/digits`, quantized here and exported. Prints the time of one
run of both and checks the integers against the interpreter.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

import qcompiler
import qcompiler.tvm
from qcompiler.errors import QCompilerError

DIGITS = Path(__file__).parent / "digits"


def digits() -> onnx.ModelProto:
    """The digits classifier with quantize and dequantize around its operations."""
    model = qcompiler.import_onnx(DIGITS / "digits.onnx")
    return qcompiler.export(qcompiler.quantize(model, DIGITS / "calibration.npz"))


def seconds(run: Callable[[], object]) -> float:
    """The fastest of three runs, after one."""
    run()
    times = []
    for _ in range(3):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)


def machine(module: tvm.IRModule, pipeline: str | tvm.ir.transform.Pass) -> relax.VirtualMachine:
    return relax.VirtualMachine(relax.build(module, qcompiler.tvm.target(), relax_pipeline=pipeline), tvm.cpu())


def main(model: onnx.ModelProto) -> None:
    module = from_onnx(model, keep_params_in_input=False)
    quantized = tvm.transform.Sequential([qcompiler.tvm.Quantize()])(module)
    (region,) = qcompiler.tvm.regions(quantized)
    integers = qcompiler.tvm.region_model(quantized, region)
    ours = machine(quantized, qcompiler.tvm.pipeline())
    alone = machine(module, "default")

    rng = np.random.default_rng(0)
    shapes = {p.name: [int(extent) for extent in p.ty.shape] for p in module["main"].params}
    feeds = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    inputs = [tvm.runtime.tensor(array) for array in feeds.values()]
    results = ours["main"](*inputs)
    results = [results] if isinstance(results, tvm.runtime.Tensor) else list(results)
    for found, (name, expected) in zip(results, qcompiler.interpret(integers, feeds).items(), strict=True):
        if found.numpy().tobytes() != expected.tobytes():
            sys.exit(f"error: TVM's '{name}' differs from the interpreter's")
    print(f"{len(results)} outputs equal the interpreter's, bit for bit")

    slow, fast = (seconds(lambda vm=vm: vm["main"](*inputs)) for vm in (alone, ours))
    print(
        f"TVM alone {1e3 * slow:.2f} ms, with the integer kernels {1e3 * fast:.3f} ms: {slow / fast:.0f} times as fast"
    )


if __name__ == "__main__":
    try:
        main(onnx.load(sys.argv[1]) if len(sys.argv) > 1 else digits())
    except QCompilerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
