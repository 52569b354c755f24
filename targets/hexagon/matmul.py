"""Rules for matrix products on Hexagon, in the order they are tried."""

from __future__ import annotations

import numpy as np

from qcompiler.lowering.program import Kernel
from qcompiler.lowering.workload import MatmulWorkload
from qcompiler.targets.cpu.matmul import matmul_generic
from qcompiler.targets.spec import TargetSpec

matmul_rules = [matmul_generic]


def matmul_kernel(workload: MatmulWorkload, b: np.ndarray | None, bias: np.ndarray | None, spec: TargetSpec) -> Kernel:
    """As `qcompiler.targets.cpu.matmul.matmul_kernel`."""
    return next(kernel for rule in matmul_rules if (kernel := rule(workload, b, bias, spec)) is not None)
