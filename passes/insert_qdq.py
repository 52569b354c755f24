"""Pass `insert-qdq`: quantize and dequantize stand around every op that is to run in integers.

The float graph stays as it is; the module can be written as a QDQ model of ONNX, which other runtimes read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, ModuleOp, StringAttr, TensorType, f32
from xdsl.ir import Attribute, Block, Operation, SSAValue

from qcompiler.arithmetic.affine import quantize
from qcompiler.ir.q_elementwise import ConstantOp, DequantizeOp, QuantizeOp
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.values import (
    body,
    defining,
    describe,
    location,
    main,
    quantized,
    retyped,
    users,
    value_names,
)
from qcompiler.passes.canonicalize import constant_array
from qcompiler.passes.fusion import matmul_bias
from qcompiler.passes.integer_rules import accumulator_scales, present
from qcompiler.pipeline import CompilerContext, QuantPass, Stage

_MARKS = (
    "q.integer",
    "q.types",
    "q.why",
    "q.weight",
    "q.why_weight",
    "q.operands",
    "q.original",
    "q.numbers",
    "q.recipe",
)


@dataclass(frozen=True)
class InsertQDQ(QuantPass):
    """Puts quantize and dequantize around every op chosen for integers; weights and biases become stored integers."""

    name: ClassVar[str] = "insert-qdq"
    requires: ClassVar = (Stage.CHOSEN,)
    ensures: ClassVar = Stage.QDQ

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        block, function = body(module), main(module)
        names = value_names(module)
        ops = list(block.ops)
        argument_why = function.attributes.get("q.why")
        for index, (value, kind) in enumerate(_typed(block.args, function.attributes.get("q.types"))):
            why = argument_why.data[index] if isinstance(argument_why, ArrayAttr) else None
            if kind is not None:
                _insert(value, kind, why, function.attributes.get("q.numbers"), names[value], block)
        for op in ops:
            for value, kind in _typed(op.results, op.attributes.get("q.types")):
                if kind is not None:
                    why, numbers = op.attributes.get("q.why"), op.attributes.get("q.numbers")
                    _insert(value, kind, why, numbers, names[value], block)
        for op in ops:
            if "q.weight" in op.attributes:
                _quantize_weight(ctx, op)
            if isinstance(kinds := op.attributes.get("q.operands"), ArrayAttr):
                for index, kind in enumerate(kinds.data):
                    if isinstance(kind, UniformType):
                        _replace_constant(ctx, op, index, kind)
        for op in (*ops, function):
            for mark in _MARKS:
                op.attributes.pop(mark, None)


def _typed(values: Sequence[SSAValue], kinds: Attribute | None) -> list[tuple[SSAValue, UniformType | None]]:
    if not isinstance(kinds, ArrayAttr):
        return [(v, None) for v in values]
    return [(v, k if isinstance(k, UniformType) else None) for v, k in zip(values, kinds.data, strict=True)]


def _insert(
    value: SSAValue,
    kind: UniformType,
    why: Attribute | None,
    numbers: Attribute | None,
    name: str,
    block: Block,
) -> None:
    """Quantize and dequantize behind a value.

    All readers take the dequantized value if an integer op makes it; if it is float anyway, only integer ops do.
    """
    made_in_integers = isinstance(value.owner, Operation) and "q.integer" in value.owner.attributes
    readers = [u for u in users(value) if made_in_integers or "q.integer" in u.attributes]
    q = QuantizeOp.create(operands=[value], result_types=[retyped(value, kind)])
    if isinstance(why, StringAttr):
        q.properties["q.why"] = why
    if isinstance(numbers, DictionaryAttr):
        q.properties["q.numbers"] = numbers
    d = DequantizeOp.create(operands=[q.y], result_types=[value.type])
    q.location = d.location = value.owner.location if isinstance(value.owner, Operation) else location(name)
    if isinstance(value.owner, Operation):
        block.insert_ops_after([q, d], value.owner)
    elif block.first_op is not None:
        block.insert_ops_before([q, d], block.first_op)
    for reader in readers:
        for index, operand in enumerate(reader.operands):
            if operand is value:
                reader.operands[index] = d.y


def _constant(ctx: CompilerContext, op: Operation, name: str, array: np.ndarray, kind: UniformType) -> SSAValue:
    """A constant of stored integers and its dequantize, in front of an op."""
    stored = ConstantOp.of(ctx.store, name, array, kind, op.location)
    back = DequantizeOp.create(operands=[stored.y], result_types=[TensorType(f32, array.shape)])
    back.location = op.location
    block = op.parent
    assert block is not None
    block.insert_ops_before([stored, back], op)
    return back.y


def _stored(array: np.ndarray, kind: UniformType) -> np.ndarray:
    scales, zeros, axis = kind.spread(array.shape)
    return quantize(array, scales, zeros, kind.qmin, kind.qmax, kind.dtype, axis)


def _replace_constant(ctx: CompilerContext, op: Operation, index: int, kind: UniformType) -> SSAValue:
    array = constant_array(op.operands[index], ctx.store)
    name = op.operands[index].owner.resource  # type: ignore[union-attr]
    assert array is not None
    op.operands[index] = _constant(ctx, op, f"{name}.{kind.storage}", _stored(array, kind), kind)
    return op.operands[index]


def _quantize_weight(ctx: CompilerContext, op: Operation) -> None:
    kind = op.attributes["q.weight"]
    assert isinstance(kind, UniformType)
    add = matmul_bias(op, ctx.store)
    weight = _replace_constant(ctx, op, 1, kind)
    constant = weight.owner.operands[0].owner  # type: ignore[union-attr]
    if isinstance(why := op.attributes.get("q.why_weight"), StringAttr):
        constant.properties["q.why"] = why
    holder, index = (op, 2) if add is None else (add, 1 if add.operands[0] is op.results[0] else 0)
    bias = present(holder, index)
    if bias is None:
        return
    real = constant_array(bias, ctx.store)
    x = defining(op.operands[0], DequantizeOp)
    assert real is not None and x is not None
    scales = accumulator_scales(quantized(x.x), kind, real.size)
    values = np.rint(real.reshape(-1).astype(np.float64) / scales)
    if np.abs(values).max(initial=0) >= 2**31:
        raise AssertionError(f"{describe(op)}: choose-scheme let the bias leave int32")
    axis = real.ndim - 1 if len(scales) > 1 else None
    bias_kind = UniformType.make("i32", scales if axis is not None else scales[0], axis=axis)
    name = bias.owner.resource  # type: ignore[union-attr]
    stored = values.astype(np.int32).reshape(real.shape)
    holder.operands[index] = _constant(ctx, holder, f"{name}.i32", stored, bias_kind)
