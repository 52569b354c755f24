"""Weights and biases that a pass replaces, and the float arrays they stood for: what measuring compares with.

Bias correction and rounding of weights change the float function of a module in stage CHOSEN. `q.original` keeps, by
operand position, the names of the arrays from before the first change, so that simulation still knows the float model.
"""

from __future__ import annotations

import numpy as np
from xdsl.dialects.builtin import DictionaryAttr, StringAttr, TensorType
from xdsl.ir import Block, Operation

from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import element_type, location
from qcompiler.passes.canonicalize import constant_array
from qcompiler.passes.integer_rules import present

_ATTRIBUTE = "q.original"


def replace_constant(op: Operation, index: int, array: np.ndarray, name: str, store: ConstantStore) -> None:
    """Puts `array`, under a name like `name`, in the place of a constant operand; an absent last one was zeros."""
    old = present(op, index)
    constant = ConstantOp.of(store, name, array, location=location(name))  # the op's would take its name from it
    assert isinstance(op.parent, Block)
    op.parent.insert_op_before(constant, op)
    recorded = op.attributes.get(_ATTRIBUTE)
    names = dict(recorded.data) if isinstance(recorded, DictionaryAttr) else {}
    if str(index) not in names:
        resource = old.owner.resource if old is not None else store.add(f"{name}.zero", np.zeros_like(array))  # type: ignore[union-attr]
        op.attributes[_ATTRIBUTE] = DictionaryAttr({**names, str(index): StringAttr(resource)})
    op.operands = [*op.operands[:index], constant.y, *op.operands[index + 1 :]]


def original(op: Operation, index: int, store: ConstantStore) -> np.ndarray:
    """The array of a constant operand as it was in the float model."""
    recorded = op.attributes.get(_ATTRIBUTE)
    name = recorded.data.get(str(index)) if isinstance(recorded, DictionaryAttr) else None
    if isinstance(name, StringAttr):
        return store[name.data]
    array = constant_array(op.operands[index], store)
    assert array is not None
    return array


def restore_originals(op: Operation, store: ConstantStore) -> None:
    """Undoes all changes to an op's constants: in float it shall compute what the float model does."""
    recorded = op.attributes.pop(_ATTRIBUTE, None)
    if not isinstance(recorded, DictionaryAttr):
        return
    for index, name in recorded.data.items():
        assert isinstance(name, StringAttr) and isinstance(op.parent, Block)
        kind = TensorType(element_type(store[name.data].dtype), store[name.data].shape)
        constant = ConstantOp.named(name.data, kind, location(name.data))
        op.parent.insert_op_before(constant, op)
        op.operands[int(index)] = constant.y
