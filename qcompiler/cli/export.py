"""The command `export`: a quantized model as ONNX, for another runtime."""

from __future__ import annotations

from argparse import Namespace
from itertools import pairwise
from pathlib import Path

import qcompiler
from qcompiler.cli.files import dumps_of, open_model, replacing
from qcompiler.cli.options import quantization
from qcompiler.cli.output import bytes_text, print_json
from qcompiler.cli.progress import progress
from qcompiler.errors import BundleError
from qcompiler.model import Model

DRAWINGS = ("dot", "viewer")
"""Formats of graphs to look at, of modules of any stage."""


def export_command(options: Namespace) -> None:
    from qcompiler.exporters.onnx_export import save_onnx

    if options.format in DRAWINGS:
        _draw(options)
        return
    source = _source(options)
    model = qcompiler.export(source, form=options.format, profile=options.profile)
    files = save_onnx(model, options.output)
    size = sum(f.stat().st_size for f in files)
    counts: dict[str, int] = {}
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    if options.json:
        print_json({"files": [str(f) for f in files], "bytes": size, "operators": counts})
    else:
        print(f"{options.path} -> {options.output}, {options.format}, {bytes_text(size)}")
        print(", ".join(f"{count} {name}" for name, count in sorted(counts.items())))


def _draw(options: Namespace) -> None:
    """Writes a dump, a bundle's program or a model as it is read, as a graph to look at."""
    from qcompiler.exporters.onnx_export import save_onnx
    from qcompiler.report.drawing import dot_text, viewer_model

    model = open_model(dumps_of(options.path)[-1] if options.path.is_dir() else options.path)
    if options.format == "dot":
        with replacing(options.output) as file:
            file.write(dot_text(model).encode())
    else:
        save_onnx(viewer_model(model), options.output)
    if options.json:
        print_json({"files": [str(options.output)], "bytes": options.output.stat().st_size})
    else:
        print(f"{options.path} -> {options.output}, {options.format}, {bytes_text(options.output.stat().st_size)}")


def _source(options: Namespace) -> Model | qcompiler.Quantized:
    """The module to write: a dump as it is, a bundle's module before integerize, a model quantized now."""
    if options.path.is_dir():
        return Model.load(_last_float_dump(options.path))
    if options.path.suffix == ".mlir":
        return Model.load(options.path)
    with progress(options.quiet) as shown:
        return qcompiler.quantize(
            qcompiler.import_onnx(options.path),
            options.calibration,
            progress=shown,
            **quantization(options),
        )


def _last_float_dump(bundle: Path) -> Path:
    """The dump from before `integerize` in a bundle's `ir` folder."""
    dumps = sorted((bundle / "ir").glob("[0-9][0-9][0-9]_*.mlir"))
    for before, after in pairwise(dumps):
        if after.stem.endswith("_integerize"):
            return before
    raise BundleError(
        f"{bundle}: its ir folder holds no dump from before integerize (the bundle was compiled from a program "
        "quantized earlier); export that program, or a dump of it"
    )
