"""Rules for matrix products on Hexagon, in the order they are tried."""

from __future__ import annotations

import numpy as np

from qcompiler.lowering.program import Kernel
from qcompiler.lowering.workload import MatmulWorkload
from qcompiler.targets.cpu.matmul import matmul_rules
from qcompiler.targets.hexagon.isa import is_native
from qcompiler.targets.spec import TargetSpec


def matmul_kernel(workload: MatmulWorkload, b: np.ndarray | None, bias: np.ndarray | None, spec: TargetSpec) -> Kernel:
    """As `qcompiler.targets.cpu.matmul.matmul_kernel`; other results than HVX makes take the generic rule."""
    rules = matmul_rules if is_native(workload.requantize, workload.acc_bound) else matmul_rules[-1:]
    return next(kernel for rule in rules if (kernel := rule(workload, b, bias, spec)) is not None)
