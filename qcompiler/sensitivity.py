"""Which tensors quantizing hurts: every site alone in its type, and every site alone in float, on real samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from xdsl.ir import Operation

from qcompiler.api import Calibration, open_feeds, quantizing_passes
from qcompiler.arithmetic.noise import decibel
from qcompiler.model import Model
from qcompiler.options import QuantizeOptions
from qcompiler.passes.measure import Meter, spread_samples
from qcompiler.passes.sites import Level, Simulation, Site, record_number
from qcompiler.pipeline import CompilerContext, PassManager, Progress
from qcompiler.targets.spec import resolve_target


@dataclass(frozen=True)
class SiteSensitivity:
    """One place where the model is quantized; SQNRs are those of the outputs, in dB.

    `alone`: with nothing quantized but this; `without`: with everything quantized but this.
    """

    name: str
    kind: str
    """activation, weight or constant."""
    op: str
    """Of the op that computes the activation, or reads the weight or constant; empty for inputs."""
    storage: str
    alone: float
    without: float
    obstacle: str
    """Why an activation cannot be stored in 16 bits; empty if it can."""


@dataclass(frozen=True)
class Sensitivity:
    """`sites` from the worst to the best; `total` is the SQNR with everything quantized."""

    samples: int
    total: float
    sites: tuple[SiteSensitivity, ...]
    model: Model
    """The module in stage CHOSEN, with the figures in `q.numbers`."""


def choose(
    model: Model,
    calibration: Calibration,
    options: QuantizeOptions,
    *,
    improved: bool = False,
    target: str = "host",
    progress: Progress | None = None,
) -> tuple[Model, CompilerContext]:
    """A copy of a float model in stage CHOSEN, and the context its passes ran in.

    With `improved` it has gone through all passes of `quantize` in front of insert-qdq, else up to choose-scheme.

    Raises:
        CalibrationError: the data does not fit the model.
    """
    chosen = model.clone()
    context = CompilerContext(
        chosen.store,
        calibration=open_feeds(chosen, calibration, options.limit),
        target=resolve_target(target),
        recipe=options.in_effect(model.source),
        progress=progress,
        source=model.source,
    )
    passes = quantizing_passes(options)
    names = [p.name for p in passes]
    end = names.index("insert-qdq") if improved else names.index("choose-scheme") + 1
    PassManager(passes[:end]).run(chosen, context)
    return chosen, context


def measure_sensitivity(
    model: Model,
    calibration: Calibration,
    *,
    samples: int = 4,
    target: str = "host",
    progress: Progress | None = None,
    **options: Any,
) -> Sensitivity:
    """The sensitivity of every site of a float model as `quantize` would quantize it with these options.

    Measured before anything is improved: no biases corrected, nothing moved to 16 bits.

    Args:
        samples: number of calibration samples to measure on, evenly spread over all.
        options: those of qcompiler.options.

    Raises:
        CalibrationError: the data does not fit the model.
    """
    chosen, context = choose(model, calibration, QuantizeOptions.of(**options), target=target, progress=progress)
    assert context.calibration is not None
    simulation = Simulation(chosen.module, chosen.store)
    held = spread_samples(context.calibration, samples)
    meter = Meter(simulation, held)
    rows = [
        _row(meter, site)
        for site in context.progress.track(simulation.sites, "measuring sensitivity", len(simulation.sites))
    ]
    rows.sort(key=lambda row: row.alone)
    return Sensitivity(len(held), decibel(meter.noise({})), tuple(rows), chosen)


def _row(meter: Meter, site: Site) -> SiteSensitivity:
    alone = decibel(meter.alone(site))
    record_number(site, "sensitivity", alone)
    owner = site.op if site.op is not None else site.values[0].owner
    op = owner.name if isinstance(owner, Operation) else ""
    without = decibel(meter.noise({site: Level.FLOAT}))
    return SiteSensitivity(site.name, site.kind, op, site.type.storage, alone, without, site.obstacle)
