"""Cycles of one inference as llvm-mca estimates them: each block of instructions repeated by itself, caches perfect."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from qcompiler.errors import TargetError
from qcompiler.report.instructions import Block, InstructionCounts
from qcompiler.targets.toolchain import Toolchain

ANALYSERS = (("llvm-mca-19",), ("llvm-mca",))
INSTALL = "apt-get install llvm-19"
_COVERED = 0.995
"""Share of the executed instructions whose blocks are analysed; the rest counts as fast as their mean."""
_ITERATIONS = 100


@dataclass(frozen=True)
class LoopEstimate:
    """The block of a kernel that executes most dot products: dot products a cycle against the core's peak."""

    kernel: str
    instructions: int
    dots: int
    cycles: float
    share_of_peak: float


@dataclass(frozen=True)
class CycleEstimate:
    """Of one core model: all cycles, those of each kernel, and its inner loop where it has dot products."""

    core: str
    model: str
    cycles: float
    kernels: Mapping[str, float]
    loops: tuple[LoopEstimate, ...]


def estimate_cycles(counts: InstructionCounts, meaning: ModuleType, instruction_set: str) -> list[CycleEstimate]:
    """Estimates for each core of `meaning.CORES` (module `instructions` of the target) with an instruction set.

    Raises:
        TargetError: llvm-mca is not installed, or fails.
    """
    analyser = Toolchain(INSTALL, (), (), ()).find("analyser of machine code", ANALYSERS)
    hot = _hot([block for block in counts.blocks if block.kernel])
    estimates = []
    for core in meaning.CORES.get(instruction_set, ()):
        per_block = _cycles(hot, [*analyser, f"-mtriple={meaning.TRIPLE}", f"-mcpu={core.model}"])
        known = sum(len(block.instructions) * block.executions for block in hot)
        total = sum(cycles * block.executions for block, cycles in zip(hot, per_block, strict=True))
        kernels: dict[str, float] = {}
        for block, cycles in zip(hot, per_block, strict=True):
            kernels[block.kernel] = kernels.get(block.kernel, 0.0) + cycles * block.executions
        loops = [
            LoopEstimate(block.kernel, len(block.instructions), dots, cycles, dots / cycles / core.dots)
            for block, cycles in _inner_loops(hot, per_block, meaning)
            if (dots := _dots(block, meaning)) and core.dots
        ]
        scaled = total * counts.total / max(known, 1)
        estimates.append(CycleEstimate(core.name, core.model, scaled, kernels, tuple(loops)))
    return estimates


def _hot(blocks: Sequence[Block]) -> list[Block]:
    """The blocks that execute most of the instructions, most first."""
    weights = {i: len(block.instructions) * block.executions for i, block in enumerate(blocks)}
    wanted, found = _COVERED * sum(weights.values()), []
    for i in sorted(weights, key=lambda i: -weights[i]):
        if wanted <= 0:
            break
        wanted -= weights[i]
        found.append(blocks[i])
    return found


def _inner_loops(blocks: Sequence[Block], cycles: Sequence[float], meaning: ModuleType) -> list[tuple[Block, float]]:
    """Of each kernel the block that executes most dot products."""
    best: dict[str, tuple[int, Block, float]] = {}
    for block, each in zip(blocks, cycles, strict=True):
        dots = _dots(block, meaning) * block.executions
        if dots > best.get(block.kernel, (0,))[0]:
            best[block.kernel] = (dots, block, each)
    return [(block, each) for _, block, each in best.values()]


def _dots(block: Block, meaning: ModuleType) -> int:
    return sum(name in meaning.DOT_MACS for name, _ in block.instructions)


def _cycles(blocks: Sequence[Block], command: Sequence[str]) -> list[float]:
    """Cycles of each block when it runs again and again."""
    regions = []
    for i, block in enumerate(blocks):
        lines = [f"{name} {_operands(operands)}" for name, operands in block.instructions]
        regions += [f"# LLVM-MCA-BEGIN {i}", *lines, f"# LLVM-MCA-END {i}"]
    done = subprocess.run(
        [*command, f"-iterations={_ITERATIONS}", "-resource-pressure=false", "-instruction-info=false", "-json"],
        input="\n".join(regions) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise TargetError(f"{command[0]} failed: {done.stderr.strip()[:500]}")
    found: list[dict[str, Any]] = json.loads(done.stdout)["CodeRegions"]
    return [region["SummaryView"]["TotalCycles"] / _ITERATIONS for region in found]


def _operands(text: str) -> str:
    """Operands as an assembler takes them: addresses become a distance, comments go."""
    text = re.sub(r"\s*//.*", "", text)
    return re.sub(r"(?:0x)?[0-9a-f]+ <[^>]*>", "#4096", text)
