"""How a tensor lies in its buffer, and how a loop nest walks it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from qcompiler.lowering.program import Halo
from qcompiler.lowering.workload import physical_shape

NO_HALO: Halo = (0, 0, 0, 0)


@dataclass(frozen=True)
class View:
    """A tensor in row-major order of `shape`, those of rank 4 (`[N, H, W, C]` for images) inside their halo.

    Memory is what `qcompiler.lowering.program` says: rank 4 in a buffer `[N*(t+H+b), (l+W+r)*C]`, everything
    else in its own shape. Raises ValueError for a halo on a tensor of another rank.
    """

    shape: tuple[int, ...]
    dtype: str
    halo: Halo = NO_HALO

    def __post_init__(self) -> None:
        if any(self.halo) and len(self.shape) != 4:
            raise ValueError(f"only tensors of rank 4 have a halo, not one of shape {list(self.shape)}")

    @property
    def physical_shape(self) -> tuple[int, ...]:
        """Shape of the buffer; a scalar is a buffer of one element."""
        if len(self.shape) == 4:
            return physical_shape(*self.shape, self.halo)
        return self.shape or (1,)

    @property
    def size(self) -> int:
        """Number of elements without the halo."""
        return prod(self.shape)

    @property
    def contiguous(self) -> bool:
        """Whether the elements follow each other in memory without a gap."""
        return not any(self.halo)

    @cached_property
    def strides(self) -> tuple[int, ...]:
        """Distance in elements between neighbours along each axis."""
        if len(self.shape) == 4:
            _, h, w, c = self.shape
            top, left, bottom, right = self.halo
            row = (left + w + right) * c
            return ((top + h + bottom) * row, row, c, 1)
        return row_major(self.shape)

    @property
    def origin(self) -> int:
        """Elements from the buffer's start to the element with indices 0."""
        return self.offset((0,) * len(self.shape))

    def offset(self, indices: Sequence):
        """Elements from the buffer's start to the element at `indices` (numbers or TIR expressions)."""
        top, left, _, _ = self.halo
        start = top * self.strides[1] + left * self.strides[2] if any(self.halo) else 0
        return sum((i * stride for i, stride in zip(indices, self.strides, strict=True)), start)


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of an array that lies row-major without gaps."""
    return tuple(prod(shape[axis + 1 :]) for axis in range(len(shape)))
