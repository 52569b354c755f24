"""What quantizing costs at the outputs, measured on real samples: relative noise power, and its SQNR in dB.

The noise of several outputs is the mean of their noises, each relative to the power of its own float values over all
samples, so that every output counts alike, whatever its size and scale.
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
_FLOOR = 1e-30
"""Noise below this is taken as none: 300 dB."""


def decibel(noise: float) -> float:
    """SQNR in dB of a relative noise power; 300 at most."""
    return float(-10 * np.log10(max(noise, _FLOOR)))


def noise_of(sqnr: float) -> float:
    """Relative noise power of an SQNR in dB."""
    return float(10 ** (-sqnr / 10))


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
        self._power = {n: sum(_power(outputs[n]) for outputs in reference) for n in names}

    def __call__(self, runs: Iterable[Outputs]) -> float:
        """The noise of one run a sample, in the order of the reference; infinite for outputs that are not finite."""
        sums = dict.fromkeys(self._power, 0.0)
        for wanted, found in zip(self.reference, runs, strict=True):
            for name in sums:
                sums[name] += _power(found[name].astype(np.float64) - wanted[name])
        noise = np.mean([n / p if (p := self._power[name]) > 0 else float(n > 0) for name, n in sums.items()])
        return float(noise) if np.isfinite(noise) else float("inf")


def _power(array: np.ndarray) -> float:
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.square(array, dtype=np.float64).sum())


class Meter:
    """Noise of a simulated module at any choice of precisions, on samples whose float outputs are kept."""

    def __init__(self, simulation: Simulation, samples: Sequence[Feed]) -> None:
        self.simulation, self.samples = simulation, samples
        reference = [simulation.run(feed, {}, Level.FLOAT) for feed in samples]
        self._all, self._first = Noise(reference), Noise(reference[:1])

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
        """As `alone`, on the first sample only if the noise there is below `bar`."""
        noise = self._first([self.simulation.run(self.samples[0], {site: Level.CHOSEN}, Level.FLOAT)])
        return noise if noise < bar else self.alone(site)
