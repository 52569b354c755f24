"""Pass `fold-batch-norm`: batch normalization and per-channel factors go into the weights of convolutions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern

from qcompiler.ir.build import onnx_op
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.rewriting import replace, rewrite
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import fused_location, integer, is_absent, rank, real, shape, users
from qcompiler.passes.canonicalize import constant_array
from qcompiler.pipeline import CompilerContext, QuantPass, Stage


def channel_affine(op: Operation, x: SSAValue, store: ConstantStore) -> tuple[np.ndarray, np.ndarray] | None:
    """Factor and addend a channel (float64) of an op that computes `factor * x + addend`."""
    channels, spatial = shape(x)[1], rank(x) - 2
    if op_name(op) == "BatchNormalization":
        arrays = [constant_array(v, store) for v in op.operands[1:5]]
        if any(a is None for a in arrays) or integer(op.properties.get("training_mode")):
            return None
        gamma, beta, mean, variance = (np.asarray(a, np.float64) for a in arrays)
        spread = variance + real(op.properties.get("epsilon"), 1e-5)
        if not (spread > 0).all():
            return None
        factor = gamma / np.sqrt(spread)
        return factor, beta - mean * factor
    if op_name(op) == "Mul":
        other = constant_array(op.operands[1] if op.operands[0] is x else op.operands[0], store)
        if other is not None and other.shape[-spatial - 1 :] == (channels, *[1] * spatial) and other.size == channels:
            return other.reshape(-1).astype(np.float64), np.zeros(channels)
    return None


@dataclass
class _IntoConv(RewritePattern):
    """Convolution, then factor and addend a channel: one convolution with other weights."""

    store: ConstantStore

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if op_name(op) not in ("BatchNormalization", "Mul") or len(op.results) != 1:
            return
        x = next((v for v in op.operands if op_name(v.owner) == "Conv" and len(users(v)) == 1), None)
        if x is None or shape(x) != shape(op.results[0]):
            return
        conv = x.owner
        affine = channel_affine(op, x, self.store)
        weight = constant_array(conv.operands[1], self.store)
        has_bias = len(conv.operands) > 2 and not is_absent(conv.operands[2])
        bias = constant_array(conv.operands[2], self.store) if has_bias else np.zeros(shape(x)[1])
        if affine is None or weight is None or bias is None:
            return
        factor, addend = affine
        base = conv.operands[1].owner.resource  # type: ignore[union-attr]
        scaled = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
        w = ConstantOp.of(self.store, f"{base}.folded", scaled.astype(np.float32), location=conv.location)
        b = ConstantOp.of(self.store, f"{base}.bias", (bias * factor + addend).astype(np.float32), location=op.location)
        new = onnx_op("Conv", [conv.operands[0], w.y, b.y], [op.results[0].type], fused_location(conv, op))
        new.properties.update(conv.properties)
        rewriter.replace(op, [w, b, new], [new.results[0]])


@dataclass
class _AsDepthwise(RewritePattern):
    """A batch normalization that follows no convolution is a depthwise 1x1 convolution, which has an integer form."""

    store: ConstantStore

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if op_name(op) != "BatchNormalization" or rank(op.operands[0]) not in (3, 4) or len(op.results) != 1:
            return
        x = op.operands[0]
        affine = channel_affine(op, x, self.store)
        if affine is None or (op_name(x.owner) == "Conv" and len(users(x)) == 1):
            return
        factor, addend = affine
        channels, spatial = shape(x)[1], rank(x) - 2
        base = op.operands[1].owner.resource  # type: ignore[union-attr]
        weight = factor.reshape(channels, 1, *[1] * spatial).astype(np.float32)
        w = ConstantOp.of(self.store, f"{base}.depthwise", weight, location=op.location)
        b = ConstantOp.of(self.store, f"{base}.bias", addend.astype(np.float32), location=op.location)
        new = onnx_op("Conv", [x, w.y, b.y], [op.results[0].type], op.location, group=channels)
        replace(rewriter, op, w, b, new)


@dataclass(frozen=True)
class FoldBatchNorm(QuantPass):
    """Folds batch normalizations and per-channel factors into convolutions; a lone one becomes a depthwise 1x1 one."""

    name: ClassVar[str] = "fold-batch-norm"
    requires: ClassVar = (Stage.FLOAT,)

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        rewrite(module, _IntoConv(ctx.store))
        if rewrite(module, _AsDepthwise(ctx.store)):
            rewrite(module, _IntoConv(ctx.store))  # factors behind what was a lone batch normalization
