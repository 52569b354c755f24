"""The 64-bit ARM targets: `arm-cpu` is any core with the dot product, others name a core.

Instruction sets: `neon` (ARMv8.0), `dotprod` (ARMv8.2), `i8mm` (ARMv8.6; code for these keeps off the vectors of
unknown length that the cores also have).

Feature levels and the cores that have them: the Arm Cortex and Neoverse technical reference manuals.
"""

from __future__ import annotations

from dataclasses import replace

from qcompiler.targets.spec import TargetSpec
from qcompiler.targets.toolchain import AARCH64_LINUX, Toolchain

_DOTPROD = TargetSpec(
    name="arm-cpu",
    kernels="qcompiler.targets.arm_cpu.kernels",
    instruction_set="dotprod",
    vector_bytes=16,
    rounding="fp32",
    activation_dtype="int8",
    narrow_weights=False,
    weight_zero_point_cost=1.1,
    constant_rhs_only=False,
    float16=True,
)
_INSTRUCTION_SETS = {
    "dotprod": ("cortex-a55", "cortex-a76", "cortex-a78"),
    "i8mm": ("cortex-a510", "cortex-a710", "cortex-x2", "neoverse-n2"),
    "neon": ("cortex-a53",),
}
_EMULATED_CPUS = {"dotprod": "cortex-a76", "i8mm": "max", "neon": "cortex-a53"}
"""A core that QEMU knows and that has no other instructions than the set's; of those with `i8mm` it knows only one that
has everything."""


def _toolchain(instruction_set: str) -> Toolchain:
    emulator = (*AARCH64_LINUX.emulator, "-cpu", _EMULATED_CPUS[instruction_set])
    return replace(AARCH64_LINUX, emulator=emulator)


_SPECS = {
    "arm-cpu": replace(_DOTPROD, toolchain=_toolchain("dotprod")),
    **{
        f"arm-cpu:{core}": replace(
            _DOTPROD,
            name=f"arm-cpu:{core}",
            instruction_set=instruction_set,
            narrow_weights=instruction_set == "neon",
            float16=instruction_set != "neon",
            toolchain=_toolchain(instruction_set),
        )
        for instruction_set, cores in _INSTRUCTION_SETS.items()
        for core in cores
    },
}
_ATTRIBUTES = {
    "dotprod": ["+neon", "+dotprod", "+fullfp16"],
    "i8mm": ["+neon", "+dotprod", "+fullfp16", "+i8mm", "-sve"],
    "neon": ["+neon"],
}
_FLAGS = {
    "dotprod": ("asimd", "asimdhp", "asimddp"),
    "i8mm": ("asimd", "asimdhp", "asimddp", "i8mm"),
    "neon": ("asimd",),
}
_GENERIC_CORE = "cortex-a55"
_SCHEDULED_FOR = {"cortex-a76": _GENERIC_CORE, "cortex-a78": _GENERIC_CORE}
"""The core whose latencies LLVM schedules for, where it is not the named one.

LLVM gives the Cortex-A76 and A78 the latencies of the Cortex-A57. Code for the in-order Cortex-A55 is as fast on them
by the model of the Neoverse N1, the same core as the A76, and takes fewer instructions.
"""


def names() -> list[str]:
    """The target names this module resolves."""
    return list(_SPECS)


def resolve(name: str) -> TargetSpec:
    """The spec of one of `names()`."""
    return _SPECS[name]


def tvm_target(spec: TargetSpec) -> dict[str, object]:
    """The description of the target that `tvm.target.Target` takes."""
    core = spec.name.partition(":")[2] or _GENERIC_CORE
    return {
        "kind": "llvm",
        "mtriple": "aarch64-linux-gnu",
        "mcpu": _SCHEDULED_FOR.get(core, core),
        "mattr": _ATTRIBUTES[spec.instruction_set],
    }


def cpu_flags(spec: TargetSpec) -> tuple[str, ...]:
    """The CPU features, as Linux names them in /proc/cpuinfo, that the target's code needs."""
    return _FLAGS[spec.instruction_set]
