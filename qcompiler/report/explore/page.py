"""The explorer's page: one HTML file with its data, style and scripts in it, which needs no server and no network."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import Any

from qcompiler.bundle import Bundle
from qcompiler.bundle.emulate import EmulatedBundle
from qcompiler.errors import BundleError
from qcompiler.model import Model
from qcompiler.pipeline import Progress, Stage, stage
from qcompiler.report.bundle import describe_bundle
from qcompiler.report.compare import LayerError, compare
from qcompiler.report.explore.data import Pass, document
from qcompiler.report.instructions import count_instructions
from qcompiler.report.speed import random_inputs

_REPEATS = 20


def explore(
    bundle: Bundle,
    *,
    data: Any = None,
    limit: int | None = None,
    measure: bool = False,
    progress: Progress | None = None,
) -> str:
    """The page of a bundle.

    Args:
        data: inputs on which the error of each layer is measured against the float model; anything `quantize` takes.
        limit: use at most so many samples of them.
        measure: time each kernel on this machine, or count its instructions if the bundle runs in an emulator.

    Raises:
        BundleError: the bundle holds no dumps, or cannot run here. CalibrationError: the data does not fit.
    """
    progress = progress or Progress()
    described = describe_bundle(bundle)
    if not described.dumps:
        raise BundleError(f"{bundle.path}: its ir folder holds no dumps; compile the model again")
    errors: Sequence[LayerError] = ()
    if data is not None:
        errors = compare(bundle, _float_model(bundle, described.dumps[0]), data, limit, progress).layers
    measured = _measured(bundle) if measure else {}
    progress.step("explore")
    records = {f"{number:03}_{record['name']}": record["seconds"] for number, record in enumerate(described.passes)}

    def passes() -> Iterator[Pass]:
        for name in progress.track(described.dumps, "reading the dumps", len(described.dumps)):
            stem = name.removeprefix("ir/").removesuffix(".mlir")
            yield Pass(stem.partition("_")[2], records.get(stem), Model.load(bundle.path / name))

    return page(document(bundle, passes(), described, errors, measured))


def page(content: dict[str, Any]) -> str:
    """The page of a document."""
    parts = {
        "title": html.escape(content["title"]),
        "style": _static("style.css"),
        "data": json.dumps(content, separators=(",", ":"), allow_nan=False).replace("</", "<\\/"),
        "license": _static("d3.LICENSE.txt"),
        "library": _static("d3.min.js"),
        "script": _static("graph.js") + _static("explorer.js"),
    }
    return re.sub(r"@(\w+)@", lambda mark: parts[mark[1]], _static("page.html"))


def _static(name: str) -> str:
    return files("qcompiler.report.explore").joinpath("static", name).read_text(encoding="utf-8")


def _float_model(bundle: Bundle, dump: str) -> Model:
    """The model as it was read.

    Raises:
        BundleError: the bundle was compiled from a program that was quantized before.
    """
    model = Model.load(bundle.path / dump)
    if stage(model.module) is not Stage.FLOAT:
        raise BundleError(f"{bundle.path}: its ir folder has no float model, so that no error can be measured")
    return model


def _measured(bundle: Bundle) -> dict[str, list[float]]:
    if isinstance(bundle, EmulatedBundle):
        return {"instructions": [step.instructions for step in count_instructions(bundle).steps]}
    return {"ms": [seconds * 1e3 for seconds in bundle.profile(_REPEATS, random_inputs(bundle))]}
