"""Exports of a QDQ module for other runtimes: in either ONNX format, fitted to what the reader takes."""

from __future__ import annotations

import numpy as np
import onnx
from xdsl.dialects.builtin import TensorType, f32
from xdsl.ir import Operation, SSAValue
from xdsl.rewriter import Rewriter

from qcompiler.arithmetic.affine import dequantize
from qcompiler.errors import PipelineError
from qcompiler.exporters.onnx_export import export_onnx
from qcompiler.exporters.qoperator import export_qoperator
from qcompiler.ir.q_elementwise import ConstantOp, DequantizeOp, QuantizeOp
from qcompiler.ir.quant_types import UniformType, flipped
from qcompiler.ir.rewriting import remove_dead
from qcompiler.ir.values import body, quantized, shape
from qcompiler.model import Model
from qcompiler.profiles import Profile, check_module, is_weight

FORMATS = {"qdq": export_onnx, "qoperator": export_qoperator}


def export(model: Model, form: str = "qdq", profile: Profile | None = None) -> onnx.ModelProto:
    """A model from before `integerize` as an ONNX model, in one of `FORMATS`; `model` is not changed.

    Raises:
        PipelineError: an unknown format, or one that the profile does not read.
        ModelError: the module is integer already, or holds what the profile does not take; names the node.
    """
    if form not in FORMATS:
        raise PipelineError(f"unknown export format '{form}'; known are {', '.join(FORMATS)}")
    if profile is not None:
        if form not in profile.formats:
            raise PipelineError(f"profile '{profile.name}' reads {' or '.join(profile.formats)}, not {form}")
        model = fitted(model, profile)
        check_module(model.module, profile, model.source)
    return FORMATS[form](model.module, model.store)


def fitted(model: Model, profile: Profile) -> Model:
    """A copy of a QDQ model whose tensors are stored as the profile wants, as far as real values stay the same.

    Types of the other signedness are exact; int32 biases become float where the profile wants them so.
    """
    model = model.clone()
    for op in list(body(model.module).ops):
        if isinstance(op, QuantizeOp):
            kind = quantized(op.y)
            if _turns(kind, profile.activations + profile.wide_activations):
                Rewriter.replace_value_with_new_type(op.y, TensorType(flipped(kind), shape(op.y)))
        elif isinstance(op, DequantizeOp) and isinstance(op.x.owner, ConstantOp):
            _fit_constant(model, op, op.x.owner, profile)
    remove_dead(model.module)
    return model


def _turns(kind: UniformType, allowed: tuple[str, ...]) -> bool:
    """Whether a type is not allowed, and that of the other signedness is."""
    return (
        kind.storage not in allowed
        and kind.storage in ("u8", "i8", "u16", "i16")
        and not kind.blocks
        and flipped(kind).storage in allowed
    )


def _fit_constant(model: Model, op: DequantizeOp, constant: ConstantOp, profile: Profile) -> None:
    kind, stored, store = quantized(op.x), model.store[constant.resource], model.store
    if kind.storage == "i32":
        if not profile.quantized_bias:
            real = dequantize(stored, kind.scales, kind.zero_points, kind.axis)
            _replace(op, op.y, ConstantOp.of(store, f"{constant.resource}.real", real.astype(np.float32), f32))
        return
    if _turns(kind, profile.weights if is_weight(op) else profile.activations):
        new = flipped(kind)
        shifted = (stored.astype(np.int64) + new.qmin - kind.qmin).astype(new.dtype)
        other = ConstantOp.of(store, f"{constant.resource}.{new.storage}", shifted, new)
        other.location = constant.location
        assert op.parent is not None
        op.parent.insert_op_before(other, op)
        op.operands[0] = other.y


def _replace(op: Operation, value: SSAValue, constant: ConstantOp) -> None:
    constant.location = op.location
    assert op.parent is not None
    op.parent.insert_op_before(constant, op)
    value.replace_all_uses_with(constant.y)
