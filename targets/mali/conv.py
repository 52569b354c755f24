"""Rules for convolutions on Mali, in the order they are tried."""

from __future__ import annotations

import numpy as np

from qcompiler.lowering.compute_conv import generic_conv
from qcompiler.lowering.opencl_cost import PRODUCTS
from qcompiler.lowering.program import Kernel
from qcompiler.lowering.tir import buffer
from qcompiler.lowering.workload import ConvWorkload
from qcompiler.targets.cpu.conv import as_dense
from qcompiler.targets.mali.dense import QUAD, dense_kernel
from qcompiler.targets.mali.depthwise import conv_depthwise
from qcompiler.targets.spec import TargetSpec


def conv_dense(workload: ConvWorkload, weights: np.ndarray, bias: np.ndarray, spec: TargetSpec) -> Kernel | None:
    """Register tiles over contiguous bytes: any kernel, stride, dilation and group, a few input channels or many."""
    if workload.x_dtype != "int8" or weights.dtype != np.int8:
        return None
    dense, runs = as_dense(workload, weights, QUAD)
    x = buffer("x", workload.x_shape, workload.x_dtype)
    y = buffer("y", workload.y_shape, workload.requantize.out_dtype)
    products = PRODUCTS[spec.instruction_set]
    return dense_kernel(dense, runs, bias, workload.requantize, x, y, "mali-conv", products)


def conv_generic(workload: ConvWorkload, weights: np.ndarray, bias: np.ndarray, spec: TargetSpec) -> Kernel:
    """The target-neutral loops: any operand and output type."""
    return generic_conv(workload, weights, bias)


conv_rules = [conv_depthwise, conv_dense, conv_generic]


def conv_kernel(workload: ConvWorkload, weights: np.ndarray, bias: np.ndarray, spec: TargetSpec) -> Kernel:
    """The kernel of the first rule that applies.

    `weights` is `[OC, IC/group, KH, KW]` less its zero point, in int8 or, where that is too narrow, int16. `bias` is
    int32 `[OC]`. Raises ValueError if the halo of the activation does not cover the pads.
    """
    if not workload.halo_covers_pads:
        raise ValueError(f"the halo {workload.x_halo} of the activation does not cover the pads {workload.pads}")
    return next(kernel for rule in conv_rules if (kernel := rule(workload, weights, bias, spec)) is not None)
