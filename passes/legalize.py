"""Pass `legalize`: storage signedness and rounding form become those of the target. Exact but for the rounding.

Changing `u8` to `i8` subtracts 128 from every stored integer and zero point; real values stay the same. Arguments and
results of the function change like all other values; 16-bit storage stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import FunctionType, ModuleOp, StringAttr, TensorType
from xdsl.ir import Attribute, SSAValue
from xdsl.rewriter import Rewriter

from qcompiler.arithmetic.pool import average_multiplier
from qcompiler.arithmetic.requantize import multiplier_fixed, multiplier_fixed2, multiplier_fp32, short_multiplier
from qcompiler.errors import ModelError, PipelineError
from qcompiler.ir.q_base import ROUNDINGS, QOp, array, number
from qcompiler.ir.q_conv import ConvOp, MatMulOp
from qcompiler.ir.q_elementwise import ConstantOp, LutOp, MulOp, RequantizeOp
from qcompiler.ir.q_grouped import GroupedMatMulOp
from qcompiler.ir.q_reduce import AveragePoolOp, MeanOp
from qcompiler.ir.quant_types import UniformType, flipped
from qcompiler.ir.rewriting import remove_dead
from qcompiler.ir.values import body, defining, describe, integer, integers, is_quantized, main, quantized, shape
from qcompiler.pipeline import CompilerContext, QuantPass, Stage

_OTHER = {"u8": "i8", "i8": "u8"}
_STEP = {"u8": 128, "i8": -128}
"""What is added to a stored integer that comes to be stored as this type."""

_SPOKEN_OF = ((0, "x_zero_point"), (0, "pad_value"), (0, "a_zero_point"), (1, "b_zero_point"), (0, "value"))
"""Attributes that speak of an operand's stored integers: position of the operand, name."""

_REASONS = ("q.why", "q.numbers")

_FORMS = {"fp32": multiplier_fp32, "fixed": multiplier_fixed, "fixed2": multiplier_fixed2}


@dataclass(frozen=True)
class Legalize(QuantPass):
    """Stores activations signed or unsigned, and rounds, as the target's spec says; real values stay the same.

    `storage` (u8 or i8) and `rounding` (fp32, fixed, fixed2) replace what the spec says. For `fixed2`, constant
    multipliers to 8-bit results are rounded to 15 binary digits (`short_multiplier`).
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
        function = main(module)
        flipped_values = {
            _retype(argument) for argument in list(function.body.block.args) if self._flips(argument.type, storage)
        }
        for op in list(body(module).ops):
            if isinstance(op, QOp):
                self._legalize(ctx, op, storage, flipped_values)
                if "rounding" in op.properties:
                    op.properties["rounding"] = StringAttr(rounding)
                    _check_multipliers(ctx, op, rounding)
                    if rounding == "fixed2":
                        _shorten_multipliers(ctx, op)
        outputs = [v.type for v in body(module).last_op.operands]  # type: ignore[union-attr]
        inputs = [a.type for a in function.body.block.args]
        function.properties["function_type"] = FunctionType.from_lists(inputs, outputs)
        remove_dead(module)

    def _legalize(self, ctx: CompilerContext, op: QOp, storage: str, flipped_values: set[SSAValue]) -> None:
        step = _STEP[storage]
        was = {
            index: quantized(r)
            for index, r in enumerate(op.results)
            if is_quantized(r) and self._flips(r.type, storage)
        }
        if isinstance(op, ConstantOp):
            if was:
                values = ctx.store[op.resource].astype(np.int64) + step
                kind = flipped(was[0])
                new = ConstantOp.of(ctx.store, f"{op.resource}.{storage}", values.astype(kind.dtype), kind, op.location)
                new.properties.update({name: op.properties[name] for name in _REASONS if name in op.properties})
                op.parent.insert_op_before(new, op)  # type: ignore[union-attr]
                op.y.replace_all_uses_with(new.y)
                flipped_values.add(new.y)
            return
        for operand, name in _SPOKEN_OF:
            if name in op.properties and op.operands[operand] in flipped_values:
                op.properties[name] = number(integer(op.properties[name]) + step)
        if was and "clamp" in op.properties:
            op.properties["clamp"] = array([v + step for v in integers(op.properties["clamp"])])
        if was and isinstance(op, LutOp):
            table = defining(op.table, ConstantOp)
            assert table is not None
            values = (ctx.store[table.resource].astype(np.int64) + step).astype(flipped(was[0]).dtype)
            new = ConstantOp.of(ctx.store, f"{table.resource}.{storage}", values, location=op.location)
            op.parent.insert_op_before(new, op)  # type: ignore[union-attr]
            op.operands[1] = new.y
        flipped_values.update(_retype(op.results[index]) for index in was)

    @staticmethod
    def _flips(kind: Attribute, storage: str) -> bool:
        element = kind.get_element_type() if isinstance(kind, TensorType) else None
        return isinstance(element, UniformType) and not element.blocks and element.storage == _OTHER[storage]


def _retype(value: SSAValue) -> SSAValue:
    """The value with the type of the other signedness, in the place of `value`."""
    return Rewriter.replace_value_with_new_type(value, TensorType(flipped(quantized(value)), shape(value)))


def _shorten_multipliers(ctx: CompilerContext, op: QOp) -> None:
    """Rounds constant multipliers to what one 16-bit multiplication serves for, where the result has 8 bits."""
    if not isinstance(op, ConvOp | MatMulOp | GroupedMatMulOp) or quantized(op.y).dtype.itemsize > 1:
        return
    constant = defining(op.multiplier, ConstantOp)
    assert constant is not None
    short = np.asarray(short_multiplier(ctx.store[constant.resource]))
    new = ConstantOp.of(ctx.store, f"{constant.resource}.short", short, location=constant.location)
    op.parent.insert_op_before(new, op)  # type: ignore[union-attr]
    op.operands[op.operands.index(op.multiplier)] = new.y


def _check_multipliers(ctx: CompilerContext, op: QOp, rounding: str) -> None:
    """Checks that the rounding form can express the op's real multipliers."""
    if isinstance(op, ConvOp | MatMulOp | GroupedMatMulOp):
        constant = defining(op.multiplier, ConstantOp)
        assert constant is not None
        multiplier = ctx.store[constant.resource]
    elif isinstance(op, MulOp | RequantizeOp):
        multiplier = op.multiplier()
    else:
        assert isinstance(op, AveragePoolOp | MeanOp)
        count = op.smallest_count()
        x, y = quantized(op.operands[0]), quantized(op.results[0])
        multiplier = average_multiplier(float(x.scale), float(y.scale), count)
    try:
        _FORMS[rounding](multiplier)
    except ValueError as error:
        raise ModelError(
            f"{ctx.source}: {describe(op)}: {error}; take another rounding, or keep the node in float "
            "(apply-recipe{keep-float=...})"
        ) from None
