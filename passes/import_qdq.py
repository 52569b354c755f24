"""Pass `import-qdq`: the quantized ops of an already quantized model become `q` ops.

The model's own scales and zero points are kept. QuantizeLinear and DequantizeLinear with constant parameters become
q.quantize and q.dequantize, from which `integerize` makes integer ops; everything else becomes an op with run-time
parameters (`import_runtime`). Weights stored in float behind a QuantizeLinear are quantized here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from onnx import TensorProto
from xdsl.dialects.builtin import ModuleOp, StringAttr, TensorType, f32
from xdsl.ir import Operation, SSAValue

from qcompiler.arithmetic.affine import quantize
from qcompiler.errors import ModelError
from qcompiler.ir.onnx_dialect import ELEMENT_TYPES
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.q_elementwise import ConstantOp, DequantizeOp, QuantizeOp
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.rewriting import rewrite
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import body, describe, integer, is_float, rank, shape, tensor, users
from qcompiler.passes.canonicalize import constant_array
from qcompiler.passes.import_norm import NormIntoScales
from qcompiler.passes.import_runtime import import_runtime
from qcompiler.passes.integer_rules import present
from qcompiler.pipeline import CompilerContext, QuantPass, Stage

_STORAGE = {
    ELEMENT_TYPES[number]: storage
    for number, storage in (
        (TensorProto.UINT2, "u2"),
        (TensorProto.INT2, "i2"),
        (TensorProto.UINT4, "u4"),
        (TensorProto.INT4, "i4"),
        (TensorProto.UINT8, "u8"),
        (TensorProto.INT8, "i8"),
        (TensorProto.UINT16, "u16"),
        (TensorProto.INT16, "i16"),
        (TensorProto.INT32, "i32"),
    )
}

_ACTIVATIONS = ("u8", "i8", "u16", "i16")
"""Storage of what is computed at run time; constants are stored in any of the types above."""


@dataclass(frozen=True)
class ImportQDQ(QuantPass):
    """Turns the quantized ops of ONNX into q.quantize and q.dequantize, or into ops with run-time parameters."""

    name: ClassVar[str] = "import-qdq"
    requires: ClassVar = (Stage.FLOAT,)
    ensures: ClassVar = Stage.QDQ

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        for op in list(body(module).ops):
            if op_name(op) == "QuantizeLinear":
                _quantize(ctx.store, op)
        for op in list(body(module).ops):
            if op_name(op) == "DequantizeLinear":
                _dequantize(ctx.store, op)
        import_runtime(ctx.store, module, ctx.source)
        rewrite(module, NormIntoScales(ctx.store))


def _type(op: Operation, stored: SSAValue, store: ConstantStore) -> UniformType | None:
    """The type that scale and zero point of an op stand for; None if the IR has no such type."""
    scale, zero_value = constant_array(op.operands[1], store), present(op, 2)
    zero = np.zeros(1, np.int64) if zero_value is None else constant_array(zero_value, store)
    storage = _STORAGE.get(tensor(stored).element_type)
    blocked = scale is not None and (scale.ndim > 1 or integer(op.properties.get("block_size")) > 0)
    if scale is None or zero is None or storage is None or scale.dtype != np.float32 or blocked:
        return None
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise ModelError(f"{describe(op)}: expected scales that are finite and positive, found {scale.min():g}")
    if scale.size == 1:
        return UniformType.make(storage, scale.reshape(()), zero.reshape(-1)[0])
    axis = integer(op.properties.get("axis"), 1) % rank(op.operands[0])
    return UniformType.make(storage, scale, zero.astype(np.int64), axis=axis)


def _quantize(store: ConstantStore, op: Operation) -> None:
    """QuantizeLinear with the DequantizeLinear of the same type behind it.

    Other readers (the function's result, above all) keep the QuantizeLinear; it then reads what the stored integers
    stand for, which does not change its result.
    """
    x, y = op.operands[0], op.results[0]
    kind = _type(op, y, store)
    real = constant_array(x, store)
    if kind is None or not is_float(x) or (real is None and kind.storage not in _ACTIVATIONS):
        return
    if real is None:
        new: Operation = QuantizeOp.create(operands=[x], result_types=[TensorType(kind, shape(x))])
        new.properties["q.why"] = StringAttr("as the imported model says")
    else:
        stored = quantize(real, kind.scales, kind.zero_points, kind.qmin, kind.qmax, kind.dtype, kind.axis)
        new = ConstantOp.of(store, f"{x.owner.resource}.{kind.storage}", stored, kind)  # type: ignore[union-attr]
    _insert_before(op, new)
    for reader in users(y):
        if op_name(reader) == "DequantizeLinear" and _type(reader, y, store) == kind:
            _replace(reader, _dequantized(new.results[0]))
    if users(y):
        back = _dequantized(new.results[0])
        _insert_before(op, back)
        op.operands[0] = back.y


def _dequantize(store: ConstantStore, op: Operation) -> None:
    """DequantizeLinear of a constant; of any other tensor (an input of the model, above all) it stays.

    Behind one that stays, quantize and dequantize of its own type give back the stored integers.
    """
    x, y = op.operands[0], op.results[0]
    kind = _type(op, x, store)
    if kind is None or not is_float(y):
        return
    if isinstance(x.owner, ConstantOp):
        typed = ConstantOp.named(x.owner.resource, TensorType(kind, shape(x)), op.location)
        _insert_before(op, typed)
        _replace(op, _dequantized(typed.y))
    elif kind.storage in _ACTIVATIONS:
        new = QuantizeOp.create(operands=[y], result_types=[TensorType(kind, shape(y))])
        back = _dequantized(new.y)
        new.location = back.location = op.location
        y.replace_all_uses_with(back.y)
        new.operands[0] = y
        assert op.parent is not None
        op.parent.insert_ops_after([new, back], op)


def _dequantized(stored: SSAValue) -> DequantizeOp:
    return DequantizeOp.create(operands=[stored], result_types=[TensorType(f32, shape(stored))])


def _insert_before(op: Operation, new: Operation) -> None:
    new.location = op.location
    assert op.parent is not None
    op.parent.insert_op_before(new, op)


def _replace(op: Operation, new: Operation) -> None:
    _insert_before(op, new)
    op.results[0].replace_all_uses_with(new.results[0])
    op.detach()
    op.erase()
