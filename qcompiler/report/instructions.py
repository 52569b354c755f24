"""Instructions that one inference executes in an emulator: by class, by step, and against the least there could be."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

from qcompiler.bundle.emulate import EmulatedBundle
from qcompiler.bundle.link import link_plugin
from qcompiler.errors import BundleError, TargetError
from qcompiler.report.speed import random_inputs
from qcompiler.targets.spec import resolve_target

_SPILLED = "spilled"


@dataclass(frozen=True)
class StepCount:
    """What one step executes. `least` is the number of dot products that its multiply-adds need, 0 if it has none;
    `spilled` counts loads and stores of vector registers on the stack."""

    step: int
    location: str
    rule: str
    kernel: str
    macs: int
    instructions: int
    classes: Mapping[str, int]
    dots: int
    least: int
    spilled: int


@dataclass(frozen=True)
class Block:
    """A basic block: instructions that run one after the other, and how often they do in one inference."""

    kernel: str
    instructions: tuple[tuple[str, str], ...]
    """Name and operands of each."""
    executions: int


@dataclass(frozen=True)
class InstructionCounts:
    """One inference of a bundle; classes are those of the target."""

    total: int
    classes: Mapping[str, int]
    steps: tuple[StepCount, ...]
    outside: int
    """Of `total`: the entry that calls the kernels, and library functions that they call."""
    blocks: tuple[Block, ...]


def count_instructions(bundle: EmulatedBundle) -> InstructionCounts:
    """Counts the instructions of one inference: those of two less those of one, in the emulator's plug-in.

    The count is exact, the same each time, and says nothing about time. Steps that share a kernel share its count
    alike: a kernel's loops do not depend on data.

    Raises:
        TargetError: a program of the toolchain is missing or too new, or the target's instructions have no classes.
    """
    meaning = instructions_of(bundle)
    after, before = (block_executions(bundle, repeats) for repeats in (2, 1))
    executions = Counter[int]()
    for sign, found in ((1, after), (-1, before)):
        for (address, length), times in found.items():
            for i in range(length):
                executions[address + meaning.INSTRUCTION_BYTES * i] += sign * times
    blocks = basic_blocks({a: n for a, n in executions.items() if n}, _disassembly(bundle), meaning)
    kernels: dict[str, Counter[str]] = {}
    for block in blocks:
        counted = kernels.setdefault(block.kernel, Counter())
        for name, operands in block.instructions:
            counted[meaning.classify(name, operands)] += block.executions
            if name in meaning.DOT_MACS:
                counted[name] += block.executions
            elif meaning.spills(name, operands):
                counted[_SPILLED] += block.executions
    return _summary(bundle, meaning, kernels, tuple(blocks))


def basic_blocks(
    executions: Mapping[int, int], code: Mapping[int, tuple[str, str, str]], meaning: ModuleType
) -> list[Block]:
    """Blocks of the code, whatever the emulator's blocks are: those end at a page, and may overlap.

    An instruction that is not in the disassembly has no function and no name.
    """
    unknown = ("", "", "")
    found = {address: code.get(address, unknown) for address in sorted(executions)}
    targets = {meaning.target_of(name, operands) for _, name, operands in found.values()}
    blocks: list[list[int]] = []
    for address, (function, _, _) in found.items():
        last = blocks[-1][-1] if blocks else 0
        goes_on = (
            address == last + meaning.INSTRUCTION_BYTES
            and address not in targets
            and executions[address] == executions[last]
            and function == found[last][0]
            and meaning.classify(*found[last][1:]) != "branch"
        )
        if goes_on:
            blocks[-1].append(address)
        else:
            blocks.append([address])
    return [
        Block(found[block[0]][0], tuple(found[address][1:] for address in block), executions[block[0]])
        for block in blocks
    ]


def instructions_of(bundle: EmulatedBundle) -> ModuleType:
    """The module `instructions` beside the kernels of the bundle's target.

    Raises:
        TargetError: there is none.
    """
    target = str(bundle.manifest.target["name"])
    name = f"{resolve_target(target).kernels.rpartition('.')[0]}.instructions"
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise TargetError(f"instructions of {target} cannot be counted: there is no module {name}") from None


def _summary(
    bundle: EmulatedBundle, meaning: ModuleType, kernels: Mapping[str, Counter[str]], blocks: tuple[Block, ...]
) -> InstructionCounts:
    shared = Counter(step.kernel for step in bundle.manifest.steps)
    rows = []
    for number, step in enumerate(bundle.manifest.steps):
        counted = kernels.get(step.kernel, Counter())
        classes = {c: counted[c] // shared[step.kernel] for c in meaning.CLASSES}
        used = [name for name in meaning.DOT_MACS if counted[name]]
        wide = max((meaning.DOT_MACS[name] for name in used), default=0)
        least = -(-step.macs // wide) if wide else 0
        rows.append(
            StepCount(
                number,
                step.location,
                step.rule,
                step.kernel,
                step.macs,
                sum(classes.values()),
                classes,
                classes["dot"],
                least,
                counted[_SPILLED] // shared[step.kernel],
            )
        )
    total = Counter[str]()
    for counted in kernels.values():
        total.update({c: counted[c] for c in meaning.CLASSES})
    inside = sum(row.instructions for row in rows)
    everything = sum(total.values())
    return InstructionCounts(everything, dict(total), tuple(rows), everything - inside, blocks)


def block_executions(bundle: EmulatedBundle, repeats: int) -> Counter[tuple[int, int]]:
    """How often each of the emulator's blocks (address, number of instructions) ran.

    Raises:
        TargetError: there is no C compiler for this machine, or the emulator does not take the plug-in.
    """
    with tempfile.TemporaryDirectory() as folder:
        plugin, out = Path(folder) / "count_blocks.so", Path(folder) / "blocks"
        link_plugin("count_blocks.c", plugin)
        options = ["-plugin", f"{plugin},out={out}"]
        try:
            bundle.execute("run", [random_inputs(bundle)], repeats=repeats, options=options)
        except BundleError as error:
            raise TargetError(f"instructions cannot be counted, which takes plug-ins of QEMU 6 to 8: {error}") from None
        found = Counter[tuple[int, int]]()
        for line in out.read_text(encoding="ascii").splitlines():
            address, length, executions = line.split()
            found[int(address, 16), int(length)] += int(executions)
    return found


def _disassembly(bundle: EmulatedBundle) -> dict[int, tuple[str, str, str]]:
    """Function, name and operands of the instruction at each address of the program."""
    command = bundle.toolchain.find("disassembler", bundle.toolchain.disassemblers)
    listing = subprocess.run(
        [*command, "-d", "--no-show-raw-insn", str(bundle.program)], capture_output=True, text=True, check=True
    )
    code, function = {}, ""
    for line in listing.stdout.splitlines():
        if match := re.match(r"[0-9a-f]+ <(.+)>:", line):
            function = match[1]
        elif match := re.match(r"\s*([0-9a-f]+):\s+(\S+)\s*(.*)", line):
            code[int(match[1], 16)] = (function, match[2], match[3])
    return code
