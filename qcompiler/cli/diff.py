"""The command `diff`: what two dumps of the IR have otherwise."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from qcompiler.cli.files import dumps_of, open_model
from qcompiler.cli.output import print_json
from qcompiler.model import Model
from qcompiler.report.changes import changes


def diff_command(options: Namespace) -> None:
    found = changes(_opened(options.old), _opened(options.new))
    if options.json:
        print_json([asdict(change) for change in found])
        return
    counts = Counter(change.kind for change in found)
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.items()) or "the same nodes and types"
    print(f"{options.old} -> {options.new}: {summary}")
    for change in found:
        print(f"{change.kind:8} {change.name} ({change.op})")
        for detail in change.details:
            print(f"           {detail}")


def _opened(path: Path) -> Model:
    return open_model(dumps_of(path)[-1] if path.is_dir() else path)
