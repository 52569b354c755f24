"""Exact int32 accumulators of convolution and matrix multiplication, computed by floating-point BLAS.

Sums of integers are exact in float32 as long as no partial sum can exceed 2^24 (2^53 in float64), whatever
the order of summation and whether or not multiply and add are fused. The reduction is therefore cut into so
many pieces that the sum of |w| times the largest |x| stays below that limit in each; the limit is proven from
the actual weights when they are prepared. Activations enter centred around the middle of their storage range
(`u8` as `q - 128`), which halves the bound; the difference to the real zero point is a constant for each
output channel.

Results are the exact sums modulo 2^32. They are the exact sums where `acc_bound` is below 2^31, which a
program must have proven before it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.arithmetic.windows import Layout, channels_first, pad_spatial, sliding_windows

_EXACT_FLOAT32 = 1 << 24
_EXACT_FLOAT64 = 1 << 53
_MOST_PIECES = 4
_TAP_BLOCK = 1 << 16
"""Elements of a depthwise block: small enough that input, product and sum stay in the second-level cache."""


@dataclass(frozen=True)
class ReductionPlan:
    """Weights ready for exact products: `matrix [..., OC, K]` in float, cut along K at `cuts`."""

    matrix: np.ndarray
    cuts: tuple[int, ...]
    """Ends of the pieces: ascending, the last one is K."""
    sums: np.ndarray
    """int64 `[..., OC]`: sum over K of the weights less their zero point."""


@dataclass(frozen=True)
class ConvWeights:
    """The weights of one convolution, prepared by `prepare_conv` for `conv_acc`."""

    plan: ReductionPlan
    """Matrix `[group, OC/group, K]`; K is (IC/group, *kernel) for NCHW, (*kernel, IC/group) for NHWC."""
    shape: tuple[int, ...]
    """`(OC, IC/group, *kernel)`."""
    group: int
    layout: Layout
    x_dtype: np.dtype

    @property
    def tapwise(self) -> bool:
        """Depthwise in one float32 piece: summed tap by tap instead of as matrix products."""
        plan = self.plan
        return self.shape[1] == 1 and self.group > 1 and len(plan.cuts) == 1 and plan.matrix.dtype == np.float32


@dataclass(frozen=True)
class MatmulWeights:
    """The right-hand operand of a matrix product, prepared by `prepare_matmul` for `matmul_acc`."""

    plan: ReductionPlan
    """Matrix `[..., N, K]`."""
    a_dtype: np.dtype


def prepare_conv(
    w: np.ndarray,
    w_zero_point: np.ndarray | int,
    x_dtype: np.dtype | type,
    group: int = 1,
    layout: Layout = "NCHW",
) -> ConvWeights:
    """Convert weights `[OC, IC/group, *kernel]` (8- or 16-bit integers) once for many calls of `conv_acc`.

    `w_zero_point` is a scalar or one value per output channel. Raises ValueError if OC is no multiple of
    `group`.
    """
    if w.shape[0] % group:
        raise ValueError(f"{w.shape[0]} output channels cannot be divided into {group} groups")
    centred = _less_zero_point(w, w_zero_point)
    if layout == "NHWC":
        centred = np.moveaxis(centred, 1, -1)
    matrix = centred.reshape(group, w.shape[0] // group, -1)
    return ConvWeights(_reduction_plan(matrix, x_dtype), w.shape, group, layout, np.dtype(x_dtype))


def prepare_matmul(b: np.ndarray, b_zero_point: np.ndarray | int, a_dtype: np.dtype | type) -> MatmulWeights:
    """Convert the right-hand operand `[..., K, N]` of a matrix product once for many calls of `matmul_acc`.

    `b_zero_point` is a scalar or one value per column.
    """
    centred = b.astype(np.int64) - np.asarray(b_zero_point, np.int64)
    return MatmulWeights(_reduction_plan(np.swapaxes(centred, -1, -2), a_dtype), np.dtype(a_dtype))


def conv_acc(
    x: np.ndarray,
    w: np.ndarray | ConvWeights,
    x_zero_point: int,
    w_zero_point: np.ndarray | int,
    pad_value: int,
    strides: Sequence[int],
    pads: Sequence[int],
    dilations: Sequence[int],
    group: int,
    layout: Layout,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """int32 `bias + sum (x - x_zero_point) * (w - w_zero_point)` of a convolution, any number of axes.

    `x` is `[N, IC, *spatial]` (NCHW) or `[N, *spatial, IC]` (NHWC), 8- or 16-bit integers; `w` is
    `[OC, IC/group, *kernel]`, or what `prepare_conv` made of it with the same `w_zero_point`, `group` and
    `layout` (those three are then taken from it). `pad_value` is the stored integer of the padding, `pads`
    are all begins, then all ends, `bias` is int32 `[OC]`. The result is `[N, OC, *out]` or `[N, *out, OC]`.
    """
    if not isinstance(w, ConvWeights):
        w = prepare_conv(w, w_zero_point, x.dtype, group, layout)
    if x.dtype != w.x_dtype:
        raise ValueError(f"the weights were prepared for {w.x_dtype} activations, not {x.dtype}")
    channel_axis = 1 if w.layout == "NCHW" else x.ndim - 1
    if x.ndim != len(w.shape) or x.shape[channel_axis] != w.shape[1] * w.group:
        raise ValueError(f"activations {x.shape} ({w.layout}) do not fit weights {w.shape} in {w.group} groups")
    x = channels_first(x, w.layout)
    offset = w.plan.sums.reshape(-1) * (_centre(x.dtype) - int(x_zero_point))
    if bias is not None:
        offset = offset + bias
    # Out of int32 only by what the sum itself leaves out: int32 additions below are modulo 2^32.
    offset = offset.astype(np.int32)
    padded = pad_spatial(_centred(x), pads, pad_value - _centre(x.dtype))
    if w.tapwise:
        return _tapwise(padded, w, strides, dilations, offset)
    return _by_matrix(sliding_windows(padded, w.shape[2:], strides, dilations), w, offset)


def matmul_acc(
    a: np.ndarray,
    b: np.ndarray | MatmulWeights,
    a_zero_point: int,
    b_zero_point: np.ndarray | int,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """int32 `bias + (a - a_zero_point) @ (b - b_zero_point)`, batched with numpy's broadcasting.

    `a` is `[..., M, K]`, `b` is `[..., K, N]`, 8- or 16-bit integers, or what `prepare_matmul` made of `b`
    (its zero point is then the prepared one). `b_zero_point` is a scalar or one value per column, `bias` is
    int32 `[N]`.
    """
    if not isinstance(b, MatmulWeights):
        b = prepare_matmul(b, b_zero_point, a.dtype)
    if a.dtype != b.a_dtype:
        raise ValueError(f"the right-hand operand was prepared for {b.a_dtype}, not {a.dtype}")
    offset = b.plan.sums * (_centre(a.dtype) - int(a_zero_point))
    if bias is not None:
        offset = offset + bias
    acc = _product(b.plan, _centred(a), columns=False)
    acc += offset.astype(np.int32)[..., None, :]
    return acc


def acc_bound(
    w: np.ndarray,
    x_qmin: int,
    x_qmax: int,
    x_zero_point: int,
    w_zero_point: np.ndarray | int = 0,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """Largest `|acc|` any activations in `[x_qmin, x_qmax]` can cause: int64 `[OC]`, attained by some.

    `w` is `[OC, ...]` (transpose the `[K, N]` operand of a matrix product); `w_zero_point` is a scalar or
    `[OC]`. If `x_qmin <= x_zero_point <= x_qmax` the bound also holds for every partial sum in every order
    that starts from the bias (or from 0), and with any windows cut off at a border padded with
    `x_zero_point`.
    """
    centred = _less_zero_point(w, w_zero_point).reshape(w.shape[0], -1)
    positive = np.where(centred > 0, centred, 0).sum(1)
    negative = np.where(centred < 0, centred, 0).sum(1)
    low, high = x_qmin - int(x_zero_point), x_qmax - int(x_zero_point)
    offset = np.zeros(w.shape[0], np.int64) if bias is None else np.asarray(bias, np.int64)
    largest = positive * high + negative * low
    smallest = positive * low + negative * high
    return np.maximum(np.abs(largest + offset), np.abs(smallest + offset))


def _less_zero_point(w: np.ndarray, zero_point: np.ndarray | int) -> np.ndarray:
    zero_point = np.asarray(zero_point, np.int64)
    return w.astype(np.int64) - zero_point.reshape(-1, *[1] * (w.ndim - 1))


def _centre(dtype: np.dtype) -> int:
    return 0 if dtype.kind == "i" else 1 << (8 * dtype.itemsize - 1)


def _centred(x: np.ndarray) -> np.ndarray:
    """`x - _centre(x.dtype)` in signed storage of the same width: a flip of the top bit."""
    if x.dtype.kind == "i":
        return x
    return (x ^ x.dtype.type(_centre(x.dtype))).view(f"i{x.dtype.itemsize}")


def _reduction_plan(matrix: np.ndarray, x_dtype: np.dtype | type) -> ReductionPlan:
    """Choose float32 in as few pieces as are proven exact, up to `_MOST_PIECES`, else float64.

    `matrix` is int64 `[..., OC, K]`. Raises ValueError if not even float64 is exact.
    """
    dtype = np.dtype(x_dtype)
    if dtype.kind not in "iu" or dtype.itemsize > 2:
        raise ValueError(f"activations must be 8- or 16-bit integers, not {dtype}")
    largest_x = 1 << (8 * dtype.itemsize - 1)
    length = matrix.shape[-1]
    sums = matrix.sum(-1)
    running = np.concatenate([np.zeros((*sums.shape, 1), np.int64), np.abs(matrix).cumsum(-1)], -1)
    for pieces in range(1, min(_MOST_PIECES, length) + 1):
        cuts = [length * (i + 1) // pieces for i in range(pieces)]
        if (np.diff(running[..., [0, *cuts]], axis=-1) * largest_x).max(initial=0) <= _EXACT_FLOAT32:
            return ReductionPlan(matrix.astype(np.float32), tuple(cuts), sums)
    if running.max(initial=0) * largest_x > _EXACT_FLOAT64:
        raise ValueError("the reduction is too long for exact sums in float64")
    return ReductionPlan(matrix.astype(np.float64), (length,), sums)


def _product(plan: ReductionPlan, x: np.ndarray, columns: bool) -> np.ndarray:
    """int32 `[..., OC, P]` for `x [..., K, P]` if `columns`, else `[..., P, OC]` for `x [..., P, K]`."""
    x = x.astype(plan.matrix.dtype, copy=False)
    begins = (0, *plan.cuts[:-1])
    pieces = [_piece(plan.matrix, x, slice(*ends), columns) for ends in zip(begins, plan.cuts, strict=True)]
    for piece in pieces[1:]:
        pieces[0] += piece
    return pieces[0]


def _piece(matrix: np.ndarray, x: np.ndarray, part: slice, columns: bool) -> np.ndarray:
    matrix = matrix[..., part]
    sums = matrix @ x[..., part, :] if columns else x[..., part] @ np.swapaxes(matrix, -1, -2)
    # float64 sums may leave int32 where those of differently centred activations would not: wrap them.
    return sums.astype(np.int32) if sums.dtype == np.float32 else sums.astype(np.int64).astype(np.int32)


def _by_matrix(windows: np.ndarray, w: ConvWeights, offset: np.ndarray) -> np.ndarray:
    """Windows gathered into a matrix for each group, then one product."""
    rank = len(w.shape) - 2
    batch, out = windows.shape[0], windows.shape[2 + rank :]
    windows = windows.reshape(batch, w.group, w.shape[1], *windows.shape[2:]) if w.group > 1 else windows[:, None]
    if w.layout == "NCHW":
        columns = windows.astype(w.plan.matrix.dtype, order="C").reshape(batch, w.group, -1, int(np.prod(out)))
        acc = _product(w.plan, columns, columns=True).reshape(batch, w.shape[0], *out)
        acc += offset.reshape(-1, *[1] * rank)
        return acc
    # [N, group, C, *kernel, *out] -> [N, group, *out, *kernel, C]
    axes = (0, 1, *range(3 + rank, 3 + 2 * rank), *range(3, 3 + rank), 2)
    rows = windows.transpose(axes).astype(w.plan.matrix.dtype, order="C")
    acc = _product(w.plan, rows.reshape(batch, w.group, int(np.prod(out)), -1), columns=False)
    acc = acc[:, 0] if w.group == 1 else np.moveaxis(acc, 1, 2)
    acc = acc.reshape(batch, *out, w.shape[0])
    acc += offset
    return acc


def _tapwise(
    x: np.ndarray, w: ConvWeights, strides: Sequence[int], dilations: Sequence[int], offset: np.ndarray
) -> np.ndarray:
    """Depthwise on padded `x [N, C, *spatial]`: float32 products summed tap by tap, in blocks of channels."""
    kernel = w.shape[2:]
    rank = len(kernel)
    batch, channels = x.shape[:2]
    multiplier = w.shape[0] // channels
    out = sliding_windows(x, kernel, strides, dilations).shape[2 + rank :]
    taps = w.plan.matrix.reshape(channels, multiplier, *kernel, *[1] * rank)
    offset = offset.reshape(channels, multiplier, *[1] * rank)
    if w.layout == "NCHW":
        result = np.empty((batch, w.shape[0], *out), np.int32)
        acc = result.reshape(batch, channels, multiplier, *out)
    else:
        result = np.empty((batch, *out, w.shape[0]), np.int32)
        acc = np.moveaxis(result.reshape(batch, *out, channels, multiplier), (-2, -1), (1, 2))
    block = max(1, _TAP_BLOCK // (batch * multiplier * int(np.prod(out))))
    for begin in range(0, channels, block):
        part = slice(begin, begin + block)
        windows = sliding_windows(x[:, part].astype(np.float32, order="C"), kernel, strides, dilations)[:, :, None]
        total = np.zeros((batch, windows.shape[1], multiplier, *out), np.float32)
        product = np.empty_like(total)
        for tap in np.ndindex(*kernel):
            x_tap, w_tap = windows[(slice(None),) * 3 + tap], taps[(part, slice(None), *tap)]
            total += np.multiply(x_tap, w_tap, out=product)
        np.add(total.astype(np.int32), offset[part], out=acc[:, part])
    return result
