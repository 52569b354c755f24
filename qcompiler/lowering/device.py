"""A program for a device with memory and a compiler of its own: source text and an ordered list of kernel launches.

Kernels take pointers alone, one for each argument of a launch; whatever else they need is in their source. All memory
is one of the program's inputs or outputs, or a range of two blocks: the weights and the arena. Ranges start at
multiples of `RANGE_ALIGNMENT` and may overlap; launches run one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .aot import Weights
from .memory import MemoryPlan

RANGE_ALIGNMENT = 256
"""Bytes. A part of an OpenCL buffer must be aligned to CL_DEVICE_MEM_BASE_ADDR_ALIGN, 128 bytes on Mali and PoCL."""


@dataclass(frozen=True)
class Range:
    """Memory of one argument: all of an input or output, or a part of the weights or the arena.

    `position` is the index of the input or output, or the offset in bytes in a run; `trace_position` is the offset in
    a traced run, which keeps every buffer. `nbytes` is what the kernel may touch.
    """

    base: Literal["inputs", "outputs", "weights", "arena"]
    position: int
    trace_position: int
    nbytes: int


@dataclass(frozen=True)
class Launch:
    """One kernel call. Sizes are in work-items, of all work-groups together and of one; each divides into the other."""

    kernel: str
    step: int
    """Index of the program's step that it belongs to."""
    arguments: tuple[Range, ...]
    """In the order of the kernel's parameters."""
    global_size: tuple[int, int, int]
    local_size: tuple[int, int, int]
    serial: bool = False
    """Whether a single work-item does everything, as what it does cannot be spread."""


@dataclass(frozen=True)
class LaunchCost:
    """What a launch costs, estimated from its code; a number to compare kernels by, not a time.

    `operations` are arithmetic instructions of all work-items, a dot product or a vector's arithmetic as many as the
    hardware executes; bytes count each access of global memory, whether a cache has it or not. `registers` are those of
    32 bits that a work-item holds at once, `occupancy` is what that allows: all threads, half of them, or spills.
    """

    operations: int
    bytes_read: int
    bytes_written: int
    registers: int
    occupancy: Literal["full", "half", "spills"]


@dataclass(frozen=True)
class DeviceProgram:
    """What a driver needs. `build_options` are those of the OpenCL compiler; `extensions` have to be there."""

    source: str
    launches: tuple[Launch, ...]
    weights: Weights
    plan: MemoryPlan
    trace_plan: MemoryPlan
    kernels: int
    """Number of distinct kernels."""
    build_options: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    prefix: str = "model"
    """Beginning of the names of the driver's functions."""
    costs: tuple[LaunchCost, ...] = ()
    """Of each launch."""
