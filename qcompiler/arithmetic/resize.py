"""Resize along one axis: where outputs lie on the input, the indices that they take, and with what weights."""

from __future__ import annotations

import numpy as np


def nearest_indices(
    in_size: int,
    out_size: int,
    coordinate_transformation_mode: str,
    nearest_mode: str,
    scale: float | None = None,
    roi: tuple[float, float] = (0.0, 1.0),
) -> np.ndarray:
    """int64 `[out_size]`: the input index each output element copies, as in ONNX Resize (opset 19).

    Arguments are those of `coordinates`; with `tf_crop_and_resize` an index of -1 marks a position outside the
    input, which takes the extrapolation value. Raises ValueError for an unknown mode.
    """
    x = coordinates(in_size, out_size, coordinate_transformation_mode, scale, roi).astype(np.float64)
    outside = ((x < 0) | (x > in_size - 1)) & (coordinate_transformation_mode == "tf_crop_and_resize")
    # float64 holds x +- 0.5 exactly.
    if nearest_mode == "round_prefer_floor":
        index = np.ceil(x - 0.5)
    elif nearest_mode == "round_prefer_ceil":
        index = np.floor(x + 0.5)
    elif nearest_mode == "floor":
        index = np.floor(x)
    elif nearest_mode == "ceil":
        index = np.ceil(x)
    else:
        raise ValueError(f"unknown nearest_mode {nearest_mode!r}")
    return np.where(outside, -1, np.clip(index, 0, in_size - 1)).astype(np.int64)


def coordinates(
    in_size: int, out_size: int, mode: str, scale: float | None = None, roi: tuple[float, float] = (0.0, 1.0)
) -> np.ndarray:
    """float32 `[out_size]`: the place of each output element on the input, as onnxruntime computes it.

    `scale` is the model's, or None to take `out_size / in_size`; `roi` (start, end) serves `tf_crop_and_resize` only.
    Raises ValueError for an unknown mode.
    """
    one, half = np.float32(1), np.float32(0.5)
    step = np.float32(out_size) / np.float32(in_size) if scale is None else np.float32(scale)
    i = np.arange(out_size, dtype=np.float32)
    last = np.float32(in_size - 1)
    if mode == "half_pixel":
        x = (i + half) / step - half
    elif mode == "half_pixel_symmetric":
        adjustment = np.float32(out_size) / (step * np.float32(in_size))
        offset = np.float32(in_size) / 2 * (one - adjustment)
        # The one coordinate that onnxruntime sums in float64.
        x = (offset + (i.astype(np.float64) + 0.5) / step - 0.5).astype(np.float32)
    elif mode == "pytorch_half_pixel":
        x = (i + half) / step - half if out_size > 1 else np.zeros(1, np.float32)
    elif mode == "asymmetric":
        x = i / step
    elif mode == "align_corners":
        x = i * last / np.float32(out_size - 1) if out_size > 1 else np.zeros(1, np.float32)
    elif mode == "tf_crop_and_resize":
        start, end = np.float32(roi[0]), np.float32(roi[1])
        if out_size > 1:
            x = start * last + i * (end - start) * last / np.float32(out_size - 1)
        else:
            x = np.full(1, half * (start + end) * last)
    else:
        raise ValueError(f"unknown coordinate_transformation_mode {mode!r}")
    return np.asarray(x, np.float32)


def linear_taps(x: np.ndarray, in_size: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 indices and float32 weights `[2, out_size]` of linear interpolation at `x`, the edges continued."""
    x = np.clip(x.astype(np.float64), 0, in_size - 1)
    low = np.floor(x).astype(np.int64)
    share = x - low
    return np.stack([low, np.minimum(low + 1, in_size - 1)]), np.stack([1 - share, share]).astype(np.float32)


def cubic_taps(x: np.ndarray, in_size: int, a: float, *, exclude_outside: bool) -> tuple[np.ndarray, np.ndarray]:
    """int64 indices and float32 weights `[4, out_size]` of cubic convolution (R. Keys, 1981) at coordinates `x`.

    `a` is the kernel's parameter. Taps outside take the nearest element, or have no weight with `exclude_outside`.
    """
    x = x.astype(np.float64)
    index = np.floor(x).astype(np.int64) + np.arange(-1, 3)[:, None]
    d = np.abs(x - index)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    weights = np.where(d <= 1, near, np.where(d < 2, far, 0.0))
    if exclude_outside:
        weights = np.where((index >= 0) & (index < in_size), weights, 0.0)
        weights /= weights.sum(0)
    return np.clip(index, 0, in_size - 1), weights.astype(np.float32)
