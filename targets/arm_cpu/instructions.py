"""What the instructions of 64-bit ARM are for, and the cores whose cycles can be estimated. Nothing here needs TVM."""

from __future__ import annotations

import re
from dataclasses import dataclass

TRIPLE = "aarch64-linux-gnu"

CLASSES = ("dot", "vector integer", "vector float", "load", "store", "branch", "scalar")
"""What `classify` tells apart."""

DOT_MACS = {"sdot": 16, "udot": 16, "usdot": 16, "sudot": 16, "smmla": 32, "ummla": 32, "usmmla": 32}
"""Multiply-adds of 8-bit operands that one instruction does on 128 bits (Arm Architecture Reference Manual, C7)."""

_FLOAT = re.compile(r"f[a-z]|[su]cvtf")
_BRANCHES = re.compile(r"(b|bl|br|blr|ret|cbn?z|tbn?z)$|b\.")
_VECTOR = re.compile(r"\{? ?[vqdshb]\d+\b")


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
    return "scalar"


@dataclass(frozen=True)
class Core:
    """A core that llvm-mca has a model of: `model` names it, `dots` is its peak of dot products a cycle."""

    name: str
    model: str
    dots: float


CORES = {
    "dotprod": (Core("cortex-a55", "cortex-a55", 1), Core("cortex-a76", "neoverse-n1", 2)),
    "i8mm": (Core("cortex-a510", "cortex-a510", 1), Core("cortex-a710", "neoverse-n2", 2)),
    "neon": (Core("cortex-a53", "cortex-a53", 0),),
}
"""By instruction set. LLVM's own model called cortex-a76 is that of another core, so neoverse-n1, the same design for
servers, stands for it, and neoverse-n2 for cortex-a710. Peaks: Arm's software optimization guides."""
