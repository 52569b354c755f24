"""Pass `import-qdq`: QuantizeLinear and DequantizeLinear of an already quantized model become `q` ops.

The model's own scales and zero points are kept. Weights stored in float behind a QuantizeLinear are quantized here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from qcompiler.passes.canonicalize import constant_array
from qcompiler.passes.integer_rules import present
from xdsl.dialects.builtin import ModuleOp, StringAttr, TensorType
from xdsl.ir import Operation, SSAValue

from qcompiler.arithmetic.affine import quantize
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.q_elementwise import ConstantOp, DequantizeOp, QuantizeOp
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.rewriting import remove_dead
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import body, dtype_of, integer, is_float, rank, shape
from qcompiler.pipeline import CompilerContext, QuantPass, Stage

_STORAGE = {"uint8": "u8", "int8": "i8", "uint16": "u16", "int16": "i16", "int32": "i32"}


@dataclass(frozen=True)
class ImportQDQ(QuantPass):
    """Turns QuantizeLinear and DequantizeLinear with constant scales into q.quantize and q.dequantize."""

    name: ClassVar[str] = "import-qdq"
    requires: ClassVar = (Stage.FLOAT,)
    ensures: ClassVar = Stage.QDQ

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        for op in list(body(module).ops):
            if op_name(op) == "QuantizeLinear":
                _quantize(ctx.store, op)
            elif op_name(op) == "DequantizeLinear":
                _dequantize(ctx.store, op)
        remove_dead(module)


def _type(op: Operation, stored: SSAValue, store: ConstantStore) -> UniformType | None:
    """The type that scale and zero point of an op stand for; None if the IR has no such type."""
    scale, zero_value = constant_array(op.operands[1], store), present(op, 2)
    zero = np.zeros(1, np.int64) if zero_value is None else constant_array(zero_value, store)
    storage = _STORAGE.get(str(dtype_of(stored)))
    if scale is None or zero is None or storage is None or scale.dtype != np.float32 or scale.ndim > 1:
        return None
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        return None
    if scale.size == 1:
        return UniformType.make(storage, scale.reshape(()), zero.reshape(-1)[0])
    axis = integer(op.properties.get("axis"), 1) % rank(op.operands[0])
    return UniformType.make(storage, scale, zero.astype(np.int64), axis=axis)


def _quantize(store: ConstantStore, op: Operation) -> None:
    x, y = op.operands[0], op.results[0]
    kind = _type(op, y, store)
    if kind is None or not is_float(x):
        return
    real = constant_array(x, store)
    if real is None:
        new: Operation = QuantizeOp.create(operands=[x], result_types=[TensorType(kind, shape(x))])
        new.properties["q.why"] = StringAttr("as the imported model says")
    else:
        stored = quantize(real, kind.scales, kind.zero_points, kind.qmin, kind.qmax, kind.dtype, kind.axis)
        new = ConstantOp.of(store, f"{x.owner.resource}.{kind.storage}", stored, kind)  # type: ignore[union-attr]
    _replace(op, new)


def _dequantize(store: ConstantStore, op: Operation) -> None:
    x, y = op.operands[0], op.results[0]
    if isinstance(x.owner, QuantizeOp):
        kind: UniformType | None = x.type.element_type  # type: ignore[union-attr]
    elif isinstance(x.owner, ConstantOp):
        kind = x.type.element_type if isinstance(x.type.element_type, UniformType) else _type(op, x, store)  # type: ignore[union-attr]
        if kind is not None and not isinstance(x.type.element_type, UniformType):  # type: ignore[union-attr]
            typed = ConstantOp.named(x.owner.resource, TensorType(kind, shape(x)), op.location)
            op.parent.insert_op_before(typed, op)  # type: ignore[union-attr]
            x = typed.y
    else:
        return
    if kind is None or not is_float(y):
        return
    _replace(op, DequantizeOp.create(operands=[x], result_types=[y.type]))


def _replace(op: Operation, new: Operation) -> None:
    new.location = op.location
    block = op.parent
    assert block is not None
    block.insert_op_before(new, op)
    op.results[0].replace_all_uses_with(new.results[0])
    op.detach()
    op.erase()
