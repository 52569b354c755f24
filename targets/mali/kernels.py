"""What lowering asks of Mali; see `TargetSpec.kernels`."""

from __future__ import annotations

import numpy as np

from qcompiler.lowering.compute_conv import generic_conv, generic_matmul
from qcompiler.lowering.program import Kernel
from qcompiler.lowering.workload import ConvWorkload, MatmulWorkload
from qcompiler.targets.spec import TargetSpec


def conv_kernel(workload: ConvWorkload, weights: np.ndarray, bias: np.ndarray, spec: TargetSpec) -> Kernel:
    return generic_conv(workload, weights, bias)


def matmul_kernel(workload: MatmulWorkload, b: np.ndarray | None, bias: np.ndarray | None, spec: TargetSpec) -> Kernel:
    return generic_matmul(workload, b, bias)
