"""Rules for convolutions on the host, in the order they are tried."""

from __future__ import annotations

import numpy as np
from qcompiler.targets.host.dense import (
    Dense,
    channel_blocks,
    choose_tile,
    dense_tile,
    pack_weights,
    packed_parameters,
)
from qcompiler.targets.host.epilogue import Epilogue, is_bounded
from qcompiler.targets.host.isa import QUAD, Isa, isa_of
from qcompiler.targets.spec import TargetSpec

from qcompiler.lowering.program import Kernel
from qcompiler.lowering.tir import buffer, function, reorder
from qcompiler.lowering.workload import ConvWorkload

_FIRST_LEVEL_CACHE = 24 * 1024


def conv_dense(
    workload: ConvWorkload, weights: np.ndarray, bias: np.ndarray, spec: TargetSpec
) -> Kernel | None:
    """Register tiles over runs of contiguous bytes: any kernel, stride, dilation and group; 8-bit outputs."""
    if workload.requantize.out_dtype not in ("uint8", "int8") or not workload.halo_covers_pads:
        return None
    isa = isa_of(spec.instruction_set)
    dense, runs = _as_dense(workload, weights, isa)
    tile = choose_tile(dense, isa)
    blocks = channel_blocks(dense.channels, tile.vectors, isa.lanes)
    packed = pack_weights(runs, blocks, isa)
    shifted = bias.astype(np.int64) - isa.bias_offset(workload.x_dtype) * runs.sum(
        (2, 3, 4), np.int64
    ).reshape(-1)
    constants = (packed, *packed_parameters(shifted, workload.requantize, dense.groups, blocks))

    x = buffer("x", workload.x_shape, workload.x_dtype)
    y = buffer("y", workload.y_shape, workload.requantize.out_dtype)
    weight_buffer, bias_buffer, *parameters = (
        buffer(f"c{i}", array.shape, str(array.dtype)) for i, array in enumerate(constants)
    )
    bounded = is_bounded(workload.requantize, workload.acc_bound)
    epilogue = Epilogue(isa, workload.requantize, parameters, bounded)
    block = dense_tile(dense, tile, isa, x, weight_buffer, bias_buffer, epilogue, y)
    schedule = function([x, weight_buffer, bias_buffer, *parameters, y], [block])
    reorder(schedule, "tile", "nhwc" if packed.nbytes <= _FIRST_LEVEL_CACHE else "nchw")
    return Kernel(
        schedule.mod["main"], f"{spec.instruction_set}-dense-{tile.pixels}x{tile.vectors}", constants
    )


def _as_dense(workload: ConvWorkload, weights: np.ndarray, isa: Isa) -> tuple[Dense, np.ndarray]:
    """The workload as runs, and its weights as `[group, channel, tap row, tap column, run]`."""
    groups = workload.group // _merged_groups(workload, isa)
    runs = _merge(weights, workload.group, groups)
    channels, inputs = runs.shape[1], runs.shape[-1]
    row = workload.x_shape[1]
    taps, tap_steps = (
        (workload.kh, workload.kw),
        (
            workload.dilations[0] * row,
            workload.dilations[1] * workload.ic,
        ),
    )
    if groups == 1 and (workload.kw == 1 or workload.dilations[1] == 1):
        runs = runs.reshape(*runs.shape[:3], 1, -1)
        taps = (workload.kh, 1)
    run = runs.shape[-1] if groups == 1 else inputs
    grid = (workload.n, workload.oh, workload.ow)
    x_steps = (
        (workload.x_shape[0] // workload.n) * row,
        workload.strides[0] * row,
        workload.strides[1] * workload.ic,
    )
    y_row = workload.y_shape[1]
    y_steps = ((workload.y_shape[0] // workload.n) * y_row, y_row, workload.oc)
    if (
        workload.kh == workload.kw == 1
        and x_steps[1] == workload.ow * x_steps[2]
        and y_row == workload.ow * workload.oc
    ):
        grid = (
            (1, 1, workload.n * workload.oh * workload.ow)
            if not any((*workload.x_halo, *workload.y_halo))
            else (workload.n, 1, workload.oh * workload.ow)
        )
    dense = Dense(
        grid,
        x_steps,
        workload.x_origin,
        y_steps,
        workload.y_origin,
        taps,
        tap_steps,
        run,
        groups,
        channels,
        workload.x_dtype,
    )
    return dense, runs


def _merged_groups(workload: ConvWorkload, isa: Isa) -> int:
    """How many groups to compute as one, with zero weights between them: fewest dots, then fewest groups."""
    inputs, outputs = workload.ic // workload.group, workload.oc // workload.group

    def dots(merged: int) -> int:
        taps = (
            -(-workload.kw * inputs * workload.group // QUAD)
            if merged == workload.group
            else workload.kw * -(-inputs * merged // QUAD)
        )
        return workload.group // merged * -(-outputs * merged // isa.lanes) * taps

    return min(
        (d for d in range(1, workload.group + 1) if workload.group % d == 0), key=lambda d: (dots(d), -d)
    )


def _merge(weights: np.ndarray, groups: int, merged_groups: int) -> np.ndarray:
    """`[OC, IC/groups, KH, KW]` to `[merged group, channel, KH, KW, input]`, zero between what was merged."""
    oc, inputs, kh, kw = weights.shape
    factor, outputs = groups // merged_groups, oc // groups
    source = weights.transpose(0, 2, 3, 1).reshape(merged_groups, factor, outputs, kh, kw, inputs)
    merged = np.zeros((merged_groups, factor, outputs, kh, kw, factor, inputs), np.int8)
    for i in range(factor):
        merged[:, i, :, :, :, i] = source[:, i]
    return merged.reshape(merged_groups, factor * outputs, kh, kw, factor * inputs)
