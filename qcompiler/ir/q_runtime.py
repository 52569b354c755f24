"""Operations of quantized models whose scales and zero points are values of the program.

Operands that ONNX quantizes with run-time parameters have no type of the `quant` dialect: their elements are plain
integers or small floats (qcompiler.arithmetic.formats), one a byte where they have at most 8 bits. A parameter has one
element, or one for each index of `axis`, or, with a `block_size`, the shape of the tensor but for `axis`, along which
each of its elements serves a block.
"""

from __future__ import annotations

import numpy as np
from xdsl.dialects.builtin import BoolAttr, DenseArrayBase, IntegerAttr, IntegerType, TensorType
from xdsl.ir import Attribute, SSAValue
from xdsl.irdl import irdl_op_definition, operand_def, opt_operand_def, prop_def, result_def

from qcompiler.arithmetic.affine import storage_range
from qcompiler.arithmetic.conv import conv_acc
from qcompiler.arithmetic.formats import FLOATS, decode, encode
from qcompiler.ir.q_base import FLOAT, INT32, QOp, check_axis, check_shape, check_window, product_shape
from qcompiler.ir.values import dtype_of, integer, integers, rank, shape, size, small_type, tensor


def limits_of(value: SSAValue) -> tuple[int, int]:
    """The smallest and largest integer of a tensor's element type."""
    name = small_type(value) or str(dtype_of(value))
    return storage_range(name.replace("uint", "u").replace("int", "i"))


def spread(parameter: np.ndarray, extents: tuple[int, ...], axis: int, block: int) -> np.ndarray:
    """A parameter as an array that broadcasts over a tensor of shape `extents`."""
    if parameter.size == 1:
        return parameter.reshape(())
    if not block:
        return parameter.reshape([-1 if i == axis else 1 for i in range(len(extents))])
    repeated = np.repeat(parameter, block, axis)
    return repeated[tuple(slice(extent) for extent in extents)]


class _Linear(QOp):
    """What quantize_linear and dequantize_linear share: `real` is the float tensor, `code` the other."""

    axis = prop_def(IntegerAttr)
    block_size = prop_def(IntegerAttr)

    def check(self, real: SSAValue, code: SSAValue, scale: SSAValue, zero_point: SSAValue | None) -> None:
        check_shape(self, "a result", self.results[0], shape(self.operands[0]))
        self._check_parameter("scales", real, scale)
        if zero_point is None:
            return
        if tensor(zero_point).element_type != tensor(code).element_type:
            self.fail(f"expected zero points of type {tensor(code).element_type}, found {zero_point.type}")
        self._check_parameter("zero points", real, zero_point)

    def _check_parameter(self, what: str, real: SSAValue, value: SSAValue) -> None:
        axis, block, extents = integer(self.axis), integer(self.block_size), list(shape(real))
        if size(value) == 1:
            return
        check_axis(self, axis, len(extents))
        if block:
            extents[axis] = -(-extents[axis] // block)
        check_shape(self, what, value, extents if block else extents[axis : axis + 1])

    def parameter(self, value: np.ndarray) -> np.ndarray:
        return spread(value, shape(self.operands[0]), integer(self.axis), integer(self.block_size))


@irdl_op_definition
class QuantizeLinearOp(_Linear):
    """ONNX QuantizeLinear in float32.

    To integers `y = clamp(rne(x / scale) + zero_point)`, NaN to the smallest; to small floats the nearest to
    `x / scale + zero_point`, ties to even, where `saturate` says whether values beyond the largest become it, or
    infinity or NaN.
    """

    name = "q.quantize_linear"
    x = operand_def(FLOAT)
    scale = operand_def(FLOAT)
    zero_point = opt_operand_def(TensorType)
    y = result_def(TensorType)
    saturate = prop_def(BoolAttr)

    def verify_(self) -> None:
        self.check(self.x, self.y, self.scale, self.zero_point)
        element = tensor(self.y).element_type
        if small_type(self.y) in FLOATS:
            return
        if not isinstance(element, IntegerType) or not 2 <= element.width.data <= 16:
            self.fail(f"expected a result of integers of 2 to 16 bits or of small floats, found {element}")

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        name = small_type(self.y)
        with np.errstate(all="ignore"):
            real = operands[0] / self.parameter(operands[1])
            if name in FLOATS:
                if len(operands) > 2:
                    real = real + self.parameter(decode(operands[2], name))
                return (encode(real, name, bool(self.saturate)),)
            real = np.rint(real)
            if len(operands) > 2:
                real = real + self.parameter(operands[2].astype(np.float32))
        low, high = limits_of(self.y)
        return (np.fmin(np.fmax(real, np.float32(low)), np.float32(high)).astype(dtype_of(self.y)),)


@irdl_op_definition
class DequantizeLinearOp(_Linear):
    """ONNX DequantizeLinear: `y = (x - zero_point) * scale`, integers subtracted in int32, small floats in float32."""

    name = "q.dequantize_linear"
    x = operand_def(TensorType)
    scale = operand_def(FLOAT)
    zero_point = opt_operand_def(TensorType)
    y = result_def(FLOAT)

    def verify_(self) -> None:
        self.check(self.y, self.x, self.scale, self.zero_point)
        element = tensor(self.x).element_type
        if small_type(self.x) not in FLOATS and (not isinstance(element, IntegerType) or element.width.data > 32):
            self.fail(f"expected integers of at most 32 bits or small floats, found {element}")

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        name = small_type(self.x)
        x, *zero = (decode(v, name) if name in FLOATS else v.astype(np.int32) for v in (operands[0], *operands[2:]))
        with np.errstate(all="ignore"):
            if zero:
                x = x - self.parameter(zero[0])
            return (np.asarray(x.astype(np.float32) * self.parameter(operands[1])),)


@irdl_op_definition
class DynamicRangeOp(QOp):
    """Scale and zero point of ONNX DynamicQuantizeLinear, float32 and uint8.

    `scale = (max(x, 0) - min(x, 0)) / 255`, `zero_point = rne(clamp(-min(x, 0) / scale, 0, 255))`. NaN does not count;
    a range of nothing but 0 has scale 1.
    """

    name = "q.dynamic_range"
    x = operand_def(FLOAT)
    scale = result_def(FLOAT)
    zero_point = result_def(TensorType)

    def verify_(self) -> None:
        for result in self.results:
            check_shape(self, "a result", result, ())
        if str(tensor(self.zero_point).element_type) != "ui8":
            self.fail(f"expected a zero point of type ui8, found {self.zero_point.type}")

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        low = np.fmin(np.fmin.reduce(operands[0], axis=None), np.float32(0))
        high = np.fmax(np.fmax.reduce(operands[0], axis=None), np.float32(0))
        span = np.float32(high - low)
        scale = np.float32(span / np.float32(255)) if span > 0 else np.float32(1)
        with np.errstate(all="ignore"):
            zero = np.fmin(np.fmax(np.float32(0) - low / scale, np.float32(0)), np.float32(255))
        return np.asarray(scale, np.float32), np.asarray(np.rint(zero), np.uint8)


@irdl_op_definition
class ConvIntegerOp(QOp):
    """ONNX ConvInteger: `sum((x - x_zero_point) * (w - w_zero_point))` modulo 2^32.

    `x` is `[N, IC, *spatial]`, `w` is `[OC, IC/group, *kernel]`, of 8 bits; `x_zero_point` is one integer,
    `w_zero_point` one or one for each output channel. Padding holds the zero point.
    """

    name = "q.conv_integer"
    x = operand_def(TensorType)
    w = operand_def(TensorType)
    x_zero_point = operand_def(TensorType)
    w_zero_point = operand_def(TensorType)
    y = result_def(INT32)
    strides = prop_def(DenseArrayBase)
    pads = prop_def(DenseArrayBase)
    dilations = prop_def(DenseArrayBase)
    group = prop_def(IntegerAttr)

    def verify_(self) -> None:
        _check_products(self, (self.x, self.x_zero_point), (self.w, self.w_zero_point))
        x, w, y, group = shape(self.x), shape(self.w), shape(self.y), integer(self.group)
        if len(w) != len(x) or len(y) != len(x) or len(x) < 3:
            self.fail(f"expected x, weight and result of one rank above 2, found {list(x)}, {list(w)}, {list(y)}")
        if group < 1 or x[1] != w[1] * group or w[0] % group:
            self.fail(f"{x[1]} input channels do not fit a weight {list(w)} in {group} groups")
        if y[:2] != (x[0], w[0]):
            self.fail(f"expected {x[0]} images of {w[0]} channels, found {list(y)}")
        if size(self.x_zero_point) != 1:
            self.fail(f"expected one zero point of x, found {list(shape(self.x_zero_point))}")
        if size(self.w_zero_point) != 1:
            check_shape(self, "zero points of w", self.w_zero_point, [w[0]])
        check_window(self, x[2:], w[2:], integers(self.dilations), y[2:])

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        x, w, x_zero, w_zero = operands
        return (
            conv_acc(
                x,
                w,
                x_zero_point=x_zero.item(),
                w_zero_point=w_zero.reshape([-1 if w_zero.size > 1 else 1]),
                pad_value=x_zero.item(),
                strides=integers(self.strides),
                pads=integers(self.pads),
                dilations=integers(self.dilations),
                group=integer(self.group),
                layout="NCHW",
            ),
        )


@irdl_op_definition
class MatMulIntegerOp(QOp):
    """ONNX MatMulInteger: `sum_k (a - a_zero_point) * (b - b_zero_point)` modulo 2^32.

    `a` is `[..., M, K]`, `b` is `[..., K, N]`, of 8 bits; batch axes broadcast as in numpy. `a_zero_point` has one
    element, or one a row (`[M]` or `[..., M, 1]`); `b_zero_point` one, or one a column (`[N]` or `[..., 1, N]`).
    """

    name = "q.matmul_integer"
    a = operand_def(TensorType)
    b = operand_def(TensorType)
    a_zero_point = operand_def(TensorType)
    b_zero_point = operand_def(TensorType)
    y = result_def(INT32)

    def verify_(self) -> None:
        _check_products(self, (self.a, self.a_zero_point), (self.b, self.b_zero_point))
        a, b = shape(self.a), shape(self.b)
        check_shape(self, "a result", self.y, product_shape(self, a, b))
        for value, each in ((self.a_zero_point, (*a[:-1], 1)), (self.b_zero_point, (*b[:-2], 1, b[-1]))):
            along = each[-2] if value is self.a_zero_point else each[-1]
            if size(value) != 1 and shape(value) not in (each, (along,)):
                self.fail(f"expected zero points of shape {[along]} or {list(each)}, found {list(shape(value))}")

    def zero_point_shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The shapes of the zero points that broadcast over `a` and `b`."""
        rows, columns = shape(self.a_zero_point), shape(self.b_zero_point)
        return ((1,) if size(self.a_zero_point) == 1 else (*rows, 1) if len(rows) == 1 else rows, columns or (1,))

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        a, b, a_zero, b_zero = (v.astype(np.float64) for v in operands)
        rows, columns = self.zero_point_shapes()
        # products of 8-bit integers: their sums are exact in float64 below 2^36 terms
        exact = (a - a_zero.reshape(rows)) @ (b - b_zero.reshape(columns))
        return (exact.astype(np.int64).astype(np.int32),)


def _check_products(op: QOp, *pairs: tuple[SSAValue, SSAValue]) -> None:
    for value, zero in pairs:
        element: Attribute = tensor(value).element_type
        if not isinstance(element, IntegerType) or element.width.data != 8:
            op.fail(f"expected operands of 8-bit integers, found {element}")
        if tensor(zero).element_type != element:
            op.fail(f"expected a zero point of type {element}, found {zero.type}")
        if rank(value) < rank(zero):
            op.fail(f"a zero point {list(shape(zero))} does not fit {list(shape(value))}")


RUNTIME_OPS: tuple[type[QOp], ...] = (
    QuantizeLinearOp,
    DequantizeLinearOp,
    DynamicRangeOp,
    ConvIntegerOp,
    MatMulIntegerOp,
)
