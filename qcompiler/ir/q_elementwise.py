"""Operations on one element at a time: constants, the borders to float, addition, multiplication, tables."""

from __future__ import annotations

from typing import NoReturn

import numpy as np
from xdsl.dialects.builtin import DenseArrayBase, DenseResourceAttr, LocationAttr, StringAttr, TensorType
from xdsl.ir import Attribute
from xdsl.irdl import irdl_op_definition, operand_def, prop_def, result_def, traits_def
from xdsl.traits import ConstantLike, Pure

from qcompiler.arithmetic import elementwise
from qcompiler.arithmetic.affine import dequantize, quantize
from qcompiler.arithmetic.requantize import INT32_MAX, real_multiplier
from qcompiler.arithmetic.table import apply_table
from qcompiler.ir.q_base import (
    FLOAT,
    QUANTIZED,
    ChosenOp,
    QOp,
    at_most_sixteen_bits,
    check_blocks,
    check_clamp,
    check_rounding,
    check_scales,
    check_shape,
    limits,
    per_channel,
    per_tensor,
    requantized,
)
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import element_type, is_quantized, quantized, shape, string, tensor


@irdl_op_definition
class ConstantOp(ChosenOp):
    """An array of the constant store: a float weight, stored integers, a bias, a table."""

    name = "q.constant"
    value = prop_def(DenseResourceAttr)
    y = result_def(TensorType)
    traits = traits_def(Pure(), ConstantLike())

    @staticmethod
    def of(
        store: ConstantStore,
        name: str,
        array: np.ndarray,
        element: Attribute | None = None,
        location: LocationAttr | None = None,
    ) -> ConstantOp:
        """A constant holding `array`, put into the store; `element` replaces the type the array's dtype implies."""
        kind = TensorType(element or element_type(array.dtype), array.shape)
        return ConstantOp.named(store.add(name, array), kind, location)

    @staticmethod
    def named(resource: str, kind: TensorType, location: LocationAttr | None = None) -> ConstantOp:
        """A constant of an array that is in the store already."""
        value = DenseResourceAttr.from_params(resource, kind)
        op = ConstantOp.create(properties={"value": value}, result_types=[kind])
        if location is not None:
            op.location = location
        return op

    @property
    def resource(self) -> str:
        """The array's name in the constant store."""
        return self.value.resource_handle.data

    def verify_(self) -> None:
        if self.value.type != self.y.type:
            self.fail(f"the resource has type {self.value.type}, the result {self.y.type}")
        if is_quantized(self.y):
            (check_blocks if quantized(self.y).blocks else check_scales)(self, self.y)

    def evaluate(self, *operands: np.ndarray) -> NoReturn:
        raise TypeError("a constant is read from the store")


@irdl_op_definition
class QuantizeOp(ChosenOp):
    """Real to stored integers: `y = clamp(rne(x / s) + z)`, ties to even, NaN to the smallest (ONNX QuantizeLinear)."""

    name = "q.quantize"
    x = operand_def(FLOAT)
    y = result_def(QUANTIZED)

    def verify_(self) -> None:
        check_shape(self, "a result", self.y, shape(self.x))
        check_scales(self, self.y)
        if quantized(self.y).storage == "i32":
            self.fail("float32 is not exact enough to quantize to 32 bits")

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        k = quantized(self.y)
        return (quantize(operands[0], k.scales, k.zero_points, k.qmin, k.qmax, k.dtype, k.axis),)


@irdl_op_definition
class DequantizeOp(QOp):
    """Stored integers to real: `y = s * (x - z)`, subtracted in int32, one float32 multiplication."""

    name = "q.dequantize"
    x = operand_def(QUANTIZED)
    y = result_def(FLOAT)

    def verify_(self) -> None:
        check_shape(self, "a result", self.y, shape(self.x))
        (check_blocks if quantized(self.x).blocks else check_scales)(self, self.x)

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        return (dequantize(operands[0], *quantized(self.x).spread(operands[0].shape)),)


def sum_parameters(a: UniformType, b: UniformType, y: UniformType, subtract: bool = False) -> tuple[int, int, int]:
    """Factors and shift of a sum of these types. Raises ValueError if none keeps it in int32."""
    return elementwise.add_parameters(a.scale, b.scale, y.scale, subtract, (a.reach, b.reach))


def product_bound(a: UniformType, b: UniformType) -> int:
    """Largest product of two centred values of these types."""
    return elementwise.mul_bound((a.qmin, a.qmax), a.zero_point, (b.qmin, b.qmax), b.zero_point)


class _Binary(ChosenOp):
    """Two quantized operands that broadcast as in numpy."""

    a = operand_def(QUANTIZED)
    b = operand_def(QUANTIZED)
    y = result_def(QUANTIZED)
    clamp = prop_def(DenseArrayBase)

    def verify_(self) -> None:
        per_tensor(self, self.a, self.b, self.y)
        at_most_sixteen_bits(self, self.a, self.b, self.y)
        check_clamp(self, self.clamp, self.y)
        try:
            expected = np.broadcast_shapes(shape(self.a), shape(self.b))
        except ValueError:
            self.fail(f"shapes {list(shape(self.a))} and {list(shape(self.b))} do not broadcast")
        check_shape(self, "a result", self.y, expected)


class _Sum(_Binary):
    def verify_(self) -> None:
        super().verify_()
        try:
            self.parameters()
        except ValueError as error:
            self.fail(str(error))

    def parameters(self) -> tuple[int, int, int]:
        """Fixed-point factors of `a` and `b` and the shift (qcompiler.arithmetic.elementwise.add_parameters)."""
        return sum_parameters(quantized(self.a), quantized(self.b), quantized(self.y), isinstance(self, SubOp))

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        a, b, y = quantized(self.a), quantized(self.b), quantized(self.y)
        lo, hi = limits(self, self.y)
        factors = self.parameters()
        left, right = (operands[0], a.zero_point), (operands[1], b.zero_point)
        return (elementwise.add(*left, *right, *factors, y.zero_point, lo, hi, y.dtype),)


@irdl_op_definition
class AddOp(_Sum):
    """Sum: `acc = (a - z_a) * A + (b - z_b) * B + 2^(n-1)`, `y = clamp((acc >> n) + z_y)`, all in int32."""

    name = "q.add"


@irdl_op_definition
class SubOp(_Sum):
    """Difference: as `q.add` with a negative factor `B`."""

    name = "q.sub"


@irdl_op_definition
class MulOp(_Binary):
    """Product: `(a - z_a) * (b - z_b)` in int32, requantized with `s_a * s_b / s_y`."""

    name = "q.mul"
    rounding = prop_def(StringAttr)

    def verify_(self) -> None:
        super().verify_()
        check_rounding(self, self.rounding)
        a, b = quantized(self.a), quantized(self.b)
        if (bound := product_bound(a, b)) > INT32_MAX:
            self.fail(f"products of {a} and {b} can reach {bound}, beyond int32: one of them has to be symmetric")

    def multiplier(self) -> float:
        a, b, y = (float(quantized(v).scale) for v in (self.a, self.b, self.y))
        return a * b / y

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        a, b, y = quantized(self.a), quantized(self.b), quantized(self.y)
        lo, hi = limits(self, self.y)
        left, right = (operands[0], a.zero_point), (operands[1], b.zero_point)
        rounding = string(self.rounding)
        return (elementwise.mul(*left, *right, self.multiplier(), y.zero_point, lo, hi, y.dtype, rounding),)


@irdl_op_definition
class RequantizeOp(ChosenOp):
    """Change of scale, zero point or storage: `x - z_x` in int32, requantized with `s_x / s_y`.

    8 or 16 bits to 8 or 16 bits. The result may have a per-axis type whose channels share one zero point.
    """

    name = "q.requantize"
    x = operand_def(QUANTIZED)
    y = result_def(QUANTIZED)
    rounding = prop_def(StringAttr)
    clamp = prop_def(DenseArrayBase)

    def verify_(self) -> None:
        check_rounding(self, self.rounding)
        check_clamp(self, self.clamp, self.y)
        check_shape(self, "a result", self.y, shape(self.x))
        per_tensor(self, self.x)
        at_most_sixteen_bits(self, self.x, self.y)
        if (axis := quantized(self.y).axis) is not None:
            per_channel(self, self.y, axis)
        else:
            per_tensor(self, self.y)

    def multiplier(self) -> np.ndarray:
        """The real factors, float64: one, or one for each channel."""
        return np.asarray(real_multiplier(quantized(self.x).scale, 1.0, quantized(self.y).scales))

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        acc = np.asarray(operands[0].astype(np.int32) - np.int32(quantized(self.x).zero_point))
        return (requantized(self, self.y, acc, self.multiplier(), quantized(self.y).axis),)


@irdl_op_definition
class LutOp(ChosenOp):
    """Table look-up: `y = table[x - smallest storable x]`, an entry for each of the 256 or 65,536 stored values of `x`.

    Holds any function of one tensor, for 8 bits a change of scale or storage type included; built at compile time in
    float64 through dequantize, the function and quantize. Where `x` has 8 bits, `y` may have a per-axis type; the
    table is then `[channels, 256]`.
    """

    name = "q.lut"
    x = operand_def(QUANTIZED)
    table = operand_def(TensorType)
    y = result_def(QUANTIZED)

    def verify_(self) -> None:
        per_tensor(self, self.x)
        at_most_sixteen_bits(self, self.y)
        check_shape(self, "a result", self.y, shape(self.x))
        x, y = quantized(self.x), quantized(self.y)
        if x.storage not in ("u8", "i8", "u16", "i16"):
            self.fail(f"expected an operand of 8 or 16 bits, found {x}")
        entries = [1 << 8 * x.dtype.itemsize]
        if y.axis is not None:
            per_channel(self, self.y, y.axis)
            if entries != [256]:
                self.fail(f"expected an operand of 8 bits for a result with one scale a channel, found {x}")
            entries = [y.grid[0], 256]
        else:
            per_tensor(self, self.y)
        check_shape(self, "a table", self.table, entries)
        element = tensor(self.table).element_type
        if element != element_type(y.dtype):
            self.fail(f"the table holds {element}, the result is stored as {y.storage}")

    def evaluate(self, *operands: np.ndarray) -> tuple[np.ndarray, ...]:
        x, table = operands
        return (apply_table(x, table, int(np.iinfo(x.dtype).min), quantized(self.y).axis),)
