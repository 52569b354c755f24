"""The Hexagon targets: HVX with vectors of 128 bytes. `hexagon` is v66, which later versions run too.

Versions and what they have: the Qualcomm Hexagon HVX Programmer's Reference Manuals of v66 to v73.
"""

from __future__ import annotations

from dataclasses import replace

from qcompiler.targets.spec import TargetSpec
from qcompiler.targets.toolchain import hexagon_toolchain

VERSIONS = ("v66", "v68", "v69", "v73", "v75")

_V66 = TargetSpec(
    name="hexagon",
    kernels="qcompiler.targets.hexagon.kernels",
    instruction_set="v66",
    vector_bytes=128,
    rounding="fixed2",
    activation_dtype="uint8",
    narrow_weights=False,
    weight_zero_point_cost=1.3,
    constant_rhs_only=False,
    float_vectors=False,
    alignment=128,
    toolchain=hexagon_toolchain("v66"),
)
_SPECS = {
    "hexagon": _V66,
    **{
        f"hexagon:{version}": replace(
            _V66, name=f"hexagon:{version}", instruction_set=version, toolchain=hexagon_toolchain(version)
        )
        for version in VERSIONS
    },
}


def names() -> list[str]:
    """The target names this module resolves."""
    return list(_SPECS)


def resolve(name: str) -> TargetSpec:
    """The spec of one of `names()`."""
    return _SPECS[name]


def tvm_target(spec: TargetSpec) -> dict[str, object]:
    """The description of the target that `tvm.target.Target` takes.

    Without the vector arithmetic of floats that versions from v68 on have: it is not that of IEEE 754.
    """
    version = spec.instruction_set
    return {
        "kind": "llvm",
        "mtriple": "hexagon-unknown-linux-musl",
        "mcpu": f"hexagon{version}",
        "mattr": [f"+hvx{version}", "+hvx-length128b", "-hvx-qfloat", "-hvx-ieee-fp"],
    }


def cpu_flags(spec: TargetSpec) -> tuple[str, ...]:
    """What the target's code needs: the version of HVX, which /proc/cpuinfo of no other machine names."""
    return (f"hvx{spec.instruction_set}",)
