"""What lowering produces: an ordered list of kernel calls on named buffers, before memory is planned.

A `Kernel` is a scheduled TIR PrimFunc whose parameters are buffers in this order:

    activations read, packed constants, tensors written, scratch buffers

Quantized activations of rank 4 are stored channels-last as two-dimensional buffers `[N*(t+H+b), (l+W+r)*C]`, where
`(t, l, b, r)` is the tensor's halo: a border that holds the zero point, so that convolutions and pools that pad read it
in place. Every other tensor is stored row-major in its logical shape. At least `SLACK` bytes past the end of every
buffer may be read (never written), and every buffer starts at a multiple of `ALIGNMENT` bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

SLACK = 64
ALIGNMENT = 64

Halo = tuple[int, int, int, int]
"""Rows above, columns to the left, rows below, columns to the right."""


@dataclass(frozen=True)
class Kernel:
    """A scheduled PrimFunc with the constants it was specialized for."""

    func: PrimFunc
    rule: str
    """Name of the schedule rule that made it; shown in reports."""
    constants: tuple[np.ndarray, ...] = ()
    scratch: tuple[tuple[tuple[int, ...], str], ...] = ()
    """Shape and dtype of each temporary buffer; contents are undefined on entry."""


@dataclass(frozen=True)
class Buffer:
    """One tensor of the program. `shape` is physical (see the module's docstring)."""

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Step:
    """One kernel call. `inputs` and `outputs` name buffers; `location` names the original nodes."""

    kernel: Kernel
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    location: str


@dataclass
class Program:
    """Kernel calls in execution order. Buffers that are neither inputs nor outputs live in the arena."""

    buffers: dict[str, Buffer] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
