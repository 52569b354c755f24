"""What one convolution or matrix product computes, in numbers alone: all that a schedule rule needs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from qcompiler.arithmetic.requantize import Rounding, multiplier_fixed2
from qcompiler.lowering.program import Halo


@dataclass(frozen=True, eq=False)
class Requantize:
    """From an int32 accumulator to stored integers, as `qcompiler.arithmetic.requantize` defines it."""

    rounding: Rounding
    multiplier: np.ndarray
    """Real multipliers `s_x * s_w / s_y`, float64, one per output channel or a single one."""
    zero_point: int
    clamp: tuple[int, int]
    """Smallest and largest stored integer, a fused activation included."""
    out_dtype: str
    """`uint8`, `int8`, `uint16` or `int16`."""

    @cached_property
    def shifts_left(self) -> bool:
        """Whether a multiplier is 1 or more, for which the `fixed2` form shifts to the left."""
        return bool(np.any(multiplier_fixed2(self.multiplier)[1] < 0))

    @cached_property
    def is_short(self) -> bool:
        """Whether the lower halves of the `fixed2` form's mantissas are 0, as `short_multiplier` makes them."""
        return not np.any(multiplier_fixed2(self.multiplier)[0] % (1 << 16))


@dataclass(frozen=True, eq=False)
class ConvWorkload:
    """`y = requantize(bias + sum x * w)` over stored `x`, whose zero point is folded into the bias.

    A convolution over one axis has `h = 1`. The activation is `[n*(t+h+b), (l+w+r)*ic]` with halo `x_halo`,
    whose border holds `pad_value` (the stored zero point); the result is `[n*(t+oh+b), (l+ow+r)*oc]` with
    `y_halo`, of which the kernel writes the interior only.
    """

    n: int
    h: int
    w: int
    ic: int
    oc: int
    kh: int
    kw: int
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: Halo
    group: int
    x_dtype: str
    x_halo: Halo
    y_halo: Halo
    pad_value: int
    requantize: Requantize
    acc_bound: int
    """Proven upper bound of |accumulator|."""

    @property
    def oh(self) -> int:
        top, _, bottom, _ = self.pads
        return (self.h + top + bottom - (self.kh - 1) * self.dilations[0] - 1) // self.strides[0] + 1

    @property
    def ow(self) -> int:
        _, left, _, right = self.pads
        return (self.w + left + right - (self.kw - 1) * self.dilations[1] - 1) // self.strides[1] + 1

    @property
    def x_shape(self) -> tuple[int, int]:
        """Shape of the activation's buffer, halo included."""
        return physical_shape(self.n, self.h, self.w, self.ic, self.x_halo)

    @property
    def y_shape(self) -> tuple[int, int]:
        """Shape of the result's buffer, halo included."""
        return physical_shape(self.n, self.oh, self.ow, self.oc, self.y_halo)

    @property
    def x_origin(self) -> int:
        """Elements from the buffer's start to what the first weight of the first output pixel meets."""
        return (self.x_halo[0] - self.pads[0]) * self.x_shape[1] + (self.x_halo[1] - self.pads[1]) * self.ic

    @property
    def y_origin(self) -> int:
        """Elements from the buffer's start to the first output pixel."""
        return self.y_halo[0] * self.y_shape[1] + self.y_halo[1] * self.oc

    @property
    def halo_covers_pads(self) -> bool:
        """Whether every padded pixel can be read from the activation's halo."""
        return all(have >= need for have, need in zip(self.x_halo, self.pads, strict=True))

    @property
    def macs(self) -> int:
        return self.n * self.oh * self.ow * self.oc * self.kh * self.kw * (self.ic // self.group)


@dataclass(frozen=True, eq=False)
class MatmulWorkload:
    """`y[..., m, n] = requantize(bias[n] + sum_k (a - a_zero_point) * (b - b_zero_point))`.

    `a` is `[*a_batch, m, k]`, `b` is `[*b_batch, k, n]`, `y` is `[*batch, m, n]`, all row-major; batch axes
    broadcast as in numpy.
    """

    a_batch: tuple[int, ...]
    b_batch: tuple[int, ...]
    m: int
    k: int
    n: int
    a_dtype: str
    b_dtype: str
    a_zero_point: int
    b_zero_point: int
    requantize: Requantize
    acc_bound: int
    """Proven upper bound of |accumulator|."""

    @cached_property
    def batch(self) -> tuple[int, ...]:
        return np.broadcast_shapes(self.a_batch, self.b_batch)

    @property
    def a_shape(self) -> tuple[int, ...]:
        return (*self.a_batch, self.m, self.k)

    @property
    def b_shape(self) -> tuple[int, ...]:
        return (*self.b_batch, self.k, self.n)

    @property
    def y_shape(self) -> tuple[int, ...]:
        return (*self.batch, self.m, self.n)

    @property
    def macs(self) -> int:
        return prod(self.batch) * self.m * self.k * self.n


def physical_shape(n: int, h: int, w: int, c: int, halo: Halo) -> tuple[int, int]:
    """Buffer shape of a channels-last activation with a halo (see `qcompiler.lowering.program`)."""
    top, left, bottom, right = halo
    return n * (top + h + bottom), (left + w + right) * c
