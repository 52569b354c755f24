"""Packets of Hexagon bundles, counted in the emulator, and of the same layers without our schedules.

    python benchmarks/hexagon.py OUT... [--generic]

Each OUT is a bundle for Hexagon. For each: packets of an inference, `vrmpy` against the least (multiply-adds / 128),
packets with HVX, and the layers. With `--generic` every convolution and product is compiled again as TVM makes it of
plain loops, vectorized over channels and no more, and counted likewise.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import qcompiler
from qcompiler.bundle import load_emulated
from qcompiler.cli.output import print_table
from qcompiler.report.packets import PacketCounts, StepPackets, count_packets
from qcompiler.targets.hexagon import conv, matmul
from qcompiler.verify import integer_program

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


@dataclass(frozen=True)
class Bundle:
    """The counts of a bundle, and those without our schedules."""

    path: Path
    counts: PacketCounts
    generic: PacketCounts | None


def measured(path: Path, with_generic: bool) -> Bundle:
    """Counts the bundle and, if wanted, its integer program compiled by the generic rules."""
    bundle = load_emulated(path)
    counts = count_packets(bundle)
    if not with_generic:
        return Bundle(path, counts, None)
    rules = (mock.patch.object(conv, "conv_rules", conv.conv_rules[-1:]),)
    rules += (mock.patch.object(matmul, "matmul_rules", matmul.matmul_rules[-1:]),)
    with tempfile.TemporaryDirectory() as folder, rules[0], rules[1]:
        output = Path(folder) / "generic"
        qcompiler.compile(integer_program(bundle), output=output, target=str(bundle.manifest.target["name"]))
        return Bundle(path, counts, count_packets(load_emulated(output)))


def row(step: StepPackets, generic: StepPackets | None) -> list[str]:
    products = [f"{step.vrmpy / step.least:.2f}", f"{step.vrmpy / step.packets:.2f}"] if step.least else ["", ""]
    narrowing = f"{step.requantize / step.packets:.0%}" if step.least else ""
    other = f"{generic.packets:,}" if generic and generic.macs else ""
    return [step.location, step.rule, f"{step.macs:,}", f"{step.packets:,}", *products, narrowing, other]


def show(bundle: Bundle) -> None:
    counts = bundle.counts
    others = [None] * len(counts.steps) if bundle.generic is None else bundle.generic.steps
    rows = [row(step, other) for step, other in zip(counts.steps, others, strict=True)]
    print_table(f"{bundle.path}: packets of one inference", COLUMNS, rows)
    vrmpy, least = (sum(getattr(step, name) for step in counts.steps) for name in ("vrmpy", "least"))
    hvx = sum(step.hvx_packets for step in counts.steps) / counts.packets
    print(f"{counts.packets:,} packets, {hvx:.0%} with HVX; {vrmpy:,} vrmpy, {vrmpy / least:.2f} of the least")
    loops = [loop.vrmpy / loop.packets for loop in counts.loops]
    print(f"vrmpy a packet in inner loops: {min(loops):.2f} to {max(loops):.2f}")
    if bundle.generic is not None:
        print(f"without our schedules of convolutions and products: {bundle.generic.packets:,} packets")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundles", nargs="+", type=Path)
    parser.add_argument("--generic", action="store_true", help="count the target-neutral code too")
    options = parser.parse_args()
    for path in options.bundles:
        show(measured(path, options.generic))


if __name__ == "__main__":
    main()
