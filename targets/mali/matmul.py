"""Rules for matrix products on Mali, in the order they are tried."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from qcompiler.arithmetic.grouped import effective_weights
from qcompiler.lowering.compute_conv import generic_matmul
from qcompiler.lowering.opencl_cost import PRODUCTS
from qcompiler.lowering.program import Kernel
from qcompiler.lowering.tir import buffer
from qcompiler.lowering.workload import MatmulWorkload
from qcompiler.targets.cpu.matmul import dense_of
from qcompiler.targets.mali.dense import dense_kernel
from qcompiler.targets.mali.products import matmul_activations
from qcompiler.targets.spec import TargetSpec


def matmul_constant(
    workload: MatmulWorkload, b: np.ndarray | None, bias: np.ndarray | None, spec: TargetSpec
) -> Kernel | None:
    """A constant right-hand side `[k, n]` that is int8 once its zero point is subtracted."""
    if b is None or prod(workload.b_batch) > 1 or workload.a_dtype != "int8":
        return None
    centred = b.reshape(workload.k, workload.n).astype(np.int64) - workload.b_zero_point
    if centred.min() < -128 or centred.max() > 127:
        return None
    start = np.zeros(workload.n, np.int64) if bias is None else bias.astype(np.int64)
    start = start - workload.a_zero_point * centred.sum(0)
    a = buffer("a", workload.a_shape, workload.a_dtype)
    y = buffer("y", workload.y_shape, workload.requantize.out_dtype)
    columns = centred.astype(np.int8).T[None, :, None, None, :]
    products = PRODUCTS[spec.instruction_set]
    return dense_kernel(dense_of(workload), columns, start, workload.requantize, a, y, "mali-matmul", products)


def matmul_generic(workload: MatmulWorkload, b: np.ndarray | None, bias: np.ndarray | None, spec: TargetSpec) -> Kernel:
    """The target-neutral loops: any operand and output type."""
    return generic_matmul(workload, b, bias)


matmul_rules = [matmul_constant, matmul_activations, matmul_generic]


def matmul_kernel(workload: MatmulWorkload, b: np.ndarray | None, bias: np.ndarray | None, spec: TargetSpec) -> Kernel:
    """The kernel of the first rule that applies; `b` is a constant right-hand side, None if it is an activation."""
    return next(kernel for rule in matmul_rules if (kernel := rule(workload, b, bias, spec)) is not None)


def grouped_kernel(
    workload: MatmulWorkload, b: np.ndarray, factors: np.ndarray, group: int, bias: np.ndarray, spec: TargetSpec
) -> Kernel:
    """The kernel for int8 `b` `[k, n]` in groups of rows with int32 factors `[groups, n]`: loops on their products."""
    return generic_matmul(replace(workload, b_dtype="int16"), effective_weights(b, factors, group), bias)
