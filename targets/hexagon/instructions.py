"""Packets of Hexagon as llvm-objdump lists them, and what their instructions are for. Nothing here needs TVM.

Up to four instructions run together as a packet. Sources: Hexagon V66 Programmer's Reference Manual (packets, hardware
loops) and HVX Programmer's Reference Manual.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

COUNTERS = ("packets", "instructions", "HVX instructions")
"""What the emulator's control registers c20 to c22 count."""

VRMPY_MACS = 128
"""Multiply-adds of one `vrmpy` on 128 bytes."""

_FUNCTION = re.compile(r"[0-9a-f]+ <(.+)>:$")
_LINE = re.compile(r"\s*([0-9a-f]+):\s+(.*)")
_LOOP = re.compile(r"\bloop([01])\(0x([0-9a-f]+)")
_VECTOR = re.compile(r"\b[vq]\d+")
_REQUANTIZE = re.compile(r"vmpy[eo]\(|vasr\(|vasl\(|vpack\(|:sat\b")


@dataclass(frozen=True)
class Packet:
    """Instructions that run together, and the function they are in."""

    address: int
    function: str
    instructions: tuple[str, ...]
    ends: tuple[int, ...] = ()
    """Hardware loops (0, 1) whose last packet this is."""

    @property
    def is_vector(self) -> bool:
        return any(_VECTOR.search(text) for text in self.instructions)

    @property
    def vrmpy(self) -> int:
        return sum("vrmpy" in text for text in self.instructions)

    @property
    def requantizes(self) -> bool:
        """Whether it has vector instructions that narrow accumulators, and no products."""
        found = [text for text in self.instructions if _VECTOR.search(text)]
        return not self.vrmpy and any(_REQUANTIZE.search(text) for text in found)

    @property
    def spills(self) -> int:
        """Vectors loaded from the stack or stored there."""
        return sum("vmem(r29" in text or "vmem(r30" in text for text in self.instructions)


@dataclass(frozen=True)
class Loop:
    """The packets of a hardware loop, from its first to its last."""

    number: int
    packets: tuple[Packet, ...]

    @property
    def vrmpy(self) -> int:
        return sum(packet.vrmpy for packet in self.packets)


def packets_of(listing: str) -> list[Packet]:
    """The packets of `llvm-objdump -d --no-show-raw-insn`, in the order of their addresses."""
    packets: list[Packet] = []
    function, start, texts = "", 0, list[str]()
    for line in listing.splitlines():
        if named := _FUNCTION.match(line):
            function, texts = named[1], []
        elif found := _LINE.match(line):
            address, text = int(found[1], 16), found[2]
            if "{" in text or not texts:
                start, texts = address, []
            texts += [piece.strip(" {}\t") for piece in re.sub(r":endloop\d+", "", text).split(";")]
            if "}" in text:
                ends = tuple(int(digit) for digit in "".join(re.findall(r":endloop(\d+)", text)))
                packets.append(Packet(start, function, tuple(filter(None, texts)), ends))
                texts = []
    return sorted(packets, key=lambda packet: packet.address)


def hardware_loops(packets: list[Packet]) -> list[Loop]:
    """The hardware loops of a program: of each last packet the nearest start of its number before it."""
    starts: dict[int, set[int]] = {0: set(), 1: set()}
    for packet in packets:
        for text in packet.instructions:
            for number, address in _LOOP.findall(text):
                starts[int(number)].add(int(address, 16))
    loops = []
    for last, packet in enumerate(packets):
        for number in packet.ends:
            before = [address for address in starts[number] if address <= packet.address]
            if before:
                body = [p for p in packets[: last + 1] if p.address >= max(before)]
                loops.append(Loop(number, tuple(body)))
    return loops
