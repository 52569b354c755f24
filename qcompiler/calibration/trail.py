"""How a range grew while samples came in: the extremes of at most 64 stretches of consecutive samples."""

from __future__ import annotations

import numpy as np

LENGTH = 64


def no_trail() -> np.ndarray:
    """float64 `[LENGTH, 3]`: rows of samples, minimum, maximum; rows of no samples are unused and come last."""
    return np.zeros((LENGTH, 3))


def extended(trail: np.ndarray, later: np.ndarray) -> np.ndarray:
    """The trail of both, those of `later` behind; where there are too many rows, neighbours become one."""
    rows = np.concatenate([trail[trail[:, 0] > 0], later[later[:, 0] > 0]])
    while len(rows) > LENGTH:
        even = rows[: len(rows) // 2 * 2].reshape(-1, 2, 3)
        joined = np.stack([even[:, :, 0].sum(axis=1), even[:, :, 1].min(axis=1), even[:, :, 2].max(axis=1)], axis=1)
        rows = np.concatenate([joined, rows[len(even) * 2 :]])
    found = no_trail()
    found[: len(rows)] = rows
    return found


def added(trail: np.ndarray, minimum: float, maximum: float) -> np.ndarray:
    """The trail with one sample more; a last row that is shorter than the longest one takes it in."""
    used = int(np.count_nonzero(trail[:, 0]))
    if used and trail[used - 1, 0] < trail[:, 0].max():
        last = trail[used - 1]
        trail = trail.copy()
        trail[used - 1] = last[0] + 1, min(last[1], minimum), max(last[2], maximum)
        return trail
    return extended(trail, np.array([[1.0, minimum, maximum]]))


def growth(trail: np.ndarray, share: float) -> float:
    """By how much of its final width the range (with 0 in it) still grew over the last `share` of the samples.

    0 if it did not move, 1 if there was nothing before. At least the last sample counts as the end; with more than
    `LENGTH` samples the cut lies at the border of the stretch before it.
    """
    rows = trail[trail[:, 0] > 0]
    if not len(rows):
        return 0.0
    done = np.cumsum(rows[:, 0])
    before = rows[done <= min(done[-1] * (1 - share), done[-1] - 1)]

    def width(part: np.ndarray) -> float:
        return float(part[:, 2].max(initial=0.0) - part[:, 1].min(initial=0.0))

    whole = width(rows)
    return 1.0 - width(before) / whole if whole > 0 else 0.0
