"""What a bundle holds: the description of its program, its kernels and its sizes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from qcompiler.bundle import Bundle
from qcompiler.errors import BundleError
from qcompiler.model import Model
from qcompiler.report.describe import Description, describe_model

IR = "ir"


@dataclass(frozen=True)
class BundleDescription:
    """Sizes are bytes; `kernels` counts the steps of a run by the schedule rule that made them."""

    path: str
    target: dict[str, Any]
    library_bytes: int
    weight_bytes: int
    arena_bytes: int
    total_bytes: int
    kernels: dict[str, int]
    metadata: dict[str, Any]
    dumps: tuple[str, ...]
    program: Description


def describe_bundle(bundle: Bundle) -> BundleDescription:
    """The description of a bundle, from its manifest and the last of its IR dumps.

    Raises:
        BundleError: the bundle holds no dumps.
    """
    manifest = bundle.manifest
    dumps = sorted(name for name in manifest.files if name.startswith(f"{IR}/") and name.endswith(".mlir"))
    if not dumps:
        raise BundleError(f"{bundle.path} holds no IR in {IR}/; compile the model again")
    sizes = {name: (bundle.path / name).stat().st_size for name in manifest.files}
    return BundleDescription(
        path=str(bundle.path),
        target=dict(manifest.target),
        library_bytes=sizes[manifest.library],
        weight_bytes=manifest.weight_bytes,
        arena_bytes=manifest.arena_bytes,
        total_bytes=sum(sizes.values()),
        kernels=dict(Counter(step.rule for step in manifest.steps).most_common()),
        metadata=dict(manifest.metadata),
        dumps=tuple(dumps),
        program=describe_model(Model.load(bundle.path / dumps[-1])),
    )
