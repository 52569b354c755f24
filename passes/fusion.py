"""What several float ops that become one integer op look like: biases behind products, clamps, pointwise regions."""

from __future__ import annotations

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from qcompiler.ir.onnx_dialect import OnnxOp
from qcompiler.ir.pointwise import Pointwise, fused_clamp, op_name
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import body, shape, users
from qcompiler.passes.canonicalize import constant_array, macs


def matmul_bias(op: Operation, store: ConstantStore) -> Operation | None:
    """The addition of a constant vector that alone reads a MatMul of rank above 2: its bias."""
    if op_name(op) != "MatMul" or constant_array(op.operands[1], store) is None:
        return None
    readers = users(op.results[0])
    if len(readers) != 1 or op_name(readers[0]) != "Add":
        return None
    add = readers[0]
    other = add.operands[1] if add.operands[0] is op.results[0] else add.operands[0]
    addend = constant_array(other, store)
    n = shape(op.results[0])[-1]
    is_vector = addend is not None and addend.size == n and addend.shape[-1:] == (n,)
    return add if is_vector and shape(add.results[0]) == shape(op.results[0]) else None


def adds_bias(op: Operation, store: ConstantStore) -> bool:
    """Whether an op adds the bias to a product of matrices."""
    return any(isinstance(v.owner, Operation) and matmul_bias(v.owner, store) is op for v in op.operands)


def before_products(module: ModuleOp) -> set[SSAValue]:
    """Values that some convolution or product of matrices depends on."""
    found: set[SSAValue] = set()
    for op in reversed(list(body(module).ops)):
        if is_product(op) or any(r in found for r in op.results):
            found.update(op.operands)
    return found


def is_product(op: Operation) -> bool:
    """Whether an op of the float graph multiplies and adds: a convolution, a product of matrices, a recurrent layer."""
    return isinstance(op, OnnxOp) and macs(op) > 0


def inner_values(module: ModuleOp, store: ConstantStore, pointwise: Pointwise) -> set[SSAValue]:
    """Values that never reach memory: in front of a fused clamp or bias, inside a table."""
    inner: set[SSAValue] = set()
    for op in body(module).ops:
        for value in op.results:
            if pointwise.inner(value) or fused_clamp(value, store) is not None:
                inner.add(value)
        if matmul_bias(op, store) is not None:
            inner.add(op.results[0])
    return inner
