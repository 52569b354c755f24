"""Pass `legalize`: storage signedness and rounding form become those of the target. Exact.

Changing `u8` to `i8` subtracts 128 from every stored integer and zero point; real values stay the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import FunctionType, ModuleOp, StringAttr, TensorType
from xdsl.ir import Attribute, Operation
from xdsl.rewriter import Rewriter

from qcompiler.errors import PipelineError
from qcompiler.ir.q_base import ROUNDINGS, QOp, array, number
from qcompiler.ir.q_conv import ConvOp, MatMulOp
from qcompiler.ir.q_elementwise import ConstantOp, LutOp
from qcompiler.ir.q_movement import PadOp
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.rewriting import remove_dead
from qcompiler.ir.values import body, defining, integer, integers, is_quantized, main, quantized, shape
from qcompiler.pipeline import CompilerContext, QuantPass, Stage

_OTHER = {"u8": "i8", "i8": "u8"}
_STEP = {"u8": 128, "i8": -128}
"""What is added to a stored integer that comes to be stored as this type."""


def flipped(kind: UniformType) -> UniformType:
    """The type of the other signedness that stands for the same real numbers."""
    storage = _OTHER[kind.storage]
    step = _STEP[storage]
    return UniformType.make(
        storage, kind.scale, kind.zero_point + step, storage_range=(kind.qmin + step, kind.qmax + step)
    )


@dataclass(frozen=True)
class Legalize(QuantPass):
    """Stores activations signed or unsigned, and rounds, as the target's spec says; real values stay the same.

    `storage` (u8 or i8) and `rounding` (fp32, fixed, fixed2) replace what the spec says.
    """

    name: ClassVar[str] = "legalize"
    requires: ClassVar = (Stage.INTEGER,)
    ensures: ClassVar = Stage.LEGAL
    storage: str | None = None
    rounding: str | None = None

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        storage = self.storage or (ctx.target.activation_storage if ctx.target else "u8")
        rounding = self.rounding or (ctx.target.rounding if ctx.target else "fp32")
        if storage not in _OTHER:
            raise PipelineError(f"legalize: storage must be u8 or i8, got '{storage}'")
        if rounding not in ROUNDINGS:
            raise PipelineError(f"legalize: rounding must be one of {', '.join(ROUNDINGS)}, got '{rounding}'")
        for op in list(body(module).ops):
            if isinstance(op, QOp):
                self._legalize(ctx, op, storage)
                if "rounding" in op.properties:
                    op.properties["rounding"] = StringAttr(rounding)
        function = main(module)
        outputs = [v.type for v in body(module).last_op.operands]  # type: ignore[union-attr]
        inputs = [a.type for a in function.body.block.args]
        function.properties["function_type"] = FunctionType.from_lists(inputs, outputs)
        remove_dead(module)

    def _legalize(self, ctx: CompilerContext, op: QOp, storage: str) -> None:
        step = _STEP[storage]
        was = {  # operands have been changed already, so the former storage is read off the results and attributes
            index: quantized(r) for index, r in enumerate(op.results) if is_quantized(r) and self._flips(r.type, storage)
        }
        if isinstance(op, ConstantOp):
            if was and was[0].per_tensor:
                values = ctx.store[op.resource].astype(np.int64) + step
                kind = flipped(was[0])
                new = ConstantOp.of(ctx.store, f"{op.resource}.{storage}", values.astype(kind.dtype), kind, op.location)
                if op.why is not None:
                    new.properties["q.why"] = op.why
                op.parent.insert_op_before(new, op)  # type: ignore[union-attr]
                op.y.replace_all_uses_with(new.y)
            return
        self._shift_operand_attributes(ctx, op, storage)
        if was and "clamp" in op.properties:
            op.properties["clamp"] = array([v + step for v in integers(op.properties["clamp"])])
        if was and isinstance(op, LutOp):
            table = defining(op.table, ConstantOp)
            assert table is not None
            values = (ctx.store[table.resource].astype(np.int64) + step).astype(flipped(was[0]).dtype)
            new = ConstantOp.of(ctx.store, f"{table.resource}.{storage}", values, location=op.location)
            op.parent.insert_op_before(new, op)  # type: ignore[union-attr]
            op.operands[1] = new.y
        for index, kind in was.items():
            result = op.results[index]
            Rewriter.replace_value_with_new_type(result, TensorType(flipped(kind), shape(result)))

    @staticmethod
    def _flips(kind: Attribute, storage: str) -> bool:
        element = kind.get_element_type() if isinstance(kind, TensorType) else None
        return isinstance(element, UniformType) and element.per_tensor and element.storage == _OTHER[storage]

    @staticmethod
    def _shift_operand_attributes(ctx: CompilerContext, op: Operation, storage: str) -> None:
        """Attributes that speak of an operand's stored integers follow its zero point."""
        if isinstance(op, ConvOp):
            zero = quantized(op.x).zero_point
            if integer(op.x_zero_point) != zero:
                op.properties["x_zero_point"] = number(zero)
                op.properties["pad_value"] = number(zero)
        elif isinstance(op, MatMulOp):
            op.properties["a_zero_point"] = number(quantized(op.a).zero_point)
            if is_quantized(op.b):
                op.properties["b_zero_point"] = number(quantized(op.b).zero_point)
        elif isinstance(op, PadOp) and is_quantized(op.y) and quantized(op.y) != quantized(op.x):
            op.properties["value"] = number(integer(op.value) + _STEP[storage])
