"""The quantized ops of a model that have no form with constant types, as ops with run-time parameters.

Used by `import-qdq` on what is left when scales and zero points that are constants have become types.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from xdsl.dialects.builtin import BoolAttr, ModuleOp, TensorType, f32
from xdsl.ir import Operation, SSAValue
from xdsl.utils.exceptions import VerifyException

from qcompiler.errors import ModelError
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.q_base import array, number
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.q_runtime import (
    ConvIntegerOp,
    DequantizeLinearOp,
    DynamicRangeOp,
    MatMulIntegerOp,
    QuantizeLinearOp,
)
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import body, describe, dtype_of, integer, integers, rank, tensor
from qcompiler.passes.canonicalize import window_pads
from qcompiler.passes.integer_rules import present

Made = tuple[list[Operation], list[SSAValue]]
"""New ops in order, and the values that take the place of the results."""


def import_runtime(store: ConstantStore, module: ModuleOp, source: str) -> None:
    """Replaces the ops in `_FORMS`; a linear op of constants becomes a constant.

    Raises:
        ModelError: an op that does not fit its new form; the message names the node.
    """
    for op in list(body(module).ops):
        form = _FORMS.get(op_name(op))
        if form is None:
            continue
        made, values = form(op, store)
        assert op.parent is not None
        for new in made:
            new.location = op.location
            op.parent.insert_op_before(new, op)
            try:
                new.verify()
            except VerifyException as error:
                reason = " ".join(str(error).split())
                raise ModelError(f"{source}: {describe(op)} cannot be imported: {reason}") from None
        for old, value in zip(op.results, values, strict=False):
            old.replace_all_uses_with(value)
        op.detach()
        op.erase()


def _linear(op: Operation, store: ConstantStore) -> Made:
    """QuantizeLinear and DequantizeLinear."""
    quantizes = op_name(op) == "QuantizeLinear"
    zero = present(op, 2)
    extent = rank(op.operands[0])
    axis = integer(op.properties.get("axis"), 1)
    properties = {
        "axis": number(axis + extent if axis < 0 else axis),
        "block_size": number(integer(op.properties.get("block_size"))),
    }
    if quantizes:
        properties["saturate"] = BoolAttr.from_bool(bool(integer(op.properties.get("saturate"), 1)))
    operands = [*op.operands[:2], *([] if zero is None else [zero])]
    kind = QuantizeLinearOp if quantizes else DequantizeLinearOp
    new = kind.create(operands=operands, result_types=[op.results[0].type], properties=properties)
    constants = [v.owner for v in operands]
    if all(isinstance(c, ConstantOp) for c in constants):
        new.verify()
        (values,) = new.evaluate(*(store[c.resource] for c in constants))  # type: ignore[union-attr]
        base, element = constants[0].resource, tensor(new.y).element_type  # type: ignore[union-attr]
        new.erase()
        constant = ConstantOp.of(store, f"{base}.{'quantized' if quantizes else 'real'}", values, element)
        return [constant], [constant.y]
    return [new], [new.y]


def _dynamic(op: Operation, store: ConstantStore) -> Made:
    """DynamicQuantizeLinear: the range, then the quantization by it."""
    x = op.operands[0]
    kind = tensor(op.results[0]).element_type
    scalars = [TensorType(f32, []), TensorType(kind, [])]
    limits = DynamicRangeOp.create(operands=[x], result_types=scalars)
    properties = {"axis": number(0), "block_size": number(0), "saturate": BoolAttr.from_bool(True)}
    operands = [x, limits.scale, limits.zero_point]
    new = QuantizeLinearOp.create(operands=operands, result_types=[op.results[0].type], properties=properties)
    return [limits, new], [new.y, limits.scale, limits.zero_point]


def _zero_point(op: Operation, index: int, of: SSAValue, store: ConstantStore, made: list[Operation]) -> SSAValue:
    """The zero point at a position, a constant 0 of the type of `of` if it is absent."""
    zero = present(op, index)
    if zero is None:
        made.append(ConstantOp.of(store, "zero_point", np.zeros((), dtype_of(of))))
        zero = made[-1].results[0]
    return zero


def _conv(op: Operation, store: ConstantStore) -> Made:
    made: list[Operation] = []
    x, w = op.operands[:2]
    zeros = [_zero_point(op, 2, x, store, made), _zero_point(op, 3, w, store, made)]
    n = rank(x) - 2
    properties = {
        "strides": array(integers(op.properties.get("strides"), [1] * n)),
        "pads": array(window_pads(op)),
        "dilations": array(integers(op.properties.get("dilations"), [1] * n)),
        "group": number(integer(op.properties.get("group"), 1)),
    }
    new = ConvIntegerOp.create(operands=[x, w, *zeros], result_types=[op.results[0].type], properties=properties)
    return [*made, new], [new.y]


def _matmul(op: Operation, store: ConstantStore) -> Made:
    made: list[Operation] = []
    a, b = op.operands[:2]
    zeros = [_zero_point(op, 2, a, store, made), _zero_point(op, 3, b, store, made)]
    new = MatMulIntegerOp.create(operands=[a, b, *zeros], result_types=[op.results[0].type])
    return [*made, new], [new.y]


_FORMS: dict[str, Callable[[Operation, ConstantStore], Made]] = {
    "QuantizeLinear": _linear,
    "DequantizeLinear": _linear,
    "DynamicQuantizeLinear": _dynamic,
    "ConvInteger": _conv,
    "MatMulInteger": _matmul,
}
