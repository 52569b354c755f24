"""Post-processing of predictions: boxes and scores being decoded behind the last convolution or matrix product."""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import SSAValue

from qcompiler.ir.graph import classes
from qcompiler.ir.pointwise import Pointwise, op_name
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import body
from qcompiler.passes.fusion import adds_bias, before_products, is_product

_ARITHMETIC = ("Add", "Sub", "Mul", "Div")


def decoding_values(module: ModuleOp, store: ConstantStore, pointwise: Pointwise) -> set[SSAValue]:
    """Values behind the last convolutions and matrix products, where sums and products go on: boxes being decoded.

    A value counts if no product reads anything that depends on it, if it depends on one, and if it is connected with
    such arithmetic through values that do. Movements, clamps and tables alone are no decoding.
    """
    block = body(module)
    ahead = before_products(module)
    behind: set[SSAValue] = set()
    for op in block.ops:
        if is_product(op) or any(v in behind for v in op.operands):
            behind.update(op.results)
    tail = behind - ahead
    pairs = [(v, v) for v in tail]
    arithmetic: set[SSAValue] = set()
    for op in block.ops:
        if not op.results:
            continue  # the return, which reads predictions of every kind
        inside = [v for v in (*op.operands, *op.results) if v in tail]
        pairs += [(inside[0], v) for v in inside[1:]]
        result = op.results[0]
        if op_name(op) in _ARITHMETIC and result in tail and result not in pointwise.roots and not adds_bias(op, store):
            arithmetic.update(inside)
    return {v for members in classes(pairs) if members & arithmetic for v in members}
