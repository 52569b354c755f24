"""Packets of a model on Hexagon, counted in the emulator, and of the same layers without our schedules.

    python benchmarks/hexagon.py MODEL.onnx --calibration DATA [--target hexagon:v73] [--limit N]

Packets of an inference, `vrmpy` against the least (multiply-adds / 128), packets with HVX, and the layers. The last
column is what TVM makes of the same convolutions and products as plain loops, vectorized over channels and no more.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import qcompiler
from qcompiler.api import Quantized
from qcompiler.bundle import load_emulated
from qcompiler.cli.output import print_table
from qcompiler.report.packets import PacketCounts, StepPackets, count_packets
from qcompiler.targets.hexagon import conv, matmul

COLUMNS = (
    "layer",
    "rule",
    ">multiply-adds",
    ">packets",
    ">vrmpy / least",
    ">vrmpy a packet",
    ">requantize",
    ">generic",
)


def measured(program: Quantized, generic: bool) -> PacketCounts:
    """Counts one inference; `generic` leaves convolutions and products to the target-neutral rules."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for module, name in ((conv, "conv_rules"), (matmul, "matmul_rules")) if generic else ():
            stack.enter_context(mock.patch.object(module, name, getattr(module, name)[-1:]))
        qcompiler.compile(program, output=Path(folder) / "out", target=program.target)
        return count_packets(load_emulated(Path(folder) / "out"))


def row(step: StepPackets, generic: StepPackets) -> list[str]:
    products = [f"{step.vrmpy / step.least:.2f}", f"{step.vrmpy / step.packets:.2f}"] if step.least else ["", ""]
    narrowing = f"{step.requantize / step.packets:.0%}" if step.least else ""
    other = f"{generic.packets:,}" if generic.macs else ""
    return [step.location, step.rule, f"{step.macs:,}", f"{step.packets:,}", *products, narrowing, other]


def show(title: str, counts: PacketCounts, generic: PacketCounts) -> None:
    rows = [row(*steps) for steps in zip(counts.steps, generic.steps, strict=True)]
    print_table(f"{title}: packets of one inference", COLUMNS, rows)
    vrmpy, least = (sum(getattr(step, name) for step in counts.steps) for name in ("vrmpy", "least"))
    hvx = sum(step.hvx_packets for step in counts.steps) / counts.packets
    print(f"{counts.packets:,} packets, {hvx:.0%} with HVX; {vrmpy:,} vrmpy, {vrmpy / least:.2f} of the least")
    loops = [loop.vrmpy / loop.packets for loop in counts.loops]
    print(f"vrmpy a packet in inner loops: {min(loops):.2f} to {max(loops):.2f}")
    print(f"without our schedules of convolutions and products: {generic.packets:,} packets")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--target", default="hexagon")
    parser.add_argument("--limit", type=int)
    options = parser.parse_args()
    imported = qcompiler.import_onnx(options.model)
    program = qcompiler.quantize(imported, options.calibration, target=options.target, limit=options.limit)
    show(str(options.model), measured(program, False), measured(program, True))


if __name__ == "__main__":
    main()
