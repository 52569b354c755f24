"""How a type is chosen for one tensor: policies, symmetric against affine, and the reason in words and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qcompiler.arithmetic.affine import (
    along_axis,
    choose_affine,
    choose_affine_per_channel,
    choose_symmetric,
    storage_range,
)
from qcompiler.arithmetic.noise import decibel
from qcompiler.calibration.expected import Expected
from qcompiler.errors import PipelineError
from qcompiler.ir.quant_types import UniformType

POLICIES = ("auto", "symmetric", "affine", "mixed")
SYMMETRIC_UP_TO = 1.1
"""`auto` takes symmetric if its expected squared error is at most this many times the affine one's."""

WIDE_BELOW = 20.0
"""dB of expected SQNR in 8 bits below which `auto` stores a tensor in 16, where the ops around it allow."""

GAIN_FOR_COST = 60.0
"""dB by which a zero point of the weights must lower their error for each unit of relative run time that it costs:
one bit, 6 dB, for a tenth."""

_SMALLEST_MULTIPLIER = 2.0**-24
"""A channel's requantize multiplier is kept at least this large; what it drops is far below one stored unit."""

_LARGEST_BIAS = 2.0**29
"""A channel's stored bias is kept at most this large, which leaves room for the products in int32."""


@dataclass(frozen=True)
class Choice:
    """A type, the reason for it, and the figures behind: ends of the range, expected SQNR in dB of each candidate."""

    type: UniformType
    why: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    type: UniformType
    noise: float
    """Expected squared error over mean square, where the tensor is used."""
    lo: float
    hi: float


def candidate(
    expected: Expected, method: str, storage: str, symmetric: bool, limits: tuple[float, float] | None = None
) -> Candidate:
    """The symmetric or affine type with the range of a method, or within `limits`, and its expected noise."""
    qmin, qmax = storage_range(storage)
    lo, hi = limits or expected.range(method, qmin, qmax, symmetric)
    scale, zero_point = (choose_symmetric if symmetric else choose_affine)(lo, hi, qmin, qmax)
    noise = expected.noise(float(scale), zero_point, qmin, qmax)
    return Candidate(UniformType.make(storage, scale, zero_point), noise, lo, hi)


def choose_activation(
    expected: Expected,
    method: str,
    storage: str,
    policy: str,
    tolerance: float = SYMMETRIC_UP_TO,
    limits: tuple[float, float] | None = None,
) -> Choice:
    """The type of an activation under a policy, with the range `limits` if that is given.

    `auto` takes symmetric unless affine's expected error is lower by more than the factor `tolerance`; `mixed` takes
    affine for one-sided tensors (ReLU, sigmoid) and symmetric for the others.

    Raises:
        PipelineError: unknown policy.
    """
    if policy not in POLICIES:
        raise PipelineError(f"unknown policy '{policy}'; known: {', '.join(POLICIES)}")
    symmetric = candidate(expected, method, storage, True, limits)
    affine = candidate(expected, method, storage, False, limits)
    ratio = symmetric.noise / affine.noise if affine.noise > 0 else 1.0
    if policy == "auto":
        take = ratio <= tolerance
        reason = f"expected error of symmetric is {ratio:.2f} of affine's, taken up to {tolerance:.2f}"
    elif policy == "mixed":
        take = expected.minimum < 0 < expected.maximum
        reason = "two-sided" if take else "one-sided"
    else:
        take = policy == "symmetric"
        reason = f"policy {policy}"
    chosen = symmetric if take else affine
    scheme = "symmetric" if take else "affine"
    power = f", {decibel(chosen.noise):.1f} dB" if chosen.noise > 0 else ""
    seen = " of what its tables make of it" if expected.through_functions else ""
    source = "recipe's" if limits else method
    why = f"{scheme}: {reason}; {source} range {chosen.lo:.4g}..{chosen.hi:.4g}{power}{seen}"
    numbers = {"lo": chosen.lo, "hi": chosen.hi}
    numbers |= {f"{n}_db": decibel(c.noise) for n, c in (("symmetric", symmetric), ("affine", affine)) if c.noise > 0}
    if chosen.noise > 0:
        numbers["db"] = decibel(chosen.noise)
    return Choice(chosen.type, why, numbers)


def sixteen_bits(expected: Expected, eight: Choice, reason: str, limits: tuple[float, float] | None = None) -> Choice:
    """The symmetric type of 16 bits over all values seen, or `limits`, in place of the choice of 8 bits."""
    chosen = candidate(expected, "minmax", "i16", True, limits or (expected.minimum, expected.maximum))
    numbers = {**eight.numbers, "lo": chosen.lo, "hi": chosen.hi}
    if chosen.noise > 0:
        numbers["db"] = decibel(chosen.noise)
    return Choice(chosen.type, f"16 bits: {reason}", numbers)


def choose_weight(
    weight: np.ndarray,
    axis: int,
    per_channel: bool,
    x_scale: np.ndarray,
    y_scale: np.ndarray,
    bias: np.ndarray | None,
    zero_point_cost: float = np.inf,
    narrow: bool = False,
) -> tuple[Choice, list[int]]:
    """Type of a weight, per output channel on `axis` or per tensor: symmetric in -127..127 unless affine is worth it.

    `zero_point_cost` is the run time of a product whose weights have zero points relative to one without. With
    `narrow` affine weights too stay out of -128.
    `x_scale` and `y_scale` are one scale, or one for each output channel. Where a channel's bias would leave int32, or
    the channel is dead, its scale is widened; the indices of such channels are the second result. The numbers hold
    the expected SQNR of the weight (`weight_db`), and what an affine type would have (`weight_affine_db`).
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight.astype(np.float64)).max(axis=others if per_channel else None, initial=0.0)
    scale = np.atleast_1d(largest) / 127
    least = _SMALLEST_MULTIPLIER * np.atleast_1d(y_scale / x_scale)
    floor = np.broadcast_to(least if per_channel else least.max(), scale.shape)
    if bias is not None:
        needed = np.abs(bias.astype(np.float64)) / (x_scale * _LARGEST_BIAS)
        floor = np.maximum(floor, needed if per_channel else needed.max(initial=0.0))
    widened = np.flatnonzero(scale < floor)
    scales = np.maximum(scale, floor).astype(np.float32)
    granularity = "per channel" if per_channel else "per tensor"
    along_channels = axis if per_channel else None

    def kind_of(steps: np.ndarray, zeros: np.ndarray | int, low: int) -> UniformType:
        parts = (steps, zeros) if per_channel else (steps[0], np.ravel(zeros)[0])
        return UniformType.make("i8", *parts, axis=along_channels, storage_range=(low, 127))

    kind = kind_of(scales, 0, -127)
    real = weight.astype(np.float64)
    power = float(np.mean(np.square(real))) if real.size else 0.0
    numbers: dict[str, float] = {}
    affine_kind, lowest = None, -127 if narrow else -128
    if power > 0:
        ends = (real.min(axis=others if per_channel else None), real.max(axis=others if per_channel else None))
        affine = choose_affine_per_channel(*map(np.atleast_1d, ends), lowest, 127)
        affine_scales = np.maximum(affine[0], floor).astype(np.float32)
        if np.array_equal(affine_scales, affine[0]):
            affine_kind = kind_of(affine_scales, affine[1], lowest)
        types = {"weight": (scales, np.zeros(scales.shape, np.int64), -127), "weight_affine": (*affine, lowest)}
        for name, (steps, zeros, low) in types.items():
            along = along_axis(steps.astype(np.float64), axis, real.ndim), along_axis(zeros, axis, real.ndim)
            stored = np.clip(np.rint(real / along[0]) + along[1], low, 127)
            noise = float(np.mean(np.square((stored - along[1]) * along[0] - real))) / power
            if noise > 0:
                numbers[f"{name}_db"] = decibel(noise)
    gain = numbers.get("weight_affine_db", 0.0) - numbers.get("weight_db", 0.0)
    cost = f"{zero_point_cost - 1:.0%} of run time" if np.isfinite(zero_point_cost) else "a sum at run time"
    if affine_kind is not None and gain >= GAIN_FOR_COST * (zero_point_cost - 1):
        why = f"affine {granularity}: {gain:+.1f} dB against symmetric, for {cost}"
        return Choice(affine_kind, why, {**numbers, "weight_db": numbers["weight_affine_db"]}), []
    why = f"symmetric {granularity} in -127..127: affine would be {gain:+.1f} dB, but cost {cost}"
    return Choice(kind, why, numbers), widened.tolist()


def choose_constant(array: np.ndarray, storage: str, symmetric: bool = False) -> Choice:
    """Per-tensor type, affine unless `symmetric`, over the exact range of a constant operand of a sum or product."""
    qmin, qmax = storage_range(storage)
    lo, hi = float(array.min(initial=0.0)), float(array.max(initial=0.0))
    scale, zero_point = (choose_symmetric if symmetric else choose_affine)(lo, hi, qmin, qmax)
    scheme = "symmetric" if symmetric else "affine"
    return Choice(UniformType.make(storage, scale, zero_point), f"{scheme}: constant in {lo:.4g}..{hi:.4g}")
