"""Packets that one inference executes in the emulator of Hexagon: by step, and against the least there could be."""

from __future__ import annotations

import subprocess
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np

from qcompiler.bundle.emulate import EmulatedBundle
from qcompiler.report.instructions import block_executions
from qcompiler.report.speed import random_inputs
from qcompiler.targets.hexagon.instructions import COUNTERS, VRMPY_MACS, Packet, hardware_loops, packets_of


@dataclass(frozen=True)
class StepPackets:
    """What one step executes: three numbers by the emulator's counters, those after them by its kernel's packets."""

    step: int
    location: str
    rule: str
    kernel: str
    macs: int
    packets: int
    instructions: int
    hvx_instructions: int
    hvx_packets: int
    """Packets with vector instructions."""
    vrmpy: int
    least: int
    """`vrmpy` that the multiply-adds need: 128 in each."""
    requantize: int
    """Packets with vector instructions that narrow accumulators, and no products."""
    spilled: int
    """Vectors loaded from the stack or stored there."""


@dataclass(frozen=True)
class LoopPackets:
    """The innermost piece of code (a hardware loop, or packets up to a jump) that executes most `vrmpy` of a kernel."""

    kernel: str
    packets: int
    vrmpy: int
    executions: int
    is_hardware_loop: bool


@dataclass(frozen=True)
class PacketCounts:
    """One inference of a bundle."""

    packets: int
    instructions: int
    hvx_instructions: int
    steps: tuple[StepPackets, ...]
    loops: tuple[LoopPackets, ...]


def count_packets(bundle: EmulatedBundle) -> PacketCounts:
    """Counts one inference, exactly: nothing about time, since a packet may wait for operands and memory.

    Raises:
        TargetError: a program of the toolchain is missing or too new.
    """
    (executed,) = bundle.execute("count", [random_inputs(bundle)])
    numbers = executed.arena.view(np.uint32).reshape(-1, len(COUNTERS)).astype(np.int64)
    each = numbers[:-1] - numbers[-1]
    executions, packets = _executions(bundle), packets_of(_listing(bundle))
    kernels: dict[str, Counter[str]] = defaultdict(Counter)
    for packet in packets:
        if times := executions[packet.address]:
            counted = kernels[packet.function]
            counted["hvx"] += times * packet.is_vector
            counted["vrmpy"] += times * packet.vrmpy
            counted["requantize"] += times * packet.requantizes
            counted["spilled"] += times * packet.spills
    shared = Counter(step.kernel for step in bundle.manifest.steps)
    steps = []
    for number, (step, row) in enumerate(zip(bundle.manifest.steps, each.tolist(), strict=True)):
        counted = {key: value // shared[step.kernel] for key, value in kernels[step.kernel].items()}
        steps.append(
            StepPackets(
                step=number,
                location=step.location,
                rule=step.rule,
                kernel=step.kernel,
                macs=step.macs,
                packets=row[0],
                instructions=row[1],
                hvx_instructions=row[2],
                hvx_packets=counted.get("hvx", 0),
                vrmpy=counted.get("vrmpy", 0),
                least=-(-step.macs // VRMPY_MACS),
                requantize=counted.get("requantize", 0),
                spilled=counted.get("spilled", 0),
            )
        )
    total, instructions, hvx_instructions = each.sum(0).tolist()
    loops = _inner_loops(packets, executions, set(kernels))
    return PacketCounts(total, instructions, hvx_instructions, tuple(steps), tuple(loops))


def _inner_loops(packets: list[Packet], executions: Counter[int], kernels: set[str]) -> list[LoopPackets]:
    """Of each kernel the piece with most `vrmpy`: packets in a row that run equally often."""
    ends = {loop.packets[-1].address for loop in hardware_loops(packets)}
    pieces: list[list[Packet]] = []
    for packet in packets:
        before = pieces[-1][-1] if pieces else None
        goes_on = (
            before is not None
            and before.function == packet.function
            and executions[before.address] == executions[packet.address]
            and before.address not in ends
            and not any("jump" in text for text in before.instructions)
        )
        if goes_on:
            pieces[-1].append(packet)
        else:
            pieces.append([packet])
    best: dict[str, tuple[int, LoopPackets]] = {}
    for piece in pieces:
        kernel, times = piece[0].function, executions[piece[0].address]
        vrmpy = sum(packet.vrmpy for packet in piece)
        if kernel in kernels and vrmpy * times > best.get(kernel, (0,))[0]:
            is_loop = piece[-1].address in ends
            best[kernel] = (vrmpy * times, LoopPackets(kernel, len(piece), vrmpy, times, is_loop))
    return [loop for _, loop in best.values()]


def _executions(bundle: EmulatedBundle) -> Counter[int]:
    """How often the packet at each address runs in one inference."""
    addresses = [packet.address for packet in packets_of(_listing(bundle))]
    position = {address: i for i, address in enumerate(addresses)}
    executions = Counter[int]()
    for sign, repeats in ((1, 2), (-1, 1)):
        for (address, length), times in block_executions(bundle, repeats).items():
            first = position[address]
            for following in addresses[first : first + length]:
                executions[following] += sign * times
    return executions


def _listing(bundle: EmulatedBundle) -> str:
    """The disassembly of the program that runs the bundle."""
    command = bundle.toolchain.find("disassembler", bundle.toolchain.disassemblers)
    listing = [*command, "-d", "--no-show-raw-insn", str(bundle.program)]
    return subprocess.run(listing, capture_output=True, text=True, check=True).stdout
