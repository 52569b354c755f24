"""Composite operators: normalizations, rotary embeddings and masked attention scores, however they are written.

Inside such an operator there are values no 8-bit type can hold (squares, variances, a mask of -10000), though what goes
in and comes out quantizes well. Their ops therefore run in float as one region, and only its border is quantized.
"""

from __future__ import annotations

from collections.abc import Iterable

from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from qcompiler.ir.graph import is_activation
from qcompiler.ir.onnx_dialect import OnnxOp
from qcompiler.ir.pointwise import op_name, scalar
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import body, size, users
from qcompiler.passes.canonicalize import constant_array
from qcompiler.passes.fusion import adds_bias

_SUMS = ("Add", "Sub")


def composites(module: ModuleOp, store: ConstantStore) -> dict[Operation, str]:
    """The ops inside composite operators that are written in parts, with the operator's name."""
    found: dict[Operation, str] = {}
    for op in body(module).ops:
        match op_name(op):
            case "ReduceMean":
                found |= dict.fromkeys(_normalization(op, store), "a normalization")
            case "Add" | "Sub":
                found |= dict.fromkeys(_rotation(op, store), "a rotary embedding")
            case "Softmax":
                found |= dict.fromkeys(_masked_softmax(op, store), "a masked softmax")
    return found


def _producer(value: SSAValue, *names: str) -> Operation | None:
    """The op of one of these names that makes a value."""
    return value.owner if isinstance(value.owner, Operation) and op_name(value.owner) in names else None


def _reader(value: SSAValue, *names: str) -> Operation | None:
    """The op of one of these names that alone reads a value."""
    readers = users(value)
    return readers[0] if len(readers) == 1 and op_name(readers[0]) in names else None


def _square(value: SSAValue, store: ConstantStore) -> tuple[Operation, SSAValue] | None:
    """The op that squares, and what it squares, if `value` is a square."""
    if (op := _producer(value, "Pow")) is not None and scalar(op.operands[1], store) == 2.0:
        return op, op.operands[0]
    op = _producer(value, "Mul")
    return (op, op.operands[0]) if op is not None and op.operands[0] is op.operands[1] else None


def _normalization(mean: Operation, store: ConstantStore) -> list[Operation]:
    """RMSNorm and LayerNorm around the mean of squares `mean`: `x / sqrt(mean(x^2) + eps) * weight + bias`.

    For LayerNorm `x` is `input - mean(input)`. Empty if `mean` is none of these.
    """
    squared = _square(mean.operands[0], store)
    if squared is None:
        return []
    square, x = squared
    inside = [square, mean]
    value: SSAValue = mean.results[0]
    if (add := _reader(value, "Add")) is not None and any(scalar(v, store) is not None for v in add.operands):
        inside.append(add)
        value = add.results[0]
    root = _reader(value, "Sqrt", "Pow")
    if root is None or (op_name(root) == "Pow" and abs(scalar(root.operands[1], store) or 0.0) != 0.5):
        return []
    inside.append(root)
    value = root.results[0]
    if (reciprocal := _reader(value, "Reciprocal")) is not None:
        inside.append(reciprocal)
        value = reciprocal.results[0]
    elif (inverse := _reader(value, "Div")) is not None and scalar(inverse.operands[0], store) == 1.0:
        inside.append(inverse)
        value = inverse.results[0]
    scaled = _reader(value, "Div", "Mul")
    if scaled is None or x not in scaled.operands:
        return []
    inside.append(scaled)
    centred = _producer(x, "Sub")
    centre = _producer(centred.operands[1], "ReduceMean") if centred is not None else None
    if centred is not None and centre is not None and centre.operands[0] is centred.operands[0]:
        inside += [centred, centre]
    value = scaled.results[0]
    for name in ("Mul", "Add"):
        op = _reader(value, name)
        if op is not None and any(constant_array(v, store) is not None for v in op.operands):
            inside.append(op)
            value = op.results[0]
    return inside


def _constant_factor(value: SSAValue, store: ConstantStore) -> Operation | None:
    """The product with a constant that is no scalar, if it makes `value` and only sums read that."""
    op = _producer(value, "Mul")
    if op is None or any(op_name(u) not in _SUMS for u in users(value)):
        return None
    arrays = [constant_array(v, store) for v in op.operands]
    return op if any(a is not None and a.size > 1 for a in arrays) else None


def _rotation(total: Operation, store: ConstantStore) -> list[Operation]:
    """Both products and their sum, of `x * cos + y * sin` with constant factors."""
    products = [_constant_factor(v, store) for v in total.operands]
    return [*(p for p in products if p is not None), total] if all(p is not None for p in products) else []


def _masked_softmax(softmax: Operation, store: ConstantStore) -> list[Operation]:
    """A softmax with the sum of scores and mask, or the selection by it, and the scaling in front."""
    inside: list[Operation] = []
    value = softmax.operands[0]
    if (op := _producer(value, "Add", "Sub", "Where")) is None or not _masks(op, store):
        return []
    if adds_bias(op, store):
        return []  # the last layer of a classifier
    pending: list[SSAValue] = [value]
    while pending:
        value = pending.pop()
        op = _producer(value, "Add", "Sub", "Where", "Mul", "Div")
        if op is None or len(users(value)) != 1 or not isinstance(op, OnnxOp):
            continue
        scales = op_name(op) in ("Mul", "Div") and _any_scalar(op.operands, store)
        if scales or op_name(op) in ("Add", "Sub", "Where"):
            inside.append(op)
            pending += [v for v in op.operands if is_activation(v) and size(v) == size(softmax.operands[0])]
    return [*inside, softmax]


def _masks(op: Operation, store: ConstantStore) -> bool:
    """Whether a sum or selection is one of scores and a mask: some operand is smaller than the result, or constant."""
    return any(size(v) < size(op.results[0]) or constant_array(v, store) is not None for v in op.operands)


def _any_scalar(values: Iterable[SSAValue], store: ConstantStore) -> bool:
    return any(scalar(v, store) is not None for v in values)
