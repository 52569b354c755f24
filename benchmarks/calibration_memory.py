"""Memory and time of entropy calibration as the number of samples grows.

    python benchmarks/calibration_memory.py mobilenetv2.onnx --samples 32 512 --data imagenet224_calib

Each number of samples runs in a process of its own; the peak is the resident size by the operating system's account,
and the last line is the ratio of the last peak to the first. Samples are those of `--data`, repeated as often as
needed, or seeded normal noise, made sample by sample. All float values of the model are observed, and the entropy
range of each is taken at the end.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx

from qcompiler.calibration.data import open_calibration
from qcompiler.calibration.ranges import range_from
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


def repeated(feeds: Iterable[Mapping[str, np.ndarray]], samples: int) -> Iterator[Mapping[str, np.ndarray]]:
    """`samples` feeds, from the start again as often as needed."""
    while samples > 0:
        for feed in itertools.islice(feeds, samples):
            samples -= 1
            yield feed


def measure(path: str, samples: int, data: Path | None) -> None:
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
    if data is None:
        feeds: Iterable[Mapping[str, np.ndarray]] = Noise(inputs, samples)
    else:
        expected = {name: (shape, np.float32) for name, shape in inputs.items()}
        feeds = repeated(open_calibration(data, expected), samples)
    statistics = calibrate(model, values, feeds)
    for value in statistics.values():
        range_from(value, "entropy", 0, 255, False)
    seconds = time.perf_counter() - begin
    elements = sum(s.count for s in statistics.values()) // samples
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{samples:8} {len(values):7} {elements / 1e6:10.2f} {seconds:9.1f} {peak:10.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--samples", type=int, nargs="+", default=[32, 512])
    parser.add_argument("--data", type=Path, help="calibration data, as qcompiler takes it")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        measure(arguments.model, arguments.samples[0], arguments.data)
        return
    print(" samples  values M/sample     s        peak MB")
    peaks = []
    for samples in arguments.samples:
        command = [sys.executable, __file__, arguments.model, "--here", "--samples", str(samples)]
        command += ["--data", str(arguments.data)] if arguments.data else []
        line = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        print(line, end="", flush=True)
        peaks.append(float(line.split()[-1]))
    print(f"peak at {arguments.samples[-1]} samples is {peaks[-1] / peaks[0]:.3f} of that at {arguments.samples[0]}")


if __name__ == "__main__":
    main()
