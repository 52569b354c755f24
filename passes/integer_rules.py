"""The table of integer forms: for each float op, when it has one, and how to build it.

A rule's `check` says why an op has no integer form (None: it has one); `choose-scheme` asks it on the float graph. Its
`build` makes the integer op from a `Site`; `integerize` calls it where the operands come from dequantize and the
result goes to quantize.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from xdsl.dialects.builtin import DenseArrayBase, LocationAttr, StringAttr, TensorType
from xdsl.ir import Attribute, Operation, SSAValue

from qcompiler.arithmetic.affine import choose_symmetric, quantize, storage_range
from qcompiler.arithmetic.requantize import INT32_MAX
from qcompiler.arithmetic.table import build_table
from qcompiler.ir.onnx_dialect import OnnxOp
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.q_base import ChosenOp, array, full_clamp
from qcompiler.ir.q_elementwise import ConstantOp, DequantizeOp, LutOp, RequantizeOp
from qcompiler.ir.quant_types import UniformType, column_scales
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import (
    defining,
    describe,
    fused_location,
    integers,
    is_absent,
    is_float,
    quantized,
    retyped,
    shape,
    size,
    users,
)

_EIGHT_BIT_OPERANDS = ("Conv", "Gemm", "MatMul", "Softmax")
_SUMS = ("AveragePool", "GlobalAveragePool", "ReduceMean")


@dataclass
class Site:
    """One place where an integer op is to be built.

    `chain` are the float ops it replaces, first to last; `y` the type of the result; `bounds` the real bounds of a
    fused activation. Ops made are collected in `made`, in order.
    """

    chain: tuple[Operation, ...]
    y: UniformType
    store: ConstantStore
    bounds: tuple[float, float] = (-np.inf, np.inf)
    reasons: Mapping[str, Attribute] = field(default_factory=dict)
    """`q.why` and `q.numbers`, for the ops made."""
    made: list[Operation] = field(default_factory=list)

    @property
    def op(self) -> Operation:
        """The op that gives the rule."""
        return self.chain[0]

    @property
    def location(self) -> LocationAttr:
        return fused_location(*self.chain)

    def result(self, extent: tuple[int, ...] | None = None) -> TensorType:
        """Type of the result, which has the shape of the chain's last result unless given."""
        return TensorType(self.y, extent if extent is not None else shape(self.chain[-1].results[0]))

    def clamp(self) -> DenseArrayBase | None:
        """The stored bounds of the fused activation; None if they are not the same integers for every channel."""
        if self.bounds == (-np.inf, np.inf):
            return full_clamp(self.y)
        y = self.y
        limits = np.broadcast_to(np.array(self.bounds, np.float32), (*y.grid, 2))
        axis = 0 if y.grid else None
        stored = np.unique(
            quantize(limits, y.scales, y.zero_points, y.qmin, y.qmax, y.dtype, axis).reshape(-1, 2), axis=0
        )
        return array(stored[0].tolist()) if len(stored) == 1 else None

    def source(self, value: SSAValue) -> SSAValue | None:
        """The quantized value behind a dequantize, None if there is none."""
        dequantize = defining(value, DequantizeOp)
        return dequantize.x if dequantize is not None else None

    def emit(self, op: Operation) -> SSAValue:
        """Adds an op; returns its first result."""
        op.location = self.location
        if isinstance(op, ChosenOp) and not isinstance(op, ConstantOp):
            op.properties.update(self.reasons)
        self.made.append(op)
        return op.results[0]

    def constant(self, name: str, values: np.ndarray, element: UniformType | None = None) -> SSAValue:
        return self.emit(ConstantOp.of(self.store, name, values, element))

    def table(self, x: SSAValue, function: Callable[[np.ndarray], np.ndarray], y: UniformType) -> SSAValue:
        """A look-up table on `x` for a function of real numbers; one a channel if `y` is a per-axis type.

        A table on 16 bits has one scale: for a per-axis `y` its result is in 16 bits too, and requantized.
        """
        kind = quantized(x)
        if y.axis is not None and kind.dtype.itemsize > 1:
            return self.as_type(self.table(x, function, wide_type(y)), y)
        table = build_table(
            function,
            kind.scale,
            kind.zero_point,
            kind.storage,
            y.scales,
            y.zero_point,
            y.qmin,
            y.qmax,
            y.storage,
        )
        values = self.constant("table", table)
        return self.emit(LutOp.create(operands=[x, values], result_types=[retyped(x, y)]))

    def as_type(self, x: SSAValue, kind: UniformType) -> SSAValue:
        """`x`, which has one scale, in another type: by a table from 8 to 8 bits, else requantized."""
        before = quantized(x)
        if before == kind:
            return x
        if kind.per_tensor and before.dtype.itemsize == kind.dtype.itemsize == 1:
            return self.table(x, lambda real: real, kind)
        return self.requantize(x, kind, full_clamp(kind))

    def requantize(self, x: SSAValue, kind: UniformType, clamp: DenseArrayBase) -> SSAValue:
        """`x`, which has one scale, in another type of 8 or 16 bits, clamped."""
        properties = {"rounding": StringAttr("fp32"), "clamp": clamp}
        return self.emit(RequantizeOp.create(operands=[x], result_types=[retyped(x, kind)], properties=properties))


def wide_type(kind: UniformType) -> UniformType:
    """The symmetric i16 type that holds every real number of a type of 8 bits, its channels included."""
    largest = float((kind.scales.astype(np.float64) * kind.reach).max())
    return UniformType.make("i16", *choose_symmetric(-largest, largest, *storage_range("i16")))


def stored_alike(kind: UniformType) -> bool:
    """Whether values of a type can be operands or results of integer ops: 8 or 16 bits, one zero point."""
    plain = kind.storage in ("u8", "i8", "u16", "i16") and not kind.blocks
    return plain and len(set(kind.zero_points.ravel().tolist())) == 1


def one_scale(kind: UniformType) -> bool:
    """Whether a type is one of 8 or 16 bits with a single scale."""
    return kind.per_tensor and stored_alike(kind)


def accumulator_scales(x: UniformType, w: UniformType, channels: int) -> np.ndarray:
    """`s_x * s_w` in float64: one, or one for each output channel where `x` or `w` has a per-axis type."""
    scales = column_scales(w)
    if x.per_tensor:
        return np.float64(x.scale) * scales
    return np.repeat(x.scales.astype(np.float64), channels // len(x.scales)) * scales


@dataclass(frozen=True)
class Rule:
    """`check(op, store)` gives the reason why there is no integer form; `build(site)` the result, or None."""

    check: Callable[[Operation, ConstantStore], str | None]
    build: Callable[[Site], SSAValue | None]
    moves: bool = False
    """Operands and result share scale and zero point."""


def constant(value: SSAValue) -> bool:
    """Whether a value is a constant, or one behind its dequantize."""
    source = defining(value, DequantizeOp)
    return isinstance(value.owner if source is None else source.x.owner, ConstantOp)


def present(op: Operation, index: int) -> SSAValue | None:
    """Operand by position, None if absent."""
    return op.operands[index] if index < len(op.operands) and not is_absent(op.operands[index]) else None


def always(op: Operation, store: ConstantStore) -> str | None:
    return None


def stored(value: SSAValue, store: ConstantStore) -> np.ndarray:
    """The array of a constant operand."""
    assert isinstance(value.owner, ConstantOp)
    return store[value.owner.resource]


def rules() -> dict[str, Rule]:
    """Rule by ONNX's op name."""
    from qcompiler.passes.rules_compute import COMPUTE
    from qcompiler.passes.rules_movement import MOVEMENT

    return {**COMPUTE, **MOVEMENT}


def reason_for_float(op: Operation, store: ConstantStore) -> str | None:
    """Why an op has no integer form; None if it has one. Pointwise regions are judged by the caller."""
    name = op_name(op)
    if not isinstance(op, OnnxOp):
        return f"{op.name} is no float operation"
    rule = rules().get(name)
    if rule is None:
        return f"{name} has no integer form"
    if not any(is_float(v) for v in op.operands):
        return f"{name} on values that are not float32"
    return rule.check(op, store)


def sixteen_bit_obstacle(value: SSAValue, store: ConstantStore) -> str | None:
    """Why a value of the float graph cannot be stored as symmetric i16; None if it can.

    Speaks of the value's producer and readers alone: what shares its type through movements is asked for itself.
    """
    if not is_float(value):
        return "it is not float32"
    return next((reason for _, reason in eight_bit_ops(value, store)), None)


def eight_bit_ops(value: SSAValue, store: ConstantStore) -> Iterator[tuple[Operation, str]]:
    """Ops that write or read a float32 value in 8 bits only, each with the reason; none of those marked `q.float`."""
    producer = value.owner
    if isinstance(producer, Operation) and op_name(producer) == "Softmax" and _is_integer(producer, store):
        yield producer, "Softmax writes 8 bits"
    for op in users(value):
        name = op_name(op)
        if name not in (*_EIGHT_BIT_OPERANDS, *_SUMS) or not _is_integer(op, store):
            continue
        if name in _EIGHT_BIT_OPERANDS:
            yield op, f"{describe(op)} takes operands of 8 bits"
            continue
        count = np.prod(integers(op.properties.get("kernel_shape"), (size(value) // max(size(op.results[0]), 1),)))
        if count * 2**15 > INT32_MAX:
            yield op, f"{describe(op)} sums {count} elements, of 16 bits too many for int32"


def _is_integer(op: Operation, store: ConstantStore) -> bool:
    return "q.float" not in op.attributes and reason_for_float(op, store) is None
