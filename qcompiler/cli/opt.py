"""The command `opt`: passes on a dump of the IR or an ONNX model, and what it looks like in between."""

from __future__ import annotations

import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from xdsl.passes import ModulePass

from qcompiler.cli.files import open_model
from qcompiler.cli.output import print_json
from qcompiler.cli.progress import progress
from qcompiler.errors import IRError, PipelineError
from qcompiler.ir.graph import is_activation
from qcompiler.ir.text import print_selected
from qcompiler.model import Model


def opt_command(options: Namespace) -> None:
    from qcompiler.pipeline import CompilerContext, PassManager, describe_passes, parse, stage, timing_table
    from qcompiler.targets.spec import resolve_target

    if options.list_passes:
        _list_passes(describe_passes(), options.json)
        return
    if options.file is None:
        raise PipelineError("opt needs a file of the IR, or --list-passes")
    from qcompiler.api import open_feeds

    passes = parse(options.passes) if options.passes else ()
    places = _places(passes, options.print_after)
    model = open_model(options.file)
    printed: list[dict[str, str]] = []
    with progress(options.quiet) as shown:
        context = CompilerContext(
            calibration=open_feeds(model, options.calibration) if options.calibration else None,
            target=resolve_target(options.target),
            progress=shown,
            source=str(options.file),
        )
        manager = PassManager(passes, options.dump_ir)
        for place in places:
            name = passes[place - 1].name
            manager.after[place] = lambda name=name: printed.append({"after": name, "text": _text(model, options.only)})
        manager.run(model, context)
    if not places:
        printed.append({"after": "all passes", "text": _text(model, options.only)})
    if not any(entry["text"] for entry in printed):
        raise IRError(f"{options.file}: no operation comes from a node '{options.only}'; qcompiler inspect has names")
    if options.timing:
        print(timing_table(manager.records), file=sys.stderr)
    for note in context.notes:
        print(f"note: {note}", file=sys.stderr)
    if options.output:
        _save(model, options.output)
    if options.json:
        records = [asdict(record) for record in manager.records]
        document = {"stage": stage(model.module).name.lower(), "passes": records, "notes": context.notes}
        print_json({**document, "printed": printed} if places else document)
    elif places:
        print("\n".join(f"// after {entry['after']}\n{entry['text']}" for entry in printed), end="")
    elif not (options.output or options.verify_only):
        print(printed[0]["text"], end="")


def _places(passes: Sequence[ModulePass], wanted: Sequence[str]) -> list[int]:
    """How many passes have run at each place where the module is to be printed.

    Raises:
        PipelineError: the pipeline has no pass of a name.
    """
    names = [p.name for p in passes]
    if unknown := [name for name in wanted if name not in names]:
        raise PipelineError(
            f"--print-after {unknown[0]}: the pipeline has no such pass; it has {', '.join(names) or 'none'}"
        )
    return [number for number, name in enumerate(names, 1) if name in wanted]


def _text(model: Model, only: str | None) -> str:
    """The module's text, or that of the operations made from some nodes and of the constants that they read."""
    from qcompiler.passes.apply_recipe import layer_names
    from qcompiler.recipe import name_matches

    if only is None:
        return model.text()
    names = layer_names(model.module)
    found = {op for op in names if any(name_matches(only, name) for name in names[op])}
    read = {v.owner for op in found for v in op.operands if not is_activation(v)}
    return print_selected(model.module, found | read)  # type: ignore[operator]


def _list_passes(passes: Mapping[str, str], as_json: bool) -> None:
    if as_json:
        print_json(dict(passes))
        return
    width = max(map(len, passes)) + 2
    for name, text in passes.items():
        print(f"{name:{width}}{text}")


def _save(model: Model, path: Path) -> None:
    """Saves text and constants beside it; neither takes its place before both are written."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as folder:
        model.save(Path(folder) / path.name)
        for file in sorted(Path(folder).iterdir(), key=lambda f: f.suffix == path.suffix):
            os.replace(file, path.parent / file.name)
