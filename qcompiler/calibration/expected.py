"""What quantizing a tensor costs where it is used: the error of functions of it, from its histogram.

A tensor that only tables read (SiLU, GELU, hard-swish) shall have its codes where these are steep: wide ranges waste
them on the flat sides, and clipping there costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qcompiler.calibration.ranges import expected_error, range_from, search_range
from qcompiler.calibration.statistics import TensorStatistics

Function = Callable[[np.ndarray], np.ndarray]

_POINTS = 4
"""Points at which a function is taken in each bin of the histogram."""


class Expected:
    """Ranges and noise of a tensor that is read through `functions`; of the tensor itself if there are none.

    Functions map float64 arrays of any shape elementwise; those that are not finite on the values seen count as none.
    """

    def __init__(self, statistics: TensorStatistics, functions: Sequence[Function] = ()) -> None:
        self._statistics = statistics
        self.minimum, self.maximum = statistics.minimum, statistics.maximum
        filled = np.flatnonzero(statistics.histogram)
        edges = np.clip(statistics.bin_edges, statistics.minimum, statistics.maximum)
        inside = (np.arange(_POINTS) + 0.5) / _POINTS
        points = edges[filled][:, None] + np.diff(edges)[filled][:, None] * inside
        counts = np.where(
            filled == -statistics.first_bin,
            statistics.histogram[filled] - statistics.zeros,
            statistics.histogram[filled],
        )
        self._x = np.append(points.ravel(), 0.0)
        self._weights = np.append(np.repeat(counts / _POINTS, _POINTS), statistics.zeros) / max(statistics.count, 1)
        results = [(f, np.asarray(f(self._x), np.float64)) for f in functions]
        self._readers = [(f, y, p) for f, y in results if np.isfinite(y).all() and (p := self._power(y)) > 0]

    @property
    def through_functions(self) -> bool:
        """Whether ranges are judged by functions of the tensor, rather than by its own values."""
        return bool(self._readers)

    def range(self, method: str, qmin: int, qmax: int, symmetric: bool) -> tuple[float, float]:
        """The range of a method; where functions read the tensor, that of their smallest error, whatever the method.

        Raises:
            ValueError: as `range_from`.
        """
        if not self._readers:
            return range_from(self._statistics, method, qmin, qmax, symmetric)
        return search_range(
            self.minimum,
            self.maximum,
            lambda scales, zeros: np.array(
                [self._noise_of_readers(float(s), int(z), qmin, qmax) for s, z in zip(scales, zeros, strict=True)]
            ),
            qmin,
            qmax,
            symmetric,
        )

    def noise(self, scale: float, zero_point: int, qmin: int, qmax: int) -> float:
        """Expected squared error over mean square: of the functions' results, or of the tensor's own values."""
        if self._readers:
            return self._noise_of_readers(scale, zero_point, qmin, qmax)
        error = expected_error(self._statistics, scale, zero_point, qmin, qmax)
        power = self._statistics.mean_square
        return error / power if power > 0 else 0.0

    def _noise_of_readers(self, scale: float, zero_point: int, qmin: int, qmax: int) -> float:
        levels = (np.arange(qmin, qmax + 1, dtype=np.float64) - zero_point) * scale
        codes = np.clip(np.rint(self._x / scale) + zero_point, qmin, qmax).astype(np.int64) - qmin
        noises = [self._power(np.asarray(f(levels), np.float64)[codes] - y) / power for f, y, power in self._readers]
        return float(np.mean(noises))

    def _power(self, y: np.ndarray) -> float:
        return float(self._weights @ np.square(y))
