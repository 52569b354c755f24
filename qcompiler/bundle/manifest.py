"""The content of `manifest.json`: what a bundle holds and how its tensors are stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np

from ..errors import BundleError

FORMAT = 2
MANIFEST = "manifest.json"
WEIGHTS = "weights.bin"
HEADER = "model.h"
EXAMPLE = "main.c"
CMAKE = "CMakeLists.txt"
PARALLEL = "parallel.c"
KERNELS = "kernels.cl"
PLAN = "plan.h"
DRIVER = ("model.c", "opencl.h", "cache.h")


@dataclass(frozen=True)
class TensorInfo:
    """A program input or output as the caller sees it: row-major, of `shape` and numpy dtype `dtype`.

    `scale` and `zero_point` are given for a quantized tensor: `real = scale * (stored - zero_point)`. `element` names
    the element type where numpy has none, as ml_dtypes spells it (`int4`, `float8_e4m3fn`); each element then takes
    one byte of `dtype`: an integer its value, a float its code.
    """

    name: str
    buffer: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None
    element: str = ""

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class ValueInfo:
    """Where a value of the IR lies in a traced run and what its stored numbers mean.

    `shape` is logical (NCHW for images). `layout` is `row-major`, or `NHWC-halo` for a rank-4 tensor stored
    as `[N*(t+H+b), (l+W+r)*C]` with `halo = (t, l, b, r)`. `storage` is the IR's storage type, such as `u8`.
    """

    buffer: str
    shape: tuple[int, ...]
    layout: Literal["row-major", "NHWC-halo"] = "row-major"
    halo: tuple[int, int, int, int] = (0, 0, 0, 0)
    scale: float | None = None
    zero_point: int | None = None
    storage: str = ""
    location: str = ""
    axis: int | None = None
    """Of the channels that have scales and zero points of their own: `scales`, `zero_points`."""
    scales: tuple[float, ...] = ()
    zero_points: tuple[int, ...] = ()

    def real(self, stored: np.ndarray) -> np.ndarray:
        """The real values, float64, of an array in logical shape."""
        real = stored.astype(np.float64)
        if self.scale is not None:
            return (real - (self.zero_point or 0)) * float(np.float32(self.scale))
        if self.axis is None:
            return real
        extents = [-1 if axis == self.axis else 1 for axis in range(stored.ndim)]
        scales = np.asarray(self.scales, np.float32).astype(np.float64)
        return (real - np.asarray(self.zero_points).reshape(extents)) * scales.reshape(extents)

    def logical(self, physical: np.ndarray) -> np.ndarray:
        """The value in its logical shape, a view of the buffer's physical array where possible."""
        if self.layout == "row-major":
            return physical.reshape(self.shape)
        n, c, h, w = self.shape
        top, left, bottom, right = self.halo
        stored = physical.reshape(n, top + h + bottom, left + w + right, c)
        return stored[:, top : top + h, left : left + w].transpose(0, 3, 1, 2)


@dataclass(frozen=True)
class BufferInfo:
    """A buffer of the traced run; `offset` is its place in the trace arena, None for the caller's memory."""

    shape: tuple[int, ...]
    dtype: str
    offset: int | None


@dataclass(frozen=True)
class StepInfo:
    """One kernel call."""

    rule: str
    location: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    kernel: str
    """Name of the function in the libraries; steps may share one."""
    macs: int
    """Multiply-adds, if it is an integer matrix product or convolution."""
    tuned: bool = False
    """Whether a tuning database chose the kernel among those of its rule."""


@dataclass(frozen=True)
class LaunchInfo:
    """One kernel launch of a driver: its step, its sizes in work-items, and what `LaunchCost` says of it, estimated."""

    kernel: str
    step: int
    global_size: tuple[int, int, int]
    local_size: tuple[int, int, int]
    serial: bool = False
    """Whether a single work-item does everything."""
    operations: int | None = None
    bytes_read: int | None = None
    bytes_written: int | None = None
    registers: int | None = None
    occupancy: str = ""


@dataclass(frozen=True)
class Manifest:
    """All of `manifest.json`. Sizes are bytes; `files` maps each other file of the bundle to its SHA-256."""

    prefix: str
    target: Mapping[str, Any]
    versions: Mapping[str, str]
    alignment: int
    weight_bytes: int
    arena_bytes: int
    arena_lower_bound: int
    trace_arena_bytes: int
    kernels: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    steps: tuple[StepInfo, ...]
    buffers: Mapping[str, BufferInfo]
    values: Mapping[str, ValueInfo]
    files: Mapping[str, str]
    cpu_flags: tuple[str, ...] = ()
    """CPU features that the code needs, as `/proc/cpuinfo` names them."""
    weights_embedded: bool = False
    """Whether the libraries hold the weights, as `{prefix}_weights`; there is no weights.bin then."""
    threads: bool = False
    """Whether threads can share the work: `{prefix}_parallel_launch`, and parallel.c."""
    driver: Literal["", "opencl"] = ""
    """What runs the kernels of kernels.cl on a device; empty where the code is in libraries."""
    launches: tuple[LaunchInfo, ...] = ()
    """What the driver runs, in order."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What the caller of `write_bundle` wants to keep: source model, options, scores."""

    @property
    def library(self) -> str:
        return f"lib{self.prefix}.so"

    @property
    def archive(self) -> str:
        return f"lib{self.prefix}.a"

    @property
    def code(self) -> str:
        """Name of the file with the code that runs on the target."""
        return KERNELS if self.driver else self.library

    @property
    def own_files(self) -> set[str]:
        """Names of the files that a bundle like this has beside its manifest."""
        if self.driver:
            return {KERNELS, PLAN, *DRIVER, HEADER, EXAMPLE, CMAKE, WEIGHTS}
        weights = set() if self.weights_embedded else {WEIGHTS}
        threads = {PARALLEL} if self.threads else set()
        return {self.library, self.archive, HEADER, EXAMPLE, CMAKE, *weights, *threads}

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str, where: str) -> Manifest:
        """Parses `text`.

        Raises:
            BundleError: the text is no manifest of a format this version reads; `where` names the file.
        """
        try:
            content = json.loads(text)
            found = content.pop("format")
            if found != FORMAT:
                raise BundleError(f"{where}: bundle format {found}, expected {FORMAT}; compile the model again")
            content["inputs"] = tuple(_read(TensorInfo, item) for item in content["inputs"])
            content["outputs"] = tuple(_read(TensorInfo, item) for item in content["outputs"])
            content["steps"] = tuple(_read(StepInfo, item) for item in content["steps"])
            content["launches"] = tuple(_read(LaunchInfo, item) for item in content.get("launches", ()))
            content["buffers"] = {key: _read(BufferInfo, item) for key, item in content["buffers"].items()}
            content["values"] = {key: _read(ValueInfo, item) for key, item in content["values"].items()}
            return _read(Manifest, content)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{where} is not a bundle manifest ({error}); compile the model again") from error


def _read(kind: type, content: dict[str, Any]) -> Any:
    """An instance of the dataclass `kind` from parsed JSON, lists as tuples."""
    known = {item.name for item in fields(kind)}
    if unknown := set(content) - known:
        raise ValueError(f"unknown fields {sorted(unknown)}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in content.items()})
