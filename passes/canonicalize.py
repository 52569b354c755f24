"""Pass `canonicalize`: one way to write each float graph, so that later passes have few cases."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import ModuleOp, TensorType, f32
from xdsl.ir import Operation, SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern

from qcompiler.ir.build import attribute, onnx_op
from qcompiler.ir.onnx_dialect import OnnxOp
from qcompiler.ir.pointwise import op_name, scalar
from qcompiler.ir.q_elementwise import ConstantOp, DequantizeOp
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.rewriting import replace, rewrite
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import (
    defining,
    fused_location,
    integer,
    integers,
    is_absent,
    is_float,
    quantized,
    rank,
    real,
    shape,
    string,
    users,
)
from qcompiler.pipeline import CompilerContext, QuantPass, Stage


def constant_array(value: SSAValue | None, store: ConstantStore) -> np.ndarray | None:
    """The array of a constant value, None for any other."""
    constant = defining(value, ConstantOp) if value is not None else None
    return None if constant is None else store[constant.resource]


def only_reader(value: SSAValue, name: str) -> OnnxOp | None:
    """The op of this ONNX name, if it alone reads `value`."""
    readers = users(value)
    return readers[0] if len(readers) == 1 and op_name(readers[0]) == name else None  # type: ignore[return-value]


@dataclass
class _Pattern(RewritePattern):
    store: ConstantStore


class ReshapeLike(_Pattern):
    """Flatten, Squeeze and Unsqueeze are reshapes."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if op_name(op) not in ("Flatten", "Squeeze", "Unsqueeze"):
            return
        target = np.array(shape(op.results[0]), np.int64)
        constant = ConstantOp.of(self.store, "shape", target, location=op.location)
        new = onnx_op("Reshape", [op.operands[0], constant.y], [op.results[0].type], op.location)
        replace(rewriter, op, constant, new)


class ReshapeOfReshape(_Pattern):
    """A reshape forgets the shape before; one to the shape it has does nothing."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if op_name(op) != "Reshape":
            return
        x = op.operands[0]
        if shape(x) == shape(op.results[0]):
            rewriter.replace(op, [], [x])
        elif op_name(x.owner) == "Reshape":
            target = np.array(shape(op.results[0]), np.int64)
            constant = ConstantOp.of(self.store, "shape", target, location=op.location)
            new = onnx_op("Reshape", [x.owner.operands[0], constant.y], [op.results[0].type], op.location)
            replace(rewriter, op, constant, new)


class TransposeOfTranspose(_Pattern):
    """Two transposes are one; one that moves nothing disappears."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if op_name(op) != "Transpose":
            return
        x = op.operands[0]
        order = integers(op.properties.get("perm"), range(rank(x))[::-1])
        if list(order) == sorted(order):
            rewriter.replace(op, [], [x])
        elif op_name(x.owner) == "Transpose":
            inner = integers(x.owner.properties.get("perm"), range(rank(x))[::-1])
            perm = [inner[i] for i in order]
            replace(rewriter, op, onnx_op("Transpose", [x.owner.operands[0]], [op.results[0].type], perm=perm))


class DropIdentity(_Pattern):
    """Identity, and Dropout at inference, do nothing."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        mask_used = len(op.results) > 1 and op.results[1].first_use is not None
        if op_name(op) in ("Identity", "Dropout") and not mask_used:
            op.results[0].replace_all_uses_with(op.operands[0])
            rewriter.erase(op)


class SumIsAdd(_Pattern):
    """A sum is additions of two."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if op_name(op) != "Sum" or len(op.operands) < 2:
            return
        total, made = op.operands[0], []
        for x in op.operands[1:]:
            kind = TensorType(f32, np.broadcast_shapes(shape(total), shape(x)))
            made.append(onnx_op("Add", [total, x], [kind], op.location))
            total = made[-1].results[0]
        rewriter.replace(op, made, [total])


class MaxMinIsClip(_Pattern):
    """The maximum with 0 is Relu; a number's maximum and minimum with constants, one after the other, are a Clip."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if (found := self._bounded(op)) is None or op_name(op) == "Relu":
            return
        x, low, high = found
        if (low, high) == (0, np.inf):
            replace(rewriter, op, onnx_op("Relu", [x], [op.results[0].type], op.location))
            return
        inner = self._bounded(x.owner) if len(users(x)) == 1 else None
        if inner is None:
            return
        first = x.owner
        x, low, high = inner[0], max(low, inner[1]), min(high, inner[2])
        if not -np.inf < low <= high < np.inf:
            return
        bounds = [
            ConstantOp.of(self.store, name, np.float32(value), location=op.location)
            for name, value in (("low", low), ("high", high))
        ]
        location = fused_location(first, op)
        new = onnx_op("Clip", [x, *(bound.y for bound in bounds)], [op.results[0].type], location)
        replace(rewriter, op, *bounds, new)

    def _bounded(self, op: object) -> tuple[SSAValue, float, float] | None:
        """What is bounded by constants, and the bounds."""
        if op_name(op) == "Relu":
            return op.operands[0], 0.0, np.inf  # type: ignore[attr-defined]
        if op_name(op) not in ("Max", "Min") or len(op.operands) != 2:  # type: ignore[attr-defined]
            return None
        a, b = op.operands  # type: ignore[attr-defined]
        x, number = (b, scalar(a, self.store)) if scalar(b, self.store) is None else (a, scalar(b, self.store))
        if number is None or not is_float(x) or shape(x) != shape(op.results[0]):  # type: ignore[attr-defined]
            return None
        return (x, number, np.inf) if op_name(op) == "Max" else (x, -np.inf, number)


class PlainGemm(_Pattern):
    """Gemm with a constant B: no transposes, no factors, a bias of shape [N]."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if op_name(op) != "Gemm" or integer(op.properties.get("transA")):
            return
        b = constant_array(op.operands[1], self.store)
        has_bias = len(op.operands) > 2 and not is_absent(op.operands[2])
        c = constant_array(op.operands[2], self.store) if has_bias else None
        n = shape(op.results[0])[1]
        if b is None or (has_bias and (c is None or (c.size != 1 and c.shape not in ((n,), (1, n))))):
            return
        if not op.properties and has_bias and c is not None and c.ndim == 1 and c.size == shape(op.results[0])[1]:
            return
        b = (b.T if integer(op.properties.get("transB")) else b) * np.float32(real(op.properties.get("alpha"), 1.0))
        bias = np.zeros(n, np.float32) if c is None else np.broadcast_to(c.reshape(-1), (n,))
        bias = bias * np.float32(real(op.properties.get("beta"), 1.0))
        base = op.operands[1].owner.resource  # type: ignore[union-attr]
        weight = ConstantOp.of(self.store, f"{base}.t", np.ascontiguousarray(b, np.float32), location=op.location)
        constant = ConstantOp.of(self.store, f"{base}.bias", bias.astype(np.float32), location=op.location)
        new = onnx_op("Gemm", [op.operands[0], weight.y, constant.y], [op.results[0].type], op.location)
        replace(rewriter, op, weight, constant, new)


class StoredGemm(_Pattern):
    """Gemm with a stored B behind its dequantize: no transposes, no factors of 1 written out."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if op_name(op) != "Gemm" or not op.properties or integer(op.properties.get("transA")):
            return
        dequantize = defining(op.operands[1], DequantizeOp)
        stored = None if dequantize is None else constant_array(dequantize.x, self.store)
        factors = [real(op.properties.get(name), 1.0) for name in ("alpha", "beta")]
        if dequantize is None or stored is None or factors != [1.0, 1.0]:
            return
        made: list[Operation] = []
        b = op.operands[1]
        if integer(op.properties.get("transB")):
            old = quantized(dequantize.x)
            axis = None if old.axis is None else 1 - old.axis
            kind = UniformType.make(
                old.storage, old.scales, old.zero_points, axis=axis, storage_range=(old.qmin, old.qmax)
            )
            name = f"{dequantize.x.owner.resource}.t"  # type: ignore[union-attr]
            constant = ConstantOp.of(self.store, name, np.ascontiguousarray(stored.T), kind)
            back = DequantizeOp.create(operands=[constant.y], result_types=[TensorType(f32, stored.T.shape)])
            made, b = [constant, back], back.y
        new = onnx_op("Gemm", [op.operands[0], b, *op.operands[2:]], [op.results[0].type], op.location)
        replace(rewriter, op, *made, new)


class MatMulBias(_Pattern):
    """MatMul of a matrix and a constant, and the addition of a constant vector, are a Gemm."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if op_name(op) != "MatMul" or rank(op.operands[0]) != 2 or rank(op.operands[1]) != 2:
            return
        add = only_reader(op.results[0], "Add")
        if add is None or constant_array(op.operands[1], self.store) is None:
            return
        other = add.operands[1] if add.operands[0] is op.results[0] else add.operands[0]
        bias = constant_array(other, self.store)
        n = shape(op.results[0])[1]
        if bias is None or bias.size not in (1, n) or shape(add.results[0]) != shape(op.results[0]):
            return
        if bias.size == n and bias.shape[-1:] != (n,):
            return
        vector = np.broadcast_to(bias.reshape(-1), (n,)).astype(np.float32)
        constant = ConstantOp.of(self.store, other.owner.resource, vector, location=add.location)  # type: ignore[union-attr]
        gemm = onnx_op("Gemm", [*op.operands, constant.y], [add.results[0].type], fused_location(op, add))
        rewriter.replace(add, [constant, gemm], gemm.results)


class ConvBias(_Pattern):
    """The addition of one constant a channel to a convolution is its bias."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if op_name(op) != "Conv" or constant_array(op.operands[1], self.store) is None:
            return
        add = only_reader(op.results[0], "Add")
        if add is None or shape(add.results[0]) != shape(op.results[0]):
            return
        other = add.operands[1] if add.operands[0] is op.results[0] else add.operands[0]
        addend = constant_array(other, self.store)
        channels, spatial = shape(op.results[0])[1], rank(op.results[0]) - 2
        if addend is None or addend.size not in (1, channels):
            return
        if addend.size == channels != 1 and addend.shape[-spatial - 1 :] != (channels, *[1] * spatial):
            return
        bias = np.broadcast_to(addend.reshape(-1), (channels,)).astype(np.float32)
        if len(op.operands) > 2 and not is_absent(op.operands[2]):
            old = constant_array(op.operands[2], self.store)
            if old is None:
                return
            bias = bias + old
        constant = ConstantOp.of(self.store, other.owner.resource, bias, location=add.location)  # type: ignore[union-attr]
        new = onnx_op("Conv", [*op.operands[:2], constant.y], [add.results[0].type], fused_location(op, add))
        new.properties.update(op.properties)
        rewriter.replace(add, [constant, new], new.results)


def window_pads(op: Operation) -> list[int]:
    """Pads of a convolution or pool, all begins, then all ends, from `pads` or `auto_pad`."""
    n, mode = rank(op.operands[0]) - 2, string(op.properties.get("auto_pad"), "NOTSET")
    if mode == "NOTSET":
        return list(integers(op.properties.get("pads"), [0] * 2 * n))
    kernel = op.properties.get("kernel_shape")
    extents = shape(op.operands[1])[2:] if kernel is None else integers(kernel)
    strides = integers(op.properties.get("strides"), [1] * n)
    dilations = integers(op.properties.get("dilations"), [1] * n)
    begins, ends = [], []
    for i in range(n):
        window = (extents[i] - 1) * dilations[i] + 1
        total = (shape(op.results[0])[2 + i] - 1) * strides[i] + window - shape(op.operands[0])[2 + i]
        total = max(total, 0) if mode.startswith("SAME") else 0
        small, large = total // 2, total - total // 2
        begins.append(large if mode == "SAME_LOWER" else small)
        ends.append(small if mode == "SAME_LOWER" else large)
    return [*begins, *ends]


class ExplicitPads(_Pattern):
    """`auto_pad` of convolutions and pools is written out as pads."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        mode = string(op.properties.get("auto_pad"), "NOTSET")
        if op_name(op) not in ("Conv", "MaxPool", "AveragePool") or "auto_pad" not in op.properties:
            return
        new = onnx_op(op_name(op), op.operands, [r.type for r in op.results], op.location)
        new.properties.update({k: v for k, v in op.properties.items() if k not in ("auto_pad", "pads")})
        if mode != "NOTSET":
            new.properties["pads"] = attribute(window_pads(op))
        elif "pads" in op.properties:
            new.properties["pads"] = op.properties["pads"]
        replace(rewriter, op, new)


class PadIntoConv(_Pattern):
    """A border of zeros in front of a convolution is the convolution's own padding."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if op_name(op) != "Conv" or op_name(op.operands[0].owner) != "Pad" or "auto_pad" in op.properties:
            return
        pad = op.operands[0].owner
        widths = constant_array(pad.operands[1], self.store)
        filled = pad.operands[2] if len(pad.operands) > 2 and not is_absent(pad.operands[2]) else None
        if widths is None or len(pad.operands) > 3 or string(pad.properties.get("mode"), "constant") != "constant":
            return
        if filled is not None and scalar(filled, self.store) != 0.0:
            return
        n = rank(op.operands[0])
        if len(widths) != 2 * n or widths[[0, 1, n, n + 1]].any() or widths.min() < 0:
            return
        own = integers(op.properties.get("pads"), [0] * (2 * (n - 2)))
        extra = [*widths[2:n], *widths[n + 2 :]]
        pads = [int(a + b) for a, b in zip(own, extra, strict=True)]
        new = onnx_op(
            "Conv",
            [pad.operands[0], *op.operands[1:]],
            [op.results[0].type],
            fused_location(pad, op),
            pads=pads,
        )
        new.properties.update({k: v for k, v in op.properties.items() if k != "pads"})
        replace(rewriter, op, new)


PATTERNS = (
    DropIdentity,
    ReshapeLike,
    ReshapeOfReshape,
    TransposeOfTranspose,
    ExplicitPads,
    SumIsAdd,
    MaxMinIsClip,
    PlainGemm,
    StoredGemm,
    MatMulBias,
    ConvBias,
    PadIntoConv,
)


def macs(op: Operation) -> int:
    """Multiply-adds of a convolution or matrix product, 0 for other ops."""
    match op_name(op):
        case "Conv":
            return prod(shape(op.results[0])) * prod(shape(op.operands[1])[1:])
        case "MatMul" | "Gemm":
            return prod(shape(op.results[0])) * shape(op.operands[0])[-1]
    return 0


@dataclass(frozen=True)
class Canonicalize(QuantPass):
    """Rewrites the float graph into one form: reshapes, transposes, biases, pads, Gemm; drops what does nothing."""

    name: ClassVar[str] = "canonicalize"
    requires: ClassVar = (Stage.FLOAT, Stage.QDQ)

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        rewrite(module, *(pattern(ctx.store) for pattern in PATTERNS))
