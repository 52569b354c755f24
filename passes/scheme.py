"""How a type is chosen for one tensor: policies, symmetric against affine, and the reason in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qcompiler.arithmetic.affine import choose_affine, choose_symmetric, storage_range
from qcompiler.calibration.ranges import expected_error, range_from
from qcompiler.calibration.statistics import TensorStatistics
from qcompiler.errors import PipelineError
from qcompiler.ir.quant_types import UniformType

POLICIES = ("auto", "symmetric", "affine", "mixed")
SYMMETRIC_UP_TO = 1.1
"""`auto` takes symmetric if its expected squared error is at most this many times the affine one's."""

_SMALLEST_MULTIPLIER = 2.0**-24
"""A channel's requantize multiplier is kept at least this large; what it drops is far below one stored unit."""

_LARGEST_BIAS = 2.0**29
"""A channel's stored bias is kept at most this large, which leaves room for the products in int32."""


def one_channel(statistics: TensorStatistics) -> TensorStatistics:
    """The statistics without the distinction of channels, so that tensors of unlike shapes merge."""
    return statistics.one_channel()


@dataclass(frozen=True)
class Choice:
    """A type and the reason for it."""

    type: UniformType
    why: str


@dataclass(frozen=True)
class Candidate:
    type: UniformType
    error: float
    """Expected squared error, from the histogram."""
    lo: float
    hi: float


def candidate(statistics: TensorStatistics, method: str, storage: str, symmetric: bool) -> Candidate:
    """The symmetric or affine type for a tensor with this range method, and its expected error."""
    qmin, qmax = storage_range(storage)
    lo, hi = range_from(statistics, method, qmin, qmax, symmetric)
    scale, zero_point = (choose_symmetric if symmetric else choose_affine)(lo, hi, qmin, qmax)
    error = expected_error(statistics, scale, zero_point, qmin, qmax)
    return Candidate(UniformType.make(storage, scale, zero_point), error, lo, hi)


def choose_activation(
    statistics: TensorStatistics, method: str, storage: str, policy: str, tolerance: float = SYMMETRIC_UP_TO
) -> Choice:
    """The type of an activation under a policy.

    `auto` takes symmetric unless affine's expected error is lower by more than the factor `tolerance`; `mixed` takes
    affine for one-sided tensors (ReLU, sigmoid) and symmetric for the others.

    Raises:
        PipelineError: unknown policy.
    """
    if policy not in POLICIES:
        raise PipelineError(f"unknown policy '{policy}'; known: {', '.join(POLICIES)}")
    symmetric = candidate(statistics, method, storage, True)
    affine = candidate(statistics, method, storage, False)
    ratio = symmetric.error / affine.error if affine.error > 0 else 1.0
    if policy == "auto":
        take = ratio <= tolerance
        reason = f"expected error of symmetric is {ratio:.2f} of affine's, taken up to {tolerance:.2f}"
    elif policy == "mixed":
        take = statistics.minimum < 0 < statistics.maximum
        reason = "two-sided" if take else "one-sided"
    else:
        take = policy == "symmetric"
        reason = f"policy {policy}"
    chosen = symmetric if take else affine
    scheme = "symmetric" if take else "affine"
    power = statistics.mean_square
    decibel = f", {10 * np.log10(power / chosen.error):.1f} dB" if chosen.error > 0 and power > 0 else ""
    why = f"{scheme}: {reason}; {method} range {chosen.lo:.4g}..{chosen.hi:.4g}{decibel}"
    return Choice(chosen.type, why)


def choose_weight(
    weight: np.ndarray,
    axis: int,
    per_channel: bool,
    x_scale: float,
    y_scale: float,
    bias: np.ndarray | None,
) -> tuple[UniformType, str, list[int]]:
    """Symmetric type of a weight in -127..127, per output channel on `axis` or per tensor.

    Where a channel's bias would leave int32, or the channel is dead, its scale is widened; the indices of such
    channels are the third result.
    """
    others = tuple(i for i in range(weight.ndim) if i != axis)
    largest = np.abs(weight.astype(np.float64)).max(axis=others if per_channel else None, initial=0.0)
    scale = np.atleast_1d(largest) / 127
    floor = np.full_like(scale, _SMALLEST_MULTIPLIER * y_scale / x_scale)
    if bias is not None:
        needed = np.abs(bias.astype(np.float64)) / (x_scale * _LARGEST_BIAS)
        floor = np.maximum(floor, needed if per_channel else needed.max(initial=0.0))
    widened = np.flatnonzero(scale < floor)
    scales = np.maximum(scale, floor).astype(np.float32)
    granularity = "per channel" if per_channel else "per tensor"
    why = f"symmetric {granularity} in -127..127: a weight's zero point would cost a sum at run time"
    limits = (-127, 127)
    if per_channel:
        return UniformType.make("i8", scales, axis=axis, storage_range=limits), why, widened.tolist()
    return UniformType.make("i8", scales[0], storage_range=limits), why, widened.tolist()


def choose_constant(array: np.ndarray, storage: str, symmetric: bool = False) -> Choice:
    """Per-tensor type, affine unless `symmetric`, over the exact range of a constant operand of a sum or product."""
    qmin, qmax = storage_range(storage)
    lo, hi = float(array.min(initial=0.0)), float(array.max(initial=0.0))
    scale, zero_point = (choose_symmetric if symmetric else choose_affine)(lo, hi, qmin, qmax)
    scheme = "symmetric" if symmetric else "affine"
    return Choice(UniformType.make(storage, scale, zero_point), f"{scheme}: constant in {lo:.4g}..{hi:.4g}")
