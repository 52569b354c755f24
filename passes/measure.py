"""What quantizing costs at the outputs, measured on real samples: relative noise power, and its SQNR in dB.

The noise is the mean over samples and outputs of the error's power relative to that of the float values, so that every
output and every sample counts alike, whatever its size and scale: what spoils quiet recordings shows beside loud ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import length_hint

import numpy as np
from xdsl.ir import Operation

from qcompiler.errors import CalibrationError
from qcompiler.passes.sites import Level, Simulation, Site

Feed = Mapping[str, np.ndarray]
Outputs = Mapping[str, np.ndarray]
_QUIET = 0.01
"""The power of a sample counts as at least this share of the mean over samples."""

_MARGIN = 100.0
"""One sample decides if its noise is this many times below the bar: samples may differ by 20 dB."""


def spread_samples(feeds: Iterable[Feed], count: int) -> list[Feed]:
    """At most `count` samples, evenly spread over all, whether or not their number is known; few are held at a time.

    Where the number is not known, every `k`-th sample is held, and `k` doubles whenever `2 * count` are.

    Raises:
        CalibrationError: there are none.
    """
    total = length_hint(feeds)
    if total:
        wanted = {i * total // min(count, total) for i in range(min(count, total))}
        held = [feed for i, feed in enumerate(feeds) if i in wanted]
    else:
        held, step = [], 1
        for i, feed in enumerate(feeds):
            if i % step == 0:
                held.append(feed)
            if len(held) == 2 * count:
                held, step = held[::2], 2 * step
        held = [held[i * len(held) // count] for i in range(count)] if len(held) > count else held
    if not held:
        raise CalibrationError("the calibration data is empty, at least one sample is needed")
    return held


class Noise:
    """Relative noise power of runs against the float outputs of the same samples."""

    def __init__(self, reference: Sequence[Outputs]) -> None:
        self.reference = reference
        names = [n for n, a in reference[0].items() if a.dtype.kind == "f"] or list(reference[0])
        self._power: dict[str, np.ndarray] = {}
        for name in names:
            own = np.array([_power(outputs[name]) for outputs in reference])
            self._power[name] = np.maximum(own, _QUIET * own.mean())

    def __call__(self, runs: Iterable[Outputs]) -> float:
        """The noise of one run a sample, in the order of the reference; infinite for outputs that are not finite."""
        noise = []
        for i, (wanted, found) in enumerate(zip(self.reference, runs, strict=True)):
            for name, powers in self._power.items():
                error = _power(found[name].astype(np.float64) - wanted[name])
                noise.append(error / powers[i] if powers[i] > 0 else float(error > 0))
        mean = float(np.mean(noise))
        return mean if np.isfinite(mean) else float("inf")


def _power(array: np.ndarray) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.square(array, dtype=np.float64).sum())


class Meter:
    """Noise of a simulated module at any choice of precisions, on samples whose float outputs are kept."""

    def __init__(self, simulation: Simulation, samples: Sequence[Feed]) -> None:
        self.simulation, self.samples = simulation, samples
        reference = [simulation.run(feed, {}, Level.FLOAT) for feed in samples]
        # Streams start from a state of zeros, so the first sample is not typical.
        self._middle = len(samples) // 2
        self._all, self._one = Noise(reference), Noise([reference[self._middle]])

    def noise(
        self,
        levels: Mapping[Site, Level],
        default: Level = Level.CHOSEN,
        biases: Mapping[Operation, np.ndarray] | None = None,
    ) -> float:
        """Relative noise with these levels at sites, and `default` at all others; `biases` replaces some."""
        return self._all(self.simulation.run(feed, levels, default, biases) for feed in self.samples)

    def alone(self, site: Site, level: Level = Level.CHOSEN) -> float:
        """Noise with everything in float but one site."""
        return self.noise({site: level}, Level.FLOAT)

    def screened(self, site: Site, bar: float) -> float:
        """As `alone`, on one sample only if the noise there is well below `bar`."""
        noise = self._one([self.simulation.run(self.samples[self._middle], {site: Level.CHOSEN}, Level.FLOAT)])
        return noise if noise < bar / _MARGIN else self.alone(site)
