"""Whether enough samples were given: how much the ranges of tensors still grew over the last of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from qcompiler.calibration.statistics import TensorStatistics

_SETTLED = 0.05


@dataclass(frozen=True)
class Convergence:
    """Growth of the ranges over the last quarter and half of the samples, as part of their final width, 0..1."""

    worst_quarter: float
    median_quarter: float
    worst_half: float
    median_half: float

    @property
    def needs_more(self) -> bool:
        """Whether the median range grew by more than 5 % over the last half."""
        return self.median_half > _SETTLED


def convergence(statistics: Mapping[str, TensorStatistics]) -> Convergence | None:
    """Over all tensors that were seen; None if there are none, or a single sample."""
    seen = [s for s in statistics.values() if s.samples > 1]
    if not seen:
        return None
    quarter, half = ([s.growth(share) for s in seen] for share in (0.25, 0.5))
    return Convergence(max(quarter), median(quarter), max(half), median(half))
