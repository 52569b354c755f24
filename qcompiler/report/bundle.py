"""What a bundle holds: the description of its program, its kernels and its sizes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from qcompiler.bundle import Bundle
from qcompiler.errors import BundleError
from qcompiler.report.describe import Description, read_description

REPORT = "report.json"


@dataclass(frozen=True)
class BundleDescription:
    """Sizes are bytes; `kernels` counts the steps of a run by the schedule rule that made them.

    `tuned` are the locations of those that a tuning database chose.
    `code_bytes` is the size of the shared library, or of the kernels' source in a bundle with a driver.
    `arena_lower_bound` is the largest sum of buffers that live at the same time; no plan can need less.
    `cpu_flags` are the CPU features that the code needs, as Linux names them.
    `passes` are the records of the pipeline, `notes` what it had to give up on, `dumps` the files of the IR.
    """

    path: str
    target: dict[str, Any]
    cpu_flags: tuple[str, ...]
    code_bytes: int
    weight_bytes: int
    arena_bytes: int
    arena_lower_bound: int
    total_bytes: int
    kernels: dict[str, int]
    tuned: tuple[str, ...]
    passes: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    dumps: tuple[str, ...]
    program: Description


def describe_bundle(bundle: Bundle) -> BundleDescription:
    """The description of a bundle, from its manifest and report.

    Raises:
        BundleError: the bundle holds no report, or one of another version.
    """
    manifest = bundle.manifest
    try:
        report = json.loads((bundle.path / REPORT).read_text(encoding="utf-8"))
        program = read_description(report["module"])
        passes, notes = tuple(report["passes"]), tuple(report["notes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{bundle.path / REPORT} cannot be read ({error}); compile the model again") from None
    sizes = {name: (bundle.path / name).stat().st_size for name in manifest.files}
    return BundleDescription(
        path=str(bundle.path),
        target=dict(manifest.target),
        cpu_flags=tuple(manifest.cpu_flags),
        code_bytes=sizes[manifest.code],
        weight_bytes=manifest.weight_bytes,
        arena_bytes=manifest.arena_bytes,
        arena_lower_bound=manifest.arena_lower_bound,
        total_bytes=sum(sizes.values()),
        kernels=dict(Counter(step.rule for step in manifest.steps).most_common()),
        tuned=tuple(step.location for step in manifest.steps if step.tuned),
        passes=passes,
        notes=notes,
        dumps=tuple(sorted(name for name in manifest.files if name.endswith(".mlir"))),
        program=program,
    )
