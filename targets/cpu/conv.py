"""Rules for convolutions on CPUs, in the order they are tried."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from qcompiler.lowering.compute_conv import generic_conv
from qcompiler.lowering.program import Kernel
from qcompiler.lowering.tir import buffer
from qcompiler.lowering.workload import ConvWorkload
from qcompiler.targets.cpu.choices import Dense
from qcompiler.targets.cpu.dense import constant_kernel
from qcompiler.targets.cpu.depthwise import conv_depthwise, is_regular
from qcompiler.targets.cpu.isa import QUAD, isa_of
from qcompiler.targets.spec import TargetSpec

_RESULT_QUADS = 6
"""Dot products that take as long as requantizing and storing their sums."""

Rule = Callable[[ConvWorkload, np.ndarray, np.ndarray, TargetSpec], "Kernel | None"]


def conv_dense(workload: ConvWorkload, weights: np.ndarray, bias: np.ndarray, spec: TargetSpec) -> Kernel | None:
    """Register tiles over contiguous bytes: any kernel, stride, dilation and group; results of 8 or 16 bits."""
    if not is_regular(workload, weights):
        return None
    weights, isa = weights.astype(np.int8), isa_of(spec)
    dense, runs = as_dense(workload, weights, isa.lanes)
    requantize = workload.requantize
    if isa.stores_whole:
        dense, runs = merge_columns(dense, runs, workload.strides[1] * workload.ic, isa.lanes)
        bias = np.tile(bias, dense.merged)
        multiplier = np.broadcast_to(requantize.multiplier, (workload.oc,))
        requantize = replace(requantize, multiplier=np.tile(multiplier, dense.merged))
    x = buffer("x", workload.x_shape, workload.x_dtype)
    y = buffer("y", workload.y_shape, workload.requantize.out_dtype)
    return constant_kernel(dense, runs, bias, requantize, workload.acc_bound, x, y, spec)


def conv_generic(workload: ConvWorkload, weights: np.ndarray, bias: np.ndarray, spec: TargetSpec) -> Kernel:
    """The target-neutral loops: any operand and output type."""
    return generic_conv(workload, weights, bias)


conv_rules = [conv_depthwise, conv_dense, conv_generic]


def conv_kernel(workload: ConvWorkload, weights: np.ndarray, bias: np.ndarray, spec: TargetSpec) -> Kernel:
    """The kernel of the first rule that applies.

    `weights` is `[OC, IC/group, KH, KW]` less its zero point, in int8 or, where that is too narrow, int16.
    `bias` is int32 `[OC]`. Raises ValueError if the halo of the activation does not cover the pads (then
    `pad_copy_kernel` in front of the convolution makes one that does).
    """
    return first_kernel(conv_rules, workload, weights, bias, spec)


def first_kernel(
    rules: Sequence[Rule], workload: ConvWorkload, weights: np.ndarray, bias: np.ndarray, spec: TargetSpec
) -> Kernel:
    """`conv_kernel` with given rules, of which the last one always applies."""
    if not workload.halo_covers_pads:
        raise ValueError(f"the halo {workload.x_halo} of the activation does not cover the pads {workload.pads}")
    return next(kernel for rule in rules if (kernel := rule(workload, weights, bias, spec)) is not None)


def as_dense(workload: ConvWorkload, weights: np.ndarray, lanes: int) -> tuple[Dense, np.ndarray]:
    """The workload as runs, and its weights as `[group, channel, tap row, tap column, run]`.

    `lanes` is the number of output channels that are computed together at least.
    """
    groups = workload.group // _merged_groups(workload, lanes)
    runs = _merge(weights, workload.group, groups)
    if groups == 1 and (workload.kw == 1 or workload.dilations[1] == 1):
        runs = runs.reshape(*runs.shape[:3], 1, -1)
    x_row, y_row = workload.x_shape[1], workload.y_shape[1]
    x_image, y_image = (shape[0] // workload.n * shape[1] for shape in (workload.x_shape, workload.y_shape))
    x_column = workload.strides[1] * workload.ic
    grid = (workload.n, workload.oh, workload.ow)
    x_steps = (x_image, workload.strides[0] * x_row, x_column)
    y_steps = (y_image, y_row, workload.oc)
    # Rows that follow each other without a gap are one row, and images likewise.
    if x_steps[1] == workload.ow * x_column and y_row == workload.ow * workload.oc:
        grid = (workload.n, 1, workload.oh * workload.ow)
        if x_image == grid[2] * x_column and y_image == grid[2] * workload.oc:
            grid = (1, 1, workload.n * grid[2])
    dense = Dense(
        grid=grid,
        x_steps=x_steps,
        x_origin=workload.x_origin,
        y_steps=y_steps,
        y_origin=workload.y_origin,
        taps=runs.shape[2:4],
        tap_steps=(workload.dilations[0] * x_row, workload.dilations[1] * workload.ic),
        run=runs.shape[-1],
        groups=groups,
        channels=runs.shape[1],
        x_dtype=workload.x_dtype,
    )
    return dense, runs


def merge_columns(dense: Dense, runs: np.ndarray, step: int, lanes: int) -> tuple[Dense, np.ndarray]:
    """Neighbouring pixels, `step` elements of the activation apart, as one, where that fills `lanes` better.

    Each channel of the merged pixel has zero weights for what only its neighbours see.
    """
    if dense.groups > 1 or dense.taps[1] > 1:
        return dense, runs

    def cost(merged: int) -> float:
        quads = dense.taps[0] * -(-(dense.run + (merged - 1) * step) // QUAD)
        return -(-merged * dense.channels // lanes) * (quads + _RESULT_QUADS) / merged

    merged = min(range(1, min(lanes, dense.grid[2]) + 1), key=lambda m: (cost(m), m))
    filled = np.zeros((1, merged, *runs.shape[1:4], dense.run + (merged - 1) * step), np.int8)
    for pixel in range(merged):
        filled[:, pixel, ..., pixel * step : pixel * step + dense.run] = runs
    run, channels = filled.shape[-1], merged * dense.channels
    return replace(dense, run=run, channels=channels, merged=merged), filled.reshape(1, channels, *runs.shape[2:4], run)


def _merged_groups(workload: ConvWorkload, lanes: int) -> int:
    """How many groups to compute as one, with zero weights between them: fewest dots, then fewest groups."""
    inputs, outputs = workload.ic // workload.group, workload.oc // workload.group

    def dots(merged: int) -> int:
        taps = (
            -(-workload.kw * inputs * workload.group // QUAD)
            if merged == workload.group
            else workload.kw * -(-inputs * merged // QUAD)
        )
        return workload.group // merged * -(-outputs * merged // lanes) * taps

    return min((d for d in range(1, workload.group + 1) if workload.group % d == 0), key=lambda d: (dots(d), -d))


def _merge(weights: np.ndarray, groups: int, merged_groups: int) -> np.ndarray:
    """`[OC, IC/groups, KH, KW]` to `[merged group, channel, KH, KW, input]`, zero between what was merged."""
    oc, inputs, kh, kw = weights.shape
    factor, outputs = groups // merged_groups, oc // groups
    source = weights.transpose(0, 2, 3, 1).reshape(merged_groups, factor, outputs, kh, kw, inputs)
    merged = np.zeros((merged_groups, factor, outputs, kh, kw, factor, inputs), np.int8)
    for i in range(factor):
        merged[:, i, :, :, :, i] = source[:, i]
    return merged.reshape(merged_groups, factor * outputs, kh, kw, factor * inputs)
