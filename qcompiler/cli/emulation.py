"""`qcompiler bench --emulate`: instructions and estimated cycles of a bundle for another machine, or what its kernels
cost a GPU."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from types import ModuleType

from qcompiler.bundle import Manifest
from qcompiler.bundle.emulate import EmulatedBundle, load_emulated
from qcompiler.cli.output import print_json, print_table
from qcompiler.cli.progress import progress
from qcompiler.errors import QCompilerError, TargetError
from qcompiler.report.cycles import CycleEstimate, estimate_cycles
from qcompiler.report.instructions import InstructionCounts, count_instructions, instructions_of
from qcompiler.report.packets import count_packets
from qcompiler.targets.spec import resolve_target

_LOOPS = 5
"""Inner loops shown for each core, those farthest from its peak."""


def bench_emulated(options: Namespace) -> None:
    if options.reference:
        raise QCompilerError("--emulate counts instructions of the bundle alone; leave out --reference")
    if options.threads > 1:
        raise QCompilerError("--emulate counts instructions of one thread; leave out --threads")
    bundle = load_emulated(options.bundle)
    if bundle.manifest.driver:
        _bench_device(str(options.bundle), bundle.manifest, options.json)
        return
    spec = resolve_target(str(bundle.manifest.target["name"]))
    if spec.toolchain.runtime:
        return _bench_packets(options, bundle)
    with progress(options.quiet) as shown:
        shown.step("counting instructions")
        counts = count_instructions(bundle)
        shown.step("estimating cycles")
        estimates, obstacle = _estimates(counts, instructions_of(bundle), spec.instruction_set)
    if options.json:
        document = {
            "target": spec.name,
            "instructions": counts.total,
            "classes": counts.classes,
            "outside_kernels": counts.outside,
            "steps": [asdict(step) for step in counts.steps],
            "estimated_cycles": [asdict(estimate) for estimate in estimates],
            "no_estimate_because": obstacle,
        }
        print_json(document)
        return
    _print_counts(str(options.bundle), counts)
    for estimate in estimates:
        _print_estimate(estimate)
    if obstacle:
        print(f"No estimate of cycles: {obstacle}")


def _bench_device(path: str, manifest: Manifest, as_json: bool) -> None:
    """What each launch costs, as the compiler estimated it; nothing runs."""
    if as_json:
        launches = [{"layer": manifest.steps[one.step].location, **asdict(one)} for one in manifest.launches]
        print_json({"target": manifest.target["name"], "arena_bytes": manifest.arena_bytes, "estimates": launches})
        return
    rows: list[list[str]] = []
    seen: set[int] = set()
    for one in manifest.launches:
        step = manifest.steps[one.step]
        macs = f"{step.macs:,}" if step.macs and one.step not in seen else ""
        seen.add(one.step)
        sizes = [" x ".join(str(n) for n in size if n > 1) or "1" for size in (one.global_size, one.local_size)]
        counts = [one.operations, one.bytes_read, one.bytes_written, one.registers]
        rows.append([step.location, step.rule, macs, *sizes, *_texts(counts), one.occupancy])
    sums = [sum(getattr(one, name) or 0 for one in manifest.launches) for name in _SUMMED]
    total = f"{sum(step.macs for step in manifest.steps):,}"
    rows.append(["all", f"{len(manifest.launches)} launches", total, "", "", *_texts(sums), "", ""])
    columns = ("layer", "rule", ">multiply-adds", ">work-items", ">group", ">operations", ">bytes read", ">written")
    print_table(
        f"{path}: estimates from the kernels' code, no measurements", (*columns, ">registers", "occupancy"), rows
    )
    print("Bytes are accesses, whether a cache has them or not; registers are those of a work-item, of 32 bits.")


_SUMMED = ("operations", "bytes_read", "bytes_written")


def _texts(counts: Sequence[int | None]) -> list[str]:
    return ["-" if count is None else f"{count:,}" for count in counts]


def _bench_packets(options: Namespace, bundle: EmulatedBundle) -> None:
    """Of a machine whose emulator counts packets of instructions."""
    with progress(options.quiet) as shown:
        shown.step("counting packets")
        counts = count_packets(bundle)
    if options.json:
        print_json({"target": str(bundle.manifest.target["name"]), **asdict(counts)})
        return
    rows = []
    for step in counts.steps:
        of_least = f"{step.vrmpy / step.least:.2f}" if step.least else ""
        of_packets = f"{step.requantize / max(step.packets, 1):.0%}" if step.least else ""
        hvx = f"{step.hvx_packets / max(step.packets, 1):.0%}"
        numbers = [f"{n:,}" for n in (step.packets, step.instructions, step.hvx_instructions)]
        rows.append([step.location, step.rule, f"{step.macs:,}", *numbers, hvx, of_least, of_packets])
    totals = [f"{n:,}" for n in (counts.packets, counts.instructions, counts.hvx_instructions)]
    rows.append(["all", "", f"{sum(step.macs for step in counts.steps):,}", *totals, "", "", ""])
    columns = ("layer", "rule", ">multiply-adds", ">packets", ">instructions", ">HVX instructions")
    columns += (">packets with HVX", ">vrmpy / least", ">requantize")
    print_table(f"{options.bundle}: one inference, counted", columns, rows)
    rows = [
        [loop.kernel, f"{loop.executions:,}", str(loop.packets), str(loop.vrmpy), f"{loop.vrmpy / loop.packets:.2f}"]
        for loop in sorted(counts.loops, key=lambda loop: loop.vrmpy / loop.packets)
    ]
    print_table("Inner loops", ("kernel", ">executions", ">packets", ">vrmpy", ">vrmpy a packet"), rows)


def _estimates(counts: InstructionCounts, meaning: ModuleType, instruction_set: str) -> tuple[list[CycleEstimate], str]:
    try:
        return estimate_cycles(counts, meaning, instruction_set), ""
    except TargetError as error:
        return [], str(error)


def _print_counts(bundle: str, counts: InstructionCounts) -> None:
    rows: list[list[str]] = []
    for step in counts.steps:
        of_least = f"{step.dots / step.least:.2f}" if step.least else ""
        in_step = f"{step.dots / step.instructions:.0%}" if step.dots else ""
        share = f"{step.instructions / counts.total:.1%}"
        spilled = f"{step.spilled:,}" if step.spilled else ""
        count = f"{step.instructions:,}"
        rows.append([step.location, step.rule, f"{step.macs:,}", count, share, in_step, of_least, spilled])
    outside = f"{counts.outside / counts.total:.1%}"
    rows.append(["outside the kernels", "", "", f"{counts.outside:,}", outside, "", "", ""])
    columns = ("layer", "rule", ">multiply-adds", ">instructions", ">share", ">dots in it", ">dots / least", ">spills")
    print_table(f"{bundle}: instructions of one inference, counted", columns, rows)
    rows = [[name, f"{n:,}", f"{n / counts.total:.1%}"] for name, n in counts.classes.items()]
    rows.append(["all", f"{counts.total:,}", ""])
    print_table("By class", ("", ">instructions", ">share"), rows)


def _print_estimate(estimate: CycleEstimate) -> None:
    print(
        f"Estimate for {estimate.core} (llvm-mca, model {estimate.model}, caches perfect): "
        f"{estimate.cycles / 1e6:.3g} million cycles"
    )
    loops = sorted(estimate.loops, key=lambda loop: loop.share_of_peak)[:_LOOPS]
    rows = [[loop.kernel, str(loop.instructions), str(loop.dots), f"{loop.share_of_peak:.0%}"] for loop in loops]
    if rows:
        columns = ("kernel", ">instructions", ">dots", ">of the dot product's peak")
        print_table("Inner loops farthest from the peak", columns, rows)
