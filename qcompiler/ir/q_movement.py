"""Operations that move stored integers: operands and result share one scale and zero point."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from xdsl.dialects.builtin import DenseArrayBase, IntegerAttr, StringAttr, TensorType, i64
from xdsl.irdl import (
    eq,
    irdl_op_definition,
    operand_def,
    prop_def,
    result_def,
    var_operand_def,
    var_result_def,
)

from qcompiler.arithmetic.pool import max_pool
from qcompiler.ir.q_base import (
    QUANTIZED,
    ChosenOp,
    QOp,
    channel_axis,
    check_axis,
    check_layout,
    check_shape,
    check_type,
    check_window,
    same_type,
    spatial_axes,
)
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.values import integer, integers, quantized, rank, shape, string


def transposed_type(kind: UniformType, perm: Sequence[int]) -> UniformType:
    """The type of a transposed tensor: the axis of a per-axis type moves along."""
    return kind if kind.axis is None else kind.along(list(perm).index(kind.axis))


INDICES = TensorType.constr(eq(i64))


class _Movement(ChosenOp):
    x = operand_def(QUANTIZED)
    y = result_def(QUANTIZED)

    def verify_(self) -> None:
        same_type(self, self.x, self.y)


@irdl_op_definition
class ReshapeOp(_Movement):
    """The same elements in another shape, row-major; the axis of a per-axis type stays whole."""

    name = "q.reshape"

    def verify_(self) -> None:
        x, y = quantized(self.x), quantized(self.y)
        if x.axis is not None and y.axis is not None:
            check_axis(self, y.axis, rank(self.y))
            ends = [(prod(shape(v)[:axis]), shape(v)[axis]) for v, axis in ((self.x, x.axis), (self.y, y.axis))]
            if ends[0] != ends[1]:
                self.fail(f"axis {y.axis} of {list(shape(self.y))} is not axis {x.axis} of {list(shape(self.x))}")
            x = x.along(y.axis)
        check_type(self, x, self.y)
        if prod(shape(self.x)) != prod(shape(self.y)):
            self.fail(f"{list(shape(self.x))} does not reshape to {list(shape(self.y))}")

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        return (operands[0].reshape(shape(self.y)),)


@irdl_op_definition
class TransposeOp(_Movement):
    """Axis `i` of the result is axis `perm[i]` of the operand; so is the axis of a per-axis type."""

    name = "q.transpose"
    perm = prop_def(DenseArrayBase)

    def verify_(self) -> None:
        perm = integers(self.perm)
        if sorted(perm) != list(range(rank(self.x))):
            self.fail(f"perm must order the {rank(self.x)} axes, got {list(perm)}")
        check_type(self, transposed_type(quantized(self.x), perm), self.y)
        check_shape(self, "a result", self.y, [shape(self.x)[p] for p in perm])

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        return (operands[0].transpose(integers(self.perm)),)


@irdl_op_definition
class ConcatOp(ChosenOp):
    """Operands one after the other along `axis`."""

    name = "q.concat"
    xs = var_operand_def(QUANTIZED)
    y = result_def(QUANTIZED)
    axis = prop_def(IntegerAttr)

    def verify_(self) -> None:
        axis, y = integer(self.axis), shape(self.y)
        check_axis(self, axis, rank(self.y))
        for x in self.xs:
            same_type(self, x, self.y)
            if rank(x) != rank(self.y):
                self.fail("operands and result must have one rank")
            check_shape(self, "an operand", x, [*y[:axis], shape(x)[axis], *y[axis + 1 :]])
        total = sum(shape(x)[axis] for x in self.xs)
        if total != y[axis]:
            self.fail(f"the operands hold {total} of {y[axis]} elements along axis {axis}")

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.concatenate(operands, axis=integer(self.axis)),)


@irdl_op_definition
class SplitOp(QOp):
    """Consecutive parts along `axis`, as long as the results say."""

    name = "q.split"
    x = operand_def(QUANTIZED)
    ys = var_result_def(QUANTIZED)
    axis = prop_def(IntegerAttr)

    def verify_(self) -> None:
        axis, x = integer(self.axis), shape(self.x)
        check_axis(self, axis, rank(self.x))
        for y in self.ys:
            same_type(self, self.x, y)
            if rank(y) != rank(self.x):
                self.fail("operand and results must have one rank")
            check_shape(self, "a part", y, [*x[:axis], shape(y)[axis], *x[axis + 1 :]])
        total = sum(shape(y)[axis] for y in self.ys)
        if total != x[axis]:
            self.fail(f"the parts hold {total} of {x[axis]} elements along axis {axis}")

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        ends = np.cumsum([shape(y)[integer(self.axis)] for y in self.ys])[:-1]
        return tuple(np.split(operands[0], ends, axis=integer(self.axis)))


@irdl_op_definition
class SliceOp(_Movement):
    """`y[i] = x[starts + i * steps]` on every axis; steps may be negative, the result's shape says how many."""

    name = "q.slice"
    starts = prop_def(DenseArrayBase)
    steps = prop_def(DenseArrayBase)

    def verify_(self) -> None:
        super().verify_()
        starts, steps = integers(self.starts), integers(self.steps)
        if len(starts) != rank(self.x) or len(steps) != rank(self.x) or rank(self.y) != rank(self.x):
            self.fail(f"expected a result of rank {rank(self.x)}, and as many starts and steps")
        for axis, (start, step, extent) in enumerate(zip(starts, steps, shape(self.x), strict=True)):
            last = start + step * (shape(self.y)[axis] - 1)
            if step == 0 or not (0 <= start < extent and 0 <= last < extent):
                self.fail(f"axis {axis}: from {start} to {last} by {step} leaves 0..{extent - 1}")

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        triples = zip(integers(self.starts), integers(self.steps), shape(self.y), strict=True)
        x = operands[0]
        for axis, (start, step, count) in enumerate(triples):
            x = np.take(x, start + step * np.arange(count), axis=axis)
        return (x,)


@irdl_op_definition
class PadOp(_Movement):
    """A border of `pads` (all begins, then all ends). Mode "constant" fills in `value`; "edge" and "reflect" copy."""

    name = "q.pad"
    pads = prop_def(DenseArrayBase)
    value = prop_def(IntegerAttr)
    mode = prop_def(StringAttr)

    def verify_(self) -> None:
        super().verify_()
        n, pads = rank(self.x), integers(self.pads)
        if len(pads) != 2 * n or min(pads, default=0) < 0:
            self.fail(f"expected {2 * n} pads that are not negative, got {list(pads)}")
        if self.mode.data not in ("constant", "edge", "reflect"):
            self.fail(f"mode must be constant, edge or reflect, got '{self.mode.data}'")
        if not quantized(self.x).qmin <= integer(self.value) <= quantized(self.x).qmax:
            self.fail(f"the value {integer(self.value)} is outside of the type {quantized(self.x)}")
        widest = max((max(pads[i], pads[n + i]) - d for i, d in enumerate(shape(self.x))), default=-1)
        if self.mode.data == "reflect" and widest >= 0:
            self.fail("mode reflect takes pads smaller than the extents")
        check_shape(self, "a result", self.y, [d + pads[i] + pads[n + i] for i, d in enumerate(shape(self.x))])

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        n, pads = rank(self.x), integers(self.pads)
        widths = [(pads[i], pads[n + i]) for i in range(n)]
        if string(self.mode) == "constant":
            return (np.pad(operands[0], widths, constant_values=integer(self.value)),)
        return (np.pad(operands[0], widths, mode=string(self.mode)),)  # type: ignore[call-overload]


@irdl_op_definition
class GatherOp(ChosenOp):
    """Elements of `x` along `axis` at `indices` (negative ones count from the end), as ONNX Gather."""

    name = "q.gather"
    x = operand_def(QUANTIZED)
    indices = operand_def(INDICES)
    y = result_def(QUANTIZED)
    axis = prop_def(IntegerAttr)

    def verify_(self) -> None:
        same_type(self, self.x, self.y)
        x, axis = shape(self.x), integer(self.axis)
        check_axis(self, axis, len(x))
        check_shape(self, "a result", self.y, [*x[:axis], *shape(self.indices), *x[axis + 1 :]])

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.take(operands[0], operands[1], axis=integer(self.axis)),)


@irdl_op_definition
class ResizeOp(QOp):
    """Nearest-neighbour resize: `y[.., i, j] = x[.., rows[i], columns[j]]`."""

    name = "q.resize"
    x = operand_def(QUANTIZED)
    rows = operand_def(INDICES)
    columns = operand_def(INDICES)
    y = result_def(QUANTIZED)
    layout = prop_def(StringAttr)

    def verify_(self) -> None:
        check_layout(self, self.layout)
        same_type(self, self.x, self.y)
        if rank(self.x) != 4:
            self.fail(f"expected an operand of rank 4, found {list(shape(self.x))}")
        if (rank(self.rows), rank(self.columns)) != (1, 1):
            self.fail("rows and columns must be vectors")
        vertical, horizontal = spatial_axes(self.layout, 4)
        expected = list(shape(self.x))
        expected[vertical], expected[horizontal] = shape(self.rows)[0], shape(self.columns)[0]
        check_shape(self, "a result", self.y, expected)

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        x, rows, columns = operands
        vertical, horizontal = spatial_axes(self.layout, 4)
        return (np.take(np.take(x, rows, axis=vertical), columns, axis=horizontal),)


@irdl_op_definition
class MaxPoolOp(_Movement):
    """Largest stored integer of each window; padding never wins."""

    name = "q.max_pool"
    kernel = prop_def(DenseArrayBase)
    strides = prop_def(DenseArrayBase)
    pads = prop_def(DenseArrayBase)
    dilations = prop_def(DenseArrayBase)
    layout = prop_def(StringAttr)

    def verify_(self) -> None:
        super().verify_()
        check_layout(self, self.layout)
        verify_windows(self, integers(self.dilations))

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        kernel, strides, pads = integers(self.kernel), integers(self.strides), integers(self.pads)
        dilations, layout = integers(self.dilations), string(self.layout)
        return (max_pool(operands[0], kernel, strides, pads, dilations, False, layout),)


def verify_windows(op: QOp, dilations: tuple[int, ...]) -> None:
    """Verifies the shape of a pooling's result; `ceil_mode` is resolved into the end pads when an op is made."""
    x, y = op.operands[0], op.results[0]
    if rank(x) < 3 or rank(y) != rank(x):
        op.fail(f"expected operand and result of one rank above 2, found {list(shape(x))} and {list(shape(y))}")
    layout = op.properties["layout"]
    assert isinstance(layout, StringAttr)
    spatial, channel = spatial_axes(layout, rank(x)), channel_axis(layout, rank(x))
    for axis in (0, channel):
        if shape(x)[axis] != shape(y)[axis]:
            op.fail(f"expected {shape(x)[axis]} on axis {axis} of the result, found {shape(y)[axis]}")
    x_extents, y_extents = ([shape(v)[axis] for axis in spatial] for v in (x, y))
    check_window(op, x_extents, integers(op.properties["kernel"]), dilations, y_extents)
