"""What the instructions of 64-bit ARM are for, and the cores whose cycles can be estimated. Nothing here needs TVM."""

from __future__ import annotations

import re
from dataclasses import dataclass

TRIPLE = "aarch64-linux-gnu"
INSTRUCTION_BYTES = 4

CLASSES = ("dot", "vector integer", "vector float", "load", "store", "branch", "scalar", "other")
"""What `classify` tells apart; "other" are instructions of the system, and what the disassembler does not know."""

DOT_MACS = {"sdot": 16, "udot": 16, "usdot": 16, "sudot": 16, "smmla": 32, "ummla": 32, "usmmla": 32}
"""Multiply-adds of 8-bit operands that one instruction does on 128 bits (Arm Architecture Reference Manual, C7)."""

_FLOAT = re.compile(r"f[a-z]|[su]cvtf")
_BRANCHES = re.compile(r"(b|bl|br|blr|ret|cbn?z|tbn?z)$|b\.")
_VECTOR = re.compile(r"(?:.*, ?)?\{? ?[vqdshb]\d+\b")
_OTHER = re.compile(r"(|nop|hint|svc|mrs|msr|dmb|dsb|isb|sys|dc|ic|bti|pac\w+|aut\w+|udf|\W.*)$")
_TARGET = re.compile(r"\b(?:0x)?([0-9a-f]+) <")


def classify(name: str, operands: str) -> str:
    """The class of an instruction, of its name and operands as a disassembler prints them."""
    if name in DOT_MACS:
        return "dot"
    if _BRANCHES.match(name):
        return "branch"
    if name.startswith(("ld", "prfm")):
        return "load"
    if name.startswith("st"):
        return "store"
    if _VECTOR.match(operands):
        return "vector float" if _FLOAT.match(name) else "vector integer"
    return "other" if _OTHER.match(name) else "scalar"


def target_of(name: str, operands: str) -> int | None:
    """The address a branch goes to, if it is one and says so."""
    found = _TARGET.search(operands) if _BRANCHES.match(name) else None
    return int(found[1], 16) if found else None


def spills(name: str, operands: str) -> bool:
    """Whether a vector register is loaded from the stack or stored there."""
    return name.startswith(("ld", "st")) and "[sp" in operands and bool(_VECTOR.match(operands))


@dataclass(frozen=True)
class Core:
    """A core that llvm-mca has a model of: `model` names it, `dots` is its peak of dot products a cycle."""

    name: str
    model: str
    dots: float


CORES = {
    "dotprod": (
        Core("cortex-a55", "cortex-a55", 1),
        Core("cortex-a76", "neoverse-n1", 2),
        Core("cortex-x1", "neoverse-v1", 4),
    ),
    "i8mm": (
        Core("cortex-a510", "cortex-a510", 2),
        Core("cortex-a710", "neoverse-n2", 2),
        Core("cortex-x3", "neoverse-v2", 4),
    ),
    "neon": (Core("cortex-a53", "cortex-a53", 0),),
}
"""By instruction set. A server core stands for the phone core of the same design, since LLVM's models of cortex-a76,
cortex-x1 and cortex-x3 are those of other cores. Peaks: of the models, for sdot and smmla alike."""
