"""Rules for convolutions on Hexagon, in the order they are tried."""

from __future__ import annotations

import numpy as np

from qcompiler.lowering.program import Kernel
from qcompiler.lowering.workload import ConvWorkload
from qcompiler.targets.cpu.conv import conv_generic, first_kernel
from qcompiler.targets.spec import TargetSpec

conv_rules = [conv_generic]


def conv_kernel(workload: ConvWorkload, weights: np.ndarray, bias: np.ndarray, spec: TargetSpec) -> Kernel:
    """As `qcompiler.targets.cpu.conv.conv_kernel`."""
    return first_kernel(conv_rules, workload, weights, bias, spec)
