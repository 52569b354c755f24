"""The Mali targets: `mali` is any GPU with OpenCL 1.2, others name a GPU.

Instruction sets: `dot` has products of four int8 in one instruction: Mali-G76, all GPUs of the Valhall architecture and
its successors. `plain` has none: the earlier GPUs of the Bifrost architecture. All write their products in the same
form, and the prelude of the source takes the instruction where the device has it; the instruction set decides how much
one work-item computes. Source: Arm's public pages of these GPUs and its OpenCL developer guide (101574_0302).
"""

from __future__ import annotations

from dataclasses import replace

from qcompiler.targets.spec import TargetSpec

_GENERIC = TargetSpec(
    name="mali",
    kernels="qcompiler.targets.mali.kernels",
    instruction_set="dot",
    vector_bytes=16,
    rounding="fp32",
    activation_dtype="int8",
    narrow_weights=False,
    weight_zero_point_cost=2.0,
    constant_rhs_only=False,
    float16=True,
    driver="opencl",
)
_WITH_DOT = ("g57", "g68", "g76", "g77", "g78", "g610", "g710", "g715", "g720")
_WITHOUT_DOT = ("g51", "g71", "g72")
_SPECS = {
    "mali": _GENERIC,
    **{f"mali:{gpu}": replace(_GENERIC, name=f"mali:{gpu}") for gpu in _WITH_DOT},
    **{f"mali:{gpu}": replace(_GENERIC, name=f"mali:{gpu}", instruction_set="plain") for gpu in _WITHOUT_DOT},
}


def names() -> list[str]:
    """The target names this module resolves."""
    return list(_SPECS)


def resolve(name: str) -> TargetSpec:
    """The spec of one of `names()`."""
    return _SPECS[name]
