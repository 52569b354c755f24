"""A QDQ module as an ONNX model of integer operators (QOperator format).

An op between dequantize and quantize becomes the operator that works on the stored integers: QLinearConv and
QLinearMatMul of ONNX, onnxruntime's QGemm, QLinearAdd, QLinearMul, QLinearAveragePool, QLinearGlobalAveragePool,
QLinearConcat, QLinearLeakyRelu, QLinearSigmoid and QLinearSoftmax (domain `com.microsoft`), or the float op itself
where it only moves elements. What has no such form keeps its dequantize and quantize: other pointwise ops, operands of
16 bits or with a scale a channel, a signed activation beside an unsigned one.

The runtime's own requantization may differ from ours by one unit; `docs/passes.md` says by how much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike
from onnx import helper
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from qcompiler.arithmetic.affine import quantize
from qcompiler.exporters.onnx_export import Exporter, export_module
from qcompiler.ir.pointwise import CLAMPS, clamp_bounds, fused_clamp, op_name, scalar
from qcompiler.ir.q_elementwise import ConstantOp, DequantizeOp, QuantizeOp
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import (
    defining,
    integer,
    integers,
    is_absent,
    location_names,
    quantized,
    rank,
    shape,
    string,
    users,
)

_MICROSOFT = "com.microsoft"
_MOVES = ("Reshape", "Transpose", "Slice", "Gather", "MaxPool", "Concat", "Resize", "Pad")
_SMALLEST = {"u8": 0, "i8": -128}
_LARGEST = {"u8": 255, "i8": 127}


def export_qoperator(module: ModuleOp, store: ConstantStore, name: str = "main") -> onnx.ModelProto:
    """The QDQ module as an ONNX model of integer operators, under the project's opset and `com.microsoft` 1.

    Raises:
        ModelError: an integer op other than quantize and dequantize: the module is from after integerize.
    """
    return export_module(module, name, _QOperatorExporter(store, module))


class _QOperatorExporter(Exporter):
    domains = ((_MICROSOFT, 1),)

    def model(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        self._drop_unread({o.name for o in outputs})
        return super().model(name, inputs, outputs)

    def _drop_unread(self, read: set[str]) -> None:
        """Drops nodes whose results nobody reads: what integer operators took the place of."""
        kept = []
        for node in reversed(self.nodes):
            if read.intersection(node.output):
                kept.append(node)
                read.update(node.input)
        self.nodes = kept[::-1]

    def add(self, op: Operation) -> None:
        if not (isinstance(op, QuantizeOp) and isinstance(op.x.owner, Operation) and self._integer_form(op)):
            super().add(op)

    # ------------------------------------------------------------------------------------------ pieces

    def _parameters(self, value: SSAValue) -> tuple[str, str]:
        """Names of the scale and zero point of a quantized value; made once a value."""
        kind, name = quantized(value), self.names[value]
        return (
            self._initializer(f"{name}.scale", kind.scales),
            self._initializer(f"{name}.zero_point", kind.zero_points.astype(kind.dtype)),
        )

    def _three(self, value: SSAValue) -> list[str]:
        return [self.names[value], *self._parameters(value)]

    def _emit(self, kind: str, inputs: list[str], output: str, op: Operation, domain: str, **attributes: Any) -> None:
        label = (location_names(op) or (output,))[-1]
        node = helper.make_node(
            kind, inputs, [output], name=self._node_name(f"{label}.{kind}"), domain=domain, **attributes
        )
        self.nodes.append(node)

    def _attributes(self, op: Operation) -> dict[str, Any]:
        return {name: helper.get_attribute_value(self._attribute(name, a)) for name, a in op.properties.items()}

    # --------------------------------------------------------------------------------------------- ops

    def _integer_form(self, op: QuantizeOp) -> bool:
        """Writes the integer operator that computes `op`'s result; False if there is none."""
        kind = quantized(op.y)
        core, bounds = op.x.owner, (-np.inf, np.inf)
        assert isinstance(core, Operation)
        if not _plain(kind):
            return False
        if op_name(core) in CLAMPS and fused_clamp(core.operands[0], self.store) is core:
            bounds = clamp_bounds(core, self.store) or bounds
            core = core.operands[0].owner  # type: ignore[assignment]
        product, addend = _biased_product(core)
        lo, hi = _as_stored(bounds, kind).tolist()
        narrow = (lo, hi) != (_SMALLEST[kind.storage], _LARGEST[kind.storage])
        output = self.names[op.y]
        target = f"{output}.unclamped" if narrow else output
        write = _FORMS.get(op_name(product))
        if write is None or not write(self, product, addend, op.y, target):
            return False
        if narrow:
            limits = [self._initializer(f"{output}.{n}", np.array(v, kind.dtype)) for n, v in (("lo", lo), ("hi", hi))]
            self._emit("Clip", [target, *limits], output, op, "")
        return True

    def _conv(self, op: Operation, addend: SSAValue | None, y: SSAValue, target: str) -> bool:
        x, w = _source(op.operands[0]), _source(op.operands[1])
        if x is None or w is None or not _alike(x, y) or not _weight(w, 0):
            return False
        inputs = [*self._three(x), *self._three(w), *self._parameters(y)]
        if len(op.operands) > 2 and not is_absent(op.operands[2]):
            bias = _source(op.operands[2])
            if bias is None or quantized(bias).storage != "i32":
                return False
            inputs.append(self.names[bias])
        self._emit("QLinearConv", inputs, target, op, "", **self._attributes(op))
        return True

    def _product(self, op: Operation, addend: SSAValue | None, y: SSAValue, target: str) -> bool:
        """MatMul as QLinearMatMul, or as QGemm on the rows where a bias is added."""
        a, b = _source(op.operands[0]), _source(op.operands[1])
        if op_name(op) == "Gemm":
            if op.properties:
                return False
            addend = op.operands[2] if len(op.operands) > 2 and not is_absent(op.operands[2]) else None
        if a is None or b is None or not _alike(a, y):
            return False
        constant = isinstance(b.owner, ConstantOp)
        fits = _weight(b, rank(b) - 1) if constant else _plain(quantized(b))
        if not fits or (quantized(a).storage == "i8" and quantized(b).dtype != np.int8):
            return False
        if addend is None:
            self._emit("QLinearMatMul", [*self._three(a), *self._three(b), *self._parameters(y)], target, op, "")
            return True
        bias = _source(addend)
        if bias is None or quantized(bias).storage != "i32" or not constant or rank(b) != 2:
            return False
        left, right, parameters = self._three(a), self._three(b), self._parameters(y)
        vector = self._initializer(f"{target}.bias", self._stored(bias).reshape(-1))
        rows, flat = target, rank(a) == 2
        if not flat:
            left[0] = self._reshaped(left[0], f"{target}.rows", (-1, shape(a)[-1]), op)
            rows = f"{target}.flat"
        self._emit("QGemm", [*left, *right, vector, *parameters], rows, op, _MICROSOFT)
        if not flat:
            self._reshaped(rows, target, shape(y), op)
        return True

    def _stored(self, value: SSAValue) -> np.ndarray:
        assert isinstance(value.owner, ConstantOp)
        return self.store[value.owner.resource]

    def _reshaped(self, x: str, y: str, extents: tuple[int, ...], op: Operation) -> str:
        self._emit("Reshape", [x, self._initializer(f"{y}.shape", np.array(extents, np.int64))], y, op, "")
        return y

    def _binary(self, op: Operation, addend: SSAValue | None, y: SSAValue, target: str) -> bool:
        operands = [_source(v) for v in op.operands]
        if any(v is None or not _alike(v, y) for v in operands):
            return False
        inputs = [name for v in operands if v is not None for name in self._three(v)]
        self._emit(f"QLinear{op_name(op)}", [*inputs, *self._parameters(y)], target, op, _MICROSOFT)
        return True

    def _unary(self, op: Operation, addend: SSAValue | None, y: SSAValue, target: str) -> bool:
        x = _source(op.operands[0])
        if x is None or not _alike(x, y):
            return False
        attributes = self._attributes(op)
        if op_name(op) == "Softmax":
            attributes = {"axis": integer(op.properties.get("axis"), -1) % rank(x), "opset": 13}
        self._emit(
            f"QLinear{op_name(op)}", [*self._three(x), *self._parameters(y)], target, op, _MICROSOFT, **attributes
        )
        return True

    def _average_pool(self, op: Operation, addend: SSAValue | None, y: SSAValue, target: str) -> bool:
        if any(d != 1 for d in integers(op.properties.get("dilations"))):
            return False
        x = _source(op.operands[0])
        if x is None or not _alike(x, y):
            return False
        attributes = {k: v for k, v in self._attributes(op).items() if k != "dilations"}
        inputs = [*self._three(x), *self._parameters(y)]
        self._emit("QLinearAveragePool", inputs, target, op, _MICROSOFT, **attributes)
        return True

    def _mean(self, op: Operation, addend: SSAValue | None, y: SSAValue, target: str) -> bool:
        """GlobalAveragePool, and ReduceMean over exactly the spatial axes."""
        x = _source(op.operands[0])
        if x is None or not _alike(x, y) or rank(x) < 3:
            return False
        flat = False
        if op_name(op) == "ReduceMean":
            axes = defining(op.operands[1], ConstantOp) if len(op.operands) > 1 else None
            if axes is None or {int(a) % rank(x) for a in self.store[axes.resource]} != set(range(2, rank(x))):
                return False
            flat = integer(op.properties.get("keepdims"), 1) == 0
        pooled = f"{target}.pooled" if flat else target
        inputs = [*self._three(x), *self._parameters(y)]
        self._emit("QLinearGlobalAveragePool", inputs, pooled, op, _MICROSOFT, channels_last=0)
        if flat:
            self._reshaped(pooled, target, shape(y), op)
        return True

    def _concat(self, op: Operation, addend: SSAValue | None, y: SSAValue, target: str) -> bool:
        operands = [_source(v) for v in op.operands]
        if any(v is None or not _alike(v, y) for v in operands):
            return False
        parts = [v for v in operands if v is not None]
        axis = integer(op.properties.get("axis")) % rank(y)
        if all(quantized(v) == quantized(y) for v in parts):
            self._emit("Concat", [self.names[v] for v in parts], target, op, "", axis=axis)
            return True
        inputs = [*self._parameters(y), *(name for v in parts for name in self._three(v))]
        self._emit("QLinearConcat", inputs, target, op, _MICROSOFT, axis=axis)
        return True

    def _move(self, op: Operation, addend: SSAValue | None, y: SSAValue, target: str) -> bool:
        """An op whose result is made of its operand's elements: the same op on integers."""
        x, name = _source(op.operands[0]), op_name(op)
        if x is None or quantized(x) != quantized(y) or (len(op.results) > 1 and users(op.results[1])):
            return False
        if name == "Resize" and string(op.properties.get("mode"), "nearest") != "nearest":
            return False
        inputs = [self.names[x], *("" if is_absent(v) else self.names[v] for v in op.operands[1:])]
        if name == "Pad" and not self._integer_padding(op, quantized(y), inputs, target):
            return False
        self._emit(name, inputs, target, op, "", **self._attributes(op))
        return True

    def _integer_padding(self, op: Operation, kind: UniformType, inputs: list[str], target: str) -> bool:
        value = 0.0
        if len(op.operands) > 2 and not is_absent(op.operands[2]):
            found = scalar(op.operands[2], self.store)
            if found is None:
                return False
            value = found
        stored = _as_stored(value, kind)
        if string(op.properties.get("mode"), "constant") == "constant":
            inputs[2:3] = [self._initializer(f"{target}.padding", stored)]
        return True


_Form = Callable[[_QOperatorExporter, Operation, SSAValue | None, SSAValue, str], bool]

_FORMS: dict[str, _Form] = {
    "Conv": _QOperatorExporter._conv,
    "MatMul": _QOperatorExporter._product,
    "Gemm": _QOperatorExporter._product,
    "Add": _QOperatorExporter._binary,
    "Mul": _QOperatorExporter._binary,
    "LeakyRelu": _QOperatorExporter._unary,
    "Sigmoid": _QOperatorExporter._unary,
    "Softmax": _QOperatorExporter._unary,
    "AveragePool": _QOperatorExporter._average_pool,
    "GlobalAveragePool": _QOperatorExporter._mean,
    "ReduceMean": _QOperatorExporter._mean,
    **dict.fromkeys(_MOVES, _QOperatorExporter._move),
    "Concat": _QOperatorExporter._concat,
}


def _source(value: SSAValue) -> SSAValue | None:
    """The quantized value behind a dequantize."""
    dequantize = defining(value, DequantizeOp)
    return None if dequantize is None else dequantize.x


def _plain(kind: UniformType) -> bool:
    return kind.per_tensor and kind.storage in _SMALLEST


def _alike(x: SSAValue, y: SSAValue) -> bool:
    """Whether both are 8-bit tensors of one scale and the same signedness, which the operators want."""
    return _plain(quantized(x)) and quantized(x).storage == quantized(y).storage


def _weight(value: SSAValue, axis: int) -> bool:
    """Whether a value is a constant of 8 bits with one scale, or one for each index of `axis`."""
    kind = quantized(value)
    alike = kind.axis in (None, axis) and not kind.blocks
    return isinstance(value.owner, ConstantOp) and kind.dtype.itemsize == 1 and alike


def _as_stored(real: ArrayLike, kind: UniformType) -> np.ndarray:
    values = np.asarray(real, np.float32)
    return np.asarray(quantize(values, kind.scales, kind.zero_points, kind.qmin, kind.qmax, kind.dtype), kind.dtype)


def _biased_product(op: Operation) -> tuple[Operation, SSAValue | None]:
    """The MatMul behind an addition of its int32 bias, and the bias; else the op itself."""
    if op_name(op) == "Add":
        for value, other in (op.operands, op.operands[::-1]):
            bias = _source(other)
            if op_name(value.owner) == "MatMul" and bias is not None and quantized(bias).storage == "i32":
                assert isinstance(value.owner, Operation)
                return value.owner, other
    return op, None
