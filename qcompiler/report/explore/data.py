"""What the explorer's page shows, as one JSON document.

    title, target, version, calibration, notes    of the bundle
    passes      name, milliseconds, operations, stage; `nodes`: [id, content, name] of each; `layout`: index
    names       names of nodes; constants are called after their arrays
    contents    op, part, operands (ids), types (indices), attributes, why, numbers, origin
    types       text, shape, storage, scales, zero points, the range of real values they hold
    layouts     for the nodes of a pass that are drawn (not constant), in order: places; lines [from, to, x, y, x, y...]
    histograms  by id: lo, hi and counts of equal bins, of activations as calibrated, of constants (`stored`: integers)
    errors      by id: SQNR in dB, largest error, share clipped, measured against the float model
    costs       kernels: id, rule, multiply-adds, milliseconds or instructions where measured
    float_macs  by id: multiply-adds of operations that stay float

An id stands for the same node in every pass that has it: passes are matched one after the other (`changes.matched`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from xdsl.ir import SSAValue

import qcompiler
from qcompiler.bundle import Bundle
from qcompiler.calibration.statistics import TensorStatistics
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.values import numbers_of, string, value_names
from qcompiler.model import Model
from qcompiler.passes.calibrate import load_statistics
from qcompiler.pipeline import Stage, stage
from qcompiler.report.bundle import BundleDescription
from qcompiler.report.changes import matched
from qcompiler.report.compare import LayerError
from qcompiler.report.explore.layout import layered
from qcompiler.report.nodes import INPUT, OUTPUT, Node, Tensor, node_names, nodes_of, type_text

BINS = 64
LAYER_HEIGHT = 78
_BORDERS = ("q.quantize", "q.dequantize")
_LONGEST = 240
"""Characters of an attribute."""
_LEAST = 16
"""Elements of a constant that has a histogram."""


@dataclass(frozen=True)
class Pass:
    """A dump: the pass that wrote it, its time in seconds where the report has it, and the module."""

    name: str
    seconds: float | None
    model: Model


@dataclass
class _Table:
    """Items, each once; `index` gives the place of one."""

    items: list[Any] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)

    def index(self, item: Any) -> int:
        key = json.dumps(item, sort_keys=True)
        if key not in self.places:
            self.places[key] = len(self.items)
            self.items.append(item)
        return self.places[key]


def document(
    bundle: Bundle,
    passes: Iterable[Pass],
    description: BundleDescription,
    errors: Sequence[LayerError] = (),
    measured: Mapping[str, Sequence[float]] | None = None,
) -> dict[str, Any]:
    """The document of a bundle.

    Args:
        errors: what `compare` found.
        measured: figures for each of the bundle's steps: `ms`, `instructions`.
    """
    writer = _Writer()
    for one in passes:
        writer.add(one)
    return {
        "title": Path(str(bundle.manifest.metadata.get("model", bundle.path))).name,
        "target": str(bundle.manifest.target.get("name", "")),
        "version": qcompiler.__version__,
        "calibration": writer.calibration,
        "notes": list(description.notes),
        "passes": writer.passes,
        "names": writer.names.items,
        "contents": writer.contents.items,
        "types": writer.types.items,
        "layouts": writer.layouts.items,
        "histograms": writer.histograms,
        "errors": {
            writer.ids[e.name]: [_rounded(e.sqnr_db), _rounded(e.max_error), _rounded(e.clipped)]
            for e in errors
            if e.name in writer.ids
        },
        "costs": writer.costs(bundle, measured or {}),
        "float_macs": {
            writer.ids[row.name]: row.macs for row in description.program.floats if row.macs and row.name in writer.ids
        },
    }


class _Writer:
    def __init__(self) -> None:
        self.passes: list[dict[str, Any]] = []
        self.names, self.contents, self.types, self.layouts = _Table(), _Table(), _Table(), _Table()
        self.histograms: dict[int, dict[str, Any]] = {}
        self.calibration: dict[str, Any] | None = None
        self.ids: dict[str, int] = {}
        """Of the nodes of the last pass."""
        self._before: list[Node] = []
        self._values: dict[str, str] = {}
        """Names of nodes of the last pass by the names of values that bundles know."""
        self._count = 0

    def add(self, one: Pass) -> None:
        nodes = nodes_of(one.model)
        self._identify(nodes)
        labels = node_names(one.model)
        self._values = {key: labels[v] for v, key in value_names(one.model.module).items() if v in labels}
        reached = stage(one.model.module)
        tensors = {t.name: self.ids[node.name] for node in nodes for t in node.results}
        parts = _parts(nodes)
        entries = [
            [self.ids[n.name], self._content(n, parts[n.name], tensors), self.names.index(n.name)] for n in nodes
        ]
        drawn = [node for node in nodes if parts[node.name] != "constant"]
        self.passes.append(
            {
                "name": one.name,
                "ms": None if one.seconds is None else round(one.seconds * 1e3, 1),
                "stage": reached.name.lower(),
                "nodes": entries,
                "layout": self.layouts.index(_layout(drawn)),
            }
        )
        self._observe(one.model, nodes, labels, reached)

    def _identify(self, nodes: list[Node]) -> None:
        heirs = {new: self.ids[old] for old, new in matched(self._before, nodes).items()}
        self.ids = {}
        for node in nodes:
            if node.name not in heirs:
                heirs[node.name] = self._count
                self._count += 1
            self.ids[node.name] = heirs[node.name]
        self._before = nodes

    def _content(self, node: Node, part: str, tensors: Mapping[str, int]) -> int:
        item = {
            "op": node.op,
            "part": part,
            "operands": [tensors[name] if name else None for name in node.operands],
            "types": [self.types.index(_type(tensor)) for tensor in node.results],
            "attributes": {key: _cut(text) for key, text in node.attributes.items()},
            "why": node.why,
            "numbers": node.numbers,
            "origin": node.origin if node.origin != (node.name,) else (),
        }
        return self.contents.index({key: value for key, value in item.items() if value or key in ("op", "part")})

    def _observe(self, model: Model, nodes: Sequence[Node], labels: Mapping[SSAValue, str], reached: Stage) -> None:
        if reached is Stage.CALIBRATED:
            recorded = model.module.attributes.get("q.calibration")
            self.calibration = {**numbers_of(recorded), "method": string(getattr(recorded, "data", {}).get("method"))}
            for value, key in value_names(model.module).items():
                name = labels.get(value)
                statistics = load_statistics(model.store, key) if name in self.ids else None
                if name is not None and statistics is not None and statistics.count:
                    self.histograms[self.ids[name]] = _of_statistics(statistics)
        for node in nodes:
            if node.resource and self.ids[node.name] not in self.histograms:
                array = model.store[node.resource]
                if array.size >= _LEAST:
                    self.histograms[self.ids[node.name]] = _of_array(array)

    def costs(self, bundle: Bundle, measured: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
        places: dict[str, str] = {}
        for key, info in bundle.manifest.values.items():
            places.setdefault(info.buffer, self._values.get(key, ""))
        found = []
        for number, step in enumerate(bundle.manifest.steps):
            # Steps of a float island have its last node and their own name: "classifier (5 nodes): mean".
            name = places.get(step.outputs[0], "") or re.split(r" \(\d+ nodes\)", step.location)[0].split("+")[-1]
            figures = {key: _rounded(values[number]) for key, values in measured.items()}
            found.append({"id": self.ids.get(name), "name": name, "rule": step.rule, "macs": step.macs, **figures})
        return found


def _parts(nodes: Sequence[Node]) -> dict[str, str]:
    """What each node is; what is made from constants alone counts as constant."""
    parts: dict[str, str] = {}
    varying: set[str] = set()
    for node in nodes:
        part = _part(node)
        if part != "constant" and (part == "end" or not node.operands or not varying.isdisjoint(node.operands)):
            varying.update(tensor.name for tensor in node.results)
        else:
            part = "constant"
        parts[node.name] = part
    return parts


def _part(node: Node) -> str:
    if node.op in (INPUT, OUTPUT):
        return "end"
    if node.resource:
        return "constant"
    if node.op in _BORDERS:
        return "border"
    if node.op.startswith("q."):
        return "integer"
    return "planned" if "q.integer" in node.attributes else "float"


def _type(tensor: Tensor) -> dict[str, Any]:
    kind = tensor.quantized
    plain = {"text": type_text(tensor), "shape": tensor.shape}
    return plain if kind is None else {**plain, **_quantized(kind)}


def _quantized(kind: UniformType) -> dict[str, Any]:
    """`lo` and `hi` are the ends of the real values that the stored integers stand for, over all channels."""
    scales, zeros = kind.scales.astype(np.float64), kind.zero_points.astype(np.float64)
    low, high = ((bound - zeros) * scales for bound in (kind.qmin, kind.qmax))
    return {
        "storage": kind.storage,
        "scale": [_rounded(float(scales.min())), _rounded(float(scales.max()))],
        "zero": [int(zeros.min()), int(zeros.max())],
        "channels": int(scales.size),
        "axis": kind.axis,
        "lo": _rounded(float(low.min())),
        "hi": _rounded(float(high.max())),
    }


def _layout(drawn: Sequence[Node]) -> dict[str, Any]:
    place = {tensor.name: number for number, node in enumerate(drawn) for tensor in node.results}
    edges = list(
        dict.fromkeys((place[name], number) for number, n in enumerate(drawn) for name in n.operands if name in place)
    )
    widths = [node_width(node) for node in drawn]
    found = layered(widths, edges, LAYER_HEIGHT)
    lines = [
        [*edge, *(round(c) for point in line for c in point)] for edge, line in zip(edges, found.lines, strict=True)
    ]
    places = [[round(c) for c in found.places[number]] for number in range(len(drawn))]
    return {"places": places, "widths": widths, "lines": lines}


def node_width(node: Node) -> int:
    """Width of a node's box in pixels, for its longest line of text, which is cut at 30 characters."""
    lines = [node.op, node.name, type_text(node.results[0]).partition(",")[0] if node.results else ""]
    return 24 + 7 * min(max(map(len, lines)), 30)


def _of_statistics(statistics: TensorStatistics) -> dict[str, Any]:
    """The histogram of calibration in equal bins over the values seen."""
    lo, hi = statistics.minimum, statistics.maximum
    edges = np.clip(statistics.bin_edges, lo, hi)
    total = np.concatenate([[0], np.cumsum(statistics.histogram)])
    counts = np.diff(np.interp(np.linspace(lo, hi, BINS + 1), edges, total)) if hi > lo else np.array([total[-1]])
    return {
        "lo": _rounded(lo),
        "hi": _rounded(hi),
        "zeros": statistics.zeros,
        "counts": np.rint(counts).astype(int).tolist(),
    }


def _of_array(array: np.ndarray) -> dict[str, Any]:
    values = array.astype(np.float64).reshape(-1)
    counts, edges = np.histogram(values[np.isfinite(values)], BINS)
    found = {"lo": _rounded(float(edges[0])), "hi": _rounded(float(edges[-1])), "counts": counts.tolist()}
    return found if array.dtype.kind == "f" else {**found, "stored": True}


def _rounded(number: float | None) -> float | None:
    return None if number is None else float(f"{number:.5g}")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
