"""Pass `compute-float16`: pointwise layers that a recipe gives float16 compute in it, where the target does so too.

Matrix products and sums over many elements stay in float32, whatever type their weights are stored in: they would lose
bits with each addition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import DictionaryAttr, IntegerAttr, ModuleOp, StringAttr, TensorType, f16, f32, i64
from xdsl.ir import Operation, SSAValue

from qcompiler.errors import PipelineError
from qcompiler.ir.onnx_dialect import OnnxOp, onnx_ops
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.values import body, describe, dtype_of, shape
from qcompiler.passes.canonicalize import constant_array
from qcompiler.pipeline import CompilerContext, QuantPass, Stage

POINTWISE = {
    *("Abs", "Add", "Div", "HardSigmoid", "HardSwish", "LeakyRelu", "Max", "Min", "Mul", "Neg", "Reciprocal"),
    *("Relu", "Sigmoid", "Sqrt", "Sub", "Tanh"),
}
_NUMBERS = {f32: 1, f16: 10}
"""ONNX's numbers of the types."""
_REASON = StringAttr("computed in float16, as the recipe asks")


@dataclass(frozen=True)
class ComputeFloat16(QuantPass):
    """Gives pointwise layers whose recipe says float16 operands and a result of that type, with Casts around them.

    Between two such layers there is no Cast. A target without float16 arithmetic keeps float32.
    """

    name: ClassVar[str] = "compute-float16"
    requires: ClassVar = (Stage.CHOSEN,)

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        if ctx.target is None or not ctx.target.float16:
            return
        for op in list(body(module).ops):
            recipe = op.attributes.get("q.recipe")
            half = isinstance(recipe, DictionaryAttr) and recipe.data.get("precision") == StringAttr("float16")
            if half and "q.float" in op.attributes and _is_pointwise(op):
                _compute(ctx, op)


def _is_pointwise(op: Operation) -> bool:
    if not isinstance(op, OnnxOp) or op.SCHEMA.name not in POINTWISE:
        return False
    return all(dtype_of(value) == np.float32 for value in (*op.operands, *op.results))


def _compute(ctx: CompilerContext, op: Operation) -> None:
    assert op.parent is not None
    block, (result,) = op.parent, op.results
    operands = [_half(ctx, op, value) for value in op.operands]
    marks = {key: op.attributes.pop(key) for key in ("q.types", "q.numbers", "q.why") if key in op.attributes}
    new = type(op).create(
        operands=operands,
        result_types=[TensorType(f16, shape(result))],
        properties=op.properties,
        attributes=op.attributes,
    )
    new.location = op.location
    back = _cast(new.results[0], f32, op)
    back.attributes.update(marks)
    block.insert_ops_before([new, back], op)
    result.replace_all_uses_with(back.results[0])
    block.erase_op(op)


def _half(ctx: CompilerContext, op: Operation, value: SSAValue) -> SSAValue:
    """The value in float16: what it was cast from, a constant, or with a Cast in front of `op`."""
    assert op.parent is not None
    source = value.owner
    if isinstance(source, OnnxOp) and source.SCHEMA.name == "Cast" and dtype_of(source.operands[0]) == np.float16:
        return source.operands[0]
    array = constant_array(value, ctx.store)
    if array is None:
        cast = _cast(value, f16, op)
        op.parent.insert_ops_before([cast], op)
        return cast.results[0]
    largest = float(np.abs(array).max(initial=0.0))
    if largest > float(np.finfo(np.float16).max):
        raise PipelineError(f"{describe(op)}: a constant of {largest:g} does not fit float16; ask for float32")
    name = source.resource  # type: ignore[union-attr]
    stored = ConstantOp.of(ctx.store, f"{name}.f16", array.astype(np.float16), location=op.location)
    op.parent.insert_ops_before([stored], op)
    return stored.y


def _cast(value: SSAValue, element: object, op: Operation) -> Operation:
    cast = onnx_ops()["Cast"].create(
        operands=[value],
        result_types=[TensorType(element, shape(value))],  # type: ignore[arg-type]
        properties={"to": IntegerAttr(_NUMBERS[element], i64)},  # type: ignore[index]
        attributes={"q.float": _REASON},
    )
    cast.location = op.location
    return cast
