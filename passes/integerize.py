"""Pass `integerize`: dequantize, float op, quantize become one integer op.

Works on what it finds, so it serves modules from `insert-qdq` and imported QDQ models alike: an op whose operands come
from dequantize and whose result only a quantize reads. Ops that do not fit stay float, with their quantize and
dequantize.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import ModuleOp, StringAttr, TensorType
from xdsl.ir import Attribute, Operation, SSAValue

from qcompiler.ir.pointwise import CLAMPS, Pointwise, clamp_bounds, evaluate, fused_clamp, op_name
from qcompiler.ir.q_base import number
from qcompiler.ir.q_elementwise import ConstantOp, DequantizeOp, QuantizeOp
from qcompiler.ir.q_movement import SplitOp
from qcompiler.ir.rewriting import remove_dead
from qcompiler.ir.values import body, defining, integer, quantized, rank, shape, users
from qcompiler.passes.fusion import matmul_bias
from qcompiler.passes.integer_rules import Site, one_scale, reason_for_float, rules, stored_alike, wide_type
from qcompiler.pipeline import CompilerContext, QuantPass, Stage


@dataclass(frozen=True)
class Integerize(QuantPass):
    """Turns float ops between dequantize and quantize into integer ops; pointwise regions become tables."""

    name: ClassVar[str] = "integerize"
    requires: ClassVar = (Stage.QDQ,)
    ensures: ClassVar = Stage.INTEGER

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        pointwise = Pointwise.of(module, ctx.store)
        for op in list(body(module).ops):
            if isinstance(op, QuantizeOp) and op.parent is not None:
                _drop_round_trip(op)
        for op in list(body(module).ops):
            if op_name(op) == "Split":
                _split(ctx, op)
            elif isinstance(op, QuantizeOp) and isinstance(op.x.owner, Operation) and op.parent is not None:
                _quantize(ctx, op, pointwise)
        remove_dead(module)
        for op in list(body(module).ops):
            if isinstance(op, DequantizeOp) and isinstance(op.x.owner, ConstantOp):
                _fold(ctx, op, op.x.owner)
        remove_dead(module)
        _explain_float(ctx, module)


def _fold(ctx: CompilerContext, op: DequantizeOp, stored: ConstantOp) -> None:
    """The real values of a constant that a float op reads."""
    (values,) = op.evaluate(ctx.store[stored.resource])
    constant = ConstantOp.of(ctx.store, f"{stored.resource}.real", values, location=op.location)
    assert op.parent is not None
    op.parent.insert_op_before(constant, op)
    op.y.replace_all_uses_with(constant.y)


def _drop_round_trip(op: QuantizeOp) -> None:
    """Quantize of a dequantize of the same type is the stored value."""
    source = defining(op.x, DequantizeOp)
    if source is not None and source.x.type == op.y.type:
        op.y.replace_all_uses_with(source.x)


def _chains(ctx: CompilerContext, last: Operation) -> Iterator[tuple[tuple[Operation, ...], tuple[float, float]]]:
    """Ways to see the ops that end in `last` as one op: with a fused clamp, with a bias, or alone."""
    clamp: tuple[Operation, ...] = ()
    bounds = (-np.inf, np.inf)
    core = last
    own = clamp_bounds(last, ctx.store)
    if own is not None and fused_clamp(last.operands[0], ctx.store) is last:
        clamp, bounds, core = (last,), own, last.operands[0].owner  # type: ignore[assignment]
    if op_name(core) == "Add":
        for value in core.operands:
            if op_name(value.owner) == "MatMul" and len(users(value)) == 1:
                yield (value.owner, core, *clamp), bounds  # type: ignore[misc]
    yield (core, *clamp), bounds


def _quantize(ctx: CompilerContext, op: QuantizeOp, pointwise: Pointwise) -> None:
    last = op.x.owner
    assert isinstance(last, Operation)
    reasons, kind = _reasons(op), quantized(op.y)
    if not stored_alike(kind):
        return
    if (same := defining(op.x, DequantizeOp)) is not None:
        if one_scale(quantized(same.x)):
            site = Site((last,), kind, ctx.store, reasons=reasons)
            _replace(op, site, site.as_type(same.x, kind))
        return
    root = pointwise.roots.get(op.x)
    for chain, bounds in _chains(ctx, last):
        if len(chain) > 1 and op_name(chain[1]) == "Add" and not _is_bias(ctx, chain[0], chain[1]):
            continue
        rule = rules().get(op_name(chain[0]))
        if rule is None or root is not None or reason_for_float(chain[0], ctx.store) is not None:
            continue
        for y in (kind,) if kind.per_tensor else (kind, wide_type(kind)):
            site = Site(chain, y, ctx.store, bounds, reasons)
            if (result := rule.build(site)) is not None:
                _replace(op, site, site.as_type(result, kind))
                return
    if root is None:
        return
    source = defining(root, DequantizeOp)
    if source is None or not one_scale(quantized(source.x)):
        return
    site = Site((last,), kind, ctx.store, clamp_bounds(last, ctx.store) or (-np.inf, np.inf), reasons)
    clamp = site.clamp() if last.operands[0] is root and op_name(last) in CLAMPS else None
    if clamp is not None and quantized(source.x).dtype.itemsize > 1:
        result = site.requantize(source.x, kind, clamp)
    else:
        value = op.x
        result = site.table(source.x, lambda x: evaluate(value, root, x, ctx.store), kind)
    _replace(op, site, result)


def _reasons(op: QuantizeOp) -> dict[str, Attribute]:
    """What the op knows of the choice of its type, for the op that takes its place."""
    return {name: op.properties[name] for name in ("q.why", "q.numbers") if name in op.properties}


def _is_bias(ctx: CompilerContext, matmul: Operation, add: Operation) -> bool:
    """Whether the addition is one of a constant vector, stored as int32 or float, to the product's columns."""
    other = add.operands[1] if add.operands[0] is matmul.results[0] else add.operands[0]
    n = shape(matmul.results[0])[-1]
    source = defining(other, DequantizeOp)
    if source is not None and quantized(source.x).storage == "i32":
        return shape(other)[-1:] == (n,) and np.prod(shape(other)) == n
    return matmul_bias(matmul, ctx.store) is add


def _replace(op: QuantizeOp, site: Site, result: SSAValue) -> None:
    block = op.parent
    assert block is not None
    block.insert_ops_before(site.made, op)
    op.y.replace_all_uses_with(result)


def _split(ctx: CompilerContext, op: Operation) -> None:
    """A Split all of whose results are quantized alike becomes one integer Split."""
    source = defining(op.operands[0], DequantizeOp)
    quantizes = [users(r) for r in op.results]
    if (
        source is None
        or not one_scale(quantized(source.x))
        or not all(isinstance(u, QuantizeOp) for group in quantizes for u in group)
    ):
        return
    kind = quantized(source.x)
    axis = integer(op.properties.get("axis")) % rank(op.operands[0])
    new = SplitOp.create(
        operands=[source.x],
        result_types=[TensorType(kind, shape(r)) for r in op.results],
        properties={"axis": number(axis)},
    )
    new.location = op.location
    block = op.parent
    assert block is not None
    block.insert_op_after(new, op)
    for value, group in zip(new.results, quantizes, strict=True):
        for quantize in group:
            assert isinstance(quantize, QuantizeOp)
            site = Site((op,), quantized(quantize.y), ctx.store, reasons=_reasons(quantize))
            _replace(quantize, site, site.as_type(value, site.y))


def _explain_float(ctx: CompilerContext, module: ModuleOp) -> None:
    """Float ops that nobody has judged yet get the reason why they stay."""
    for op in body(module).ops:
        if op_name(op) and "q.float" not in op.attributes:
            reason = reason_for_float(op, ctx.store) or "not between dequantize and quantize of 8 or 16 bits"
            op.attributes["q.float"] = StringAttr(reason)
