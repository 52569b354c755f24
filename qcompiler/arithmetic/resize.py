"""Nearest-neighbour Resize as indices along one axis."""

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

    `scale` is the model's, or None to take `out_size / in_size`. Coordinates are computed in float32, as
    onnxruntime does, and rounded exactly. `roi` (start, end) serves `tf_crop_and_resize` only, where an index
    of -1 marks a position outside the input, which takes the extrapolation value. Raises ValueError for an
    unknown mode.
    """
    one, half = np.float32(1), np.float32(0.5)
    step = np.float32(out_size) / np.float32(in_size) if scale is None else np.float32(scale)
    i = np.arange(out_size, dtype=np.float32)
    last = np.float32(in_size - 1)
    outside = np.zeros(out_size, bool)
    if coordinate_transformation_mode == "half_pixel":
        x = (i + half) / step - half
    elif coordinate_transformation_mode == "half_pixel_symmetric":
        adjustment = np.float32(out_size) / (step * np.float32(in_size))
        offset = np.float32(in_size) / 2 * (one - adjustment)
        # The one coordinate that onnxruntime sums in float64.
        x = (offset + (i.astype(np.float64) + 0.5) / step - 0.5).astype(np.float32)
    elif coordinate_transformation_mode == "pytorch_half_pixel":
        x = (i + half) / step - half if out_size > 1 else np.zeros(1, np.float32)
    elif coordinate_transformation_mode == "asymmetric":
        x = i / step
    elif coordinate_transformation_mode == "align_corners":
        x = i * last / np.float32(out_size - 1) if out_size > 1 else np.zeros(1, np.float32)
    elif coordinate_transformation_mode == "tf_crop_and_resize":
        start, end = np.float32(roi[0]), np.float32(roi[1])
        if out_size > 1:
            x = start * last + i * (end - start) * last / np.float32(out_size - 1)
        else:
            x = np.full(1, half * (start + end) * last)
        outside = (x < 0) | (x > last)
    else:
        raise ValueError(f"unknown coordinate_transformation_mode {coordinate_transformation_mode!r}")
    # float64 holds x +- 0.5 exactly.
    x = x.astype(np.float64)
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
