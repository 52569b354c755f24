"""Memory and time of calibration as the number of samples grows.

    python benchmarks/calibration_memory.py mobilenetv2.onnx --samples 8 64 512

Each number of samples runs in a process of its own on seeded normal noise, made sample by sample; the peak is
the resident size by the operating system's account. All float values of the model are observed.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import onnx

from qcompiler.calibration.runner import calibrate


class Noise:
    """`samples` inputs of standard normal noise."""

    def __init__(self, inputs: dict[str, tuple[int, ...]], samples: int) -> None:
        self.inputs, self.samples = inputs, samples

    def __len__(self) -> int:
        return self.samples

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        random = np.random.default_rng(0)
        for _ in range(self.samples):
            yield {name: random.standard_normal(shape, np.float32) for name, shape in self.inputs.items()}


def measure(path: str, samples: int) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = {
        value.name: tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)
        for value in graph.input
        if value.name not in constants
    }
    values = [
        value.name
        for value in [*graph.input, *graph.value_info, *graph.output]
        if value.name not in constants and value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    ]
    begin = time.perf_counter()
    statistics = calibrate(model, values, Noise(inputs, samples))
    seconds = time.perf_counter() - begin
    elements = sum(s.count for s in statistics.values()) // samples
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{samples:8} {len(values):7} {elements / 1e6:10.2f} {seconds:9.1f} {peak:10.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--samples", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        measure(arguments.model, arguments.samples[0])
        return
    print(" samples  values M/sample     s        peak MB")
    for samples in arguments.samples:
        command = [sys.executable, __file__, arguments.model, "--here", "--samples", str(samples)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
