"""Post-processing of predictions: boxes and scores being decoded behind the last convolution or matrix product."""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from qcompiler.ir.graph import classes
from qcompiler.ir.pointwise import Pointwise, op_name
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import body
from qcompiler.passes.canonicalize import constant_array, macs

_ARITHMETIC = ("Add", "Sub", "Mul", "Div")


def decoding_values(module: ModuleOp, store: ConstantStore, pointwise: Pointwise) -> set[SSAValue]:
    """Values behind the last convolutions and matrix products, where sums and products go on: boxes being decoded.

    A value counts if no product reads anything that depends on it, if it depends on one, and if it is connected with
    such arithmetic through values that do. Movements, clamps and tables alone are no decoding.
    """
    block = body(module)
    ahead: dict[SSAValue, bool] = {}
    for op in reversed(list(block.ops)):
        heavy = bool(op_name(op)) and macs(op) > 0
        reached = heavy or any(ahead.get(r, False) for r in op.results)
        for value in op.operands:
            ahead[value] = ahead.get(value, False) or reached
    behind: set[SSAValue] = set()
    for op in block.ops:
        if (bool(op_name(op)) and macs(op) > 0) or any(v in behind for v in op.operands):
            behind.update(op.results)
    tail = {v for v in behind if not ahead.get(v, False)}
    pairs = [(v, v) for v in tail]
    arithmetic: set[SSAValue] = set()
    for op in block.ops:
        inside = [v for v in (*op.operands, *op.results) if v in tail]
        pairs += [(inside[0], v) for v in inside[1:]]
        result = op.results[0] if op.results else None
        if op_name(op) in _ARITHMETIC and result in tail and result not in pointwise.roots and not _is_bias(op, store):
            arithmetic.update(inside)
    return {v for members in classes(pairs) if members & arithmetic for v in members}


def _is_bias(add: Operation, store: ConstantStore) -> bool:
    """Whether a sum adds a constant to the result of a matrix product."""
    products = any(op_name(v.owner) == "MatMul" for v in add.operands)
    return products and any(constant_array(v, store) is not None for v in add.operands)
