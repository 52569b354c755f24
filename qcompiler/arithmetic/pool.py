"""Pooling over spatial axes and means over any axes, on stored integers.

Attributes mean what they mean in ONNX MaxPool and AveragePool (opset 22): `pads` are all begins, then all
ends; with `ceil_mode` the output is rounded up, unless the last window would start in the padding at the end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qcompiler.arithmetic.requantize import INT32_MAX, Rounding, requantize
from qcompiler.arithmetic.windows import Layout, channels_first, pad_spatial, sliding_windows


def pool_geometry(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    ceil_mode: bool,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Output extents, and the pads with their ends changed to what the windows really reach."""
    rank = len(kernel)
    out, ends = [], []
    for i in range(rank):
        reach = (kernel[i] - 1) * dilations[i] + 1
        room = spatial[i] + pads[i] + pads[rank + i] - reach
        size = (-(-room // strides[i]) if ceil_mode else room // strides[i]) + 1
        if ceil_mode and (size - 1) * strides[i] >= spatial[i] + pads[i]:
            size -= 1
        out.append(size)
        ends.append(max((size - 1) * strides[i] + reach - spatial[i] - pads[i], 0))
    return tuple(out), (*pads[:rank], *ends)


def pool_counts(
    spatial: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
) -> np.ndarray:
    """int64 `[*out]`: by how many elements AveragePool divides at each output position (at least 1).

    Without `count_include_pad` the elements of the input in the window, with it those of the padding too, but
    never what `ceil_mode` adds beyond the padding.
    """
    out, _ = pool_geometry(spatial, kernel, strides, pads, dilations, ceil_mode)
    rank = len(kernel)
    counts = np.ones((), np.int64)
    for i in range(rank):
        low, high = (-pads[i], spatial[i] + pads[rank + i]) if count_include_pad else (0, spatial[i])
        starts = np.arange(out[i]) * strides[i] - pads[i]
        positions = starts[:, None] + np.arange(kernel[i]) * dilations[i]
        counts = counts[..., None] * ((positions >= low) & (positions < high)).sum(1)
    return np.maximum(counts, 1)


def max_pool(
    q: np.ndarray,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    ceil_mode: bool = False,
    layout: Layout = "NCHW",
) -> np.ndarray:
    """Largest stored integer of each window of `q` (`[N, C, *spatial]` if NCHW); padding never wins."""
    lowest = np.iinfo(q.dtype).min
    return _reduce_windows(np.maximum, q, lowest, kernel, strides, pads, dilations, ceil_mode, layout)


def pool_sums(
    q: np.ndarray,
    zero_point: int,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    ceil_mode: bool = False,
    layout: Layout = "NCHW",
) -> np.ndarray:
    """int32 sum of `q - zero_point` of each window, padding as 0. ValueError if it could leave int32."""
    _check_sum(q, zero_point, math.prod(kernel))
    centred = q.astype(np.int32) - np.int32(zero_point)
    return _reduce_windows(np.add, centred, 0, kernel, strides, pads, dilations, ceil_mode, layout)


def average_pool(
    q: np.ndarray,
    zero_point_x: int,
    scale_x: float,
    scale_y: float,
    zero_point_y: int,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    ceil_mode: bool,
    count_include_pad: bool,
    lo: int,
    hi: int,
    dtype: np.dtype | type,
    rounding: Rounding,
    layout: Layout = "NCHW",
) -> np.ndarray:
    """`pool_sums` requantized by `average_multiplier` of the count at each position (`pool_counts`)."""
    geometry = (kernel, strides, pads, dilations, ceil_mode)
    sums = pool_sums(q, zero_point_x, *geometry, layout)
    spatial = channels_first(q, layout).shape[2:]
    counts = pool_counts(spatial, *geometry, count_include_pad)
    multiplier = np.asarray(average_multiplier(scale_x, scale_y, counts))
    if layout == "NHWC":
        multiplier = multiplier[..., None]
    return requantize(sums, multiplier, zero_point_y, lo, hi, dtype, rounding)


def mean(
    q: np.ndarray,
    zero_point_x: int,
    scale_x: float,
    scale_y: float,
    zero_point_y: int,
    axes: Sequence[int],
    keepdims: bool,
    lo: int,
    hi: int,
    dtype: np.dtype | type,
    rounding: Rounding,
) -> np.ndarray:
    """Mean over `axes` (global average pool, ReduceMean): int32 sum, requantized by `average_multiplier`."""
    count = math.prod(q.shape[axis] for axis in axes)
    _check_sum(q, zero_point_x, count)
    sums = q.sum(axis=tuple(axes), dtype=np.int32, keepdims=keepdims)
    sums = np.asarray(sums - np.int32(count * int(zero_point_x)), np.int32)
    multiplier = average_multiplier(scale_x, scale_y, count)
    return requantize(sums, multiplier, zero_point_y, lo, hi, dtype, rounding)


def average_multiplier(scale_x: float, scale_y: float, count: np.ndarray | int) -> np.ndarray | np.float64:
    """`scale_x / (scale_y * count)` in float64; the product is exact and the quotient rounds once."""
    return np.float64(np.float32(scale_x)) / (np.float64(np.float32(scale_y)) * count)


def _check_sum(q: np.ndarray, zero_point: int, count: int) -> None:
    info = np.iinfo(q.dtype)
    bound = count * max(int(zero_point) - info.min, info.max - int(zero_point), -info.min, info.max)
    if bound > INT32_MAX:
        raise ValueError(f"the sum of {count} elements of {q.dtype} may reach {bound} and leave int32")


def _reduce_windows(
    combine: np.ufunc,
    x: np.ndarray,
    padding: int,
    kernel: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    ceil_mode: bool,
    layout: Layout,
) -> np.ndarray:
    x = channels_first(x, layout)
    _, pads = pool_geometry(x.shape[2:], kernel, strides, pads, dilations, ceil_mode)
    windows = sliding_windows(pad_spatial(x, pads, padding), kernel, strides, dilations)
    result = windows[(slice(None), slice(None), *[0] * len(kernel))].copy(order="K")
    for tap in list(np.ndindex(*kernel))[1:]:
        combine(result, windows[(slice(None), slice(None), *tap)], out=result)
    return np.moveaxis(result, 1, -1) if layout == "NHWC" else result
