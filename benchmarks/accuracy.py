"""Accuracy of int8 bundles on the pretrained models: float, ours, and onnxruntime's own static quantization.

    python benchmarks/accuracy.py [MODEL ...] [--method minmax] [--samples 128] [--peer] [--markdown FILE]

Needs the pretrained models and their scoring script beside the repository (`../shared`). Every model is calibrated on
at most `--samples` samples of the calibration split, with the compiler's default settings unless given, compiled for
the host and scored on the open split through the compiled code.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import qcompiler

SHARED = Path(__file__).resolve().parents[2] / "shared"


@dataclass(frozen=True)
class Row:
    """Scores of one model; `agreement` is top-1 agreement with float where there is one."""

    model: str
    metric: str
    items: int
    float_score: float
    ours: float
    agreement: float | None
    peer: float | None
    seconds: float


def catalogue() -> Any:
    """The module that runs and scores the pretrained models."""
    if not (SHARED / "eval").is_dir():
        sys.exit(f"the pretrained models are not at {SHARED}; this benchmark needs them")
    sys.path.insert(0, str(SHARED / "eval"))
    return importlib.import_module("realmodels")


def peer_score(models: Any, model: Any, samples: int, limit: int | None) -> float | None:
    """Score of onnxruntime's default static quantization (QDQ, minmax, per-channel symmetric weights, u8)."""
    from onnxruntime import quantization as ort

    class Reader(ort.CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(model.calibration(limit=samples))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "peer.onnx"
        try:
            ort.quantize_static(
                str(model.path()),
                str(out),
                Reader(),
                per_channel=True,
                extra_options={"WeightSymmetric": True},
            )
            return model.evaluate(models.onnxruntime_runner(out), limit=limit).value
        except Exception as error:  # the peer fails on some files as they are; that is a result too
            print(
                f"{model.name}: onnxruntime's quantizer fails: {str(error).splitlines()[0][:120]}",
                file=sys.stderr,
            )
            return None


def score(models: Any, name: str, samples: int, limit: int | None, peer: bool, **options: Any) -> Row:
    model = models.MODELS[name]
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        bundle = qcompiler.compile(
            model.path(), calibration=model.calibration(limit=samples), output=Path(folder) / name, **options
        )

        def run(feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            outputs = bundle.run(feed)
            return [outputs[tensor.name] for tensor in bundle.manifest.outputs]

        reference = models.onnxruntime_runner(model.path())
        result = model.evaluate(run, limit=limit, reference=reference)
    return Row(
        name,
        model.metric,
        result.n,
        model.fp32_value,
        result.value,
        result.details.get("fp32_agreement"),
        peer_score(models, model, samples, limit) if peer else None,
        time.perf_counter() - started,
    )


def line(row: Row) -> str:
    agreement = "" if row.agreement is None else f"{row.agreement:.3f}"
    peer = "" if row.peer is None else f"{row.peer:.4f}"
    return (
        f"| {row.model} | {row.metric} | {row.items} | {row.float_score:.4f} | {row.ours:.4f} | {agreement} | {peer} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="MODEL")
    parser.add_argument("--method", help="calibration method (default: the compiler's)")
    parser.add_argument("--policy", default="auto")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--limit", type=int, help="score this many items only")
    parser.add_argument("--peer", action="store_true", help="score onnxruntime's quantizer in the same run")
    parser.add_argument("--markdown", type=Path, help="write the table here as well")
    args = parser.parse_args()
    models = catalogue()
    header = [
        "| model | metric | items | float | int8 | agreement with float | onnxruntime int8 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    print("\n".join(header), flush=True)
    rows = []
    for name in args.models or models.MODELS:
        options = {"policy": args.policy, "method": args.method}
        row = score(models, name, args.samples, args.limit, args.peer, **options)
        rows.append(line(row))
        print(f"{rows[-1]}  ({row.seconds:.0f} s)", flush=True)
    if args.markdown is not None:
        args.markdown.write_text("\n".join([*header, *rows]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
