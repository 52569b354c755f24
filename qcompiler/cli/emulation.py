"""`qcompiler bench --emulate`: instructions and estimated cycles of a bundle for another machine."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from types import ModuleType

from qcompiler.bundle.emulate import load_emulated
from qcompiler.cli.output import print_json, print_table
from qcompiler.cli.progress import progress
from qcompiler.errors import QCompilerError, TargetError
from qcompiler.report.cycles import CycleEstimate, estimate_cycles
from qcompiler.report.instructions import InstructionCounts, count_instructions, instructions_of
from qcompiler.targets.spec import resolve_target

_LOOPS = 5
"""Inner loops shown for each core, those farthest from its peak."""


def bench_emulated(options: Namespace) -> None:
    if options.reference:
        raise QCompilerError("--emulate counts instructions of the bundle alone; leave out --reference")
    if options.threads > 1:
        raise QCompilerError("--emulate counts instructions of one thread; leave out --threads")
    bundle = load_emulated(options.bundle)
    spec = resolve_target(str(bundle.manifest.target["name"]))
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
