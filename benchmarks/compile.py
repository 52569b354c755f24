"""Compile time and memory of a model, calibration included.

    python benchmarks/compile.py [--samples 128] [--target host] [model]

Prints the wall time of every pass and phase and the peak resident size by the operating system's account. Calibration
images are seeded noise, made one by one. The model is a name of `benchmarks/models.py` or the path of an ONNX file.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from pathlib import Path

from models import Images, model_path
from rich.console import Console
from rich.table import Table

import qcompiler
from qcompiler.pipeline import Progress


class Clock(Progress):
    """Wall seconds between the steps that a compilation reports."""

    def __init__(self) -> None:
        self.steps: list[tuple[str, float]] = []

    def step(self, name: str) -> None:
        self.steps.append((name, time.perf_counter()))

    def seconds(self) -> list[tuple[str, float]]:
        ends = [begin for _, begin in self.steps[1:]] + [time.perf_counter()]
        return [(name, end - begin) for (name, begin), end in zip(self.steps, ends, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compile time and memory of a model, calibration included.")
    parser.add_argument("model", nargs="?", default="mobilenetv2")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--target", default="host")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = model_path(arguments.model, Path(folder))
        clock = Clock()
        cpu, begin = time.process_time(), time.perf_counter()
        calibration = Images(path, arguments.samples)
        qcompiler.compile(
            path, target=arguments.target, calibration=calibration, output=Path(folder) / "bundle", progress=clock
        )
        wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
        phases = clock.seconds()
    table = Table("phase", "seconds", "%", title=f"{path.stem}, {arguments.samples} samples")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, seconds in phases:
        table.add_row(name, f"{seconds:.2f}", f"{100 * seconds / wall:.1f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console = Console()
    console.print(table)
    console.print(
        f"{wall:.1f} s wall on {len(os.sched_getaffinity(0))} CPUs (load {os.getloadavg()[0]:.1f}), {cpu:.1f} s of CPU "
        f"time, at most {peak:.0f} MB resident"
    )


if __name__ == "__main__":
    main()
