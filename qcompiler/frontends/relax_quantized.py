"""Relax's quantize and dequantize in ONNX."""

# TVM's expressions have no attributes and operators for a type checker.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false

from __future__ import annotations

import numpy as np
from tvm.ir import Call, GenericConst
from tvm.tirx import FloatImm, IntImm

from qcompiler.frontends.relax_emit import Emitter, Rule, Value, dtype_of, require, shape_of


def _parameters(emitter: Emitter, call: Call, stored: np.dtype) -> tuple[str, str, int | None]:
    """Scale, zero point and axis as ONNX wants them; Relax lets a zero point be an array beside a scalar scale."""
    _, scale, zero_point = call.args
    require(
        isinstance(scale, GenericConst | FloatImm) and isinstance(zero_point, GenericConst | IntImm),
        "scale or zero point are computed",
    )
    scales, zeros = (
        np.asarray(e.value.numpy() if isinstance(e, GenericConst) else e.value) for e in (scale, zero_point)
    )
    axis = int(call.attrs.axis) % max(len(shape_of(call)), 1)
    if zeros.size == 1 or (scales.size == 1 and (zeros == zeros.flat[0]).all()):
        zeros = zeros.reshape(-1)[:1]
    if scales.size == 1 and zeros.size == 1:
        scales, zeros = scales.reshape(()), zeros.reshape(())
    else:
        count = shape_of(call)[axis]
        scales, zeros = np.broadcast_to(scales, [count]), np.broadcast_to(zeros, [count])
    low, high = (-(1 << 31), (1 << 31) - 1) if stored == np.int32 else (np.iinfo(stored).min, np.iinfo(stored).max)
    require(((zeros >= low) & (zeros <= high)).all(), f"zero points outside {stored}")
    return (
        emitter.constant(scales.astype(np.float32)),
        emitter.constant(zeros.astype(stored)),
        axis if scales.ndim else None,
    )


def _quantize(emitter: Emitter, call: Call) -> Value:
    stored = dtype_of(call)
    require(stored.kind in "iu", f"quantization to {stored}")
    scale, zero, axis = _parameters(emitter, call, stored)
    return emitter.node("QuantizeLinear", emitter.of(call.args[0]), scale, zero, axis=axis)


def _dequantize(emitter: Emitter, call: Call) -> Value:
    stored = dtype_of(call.args[0])
    require(stored.kind in "iu" and dtype_of(call) == np.float32, f"{dtype_of(call)} from {stored}")
    scale, zero, axis = _parameters(emitter, call, stored)
    return emitter.node("DequantizeLinear", emitter.of(call.args[0]), scale, zero, axis=axis)


RULES: dict[str, Rule] = {
    "relax.quantize": _quantize,
    "relax.dequantize": _dequantize,
}
