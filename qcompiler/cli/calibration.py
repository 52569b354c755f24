"""The commands `calibrate` and `merge-calibration`: statistics of a shard in a file, and of several shards in one."""

from __future__ import annotations

import functools
from argparse import Namespace

import qcompiler
from qcompiler.calibration.cache import SavedCalibration
from qcompiler.calibration.convergence import convergence
from qcompiler.cli.output import print_json
from qcompiler.cli.progress import progress


def calibrate_command(options: Namespace) -> None:
    from qcompiler.api import calibrate

    with progress(options.quiet) as shown:
        model = qcompiler.import_onnx(options.model, dict(options.shape))
        found = calibrate(
            model, options.calibration, options.output, method=options.method, limit=options.limit, progress=shown
        )
    _print(found, options)


def merge_calibration_command(options: Namespace) -> None:
    found = functools.reduce(SavedCalibration.merge, [SavedCalibration.load(path) for path in options.files])
    found.save(options.output)
    _print(found, options)


def _print(found: SavedCalibration, options: Namespace) -> None:
    moved = convergence(found.statistics)
    samples = max((s.samples for s in found.statistics.values()), default=0)
    if options.json:
        numbers = None if moved is None else vars(moved)
        document = {"output": str(options.output), "samples": samples, "tensors": len(found.statistics)}
        print_json({**document, "growth": numbers})
        return
    print(f"{options.output}: {len(found.statistics)} tensors, {samples} samples")
    if moved is not None:
        print(
            f"ranges grew by {moved.median_half:.1%} (median) and {moved.worst_half:.1%} (worst) over the last half, "
            f"{moved.median_quarter:.1%} and {moved.worst_quarter:.1%} over the last quarter"
            + ("; give more samples" if moved.needs_more else "")
        )
