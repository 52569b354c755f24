"""Padding and sliding windows over spatial axes, shared by convolution and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import as_strided

Layout = Literal["NCHW", "NHWC"]
"""Order of activations for any number of spatial axes: channels second, or channels last."""


def channels_first(x: np.ndarray, layout: Layout) -> np.ndarray:
    """A view `[N, C, *spatial]` of activations in `layout`."""
    return np.moveaxis(x, -1, 1) if layout == "NHWC" else x


def pad_spatial(x: np.ndarray, pads: Sequence[int], value: int) -> np.ndarray:
    """Pad the spatial axes (all begins, then all ends), keeping the order of the axes in memory."""
    rank = x.ndim - 2
    if len(pads) != 2 * rank:
        raise ValueError(f"{rank} spatial axes need {2 * rank} pads, not {len(pads)}")
    if not any(pads):
        return x
    shape = [*x.shape[:2], *(x.shape[2 + i] + pads[i] + pads[rank + i] for i in range(rank))]
    order = np.argsort([-abs(s) for s in x.strides], kind="stable")
    padded = np.full([shape[i] for i in order], value, x.dtype).transpose(np.argsort(order))
    padded[(..., *(slice(pads[i], pads[i] + x.shape[2 + i]) for i in range(rank)))] = x
    return padded


def sliding_windows(
    x: np.ndarray, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> np.ndarray:
    """View `[N, C, *kernel, *out]` of padded `x`. Raises ValueError where no window fits."""
    rank = len(kernel)
    if not len(strides) == len(dilations) == rank:
        raise ValueError(f"{rank} spatial axes need {rank} strides and dilations, not {strides} and {dilations}")
    out = [(x.shape[2 + i] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(rank)]
    if min(out) < 1:
        raise ValueError(f"the kernel {tuple(kernel)} does not fit the padded input {x.shape[2:]}")
    steps = [x.strides[2 + i] * dilations[i] for i in range(rank)]
    moves = [x.strides[2 + i] * strides[i] for i in range(rank)]
    shape = (*x.shape[:2], *kernel, *out)
    return as_strided(x, shape, (*x.strides[:2], *steps, *moves), writeable=False)
