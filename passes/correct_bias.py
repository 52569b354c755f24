"""Pass `correct-bias`: the mean error that rounding of weights puts on a layer is taken out of its bias.

Analytic form of bias correction: M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias
Correction", 2019, section 4.2, with the input means of calibration: `b -= sum((w_q - w) * E[x])`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from qcompiler.arithmetic.affine import dequantize, quantize
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.values import body, integer, value_names
from qcompiler.passes.calibrate import load_statistics
from qcompiler.passes.canonicalize import constant_array
from qcompiler.passes.fusion import before_products
from qcompiler.passes.integer_rules import present
from qcompiler.passes.originals import original, replace_constant
from qcompiler.pipeline import CompilerContext, QuantPass, Stage


@dataclass(frozen=True)
class CorrectBias(QuantPass):
    """Takes the mean error of rounded weights out of the biases of Conv and Gemm; prediction layers are left alone."""

    name: ClassVar[str] = "correct-bias"
    requires: ClassVar = (Stage.CHOSEN,)

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        names = value_names(module)
        behind = followed(module)
        for op in list(body(module).ops):
            kind = op.attributes.get("q.weight")
            if op_name(op) not in ("Conv", "Gemm") or not isinstance(kind, UniformType) or op not in behind:
                continue
            statistics = load_statistics(ctx.store, names[op.operands[0]])
            if statistics is not None:
                self._correct(ctx, op, kind, statistics.channel_mean)

    @staticmethod
    def _correct(ctx: CompilerContext, op: Operation, kind: UniformType, mean: np.ndarray) -> None:
        weight = constant_array(op.operands[1], ctx.store)
        bias = present(op, 2)
        old = np.zeros(1, np.float32) if bias is None else constant_array(bias, ctx.store)
        assert weight is not None and old is not None
        scales, zeros, axis = kind.spread(weight.shape)
        stored = quantize(weight, scales, zeros, kind.qmin, kind.qmax, kind.dtype, axis)
        error = dequantize(stored, scales, zeros, axis).astype(np.float64) - original(op, 1, ctx.store)
        if op_name(op) == "Conv":
            rows = error.reshape(weight.shape[0], weight.shape[1], -1).sum(axis=2)
            group = integer(op.properties.get("group"), 1)
            inputs = mean.reshape(group, -1)
            if mean.size != group * weight.shape[1]:
                return
            shift = (rows.reshape(group, -1, weight.shape[1]) * inputs[:, None, :]).sum(axis=2).reshape(-1)
        elif mean.size == weight.shape[0]:
            shift = mean @ error
        else:
            return
        corrected = (old - shift).astype(np.float32)
        base = op.operands[1].owner.resource  # type: ignore[union-attr]
        replace_constant(op, 2, corrected, f"{base}.bias.corrected", ctx.store)


def followed(module: ModuleOp) -> set[Operation]:
    """Convolutions and matrix products that another one follows: all but the prediction layers."""
    ahead = before_products(module)
    return {op for op in body(module).ops if any(r in ahead for r in op.results)}
