"""One scale a channel for activations that depthwise convolutions alone read, where it takes noise out of their sums.

The scales fold into the weights on both sides, so they cost nothing at run time. All channels share the zero point.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import numpy as np
from xdsl.ir import Operation, SSAValue

from qcompiler.calibration.statistics import TensorStatistics
from qcompiler.ir.pointwise import Pointwise, op_name
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import integer, shape, users
from qcompiler.passes.canonicalize import constant_array

SMALLEST_GAIN = 3.0
"""dB of noise at the depthwise convolutions' outputs below which one scale serves all channels."""

_FINEST = 2.0**-10
"""No channel's scale is smaller than this many times the common one: dead channels get no absurd multipliers."""


@dataclass(frozen=True)
class ChannelScales:
    type: UniformType
    gain: float
    """dB less noise in the sums of the readers than with the common type."""


def depthwise_readers(
    value: SSAValue, integer_ops: Container[Operation], pointwise: Pointwise, inner: Container[SSAValue]
) -> list[Operation]:
    """The depthwise convolutions that alone read a value which a convolution or a table makes; else empty."""
    producer = value.owner
    if not isinstance(producer, Operation) or producer not in integer_ops:
        return []
    source = producer
    if op_name(source) in ("Relu", "Clip") and source.operands[0] in inner:
        source = source.operands[0].owner
    if op_name(source) != "Conv" and value not in pointwise.roots:
        return []
    readers = users(value)
    suitable = all(
        u in integer_ops
        and op_name(u) == "Conv"
        and u.operands[0] is value
        and integer(u.properties.get("group"), 1) == shape(value)[1] > 1
        for u in readers
    )
    return readers if suitable else []


def channel_scales(
    statistics: TensorStatistics, common: UniformType, readers: list[Operation], store: ConstantStore
) -> ChannelScales | None:
    """Scales of channels along axis 1, and the zero point that makes least noise with them; None if it gains little.

    The noise of a channel is `scale**2` times the squares of the filters that read it.
    """
    lo = np.minimum(statistics.channel_minimum.astype(np.float64), 0.0)
    hi = np.maximum(statistics.channel_maximum.astype(np.float64), 0.0)
    if statistics.channel_axis != 1 or not np.isfinite(lo).all() or not np.isfinite(hi).all():
        return None
    weights = [constant_array(u.operands[1], store) for u in readers]
    power = sum(np.square(w.astype(np.float64)).reshape(len(lo), -1).sum(axis=1) for w in weights if w is not None)
    zeros = np.arange(common.qmin, common.qmax + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = np.where(hi > 0, hi / (common.qmax - zeros)[:, None], 0.0)
        below = np.where(lo < 0, -lo / (zeros - common.qmin)[:, None], 0.0)
    scales = np.maximum(np.maximum(above, below), _FINEST * common.scale)
    noise = np.square(scales) @ power
    best = int(np.argmin(noise))
    before = float(common.scale) ** 2 * float(np.sum(power))
    if not np.isfinite(noise[best]) or noise[best] <= 0:
        return None
    gain = 10 * float(np.log10(before / noise[best]))
    if gain < SMALLEST_GAIN:
        return None
    kind = UniformType.make(common.storage, scales[best].astype(np.float32), np.full(len(lo), zeros[best]), axis=1)
    return ChannelScales(kind, gain)
