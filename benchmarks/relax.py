"""Models inside TVM: integer kernels built by `relax.build` against TVM alone, on one thread.

    python benchmarks/relax.py [--rounds 5] [--target host] [model ...]

A model is a name of `benchmarks/models.py` or the path of an ONNX file. It is quantized and exported with quantize and
dequantize; TVM's own importer reads that, and the float model. Contenders are built for the same target, run in this
process and take turns; a time is the median of the process's CPU time. Outputs of ours are compared with the
interpreter's.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

os.environ.setdefault("TVM_NUM_THREADS", "1")

import tvm
from models import Images, model_path
from rich.console import Console
from rich.table import Table
from timing import medians
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

import qcompiler
import qcompiler.tvm
from qcompiler.frontends.relax import export_relax

WORK = Path(__file__).resolve().parent.parent / "build" / "benchmarks"
CALIBRATION_IMAGES = 4


def measure(name: str, target: str, rounds: int) -> tuple[list[float], bool]:
    """Seconds of ours, of TVM on the QDQ model and of TVM on the float model; whether ours is exact."""
    path = model_path(name, WORK)
    model = qcompiler.import_onnx(path)
    feeds = list(Images(path, CALIBRATION_IMAGES + 1))
    qdq = qcompiler.export(qcompiler.quantize(model, feeds[:-1], target=target))
    machine = qcompiler.tvm.target(target)
    imported = from_onnx(qdq, keep_params_in_input=False)
    floats = relax.transform.DecomposeOpsForInference()(export_relax(model))
    quantized = qcompiler.tvm.Quantize(target=target)(imported)
    built = [
        relax.build(quantized, machine, relax_pipeline=qcompiler.tvm.pipeline(target)),
        relax.build(imported, machine),
        relax.build(floats, machine),
    ]
    inputs = [tvm.runtime.tensor(array) for array in feeds[-1].values()]
    functions = [relax.VirtualMachine(executable, tvm.cpu())["main"] for executable in built]
    (region,) = qcompiler.tvm.regions(quantized)
    expected = list(qcompiler.interpret(qcompiler.tvm.region_model(quantized, region), feeds[-1]).values())
    results = functions[0](*inputs)
    results = [results] if isinstance(results, tvm.runtime.Tensor) else list(results)
    exact = all(a.numpy().tobytes() == b.tobytes() for a, b in zip(results, expected, strict=True))
    return medians([partial(function, *inputs) for function in functions], rounds), exact


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["mobilenetv2"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--target", default="host")
    given = parser.parse_args()
    table = Table("model", "ours ms", "TVM, QDQ ms", "TVM, float ms", "times as fast", "exact")
    for name in given.models:
        (ours, qdq, floats), exact = measure(name, given.target, given.rounds)
        times = (f"{1e3 * seconds:.2f}" for seconds in (ours, qdq, floats))
        table.add_row(name, *times, f"{min(qdq, floats) / ours:.0f}", "yes" if exact else "no")
    Console().print(table)


if __name__ == "__main__":
    main()
