"""The x86-64 targets: `host` is what this machine offers, the others name an instruction set."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

from qcompiler.targets.spec import TargetSpec

_CPUINFO = Path("/proc/cpuinfo")

_PORTABLE = TargetSpec(
    name="host:portable",
    kernels="qcompiler.targets.host.kernels",
    instruction_set="portable",
    vector_bytes=16,
    rounding="fp32",
    activation_dtype="uint8",
    narrow_weights=False,
    weight_zero_point_cost=1.1,
    constant_rhs_only=False,
)
_SPECS = {
    "avx512-vnni": replace(_PORTABLE, name="host:avx512-vnni", instruction_set="avx512-vnni", vector_bytes=64),
    "avx2": replace(_PORTABLE, name="host:avx2", instruction_set="avx2", vector_bytes=32),
    "portable": _PORTABLE,
}
_NEEDED_FLAGS = {
    "avx512-vnni": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
    "avx2": {"avx2", "fma", "bmi1", "bmi2"},
    "portable": set(),
}
_TVM_TARGETS = {
    "avx512-vnni": {"mcpu": "x86-64-v4", "mattr": ["+avx512vnni"]},
    "avx2": {"mcpu": "x86-64-v3"},
    "portable": {"mcpu": "x86-64"},
}


def names() -> list[str]:
    """The target names this module resolves."""
    return ["host", *(spec.name for spec in _SPECS.values())]


def resolve(name: str) -> TargetSpec:
    """The spec of one of `names()`; `host` takes the best instruction set this machine can run."""
    if name == "host":
        return replace(_SPECS[runnable()[0]], name="host")
    return _SPECS[name.removeprefix("host:")]


@cache
def runnable() -> tuple[str, ...]:
    """The instruction sets this machine can run, best first; without CPU flags only the portable one."""
    flags: set[str] = set()
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "flags":
                flags = set(value.split())
                break
    return tuple(name for name, needed in _NEEDED_FLAGS.items() if needed <= flags)


def tvm_target(spec: TargetSpec) -> dict[str, object]:
    """The description of the target that `tvm.target.Target` takes."""
    return {"kind": "llvm", "mtriple": "x86_64-linux-gnu", **_TVM_TARGETS[spec.instruction_set]}


def cpu_flags(spec: TargetSpec) -> tuple[str, ...]:
    """The CPU features, as /proc/cpuinfo names them, that the target's code needs."""
    return tuple(sorted(_NEEDED_FLAGS[spec.instruction_set]))
