"""Fair timing of competing functions in one process."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

_BATCH_SECONDS = 0.005


def medians(functions: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median seconds of CPU time of one call of each, the functions taking turns in batches of some milliseconds."""
    counts = []
    for function in functions:
        function()
        begin = time.process_time()
        function()
        counts.append(max(1, int(_BATCH_SECONDS / max(time.process_time() - begin, 1e-6))))
    times: list[list[float]] = [[] for _ in functions]
    for _ in range(repeats):
        for function, count, record in zip(functions, counts, times, strict=True):
            begin = time.process_time()
            for _ in range(count):
                function()
            record.append((time.process_time() - begin) / count)
    return [float(np.median(record)) for record in times]
