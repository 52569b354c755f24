"""Pass `correct-bias-empirical`: takes the shift of each layer's mean, seen on samples, out of its bias.

M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, appendix D: one layer
at a time, from the inputs to the outputs, with everything in front of it quantized and corrected already, so that the
shift includes what rounding and clipping of activations do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from qcompiler.arithmetic.noise import decibel
from qcompiler.errors import CalibrationError
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.values import body, shape
from qcompiler.passes.correct_bias import followed
from qcompiler.passes.integer_rules import present
from qcompiler.passes.measure import Feed, Meter, spread_samples
from qcompiler.passes.originals import replace_constant
from qcompiler.passes.sites import Level, Simulation
from qcompiler.pipeline import CompilerContext, QuantPass, Stage

_NAME = "bias.corrected"


@dataclass(frozen=True)
class CorrectBiasEmpirical(QuantPass):
    """Corrects biases of Conv and Gemm, one after the other, by the mean error seen on samples; not prediction layers.

    `samples`: number of calibration samples. Biases stay as they were where the outputs would not gain.
    """

    name: ClassVar[str] = "correct-bias-empirical"
    requires: ClassVar = (Stage.CHOSEN,)
    samples: int = 16

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        if ctx.calibration is None:
            raise CalibrationError(
                f"{ctx.source}: correct-bias-empirical needs calibration data; give it with --calibration"
            )
        heavy = followed(module)
        layers = [
            op
            for op in body(module).ops
            if op_name(op) in ("Conv", "Gemm") and "q.weight" in op.attributes and op in heavy
        ]
        if not layers:
            return
        for op in layers:
            if present(op, 2) is None:
                replace_constant(op, 2, np.zeros(_channels(op), np.float32), _NAME, ctx.store)
        samples = spread_samples(ctx.calibration, self.samples)
        simulation = Simulation(module, ctx.store, [op.results[0] for op in layers])
        biases = _corrected(ctx, simulation, layers, samples)
        meter = Meter(simulation, samples)
        before, after = meter.noise({}), meter.noise({}, biases=biases)
        change = f"{decibel(before):.1f} to {decibel(after):.1f} dB at the outputs on {len(samples)} samples"
        if after < before:
            for op, bias in biases.items():
                replace_constant(op, 2, bias, _NAME, ctx.store)
            ctx.notes.append(f"empirical bias correction of {len(layers)} layers: {change}")
        else:
            ctx.notes.append(f"empirical bias correction was left out, the outputs would not gain: {change}")


def _corrected(
    ctx: CompilerContext, simulation: Simulation, layers: list[Operation], samples: list[Feed]
) -> dict[Operation, np.ndarray]:
    """The corrected bias of each layer."""
    values = [op.results[0] for op in layers]
    exact = [np.zeros(_channels(op)) for op in layers]
    for feed in samples:
        for total, array in zip(exact, simulation.observe(feed, values, {}, Level.FLOAT), strict=True):
            total += _channel_means(array)
    biases: dict[Operation, np.ndarray] = {}
    for op, wanted in zip(ctx.progress.track(layers, "correcting biases", len(layers)), exact, strict=True):
        found = np.zeros_like(wanted)
        for feed in samples:
            found += _channel_means(simulation.observe(feed, op.results, {}, biases=biases)[0])
        biases[op] = (simulation.bias(op) - (found - wanted) / len(samples)).astype(np.float32)
    return biases


def _channels(op: Operation) -> int:
    return shape(op.results[0])[1]


def _channel_means(array: np.ndarray) -> np.ndarray:
    """Means over all axes but 1, that of the channels of Conv and of the columns of Gemm."""
    return array.mean(axis=tuple(i for i in range(array.ndim) if i != 1), dtype=np.float64)
