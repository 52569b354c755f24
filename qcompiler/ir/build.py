"""Making float operations in passes."""

from __future__ import annotations

from collections.abc import Sequence

from xdsl.dialects.builtin import DenseArrayBase, FloatAttr, IntegerAttr, LocationAttr, StringAttr, f32, i64
from xdsl.ir import Attribute, SSAValue

from qcompiler.ir.onnx_dialect import OnnxOp, onnx_ops

Python = int | float | str | Sequence[int] | Attribute


def attribute(value: Python) -> Attribute:
    """The IR's attribute for a Python value, as the ONNX importer would make it."""
    match value:
        case Attribute():
            return value
        case bool() | int():
            return IntegerAttr(int(value), i64)
        case float():
            return FloatAttr(value, f32)
        case str():
            return StringAttr(value)
    return DenseArrayBase.from_list(i64, list(value))


def onnx_op(
    name: str,
    operands: Sequence[SSAValue],
    results: Sequence[Attribute],
    place: LocationAttr | None = None,
    **attributes: Python,
) -> OnnxOp:
    """An operation of the `onnx` dialect by ONNX's name."""
    op = onnx_ops()[name].create(
        operands=list(operands),
        result_types=list(results),
        properties={key: attribute(value) for key, value in attributes.items()},
    )
    if place is not None:
        op.location = place
    return op
