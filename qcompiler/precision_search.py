"""The smallest set of tensors to keep in 16 bits or float that an accuracy goal needs, as a recipe.

Starts from what `quantize` does by itself. Every site gives an *upgrade*, ordered by the noise the site alone makes at
the outputs: 16 bits for an activation, float for the layer of a weight. Behind them stand upgrades of activations to
float, ordered by the noise that 16 bits leave. The shortest row of upgrades that reaches the goal is found by
bisection, then each is taken back that the goal does not need. All runs are simulated; the result is confirmed in the
interpreter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from xdsl.ir import Operation, SSAValue

from qcompiler.api import Calibration, interpret, lowering_passes, open_feeds
from qcompiler.arithmetic.noise import decibel
from qcompiler.errors import CalibrationError, PipelineError
from qcompiler.ir.values import users
from qcompiler.model import Model
from qcompiler.options import QuantizeOptions
from qcompiler.passes.apply_recipe import unique_names
from qcompiler.passes.assign_precision import drop_unused_types, make_float
from qcompiler.passes.integer_rules import eight_bit_ops
from qcompiler.passes.measure import Feed, Meter, Noise, Outputs, spread_samples
from qcompiler.passes.originals import restore_originals
from qcompiler.passes.sites import Level, Simulation, Site, set_value_type, units
from qcompiler.pipeline import CompilerContext, PassManager, Progress, parse
from qcompiler.recipe import LayerRule, Recipe
from qcompiler.sensitivity import choose

Run = Callable[[Feed], Outputs]
Metric = Callable[[Run], float]
"""Accuracy, higher is better, of a model given as a function from inputs to outputs, both by name."""

_HELD_OUT = 32
"""Samples a goal is judged on, unless evaluation data is given."""


@dataclass(frozen=True)
class Step:
    """One set of upgrades tried: how many, what the goal's value was, whether it sufficed."""

    upgrades: int
    value: float
    met: bool


@dataclass(frozen=True)
class SearchResult:
    """`recipe` is the best found: with the fewest upgrades that meet the goal, else with the best value."""

    recipe: Recipe
    met: bool
    value: float
    """SQNR in dB for `min_sqnr`, else accuracy, both simulated."""
    wanted: float
    confirmed: float
    """SQNR in dB of the integer program with this recipe, by the interpreter; NaN if the search was interrupted."""
    history: tuple[Step, ...]
    interrupted: bool = False


@dataclass(frozen=True, eq=False)
class _Upgrade:
    """`levels` say how it is simulated, with the ops `floats` in float; `precisions`, by name of node or input, how a
    recipe says it."""

    levels: Mapping[Site, Level]
    floats: tuple[Operation, ...]
    precisions: Mapping[str, str]
    noise: float
    reason: str


def search(
    model: Model,
    calibration: Calibration,
    *,
    min_sqnr: float | None = None,
    accuracy_drop: float | None = None,
    metric: Metric | None = None,
    evaluation: Calibration | None = None,
    samples: int = 4,
    output: str | os.PathLike[str] | None = None,
    target: str = "host",
    progress: Progress | None = None,
    **options: Any,
) -> SearchResult:
    """Searches the smallest set of tensors in 16 bits or float that reaches an accuracy goal.

    Args:
        min_sqnr: the goal as SQNR in dB of the outputs against the float model.
        accuracy_drop: the goal as the largest drop of accuracy, 0.005 for half a point. Accuracy is `metric`, or else
            the agreement with the float model: of the top-1 class, where the only float output is one row of scores;
            of the outputs' power otherwise, that is 1 minus relative noise.
        metric: called with the float model and with each candidate.
        evaluation: samples to judge on; else up to 32 of the calibration samples, evenly spread.
        samples: number of calibration samples on which sites are ordered.
        output: recipe file, written after each improvement, so that an interrupted search keeps its best.
        options: those of qcompiler.options but the goal.

    Raises:
        PipelineError: no goal, or two.
        CalibrationError: the data does not fit the model.
    """
    if (min_sqnr is None) == (accuracy_drop is None):
        raise PipelineError("a search needs one goal: min_sqnr in dB, or accuracy_drop")
    chosen, context = choose(
        model, calibration, QuantizeOptions.of(**options), improved=True, target=target, progress=progress
    )
    assert context.calibration is not None
    simulation = Simulation(chosen.module, chosen.store)
    judged = context.calibration if evaluation is None else open_feeds(model, evaluation)
    held = spread_samples(judged, _HELD_OUT) if metric is None and evaluation is None else list(judged)
    goal = _Goal(simulation, held, min_sqnr, accuracy_drop, metric)
    track = context.progress.track
    upgrades = _upgrades(simulation, Meter(simulation, spread_samples(context.calibration, samples)), track)
    best = _Best(goal, upgrades, None if output is None else Path(output))
    interrupted = False
    try:
        for subset in _subsets(best):
            best.offer(subset)
    except KeyboardInterrupt:
        interrupted = True
    recipe = best.recipe()
    confirmed = float("nan")
    if not interrupted:
        confirmed = _confirm(chosen, context, best)
    return SearchResult(recipe, best.met, best.value, goal.wanted, confirmed, tuple(best.history), interrupted)


class _Goal:
    """What a set of levels is worth on the held samples, and what is wanted."""

    def __init__(
        self,
        simulation: Simulation,
        held: Sequence[Feed],
        min_sqnr: float | None,
        accuracy_drop: float | None,
        metric: Metric | None,
    ) -> None:
        if not held:
            raise CalibrationError("the evaluation data is empty, at least one sample is needed")
        self.simulation, self.held = simulation, held
        self.reference = [simulation.run(feed, {}, Level.FLOAT) for feed in held]
        self.noise = Noise(self.reference)
        self._value: Callable[[Mapping[Site, Level]], float] = self._sqnr
        self.wanted = min_sqnr if min_sqnr is not None else 0.0
        if accuracy_drop is not None:
            classes = _scores(self.reference[0])
            if metric is not None:
                exact = metric(lambda feed: simulation.run(feed, {}, Level.FLOAT))
                self._value = lambda levels: metric(lambda feed: simulation.run(feed, levels))
            else:
                exact = 1.0
                self._value = self._power if classes is None else lambda levels: self._agreement(levels, classes)
            self.wanted = exact - accuracy_drop

    def value(self, levels: Mapping[Site, Level]) -> float:
        return self._value(levels)

    def met(self, value: float) -> bool:
        return value >= self.wanted

    def _runs(self, levels: Mapping[Site, Level]) -> Iterable[Outputs]:
        return (self.simulation.run(feed, levels) for feed in self.held)

    def _sqnr(self, levels: Mapping[Site, Level]) -> float:
        return decibel(self.noise(self._runs(levels)))

    def _power(self, levels: Mapping[Site, Level]) -> float:
        return 1 - self.noise(self._runs(levels))

    def _agreement(self, levels: Mapping[Site, Level], output: str) -> float:
        pairs = zip(self.reference, self._runs(levels), strict=True)
        return float(np.mean([wanted[output].argmax() == found[output].argmax() for wanted, found in pairs]))


def _scores(outputs: Outputs) -> str | None:
    """The only float output, if it is one row of scores."""
    names = [name for name, array in outputs.items() if array.dtype.kind == "f"]
    if len(names) != 1:
        return None
    array = outputs[names[0]]
    return names[0] if array.size > 1 and max(array.shape) == array.size else None


def _upgrades(simulation: Simulation, meter: Meter, track: Callable[..., Iterable[Site]]) -> list[_Upgrade]:
    """One upgrade a site, from the most to the least sensitive, then float for activations likewise."""
    make = _Maker(simulation)
    first, further = [], []
    for site in track(simulation.sites, "measuring sensitivity", len(simulation.sites)):
        noise = meter.alone(site)
        if noise <= 0:
            continue
        if site.op is not None:
            first.append(make.float_layer(site, noise))
            continue
        if site.wide is not None:
            first.append(make.sixteen_bits(site, noise))
            noise = meter.alone(site, Level.WIDE)
        further.append(make.float_value(site, noise))
    return [u for row in (first, further) for u in sorted(row, key=lambda upgrade: upgrade.noise, reverse=True)]


class _Maker:
    """Makes the upgrades of sites; `noise` is what the site alone leaves at the outputs before the upgrade."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.together, self.names = units(simulation.module), unique_names(simulation.module)
        self.constants = {site.op: site for site in simulation.sites if site.op is not None}

    def float_layer(self, site: Site, noise: float) -> _Upgrade:
        """Float for the layer of a constant."""
        assert site.op is not None
        reason = f"{site.kind} '{site.name}' alone leaves {decibel(noise):.1f} dB at the outputs"
        return self._upgrade([site.op], {}, {}, noise, reason)

    def sixteen_bits(self, site: Site, noise: float) -> _Upgrade:
        """16 bits for an activation, and float for what reads or writes 8 bits only."""
        narrow = [op for value in site.values for op, _ in eight_bit_ops(value, self.simulation.store)]
        precisions = {self._name(value): "int16" for value in site.values}
        reason = f"activation '{site.name}' alone leaves {decibel(noise):.1f} dB at the outputs"
        return self._upgrade(narrow, {site: Level.WIDE}, precisions, noise, reason)

    def float_value(self, site: Site, noise: float) -> _Upgrade:
        """Float for all ops that write or read an activation."""
        writers = [value.owner for value in site.values if isinstance(value.owner, Operation)]
        readers = [op for value in site.values for op in users(value) if op in self.names]
        reason = f"activation '{site.name}' alone leaves {decibel(noise):.1f} dB at the outputs in 16 bits"
        return self._upgrade([*writers, *readers], {site: Level.FLOAT}, {}, noise, reason)

    def _upgrade(
        self,
        ops: Sequence[Operation],
        levels: Mapping[Site, Level],
        precisions: Mapping[str, str],
        noise: float,
        reason: str,
    ) -> _Upgrade:
        """With `ops`, and those that go with them, in float."""
        floats = tuple(dict.fromkeys(member for op in ops for member in self.together.get(op, [op])))
        held = {self.constants[op]: Level.FLOAT for op in floats if op in self.constants}
        named = {self.names[op]: "float32" for op in floats}
        return _Upgrade({**levels, **held}, floats, {**precisions, **named}, noise, reason)

    def _name(self, value: SSAValue) -> str:
        owner = value.owner
        return self.names[owner] if isinstance(owner, Operation) else self.simulation.names[value]


@dataclass
class _Best:
    """Tries sets of upgrades and keeps the best."""

    goal: _Goal
    upgrades: list[_Upgrade]
    output: Path | None
    chosen: tuple[_Upgrade, ...] = ()
    value: float = float("-inf")
    met: bool = False
    history: list[Step] = field(default_factory=list)

    def offer(self, subset: Sequence[_Upgrade]) -> None:
        levels: dict[Site, Level] = {}
        for upgrade in subset:
            for site, level in upgrade.levels.items():
                levels[site] = Level.FLOAT if Level.FLOAT in (level, levels.get(site)) else level
        value = self.goal.value(levels)
        met = self.goal.met(value)
        self.history.append(Step(len(subset), value, met))
        better = (met, -len(subset), value) if met else (met, value, -len(subset))
        old = (self.met, -len(self.chosen), self.value) if self.met else (self.met, self.value, -len(self.chosen))
        if better > old:
            self.chosen, self.value, self.met = tuple(subset), value, met
            if self.output is not None:
                self.recipe().save(self.output)

    def recipe(self) -> Recipe:
        """The chosen upgrades as rules; float wins where one layer is named twice."""
        rules: dict[str, LayerRule] = {}
        for upgrade in self.chosen:
            for name, precision in upgrade.precisions.items():
                if name not in rules or precision == "float32":
                    sqnr = round(decibel(upgrade.noise), 2)
                    rules[name] = LayerRule(match=name, precision=precision, reason=upgrade.reason, sqnr=sqnr)
        return Recipe(layers=tuple(rules.values()))


def _subsets(best: _Best) -> Iterable[Sequence[_Upgrade]]:
    """Nothing, everything, the shortest row that suffices, then that row without what it does not need."""
    upgrades = best.upgrades
    yield ()
    if best.met:
        return
    yield upgrades
    if not best.met:
        return
    low, high = 0, len(upgrades)  # `low` upgrades fail, `high` suffice
    while high - low > 1:
        middle = (low + high) // 2
        yield upgrades[:middle]
        if best.history[-1].met:
            high = middle
        else:
            low = middle
    kept = list(best.chosen)
    for upgrade in reversed(best.chosen):
        fewer = [u for u in kept if u is not upgrade]
        yield fewer
        if best.history[-1].met:
            kept = fewer


def _confirm(chosen: Model, context: CompilerContext, best: _Best) -> float:
    """SQNR in dB of the integer program, by the interpreter, on two samples; the module is changed."""
    for upgrade in best.chosen:
        for site, level in upgrade.levels.items():
            if level is Level.WIDE and site.wide is not None:
                for value in site.values:
                    set_value_type(value, site.wide, f"16 bits: {upgrade.reason}")
        for op in upgrade.floats:
            make_float(op, upgrade.reason)
            restore_originals(op, context.store)
    drop_unused_types(chosen.module)
    PassManager((*parse("insert-qdq"), *lowering_passes())).run(chosen, context)
    found = [interpret(chosen, feed) for feed in best.goal.held[:2]]
    return decibel(Noise(best.goal.reference[:2])(found))
