"""Batch normalization behind a convolution whose weights came quantized: its factors go into the weights' scales.

Used by `import-qdq`: networks trained with quantization may keep the normalization behind the convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from xdsl.ir import Operation, SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern

from qcompiler.ir.build import onnx_op
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.q_elementwise import ConstantOp, DequantizeOp
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import defining, fused_location, quantized, shape, users
from qcompiler.passes.canonicalize import constant_array
from qcompiler.passes.fold_batch_norm import channel_affine
from qcompiler.passes.integer_rules import present


@dataclass
class NormIntoScales(RewritePattern):
    """The stored weights stay, but for the sign of channels with a negative factor; one scale a channel."""

    store: ConstantStore

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if op_name(op) != "BatchNormalization" or len(op.results) != 1:
            return
        x = op.operands[0]
        conv = x.owner
        if not isinstance(conv, Operation) or op_name(conv) != "Conv" or len(users(x)) != 1:
            return
        dequantize = defining(conv.operands[1], DequantizeOp)
        weight = None if dequantize is None else defining(dequantize.x, ConstantOp)
        affine, bias = channel_affine(op, x, self.store), self._bias(present(conv, 2), shape(x)[1])
        if weight is None or affine is None or bias is None:
            return
        factor, addend = affine
        kind, values = quantized(weight.y), self.store[weight.resource].astype(np.int64)
        signed = values * np.where(factor < 0, -1, 1).reshape(-1, *[1] * (values.ndim - 1))
        fits = kind.qmin <= signed.min() and signed.max() <= kind.qmax
        if kind.axis not in (None, 0) or kind.blocks or kind.zero_points.any() or not fits or not factor.all():
            return
        scales = np.broadcast_to(kind.scales, factor.shape) * np.abs(factor)
        new_kind = UniformType.make(kind.storage, scales, axis=0, storage_range=(kind.qmin, kind.qmax))
        w = ConstantOp.of(self.store, f"{weight.resource}.folded", signed.astype(kind.dtype), new_kind, weight.location)
        back = DequantizeOp.create(operands=[w.y], result_types=[conv.operands[1].type])
        folded = (bias * factor + addend).astype(np.float32)
        b = ConstantOp.of(self.store, f"{weight.resource}.bias", folded, location=op.location)
        place = fused_location(conv, op)
        new = onnx_op("Conv", [conv.operands[0], back.y, b.y], [op.results[0].type], place)
        new.properties.update(conv.properties)
        rewriter.replace(op, [w, back, b, new], [new.results[0]])

    def _bias(self, value: SSAValue | None, channels: int) -> np.ndarray | None:
        """The real bias of a convolution, float64; None if it is no constant."""
        if value is None:
            return np.zeros(channels)
        source = defining(value, DequantizeOp)
        array = constant_array(value if source is None else source.x, self.store)
        if array is not None and source is not None:
            (array,) = source.evaluate(array)
        return None if array is None else array.astype(np.float64)
