"""Accuracy of int8 models on pretrained networks and real data, in one table.

    python benchmarks/accuracy.py [MODEL ...] [--columns auto,affine,...] [--samples 128] [--subsets 3] [--jobs 2]

Columns: `float`; `onnxruntime`, the best of seven settings of its static quantization (each is scored); our policies
`auto` (the default), `symmetric`, `affine`, `mixed`; `methods`, auto with equalization, second-order rounding of
weights and empirical bias correction; `search`, auto with the smallest set of tensors in 16 bits or float that
reaches 20 dB. All of ours are compiled for the host and scored through the compiled code, on the open split; the
calibration split serves calibration alone. Sizes are the QDQ file of onnxruntime, and library and weights of ours.

`--subsets N` states the noise: every one of our columns is calibrated N times, each time without another N-th of the
samples, and the table shows mean and half the spread. Needs the pretrained models and their scoring script beside the
repository (`../shared`).
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peer_quantizer import SETTINGS, quantize, upgraded

import qcompiler
from qcompiler.bundle.manifest import WEIGHTS
from qcompiler.errors import QCompilerError

SHARED = Path(__file__).resolve().parents[2] / "shared"
OURS: dict[str, dict[str, Any]] = {
    "auto": {},
    "symmetric": {"policy": "symmetric"},
    "affine": {"policy": "affine"},
    "mixed": {"policy": "mixed"},
    "methods": {"equalize": True, "weight_rounding": "gptq", "bias_correction": "empirical"},
    "search": {"min_sqnr": 20.0},
}
COLUMNS = ("onnxruntime", *OURS)


@dataclass(frozen=True)
class Result:
    """One score: of `column` (and onnxruntime's `setting`), calibrated without the share `subset` of the samples."""

    model: str
    column: str
    setting: str
    subset: int
    value: float
    agreement: float | None
    """Share of items whose top-1 class is the float model's, for classifiers."""
    bytes: int
    seconds: float
    failure: str = ""


@dataclass(frozen=True)
class Job:
    model: str
    columns: tuple[str, ...]
    samples: int
    subsets: int
    limit: int | None


def catalogue() -> Any:
    """The module that runs and scores the pretrained models."""
    if not (SHARED / "eval").is_dir():
        sys.exit(f"the pretrained models are not at {SHARED}; this benchmark needs them")
    sys.path.insert(0, str(SHARED / "eval"))
    return importlib.import_module("realmodels")


def run_job(job: Job) -> list[Result]:
    """All results of one model."""
    models = catalogue()
    model = models.MODELS[job.model]
    reference = models.onnxruntime_runner(model.path())
    count = job.samples if job.subsets == 1 else job.samples * job.subsets // (job.subsets - 1)
    pool = list(model.calibration(limit=count))
    results = []
    if "onnxruntime" in job.columns:
        results += peers(models, model, pool[: job.samples], job.limit, reference)
    with tempfile.TemporaryDirectory() as folder:
        for subset in range(job.subsets):
            feeds = pool if job.subsets == 1 else [f for i, f in enumerate(pool) if i % job.subsets != subset]
            cache = Path(folder) / f"{subset}.safetensors"
            results += [
                ours(model, column, subset, feeds, cache, job.limit, reference)
                for column in job.columns
                if column in OURS
            ]
    return results


def peers(models: Any, model: Any, pool: list[Any], limit: int | None, reference: Any) -> Iterator[Result]:
    """onnxruntime's score in each setting; a failing quantizer is a result too."""
    with tempfile.TemporaryDirectory() as folder:
        path, out = upgraded(model.path(), Path(folder)), Path(folder) / "int8.onnx"
        for name, setting in SETTINGS.items():
            started = time.perf_counter()
            feeds = models.spread(pool, setting.samples)
            try:
                quantize(path, setting, feeds, out)
                score = model.evaluate(models.onnxruntime_runner(out), limit=limit, reference=reference)
            except Exception as error:
                text = str(error).splitlines()[0][:120]
                yield Result(model.name, "onnxruntime", name, 0, np.nan, None, 0, 0.0, text)
                continue
            agreement, seconds = score.details.get("fp32_agreement"), time.perf_counter() - started
            size = out.stat().st_size
            yield Result(model.name, "onnxruntime", name, 0, score.value, agreement, size, seconds)


def ours(
    model: Any, column: str, subset: int, feeds: list[Any], cache: Path, limit: int | None, reference: Any
) -> Result:
    """Our score in one column; columns that calibrate the same float graph share the statistics in `cache`."""
    options = {"calibration_cache": cache, **OURS[column]}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        try:
            bundle = qcompiler.compile(model.path(), calibration=feeds, output=Path(folder) / "out", **options)
        except QCompilerError as error:
            return Result(model.name, column, "", subset, np.nan, None, 0, 0.0, str(error))

        def run(feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            outputs = bundle.run(feed)
            return [outputs[tensor.name] for tensor in bundle.manifest.outputs]

        score = model.evaluate(run, limit=limit, reference=reference)
        size = sum((bundle.path / name).stat().st_size for name in (bundle.manifest.library, WEIGHTS))
    agreement = score.details.get("fp32_agreement")
    return Result(model.name, column, "", subset, score.value, agreement, size, time.perf_counter() - started)


def cell(results: list[Result], higher_is_better: bool) -> str:
    """Score, agreement and size of one column: the best setting, or mean and half the spread over subsets."""
    good = [r for r in results if np.isfinite(r.value)]
    if not good:
        return f"fails: {results[0].failure[:40]}" if results else ""
    best = (max if higher_is_better else min)(good, key=lambda r: r.value)
    if best.column != "onnxruntime":
        values = np.array([r.value for r in good])
        shares = [r.agreement for r in good if r.agreement is not None]
        text = f"{values.mean():.4f}" + (f" ±{np.ptp(values) / 2:.4f}" if len(values) > 1 else "")
        agreement = f"{np.mean(shares):.3f}, " if shares else ""
    else:
        text = f"{best.value:.4f}"
        agreement = (f"{best.agreement:.3f}, " if best.agreement is not None else "") + f"{best.setting}, "
    return f"{text} ({agreement}{best.bytes / 1e6:.2f} MB)"


def table(models: Any, results: list[Result], columns: list[str]) -> list[str]:
    lines = [f"| {' | '.join(['model', 'metric', 'float', *columns])} |", "| --- " * (3 + len(columns)) + "|"]
    for name in dict.fromkeys(r.model for r in results):
        model = models.MODELS[name]
        size = model.path().stat().st_size / 1e6
        cells = [name, model.metric, f"{model.fp32_value:.4f} ({size:.2f} MB)"]
        for column in columns:
            found = [r for r in results if (r.model, r.column) == (name, column)]
            cells.append(cell(found, model.higher_is_better))
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--columns", default=",".join(COLUMNS), help="which of the table's columns, by comma")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--subsets", type=int, default=1, help="calibrate as many times, each without another part")
    parser.add_argument("--limit", type=int, help="score this many items only")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every single score here")
    parser.add_argument("--merge", type=Path, nargs="+", metavar="FILE", help="print the table of earlier --json files")
    args = parser.parse_args()
    models, columns = catalogue(), args.columns.split(",")
    if unknown := set(columns) - set(COLUMNS):
        parser.error(f"unknown columns {', '.join(sorted(unknown))}; known: {', '.join(COLUMNS)}")
    if args.merge:
        results = [Result(**item) for path in args.merge for item in json.loads(path.read_text("utf-8"))]
        print("\n".join(table(models, results, columns)))
        return
    jobs = [Job(name, tuple(columns), args.samples, args.subsets, args.limit) for name in args.models or models.MODELS]
    results = []
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        for found in pool.imap_unordered(run_job, jobs):
            results += found
            seconds = sum(r.seconds for r in found)
            print(f"{table(models, found, columns)[-1]}  ({seconds:.0f} s)", file=sys.stderr, flush=True)
            if args.json:
                args.json.write_text(json.dumps([asdict(r) for r in results], indent=1), "utf-8")
    order = list(models.MODELS)
    results.sort(key=lambda r: order.index(r.model))
    print("\n".join(table(models, results, columns)))


if __name__ == "__main__":
    main()
