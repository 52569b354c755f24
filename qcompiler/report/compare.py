"""A bundle against the float model it came from, layer by layer: where does the quantization error arise?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import tee
from operator import length_hint
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from qcompiler.arithmetic.formats import presented
from qcompiler.bundle import Bundle, load_bundle
from qcompiler.calibration.data import open_calibration
from qcompiler.errors import BundleError, ModelError
from qcompiler.exporters.onnx_export import export_onnx
from qcompiler.ir.graph import is_activation
from qcompiler.ir.values import is_float, shape, value_names
from qcompiler.model import Model
from qcompiler.pipeline import CompilerContext, PassManager, Progress, parse
from qcompiler.report.describe import CANONICAL, base_name
from qcompiler.report.speed import open_session

if TYPE_CHECKING:
    import os

    from qcompiler.bundle import ValueInfo


@dataclass(frozen=True)
class LayerError:
    """Error of one value over all samples.

    `sqnr_db = 10 log10(sum(float^2) / sum((bundle - float)^2))`, None if the error is zero or the signal is;
    `max_error` is the largest absolute difference; `clipped` the fraction of elements whose float value lies
    outside what the stored type can hold, 0 for values that are not quantized.
    """

    name: str
    storage: str
    shape: tuple[int, ...]
    sqnr_db: float | None
    max_error: float
    clipped: float


@dataclass(frozen=True)
class Comparison:
    """`layers` in order of execution; `outputs` are the errors of the model's outputs by name."""

    samples: int
    layers: tuple[LayerError, ...]
    outputs: tuple[LayerError, ...]


def compare(
    bundle: Bundle | str | os.PathLike[str],
    reference: Model | str | os.PathLike[str],
    data: Any,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Runs the bundle, traced, and the float model, or its ONNX file, on the same data; compares what both have.

    `data` is anything `quantize` takes for calibration. Memory does not grow with the number of samples.

    Raises:
        BundleError: the bundle is broken, or does not come from this model.
        ModelError: the reference cannot be read or run. CalibrationError: the data does not fit the inputs.
    """
    bundle = bundle if isinstance(bundle, Bundle) else load_bundle(Path(bundle))
    expected = {t.name: (t.shape, np.dtype(t.dtype)) for t in bundle.manifest.inputs}
    if not isinstance(reference, Model):
        from qcompiler import import_onnx

        reference = import_onnx(reference, {name: shape for name, (shape, _) in expected.items()})
    run = _FloatModel(reference)
    if run.inputs != set(expected):
        raise BundleError(
            f"{bundle.path} has the inputs {sorted(expected)}, {reference.source} has {sorted(run.inputs)}; compare "
            "a bundle with the model it was compiled from"
        )
    values = _stored_values(bundle, run.shapes)
    feeds = open_calibration(data, expected, limit)
    track = (progress or Progress()).track(feeds, "comparing", length_hint(feeds) or None)
    sums = {name: _Sum() for name in values}
    output_sums = {t.name: _Sum() for t in bundle.manifest.outputs}
    samples = 0
    ahead, feeds = tee(track)
    for feed, stored in zip(feeds, bundle.trace_many(ahead), strict=True):
        wanted = run(feed)
        for name, (_, info) in values.items():
            sums[name].add(wanted[name], info.logical(stored[info.buffer]), info)
        for t in bundle.manifest.outputs:
            output_sums[t.name].add(wanted[t.name], presented(stored[t.buffer], t.element), None)
        samples += 1
    return Comparison(
        samples,
        tuple(sums[n].row(n, info.storage, info.shape) for n, (_, info) in values.items()),
        tuple(output_sums[t.name].row(t.name, t.dtype, t.shape) for t in bundle.manifest.outputs),
    )


def _stored_values(bundle: Bundle, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, ValueInfo]]:
    """For each value of the float model that the bundle stores: its name in the trace and its storage.

    Operations made from one node share its name and get the suffixes `#2`, `#3`; the last one of the node's
    own shape is its result. For nodes with several results, only those are taken that have no such suffix.
    """
    several = {name.rpartition(":")[0] for name in shapes if ":" in name}
    found: dict[str, tuple[str, ValueInfo]] = {}
    for key, info in bundle.manifest.values.items():
        name = base_name(key)
        if shapes.get(name) == info.shape and (name == key or name.partition(":")[0] not in several):
            found[name] = (key, info)
    return found


class _FloatModel:
    """The reference as a function that returns every float activation by the name of its node; `shapes` are theirs."""

    def __init__(self, model: Model) -> None:
        model, path = model.clone(), Path(model.source)
        PassManager(parse(CANONICAL)).run(model, CompilerContext(source=model.source))
        proto = export_onnx(model.module, model.store)
        named = value_names(model.module).items()
        values = {n: v for v, n in named if is_activation(v) and is_float(v)}
        self._names = {base_name(n): n for n in values}
        self.shapes = {base: shape(values[n]) for base, n in self._names.items()}
        self.inputs = set(model.inputs)
        present = {o.name for o in proto.graph.output}
        wanted = [n for n in self._names.values() if n not in present and n not in self.inputs]
        proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in wanted)
        try:
            content = proto.SerializeToString()
        except ValueError:
            raise ModelError(f"{path}: a reference of more than 2 GB cannot be compared") from None
        self._session = open_session(content, path)
        self._fetched = [o.name for o in self._session.get_outputs()]

    def __call__(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        arrays = self._session.run(self._fetched, dict(feed))
        found = {**feed, **dict(zip(self._fetched, arrays, strict=True))}
        return {**{base: found[n] for base, n in self._names.items()}, **found}


@dataclass
class _Sum:
    """Running sums of one value's error."""

    signal: float = 0.0
    noise: float = 0.0
    largest: float = 0.0
    clipped: int = 0
    elements: int = 0

    def add(self, wanted: np.ndarray, found: np.ndarray, info: ValueInfo | None) -> None:
        real = found.astype(np.float64)
        if info is not None and info.storage:
            limits = np.iinfo(found.dtype)
            low, high = (info.real(np.full_like(found, end)) for end in (limits.min, limits.max))
            half = (high - low) / (2.0 * (int(limits.max) - int(limits.min)))  # half a step is no clipping
            self.clipped += int(((wanted < low - half) | (wanted > high + half)).sum())
            real = info.real(found)
        error = real - wanted.reshape(real.shape)
        self.signal += float(np.square(wanted, dtype=np.float64).sum())
        self.noise += float(np.square(error).sum())
        self.largest = max(self.largest, float(np.abs(error).max(initial=0.0)))
        self.elements += real.size

    def row(self, name: str, storage: str, shape: tuple[int, ...]) -> LayerError:
        ratio = self.signal / self.noise if self.noise else 0.0
        decibel = float(10 * np.log10(ratio)) if ratio > 0 else None
        return LayerError(name, storage, shape, decibel, self.largest, self.clipped / max(self.elements, 1))
