"""Rules for convolutions on Hexagon, in the order they are tried."""

from __future__ import annotations

import numpy as np

from qcompiler.lowering.program import Kernel
from qcompiler.lowering.workload import ConvWorkload
from qcompiler.targets.cpu.conv import conv_dense, conv_generic, first_kernel
from qcompiler.targets.cpu.depthwise import conv_depthwise
from qcompiler.targets.hexagon.isa import is_native
from qcompiler.targets.spec import TargetSpec

conv_rules = [conv_depthwise, conv_dense, conv_generic]


def conv_kernel(workload: ConvWorkload, weights: np.ndarray, bias: np.ndarray, spec: TargetSpec) -> Kernel:
    """As `qcompiler.targets.cpu.conv.conv_kernel`; other results than HVX makes take the generic rule."""
    rules = conv_rules if is_native(workload.requantize, workload.acc_bound) else conv_rules[-1:]
    return first_kernel(rules, workload, weights, bias, spec)
