"""Pass `plan-layout`: images become channels-last, which the convolution kernels of every target read.

Each op that knows where channels are is rewritten between two transposes; the transposes then move down through ops
that do not care and cancel. Exact: only positions in memory change.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

from xdsl.dialects.builtin import ModuleOp, StringAttr, TensorType
from xdsl.ir import Operation, SSAValue
from xdsl.pattern_rewriter import PatternRewriter, RewritePattern

from qcompiler.ir.q_base import array, number
from qcompiler.ir.q_conv import ConvOp
from qcompiler.ir.q_elementwise import AddOp, ConstantOp, LutOp, MulOp, RequantizeOp, SubOp
from qcompiler.ir.q_movement import (
    ConcatOp,
    MaxPoolOp,
    PadOp,
    ReshapeOp,
    ResizeOp,
    SliceOp,
    SplitOp,
    TransposeOp,
    transposed_type,
)
from qcompiler.ir.q_reduce import AveragePoolOp, MeanOp
from qcompiler.ir.rewriting import rewrite
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import (
    body,
    defining,
    integer,
    integers,
    is_quantized,
    quantized,
    rank,
    shape,
    string,
    users,
)
from qcompiler.pipeline import CompilerContext, QuantPass, Stage

_IMAGE_OPS = (ConvOp, MaxPoolOp, AveragePoolOp, ResizeOp)
_ANY_OPS = (RequantizeOp, LutOp, AddOp, SubOp, MulOp, ConcatOp, SplitOp, SliceOp, PadOp, MeanOp)


def to_last(n: int) -> tuple[int, ...]:
    """Permutation that moves channels from axis 1 to the end."""
    return (0, *range(2, n), 1)


def to_first(n: int) -> tuple[int, ...]:
    """Permutation that moves channels from the end to axis 1."""
    return (0, n - 1, *range(1, n - 1))


def _inverse(perm: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(perm.index(i) for i in range(len(perm)))


def transpose(x: SSAValue, perm: tuple[int, ...]) -> TransposeOp:
    return TransposeOp.create(operands=[x], result_types=[_transposed(x, perm)], properties={"perm": array(perm)})


def _transposed(value: SSAValue, perm: tuple[int, ...]) -> TensorType:
    """The type of a value whose axes change places."""
    return TensorType(transposed_type(quantized(value), perm), [shape(value)[p] for p in perm])


@dataclass
class _TwoDimensional(RewritePattern):
    """An op on one-dimensional images works on images of one row."""

    store: ConstantStore

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, _IMAGE_OPS) or rank(op.operands[0]) != 3 or string(op.layout) != "NCHW":
            return
        y = op.results[0]
        before, operands = self._reshape(op.operands[0]), list(op.operands[1:])
        made: list[Operation] = [before]
        if isinstance(op, ConvOp):
            weight = defining(op.w, ConstantOp)
            if weight is None:
                return
            values = self.store[weight.resource]
            flat = ConstantOp.of(self.store, weight.resource, values.reshape(*values.shape[:2], 1, -1))
            made.append(flat)
            operands[0] = flat.y
        properties = dict(op.properties)
        for name, neutral in (("strides", 1), ("dilations", 1), ("kernel", 1)):
            if name in properties:
                properties[name] = array([neutral, *integers(properties[name])])
        begin, end = integers(properties["pads"])
        properties["pads"] = array([0, begin, 0, end])
        n, c, w = shape(y)
        result = TensorType(quantized(y), [n, c, 1, w])
        new = type(op).create(operands=[before.results[0], *operands], result_types=[result], properties=properties)
        after = ReshapeOp.create(operands=[new.results[0]], result_types=[y.type])
        for made_op in (*made, new, after):
            made_op.location = op.location
        rewriter.replace(op, [*made, new, after], [after.results[0]])

    @staticmethod
    def _reshape(x: SSAValue) -> ReshapeOp:
        n, c, w = shape(x)
        return ReshapeOp.create(operands=[x], result_types=[TensorType(quantized(x), [n, c, 1, w])])


class _ChannelsLast(RewritePattern):
    """An image op between two transposes works channels-last."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, _IMAGE_OPS) or rank(op.operands[0]) != 4 or string(op.layout) == "NHWC":
            return
        n = rank(op.operands[0])
        before = transpose(op.operands[0], to_last(n))
        result = _transposed(op.results[0], to_last(n))
        properties = {**op.properties, "layout": StringAttr("NHWC")}
        new = type(op).create(operands=[before.y, *op.operands[1:]], result_types=[result], properties=properties)
        after = transpose(new.results[0], to_first(n))
        before.location = new.location = after.location = op.location
        rewriter.replace(op, [before, new, after], [after.y])


class _ShuffleChannels(RewritePattern):
    """Channels of an image that change places in groups do so channels-last: [N, C, H, W] by way of [N, G, K, H, W]."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, TransposeOp) or rank(op.x) != 5 or integers(op.perm) != (0, 2, 1, 3, 4):
            return
        before, readers = defining(op.x, ReshapeOp), users(op.y)
        if before is None or len(readers) != 1 or not isinstance(readers[0], ReshapeOp):
            return
        if not quantized(op.x).per_tensor:
            return
        after = readers[0]
        n, groups, size, h, w = shape(op.x)
        if shape(before.x) != (n, groups * size, h, w) or shape(after.y) != shape(before.x):
            return
        kind = quantized(op.x)
        image = transpose(before.x, to_last(4))
        split = ReshapeOp.create(operands=[image.y], result_types=[TensorType(kind, [n, h, w, groups, size])])
        swap = transpose(split.results[0], (0, 1, 2, 4, 3))
        joined = ReshapeOp.create(operands=[swap.y], result_types=[TensorType(kind, [n, h, w, groups * size])])
        back = transpose(joined.results[0], to_first(4))
        for made in (image, split, swap, joined, back):
            made.location = op.location
        rewriter.replace(after, [image, split, swap, joined, back], [back.y])


class _Combine(RewritePattern):
    """Two transposes are one, one that moves nothing disappears, one that moves no data is a reshape."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, TransposeOp):
            return
        perm = integers(op.perm)
        if list(perm) == sorted(perm):
            rewriter.replace(op, [], [op.x])
        elif (inner := defining(op.x, TransposeOp)) is not None:
            first = integers(inner.perm)
            new = transpose(inner.x, tuple(first[p] for p in perm))
            new.location = op.location
            rewriter.replace(op, [new], [new.y])
        elif [p for p in perm if shape(op.x)[p] > 1] == [i for i, d in enumerate(shape(op.x)) if d > 1]:
            new = ReshapeOp.create(operands=[op.x], result_types=[op.y.type])
            new.location = op.location
            rewriter.replace(op, [new], [new.results[0]])


class _ReshapeOfReshape(RewritePattern):
    """A reshape forgets the shape before; one to the shape it has does nothing."""

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, ReshapeOp):
            return
        if shape(op.x) == shape(op.y):
            rewriter.replace(op, [], [op.x])
        elif (inner := defining(op.x, ReshapeOp)) is not None:
            new = ReshapeOp.create(operands=[inner.x], result_types=[op.y.type])
            new.location = op.location
            rewriter.replace(op, [new], [new.results[0]])


@dataclass
class _SinkTranspose(RewritePattern):
    """A transpose in front of an op that works on any order of axes moves behind it."""

    store: ConstantStore

    def match_and_rewrite(self, op: Operation, rewriter: PatternRewriter) -> None:
        if not isinstance(op, _ANY_OPS):
            return
        data = [v for v in op.operands[: 1 if isinstance(op, LutOp) else None] if not isinstance(v.owner, ConstantOp)]
        transposes = [defining(v, TransposeOp) for v in data]
        perms = {integers(t.perm) for t in transposes if t is not None}
        if not data or len(perms) != 1:
            return
        perm = perms.pop()
        n = len(perm)
        if any(rank(r) != n for r in op.results):
            return
        # an operand that is not transposed takes an inverse transpose; worth it only where those are the smaller part
        others = sum(prod(shape(v)) for v, t in zip(data, transposes, strict=True) if t is None)
        moved = sum(prod(shape(v)) for v, t in zip(data, transposes, strict=True) if t is not None)
        if any(rank(v) != n for v in data) or others > moved:
            return
        if others == moved and (n != 4 or perm != to_first(n)):
            return  # towards channels-last only: the inverse transpose would move back for ever
        made: list[Operation] = []
        operands = [self._operand(op, v, perm, made) for v in op.operands]
        back = _inverse(perm)
        results = [_transposed(r, back) for r in op.results]
        new = type(op).create(operands=operands, result_types=results, properties=self._properties(op, perm))
        new.location = op.location
        after = [transpose(r, perm) for r in new.results]
        for t in (*made, *after):
            t.location = op.location
        rewriter.replace(op, [*made, new, *after], [t.y for t in after])

    def _operand(self, op: Operation, value: SSAValue, perm: tuple[int, ...], made: list[Operation]) -> SSAValue:
        if isinstance(op, LutOp) and value is op.table:
            return value
        if (t := defining(value, TransposeOp)) is not None and integers(t.perm) == perm:
            return t.x
        back = _inverse(perm)
        if (constant := defining(value, ConstantOp)) is not None:
            values = self.store[constant.resource]
            values = values.reshape((1,) * (len(perm) - values.ndim) + values.shape).transpose(back)
            new = ConstantOp.of(self.store, f"{constant.resource}.nhwc", values, quantized(value))
            made.append(new)
            return new.y
        new_transpose = transpose(value, back)
        made.append(new_transpose)
        return new_transpose.y

    @staticmethod
    def _properties(op: Operation, perm: tuple[int, ...]) -> dict:  # type: ignore[type-arg]
        """Attributes that name axes, in the order of axes before the transpose."""
        properties = dict(op.properties)
        n, back = len(perm), _inverse(perm)
        if "axis" in properties:
            properties["axis"] = number(perm[integer(properties["axis"])])
        if "axes" in properties:
            properties["axes"] = array(sorted(perm[a] for a in integers(properties["axes"])))
        for name in ("starts", "steps"):
            if name in properties:
                values = integers(properties[name])
                properties[name] = array([values[back[i]] for i in range(n)])
        if isinstance(op, PadOp):
            pads = integers(op.pads)
            properties["pads"] = array([pads[h + back[i]] for h in (0, n) for i in range(n)])
        return properties


@dataclass(frozen=True)
class PlanLayout(QuantPass):
    """Makes images channels-last and cancels the transposes this costs; only positions in memory change."""

    name: ClassVar[str] = "plan-layout"
    requires: ClassVar = (Stage.INTEGER, Stage.LEGAL)
    ensures: ClassVar = Stage.LAID_OUT

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        rewrite(module, _TwoDimensional(ctx.store))
        rewrite(module, _ChannelsLast())
        rewrite(module, _ShuffleChannels())
        rewrite(module, _Combine(), _ReshapeOfReshape(), _SinkTranspose(ctx.store))


def channels_last(module: ModuleOp) -> set[SSAValue]:
    """Values of rank 4 that hold images channels-last, after the pass."""
    found: set[SSAValue] = set()
    for op in body(module).ops:
        if isinstance(op, _IMAGE_OPS):
            found.update(op.results)
        elif isinstance(op, TransposeOp):
            if rank(op.x) == 4 and op.x not in found and integers(op.perm) == to_last(4):
                found.add(op.y)
        elif any(v in found for v in op.operands):
            found.update(r for r in op.results if is_quantized(r) and rank(r) == 4 and not isinstance(op, ReshapeOp))
    return found
