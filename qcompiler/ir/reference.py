"""The reference of the IR, Markdown: `python -m qcompiler.ir.reference docs/ir-reference.md` writes it anew."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

from xdsl.dialects.builtin import (
    BoolAttr,
    DenseArrayBase,
    DenseResourceAttr,
    DictionaryAttr,
    IntegerAttr,
    StringAttr,
    TensorType,
)
from xdsl.irdl import (
    AttrConstraint,
    OptOperandDef,
    OptPropertyDef,
    RangeConstraint,
    RangeLengthConstraint,
    RangeOf,
    VarOperandDef,
    VarResultDef,
    irdl_to_attr_constraint,
)

from qcompiler.arithmetic import requantize, softmax
from qcompiler.ir import q_base, quant_types
from qcompiler.ir.opset import OPSET
from qcompiler.ir.q_base import FLOAT, INT32, QUANTIZED, REAL, QOp
from qcompiler.ir.q_dialect import Q_OPS
from qcompiler.ir.q_movement import INDICES

_TENSORS: tuple[tuple[AttrConstraint, str], ...] = (
    (FLOAT, "tensor of f32"),
    (INT32, "tensor of i32"),
    (REAL, "tensor of f64"),
    (INDICES, "tensor of i64"),
    (QUANTIZED, "tensor of a quantized type"),
    (irdl_to_attr_constraint(TensorType), "tensor"),
)
_ATTRIBUTES = {
    DictionaryAttr: "dictionary of numbers",
    BoolAttr: "`true` or `false`",
    IntegerAttr: "integer, `i64`",
    StringAttr: "string",
    DenseArrayBase: "`array<i64: ...>`",
    DenseResourceAttr: "`dense_resource<name>`",
}

_INTRODUCTION = f"""\
# Reference of the IR

Generated from the definitions by `python -m qcompiler.ir.reference docs/ir-reference.md`; do not edit.

A module is MLIR's generic text with one function and three dialects: `quant`, the types of quantized tensors;
`q`, the integer operations; `onnx`, the float operations, which are those of ONNX opset {OPSET} under ONNX's
names and with ONNX's attributes (`"onnx.Conv"(%x, %w) {{group = 1 : i64}}`); an absent optional operand in
the middle is the result of `onnx.none`. Locations carry the names of the original ONNX nodes. Arrays lie
outside the text, in safetensors files that the first lines of a file name.

Attributes of the module say how far it has come (`q.stage`) and how it was calibrated (`q.calibration`).
`choose-scheme` writes its choices on the float operations: `q.integer`, or `q.float` with the reason;
`q.types`, one type a result, and `q.why`; `q.weight` and `q.operands`, the types of constant operands.
`q.float` stays, the rest goes with `insert-qdq`.
"""


def reference() -> str:
    """The whole reference, Markdown."""
    parts = [_INTRODUCTION, "## Types\n", _types(), "## Operations of dialect `q`\n", _common()]
    parts += [_operation(op) for op in Q_OPS]
    parts += ["## Requantization\n", f"{inspect.getdoc(requantize)}\n", "## Softmax\n", f"{inspect.getdoc(softmax)}\n"]
    return "\n".join(parts)


def _types() -> str:
    first, *rest = inspect.getdoc(quant_types).split("\n\n")  # type: ignore[union-attr]
    return (
        "\n\n".join([first, *(f"```mlir\n{inspect.cleandoc(p)}\n```" if p.startswith(" ") else p for p in rest)]) + "\n"
    )


def _common() -> str:
    return "\n\n".join(inspect.getdoc(q_base).split("\n\n")[1:]) + "\n"  # type: ignore[union-attr]


def _operation(op: type[QOp]) -> str:
    definition = op.get_irdl_definition()
    lines = [f"### `{op.name}`\n", f"{inspect.getdoc(op)}\n", "| | name | kind |", "| --- | --- | --- |"]
    for name, operand in definition.operands:
        many = "any number of " if isinstance(operand, VarOperandDef) and not isinstance(operand, OptOperandDef) else ""
        lines.append(f"| operand | `{name}` | {many}{_tensor(operand.constr)}{_optional(operand, OptOperandDef)} |")
    for name, prop in sorted(definition.properties.items()):
        lines.append(f"| attribute | `{name}` | {_attribute(prop.constr)}{_optional(prop, OptPropertyDef)} |")
    for name, result in definition.results:
        many = "any number of " if isinstance(result, VarResultDef) else ""
        lines.append(f"| result | `{name}` | {many}{_tensor(result.constr)} |")
    return "\n".join(lines) + "\n"


def _optional(definition: object, kind: type) -> str:
    return ", optional" if isinstance(definition, kind) else ""


def _tensor(constraint: RangeConstraint) -> str:
    one = constraint.constraint if isinstance(constraint, RangeLengthConstraint) else constraint
    assert isinstance(one, RangeOf)
    return next(text for known, text in _TENSORS if known == one.constr)


def _attribute(constraint: AttrConstraint) -> str:
    return next((text for kind, text in _ATTRIBUTES.items() if constraint == irdl_to_attr_constraint(kind)), "any")


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(reference())
