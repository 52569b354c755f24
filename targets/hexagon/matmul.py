"""Rules for matrix products on Hexagon, in the order they are tried."""

from __future__ import annotations

import numpy as np

from qcompiler.lowering.program import Kernel
from qcompiler.lowering.workload import MatmulWorkload
from qcompiler.targets.cpu.matmul import matmul_constant, matmul_generic, matmul_packed
from qcompiler.targets.hexagon.isa import is_native
from qcompiler.targets.spec import TargetSpec


def matmul_any_constant(
    workload: MatmulWorkload, b: np.ndarray | None, bias: np.ndarray | None, spec: TargetSpec
) -> Kernel | None:
    """`matmul_packed` of constants: LLVM has no code for HVX to pack a right-hand side at run time as that does."""
    return None if b is None else matmul_packed(workload, b, bias, spec)


matmul_rules = [matmul_constant, matmul_any_constant, matmul_generic]


def matmul_kernel(workload: MatmulWorkload, b: np.ndarray | None, bias: np.ndarray | None, spec: TargetSpec) -> Kernel:
    """As `qcompiler.targets.cpu.matmul.matmul_kernel`; other results than HVX makes take the generic rule."""
    rules = matmul_rules if is_native(workload.requantize, workload.acc_bound) else matmul_rules[-1:]
    return next(kernel for rule in rules if (kernel := rule(workload, b, bias, spec)) is not None)
