"""What a target can do, as data, and the way from a target's name to it. Nothing here needs TVM.

A target family is a module with two functions: `names() -> list[str]`, the names it answers to, and
`resolve(name) -> TargetSpec`. Outside packages add families in the entry-point group `qcompiler.targets`,
whose entries are named like the family (the part of a target's name before the colon) and load such a module.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from types import ModuleType
from typing import Literal

from qcompiler.arithmetic.requantize import Rounding
from qcompiler.errors import TargetError
from qcompiler.targets.toolchain import NATIVE, Toolchain

ENTRY_POINT_GROUP = "qcompiler.targets"

_BUILT_IN = {
    "host": "qcompiler.targets.host.spec",
    "arm-cpu": "qcompiler.targets.arm_cpu.spec",
    "mali": "qcompiler.targets.mali.spec",
    "hexagon": "qcompiler.targets.hexagon.spec",
}


@dataclass(frozen=True)
class TargetSpec:
    """The properties of a target that passes, lowering and schedule rules ask for."""

    name: str
    kernels: str
    """Module with `conv_kernel`, `matmul_kernel` and `tvm_target`, imported only when code is made."""
    instruction_set: str
    vector_bytes: int
    rounding: Rounding
    """The rounding form of requantize that is fastest here."""
    activation_dtype: str
    """Storage of activations: uint8 or int8, what the dot product by int8 weights takes without conversion."""
    narrow_weights: bool
    """Whether the dot product is exact, or fast, only without the most negative weight (-128)."""
    weight_zero_point_cost: float
    """Run time of a matrix product with a nonzero weight zero point relative to the same one without it."""
    constant_rhs_only: bool
    """Whether matrix products need a constant right-hand side (packed at compile time)."""
    float16: bool = False
    """Whether it computes in float16, twice as many elements in a vector as of float32."""
    driver: Literal["", "opencl"] = ""
    """What runs the kernels of a device with memory of its own; empty where they are functions of a library."""
    float_vectors: bool = True
    """Whether vectors hold float32."""
    alignment: int = 64
    """Bytes, a power of two: every buffer begins at a multiple, and as many may be read past its end."""
    toolchain: Toolchain = NATIVE
    """What links bundles, and runs them where this machine cannot."""

    @property
    def activation_storage(self) -> str:
        """`activation_dtype` as the IR spells it: u8 or i8."""
        return {"uint8": "u8", "int8": "i8"}[self.activation_dtype]


def resolve_target(name: str) -> TargetSpec:
    """The spec of the target called `name`, such as `host` or `host:avx2`.

    Raises TargetError if no family knows the name; the message lists the known ones.
    """
    family = name.split(":")[0]
    outside = {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
    if family in _BUILT_IN:
        module = import_module(_BUILT_IN[family])
    elif family in outside:
        module = outside[family].load()
    else:
        module = None
    if module is None or name not in module.names():
        raise TargetError(f"unknown target {name!r}: expected one of {', '.join(target_names())}")
    return module.resolve(name)


def target_names() -> list[str]:
    """All known target names, those of outside packages included."""
    modules: list[ModuleType] = [import_module(path) for path in _BUILT_IN.values()]
    modules += [entry.load() for entry in entry_points(group=ENTRY_POINT_GROUP) if entry.name not in _BUILT_IN]
    return [name for module in modules for name in module.names()]
