"""Pass `smooth`: outlying channels in front of matrix products go from the activations into the weights.

G. Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models" (ICML 2023):
channel `j` is divided by `s_j = max|x_j|**alpha / max|w_j|**(1 - alpha)` in the normalization in front and the weights
are multiplied by it. Factors are rounded to powers of two here, so that the float function stays the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from qcompiler.errors import CalibrationError, PipelineError
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import body, shape, users, value_names
from qcompiler.passes.calibrate import load_statistics
from qcompiler.passes.canonicalize import constant_array
from qcompiler.passes.equalize import set_constant
from qcompiler.passes.integer_rules import present
from qcompiler.pipeline import CompilerContext, QuantPass, Stage


@dataclass(frozen=True)
class Smooth(QuantPass):
    """Moves outlying channels of normalized activations into the weights of the products that read them.

    `alpha`: 0 leaves the work to the activations, 1 to the weights. Ranges change, so `calibrate` has to run again.
    """

    name: ClassVar[str] = "smooth"
    requires: ClassVar = (Stage.CALIBRATED,)
    ensures: ClassVar = Stage.FLOAT
    alpha: float = 0.5

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        if not 0 <= self.alpha <= 1:
            raise PipelineError(f"smooth: alpha must lie in 0..1, found {self.alpha}")
        names, done = value_names(module), 0
        values = [op.results[0] for op in body(module).ops if len(op.results) == 1]
        for value in values:
            readers = users(value)
            if not readers or not all(_is_product(r, value, ctx.store) for r in readers):
                continue
            affine = _affine(value, ctx.store)
            statistics = load_statistics(ctx.store, names[value])
            if affine is None:
                continue
            if statistics is None:
                raise CalibrationError(f"{ctx.source}: no statistics of '{names[value]}'; run calibrate first")
            if statistics.channels != shape(value)[-1] or statistics.channels == 1 or not statistics.count:
                continue
            largest = np.maximum(np.abs(statistics.channel_minimum), np.abs(statistics.channel_maximum))
            weights = [constant_array(r.operands[1], ctx.store) for r in readers]
            heaviest = np.max([np.abs(w).max(axis=1) for w in weights if w is not None], axis=0)
            factor = _factors(largest, heaviest, self.alpha)
            for op, index in affine:
                _scale(op, index, 1 / factor, ctx.store)
            for reader in readers:
                _scale(reader, 1, factor[:, None], ctx.store)
            done += 1
        if done:
            ctx.notes.append(f"smooth scaled the channels of {done} tensors in front of matrix products")


def _is_product(op: Operation, value: SSAValue, store: ConstantStore) -> bool:
    if op_name(op) not in ("MatMul", "Gemm") or op.operands[0] is not value:
        return False
    weight = constant_array(op.operands[1], store)
    return weight is not None and weight.ndim == 2 and weight.shape[0] == shape(value)[-1]


def _affine(value: SSAValue, store: ConstantStore) -> list[tuple[Operation, int]] | None:
    """Constant operands that scale and shift the last axis of a value, and can take its factors; None: there are none.

    They are those of LayerNormalization, or of Mul, or of Mul and Add, each read by the next alone.
    """
    op = value.owner
    if not isinstance(op, Operation):
        return None
    if op_name(op) == "LayerNormalization":
        found = [(op, i) for i in (1, 2) if present(op, i) is not None]
        return found if all(_vector(o.operands[i], value, store) for o, i in found) else None
    found = []
    if op_name(op) == "Add":
        index = next((i for i in (0, 1) if _vector(op.operands[i], value, store)), None)
        if index is None or len(users(op.operands[1 - index])) != 1:
            return None
        found, op = [(op, index)], op.operands[1 - index].owner
    if not isinstance(op, Operation) or op_name(op) != "Mul" or shape(op.results[0]) != shape(value):
        return None
    index = next((i for i in (0, 1) if _vector(op.operands[i], value, store)), None)
    return None if index is None else [*found, (op, index)]


def _vector(operand: SSAValue, value: SSAValue, store: ConstantStore) -> bool:
    """Whether an operand is a constant along the last axis of a value."""
    array, channels = constant_array(operand, store), shape(value)[-1]
    return array is not None and array.size == channels and array.shape[-1:] == (channels,)


def _scale(op: Operation, index: int, factor: np.ndarray, store: ConstantStore) -> None:
    array = constant_array(op.operands[index], store)
    assert array is not None
    base = op.operands[index].owner.resource  # type: ignore[union-attr]
    set_constant(op, index, (array * factor).astype(np.float32), f"{base}.smooth", store)


def _factors(activation: np.ndarray, weight: np.ndarray, alpha: float) -> np.ndarray:
    """Powers of two next to `activation**alpha / weight**(1 - alpha)`; 1 for dead channels."""
    live = (activation > 0) & (weight > 0)
    x, w = (np.where(live, a, 1).astype(np.float64) for a in (activation, weight))
    exponent = np.rint(alpha * np.log2(x) - (1 - alpha) * np.log2(w))
    return np.exp2(np.where(live, np.clip(exponent, -12, 12), 0))
