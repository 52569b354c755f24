"""Pass `assign-precision`: 16 bits, or float, for what 8 bits would spoil, found by measuring.

Every activation's cost is the noise it alone makes at the outputs, in simulation. Where its SQNR is below a threshold
and the ops around it allow, it is stored in 16 bits; where they do not, the layers in its way stay float as long as
these are a small share of the multiply-adds. One threshold serves all models: well-behaved networks have no activation
below it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp, StringAttr, UnitAttr
from xdsl.ir import Operation

from qcompiler.arithmetic.noise import decibel, noise_of
from qcompiler.calibration.cache import SavedCalibration
from qcompiler.errors import CalibrationError, PipelineError
from qcompiler.ir.pointwise import Pointwise
from qcompiler.ir.values import body, users
from qcompiler.passes.canonicalize import macs
from qcompiler.passes.decompose_recurrent import STATE
from qcompiler.passes.integer_rules import eight_bit_ops
from qcompiler.passes.measure import Meter, spread_samples
from qcompiler.passes.scheme import POLICIES
from qcompiler.passes.sites import (
    Level,
    Simulation,
    Site,
    record_number,
    set_value_type,
    typed_values,
    units,
)
from qcompiler.passes.wishes import wish_of
from qcompiler.pipeline import CompilerContext, QuantPass, Stage

_RECURRENCE = 15.0
"""dB by which thresholds are higher in models with recurrent layers, for the noise of some thirty steps may add up."""

_MARKS = ("q.integer", "q.weight", "q.why_weight", "q.operands")


@dataclass(frozen=True)
class AssignPrecision(QuantPass):
    """Stores activations that 8 bits would spoil in 16, or leaves the layers around them in float, as measured.

    `samples`: number of calibration samples to measure on. `threshold`: SQNR in dB, at the outputs, of one activation
    quantized alone, below which it gets 16 bits, or its layers float if these have at most the share `float-share` of
    the multiply-adds; below `severe` dB the share `severe-share`; `float-macs` of them in any case. `free-threshold`:
    the same for activations that 16 bits cost nothing but memory (no table reads them, nothing has to become float),
    and for the state of recurrent layers, whose errors add up over the steps. `policy` mixed: layers whose rounded
    weights alone are below the threshold stay float too, as far as this allows.
    """

    name: ClassVar[str] = "assign-precision"
    requires: ClassVar = (Stage.CHOSEN,)
    policy: str = "auto"
    samples: int = 4
    threshold: float = 25.0
    free_threshold: float = 45.0
    float_share: float = 0.05
    severe: float = 15.0
    severe_share: float = 0.5
    float_macs: int = 1_000_000

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        if isinstance(ctx.calibration, SavedCalibration):
            ctx.notes.append(f"{ctx.calibration.source} holds no samples to measure on: nothing was given 16 bits")
            return
        if self.policy not in POLICIES:
            raise PipelineError(f"unknown policy '{self.policy}'; known: {', '.join(POLICIES)}")
        if ctx.calibration is None:
            raise CalibrationError(f"{ctx.source}: assign-precision needs calibration data; give it with --calibration")
        simulation = Simulation(module, ctx.store)
        if simulation.sites:
            meter = Meter(simulation, spread_samples(ctx.calibration, self.samples))
            _Assigner(self, ctx, module, meter).run()


@dataclass
class _Assigner:
    options: AssignPrecision
    ctx: CompilerContext
    module: ModuleOp
    meter: Meter
    floated: list[Operation] = field(default_factory=list)
    widened: list[Site] = field(default_factory=list)

    def run(self) -> None:
        recurrent = any(STATE in op.attributes for op in body(self.module).ops)
        allowance = _RECURRENCE if recurrent else 0.0
        self.threshold = self.options.threshold + allowance
        self.free_threshold = self.options.free_threshold + allowance
        self.bar, self.free_bar = noise_of(self.threshold), noise_of(self.free_threshold)
        self.pointwise = Pointwise.of(self.module, self.ctx.store)
        self.units = units(self.module)
        self.total = sum(macs(op) for op in body(self.module).ops) or 1
        sites = self.meter.simulation.sites
        weights = self.options.policy == "mixed"
        noise = {
            site: self._measured(site, recurrent)
            for site in self.ctx.progress.track(sites, "measuring sensitivity", len(sites))
            if site.op is None or weights
        }
        for site, found in noise.items():
            record_number(site, "sensitivity", decibel(found))
        for site in sorted(noise, key=noise.__getitem__, reverse=True):
            if _decided(site):
                continue
            if noise[site] >= self.bar:
                self._improve(site, noise[site])
            elif noise[site] >= self.free_bar and self._is_free(site):
                self._widen(site, f"{_reason(noise[site])}, and 16 cost next to nothing here")
        drop_unused_types(self.module)
        if self.widened or self.floated:
            self.ctx.notes.append(
                f"{len(self.widened)} tensors in 16 bits and {len(self.floated)} operations in float: in 8 bits each "
                f"would leave less than {self.threshold:g} dB at the outputs, or "
                f"{self.free_threshold:g} where 16 bits cost next to nothing"
            )

    def _measured(self, site: Site, recurrent: bool) -> float:
        """Noise of a site alone; on one sample where that is clear, but the samples of a stream are too unlike."""
        if recurrent:
            return self.meter.alone(site)
        return self.meter.screened(site, self.free_bar if self._is_free(site) else self.bar)

    def _is_free(self, site: Site) -> bool:
        """Whether 16 bits at a site need no table of 65,536 entries and no op in float, or it is a recurrent state."""
        if site.op is not None or site.wide is None or site.obstacle or self.options.policy not in ("auto", "mixed"):
            return False
        if any(isinstance(v.owner, Operation) and STATE in v.owner.attributes for v in site.values):
            return True
        return not any(
            self.pointwise.roots.get(r) in site.values for v in site.values for u in users(v) for r in u.results
        )

    def _improve(self, site: Site, noise: float) -> None:
        reason = _reason(noise)
        if site.op is not None:
            self._keep_float([site.op], noise, f"its weights: {reason}")
            return
        if site.wide is not None and self.meter.alone(site, Level.WIDE) < min(self.bar, noise / 2):
            narrow = [op for value in site.values for op, _ in eight_bit_ops(value, self.ctx.store)]
            if self._keep_float(narrow, noise, f"reads or writes '{site.name}': {reason}"):
                self._widen(site, reason)
                return
        around = [op for value in site.values for op in (value.owner, *users(value))]
        self._keep_float(around, noise, f"around '{site.name}': {reason}")

    def _widen(self, site: Site, reason: str) -> None:
        assert site.wide is not None
        for value in site.values:
            set_value_type(value, site.wide, f"16 bits: {reason}")
        self.widened.append(site)

    def _keep_float(self, ops: Iterable[object], noise: float, reason: str) -> bool:
        """Whether these ops, with those that share their units, are few enough to stay float; they do then."""
        wanted = dict.fromkeys(
            member for op in ops if isinstance(op, Operation) and op in self.units for member in self.units[op]
        )
        new = [op for op in wanted if op not in self.floated]
        severe = decibel(noise) < self.options.severe
        share = self.options.severe_share if severe else self.options.float_share
        allowed = max(share * self.total, self.options.float_macs)
        if (new and sum(macs(op) for op in (*self.floated, *new)) > allowed) or any(
            wish_of(op).precision for op in new
        ):
            return False
        for op in new:
            make_float(op, reason)
        self.floated += new
        return True


def _reason(noise: float) -> str:
    return f"alone in 8 bits it leaves {decibel(noise):.1f} dB at the outputs"


def make_float(op: Operation, reason: str) -> None:
    """Takes an op's integer form away; the types of its results stay, for integer readers."""
    for mark in _MARKS:
        op.attributes.pop(mark, None)
    op.attributes["q.float"] = StringAttr(reason)


def drop_unused_types(module: ModuleOp) -> None:
    """Takes the types away from values that no integer op writes or reads any more."""
    for value in typed_values(module):
        around = [value.owner, *users(value)]
        if not any(isinstance(op, Operation) and "q.integer" in op.attributes for op in around):
            set_value_type(value, UnitAttr(), "")


def _decided(site: Site) -> bool:
    """Whether a recipe says which precision the site has."""
    ops = [site.op] if site.op is not None else [v.owner for v in site.values]
    return any(isinstance(op, Operation) and wish_of(op).precision for op in ops)
