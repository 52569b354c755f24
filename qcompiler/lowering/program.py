"""What lowering produces: an ordered list of kernel calls on named buffers, before memory is planned.

A `Kernel` is a scheduled TIR PrimFunc whose parameters are buffers in this order:

    activations read, packed constants, tensors written, scratch buffers

Quantized activations of rank 4 are stored channels-last as two-dimensional buffers `[N*(t+H+b), (l+W+r)*C]`,
where `(t, l, b, r)` is the tensor's halo: a border that holds the zero point, so that convolutions and pools
that pad read it in place. One kernel writes all of a buffer, its halo included. Every other tensor is stored
row-major in its logical shape.

Every buffer starts at a multiple of `Program.alignment` bytes. At least as many bytes past the end of every buffer
and of every constant may be read (never written), with one exception: inputs and outputs of the program are
the caller's memory, aligned but without slack, so a kernel that reads one of them must stay inside it. A
kernel's outputs never share memory with its inputs, its scratch buffers or each other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

    from .space import Space

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
    plain: PrimFunc | None = field(default=None, repr=False)
    """The function before its loops were scheduled (`qcompiler.lowering.schedules`); None if they are as they were."""
    space: Space | None = field(default=None, repr=False)
    """What its rule could have chosen otherwise."""
    is_tuned: bool = False
    """Whether a tuning database made the rule's choice."""


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
    macs: int = 0
    """Multiply-adds of an integer matrix product or convolution."""


@dataclass
class Program:
    """Kernel calls in execution order. Buffers that are neither inputs nor outputs live in the arena."""

    buffers: dict[str, Buffer] = field(default_factory=dict)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    alignment: int = ALIGNMENT
    """Bytes; what `TargetSpec.alignment` says."""

    @property
    def external(self) -> set[str]:
        """Names of the buffers that are the caller's memory."""
        return {*self.inputs, *self.outputs}

    def check(self) -> None:
        """Checks that every buffer is written once, before it is read, and that kernels' parameters fit.

        Raises:
            ValueError: the program is malformed, which is a fault of the lowering that built it.
        """
        for name in (*self.inputs, *self.outputs):
            if name not in self.buffers:
                raise ValueError(f"program input or output {name!r} has no buffer")
        if len(self.external) != len(self.inputs) + len(self.outputs):
            raise ValueError(
                f"program inputs {self.inputs} and outputs {self.outputs} must be distinct buffers; "
                "copy where an output repeats an input or another output"
            )
        written = set(self.inputs)
        for step in self.steps:
            for name in (*step.inputs, *step.outputs):
                if name not in self.buffers:
                    raise ValueError(f"step {step.location!r} names the buffer {name!r}, which does not exist")
            for name in step.inputs:
                if name not in written:
                    raise ValueError(f"step {step.location!r} reads {name!r} before any step has written it")
            for name in step.outputs:
                if name in written:
                    raise ValueError(
                        f"step {step.location!r} writes {name!r}, which already holds a value; "
                        "one kernel writes all of a buffer, its border included"
                    )
                written.add(name)
            self._check_parameters(step)
        for name in self.outputs:
            if name not in written:
                raise ValueError(f"no step writes the program output {name!r}")

    def _check_parameters(self, step: Step) -> None:
        kernel = step.kernel
        arguments = [(name, self.buffers[name].shape, self.buffers[name].dtype) for name in step.inputs]
        arguments += [(f"constant {i}", c.shape, str(c.dtype)) for i, c in enumerate(kernel.constants)]
        arguments += [(name, self.buffers[name].shape, self.buffers[name].dtype) for name in step.outputs]
        arguments += [(f"scratch {i}", shape, dtype) for i, (shape, dtype) in enumerate(kernel.scratch)]
        where = f"step {step.location!r} (rule {kernel.rule})"
        if len(kernel.func.params) != len(arguments):
            raise ValueError(f"{where}: {len(kernel.func.params)} parameters for {len(arguments)} arguments")
        for parameter, (name, shape, dtype) in zip(kernel.func.params, arguments, strict=True):
            extents = [int(extent) for extent in parameter.shape]
            if str(parameter.dtype) != dtype or np.prod(extents, dtype=np.int64) != np.prod(shape, dtype=np.int64):
                raise ValueError(
                    f"{where}: parameter {parameter.name} is {parameter.dtype}{extents}, "
                    f"but {name} is {dtype}{list(shape)}"
                )
