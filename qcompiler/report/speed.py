"""Speed of a bundle beside onnxruntime: as many threads, one process, the contenders in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.bundle import Bundle
from qcompiler.errors import ModelError

if TYPE_CHECKING:
    from qcompiler.pipeline import Progress

QDQ = "model.qdq.onnx"


@dataclass(frozen=True)
class Timing:
    """Times of one contender in milliseconds; `ratio` is its median by the bundle's (above 1: slower)."""

    name: str
    median_ms: float
    min_ms: float
    ratio: float


def time_bundle(
    bundle: Bundle,
    repeats: int,
    reference: Path | None = None,
    progress: Progress | None = None,
    threads: int = 1,
) -> list[Timing]:
    """Times of the bundle, of its QDQ model in onnxruntime, and of the float model `reference` if given.

    In each of `repeats` rounds every contender runs twice and the second run counts: its caches are warm, and
    slow phases of the machine meet all alike. Inputs are random numbers of a fixed seed.

    Raises:
        ModelError: onnxruntime does not take a model, or the reference has other inputs than the bundle.
        BundleError: several threads are asked for, and the bundle was compiled for one.
    """
    if threads > 1:
        bundle.set_threads(threads)
    feeds = random_inputs(bundle)
    contenders: dict[str, Callable[[], float]] = {"qcompiler int8": lambda: bundle.bench(1, feeds)[0]}
    if (bundle.path / QDQ).exists():
        contenders["onnxruntime int8 (QDQ)"] = _session(bundle.path / QDQ, feeds, threads)
    if reference is not None:
        contenders["onnxruntime fp32"] = _session(reference, feeds, threads)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    rounds = range(repeats)
    for _ in progress.track(rounds, "timing", repeats) if progress else rounds:
        for name, run in contenders.items():
            times[name].append(run())
    base = median(times["qcompiler int8"])
    return [Timing(n, median(t) * 1e3, min(t) * 1e3, median(t) / base) for n, t in times.items()]


def random_inputs(bundle: Bundle) -> dict[str, np.ndarray]:
    """Normally distributed floats and zeros elsewhere, in the bundle's shapes, of a fixed seed."""
    random = np.random.default_rng(0)
    return {
        t.name: random.standard_normal(t.shape).astype(t.dtype)
        if np.dtype(t.dtype).kind == "f"
        else np.zeros(t.shape, t.dtype)
        for t in bundle.manifest.inputs
    }


def open_session(model: Path | bytes, source: Path, threads: int = 1) -> Any:
    """A CPU session of onnxruntime.

    Raises:
        ModelError: the model cannot be loaded; `source` names it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    content = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base
        raise ModelError(f"{source}: onnxruntime cannot load the model: {error}") from None


def _session(path: Path, feeds: Mapping[str, np.ndarray], threads: int) -> Callable[[], float]:
    """A function that runs the model twice and returns the seconds of the second run."""
    session = open_session(path, path, threads)
    names = [i.name for i in session.get_inputs()]
    if set(names) != set(feeds):
        raise ModelError(f"{path}: expected the bundle's inputs {sorted(feeds)}, found {sorted(names)}")
    binding = session.io_binding()
    for name in names:
        binding.bind_cpu_input(name, feeds[name])
    for output in session.get_outputs():
        binding.bind_output(output.name)

    def run() -> float:
        try:
            session.run_with_iobinding(binding)
            start = time.perf_counter()
            session.run_with_iobinding(binding)
            return time.perf_counter() - start
        except Exception as error:
            raise ModelError(f"{path}: onnxruntime cannot run the model: {error}") from None

    return run
