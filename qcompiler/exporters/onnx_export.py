"""A module as an ONNX model: float ops one to one, quantize and dequantize as QuantizeLinear and DequantizeLinear.

Serves calibration (the float module, every value observable by name), the QDQ file that other runtimes read, float
islands, and the interpreter's float ops. Values are named as in `value_names`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
from onnx import helper, numpy_helper
from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseArrayBase,
    DenseResourceAttr,
    FloatAttr,
    IntegerAttr,
    ModuleOp,
    NoneType,
    StringAttr,
    i64,
)
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Attribute, Operation, SSAValue

from qcompiler.arithmetic.formats import presented
from qcompiler.errors import ModelError
from qcompiler.ir.onnx_dialect import ELEMENT_TYPES, NoneOp, OnnxOp
from qcompiler.ir.opset import OPSET
from qcompiler.ir.q_elementwise import ConstantOp, DequantizeOp, QuantizeOp
from qcompiler.ir.q_runtime import (
    RUNTIME_OPS,
    ConvIntegerOp,
    DequantizeLinearOp,
    DynamicRangeOp,
    MatMulIntegerOp,
    QuantizeLinearOp,
)
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import body, describe, location_names, output_names, shape, small_type, tensor, value_names

_NUMBERS = {element: number for number, element in ELEMENT_TYPES.items()}
_IR_VERSION = 10
_LATER = {
    onnx.TensorProto.FLOAT4E2M1: 23,
    onnx.TensorProto.UINT2: 25,
    onnx.TensorProto.INT2: 25,
    onnx.TensorProto.FLOAT6E2M3: 28,
    onnx.TensorProto.FLOAT6E3M2: 28,
}
"""The opset from which on a model may have elements of a type, where that is above the project's."""
_LARGEST_PROTOBUF = 2**31 - 2**24
"""Bytes of weights that fit beside a graph in protobuf's 2 GiB."""


_RUNTIME_NAMES: dict[type[Operation], str] = {
    QuantizeLinearOp: "QuantizeLinear",
    DequantizeLinearOp: "DequantizeLinear",
    DynamicRangeOp: "DynamicQuantizeLinear",
    ConvIntegerOp: "ConvInteger",
    MatMulIntegerOp: "MatMulInteger",
}


def element_number(value: SSAValue) -> int:
    """ONNX's number of a value's element type as stored."""
    return stored_number(tensor(value).element_type)


def stored_number(element: Attribute) -> int:
    """ONNX's number of an element type as stored."""
    if isinstance(element, UniformType):
        return helper.np_dtype_to_tensor_dtype(element.dtype)
    return _NUMBERS[element]


def export_onnx(module: ModuleOp, store: ConstantStore, name: str = "main") -> onnx.ModelProto:
    """The module as an ONNX model under the project's opset.

    Raises:
        ModelError: an integer op other than quantize and dequantize, which ONNX cannot say.
    """
    return export_module(module, name, Exporter(store, module))


def export_module(module: ModuleOp, name: str, exporter: Exporter) -> onnx.ModelProto:
    """The module as `exporter` writes its ops; graph inputs and outputs keep their names."""
    block = body(module)
    last = block.last_op
    assert isinstance(last, ReturnOp)
    names = exporter.names
    for op in block.ops:
        if not isinstance(op, ReturnOp):
            exporter.add(op)
    outputs = []
    for value, label in zip(last.operands, output_names(module), strict=True):
        if names[value] != label:
            exporter.nodes.append(helper.make_node("Identity", [names[value]], [label], name=f"output:{label}"))
        outputs.append(_info(label, value))
    return exporter.model(name, [_info(names[a], a) for a in block.args], outputs)


def export_operations(
    ops: Sequence[Operation],
    inputs: Sequence[SSAValue],
    outputs: Sequence[SSAValue],
    names: dict[SSAValue, str],
    store: ConstantStore,
) -> onnx.ModelProto:
    """Some operations of a module as a model of their own, with the given values as inputs and outputs."""
    exporter = Exporter(store, names)
    names = exporter.names
    for op in ops:
        exporter.add(op)
    return exporter.model("island", [_info(names[v], v) for v in inputs], [_info(names[v], v) for v in outputs])


def _info(name: str, value: SSAValue) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, element_number(value), shape(value))


class Exporter:
    """Writes ops one by one as nodes and initializers; a subclass may have other forms for some."""

    domains: ClassVar[tuple[tuple[str, int], ...]] = ()
    """Operator domains beyond ONNX's own, with their versions."""

    def __init__(self, store: ConstantStore, names: ModuleOp | dict[SSAValue, str]) -> None:
        self.store = store
        self.names = value_names(names) if isinstance(names, ModuleOp) else dict(names)
        self.taken = set(self.names.values())
        self.node_names: dict[str, int] = {}
        self.constants: dict[str, str] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.opset = OPSET

    def model(
        self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]
    ) -> onnx.ModelProto:
        read = {name for node in self.nodes for name in node.input} | {o.name for o in outputs}
        graph = helper.make_graph(
            self.nodes, name, inputs, outputs, [i for i in self.initializers.values() if i.name in read]
        )
        opset = helper.make_opsetid("", self.opset)
        return helper.make_model(
            graph,
            opset_imports=[opset, *(helper.make_opsetid(*domain) for domain in self.domains)],
            ir_version=max(_IR_VERSION, helper.find_min_ir_version_for([opset])),
            producer_name="qcompiler",
        )

    def add(self, op: Operation) -> None:
        if isinstance(op, NoneOp):
            return
        if isinstance(op, ConstantOp):
            self._constant(op)
        elif isinstance(op, QuantizeOp):
            self._linear("QuantizeLinear", op.x, op.y, op.y, op)
        elif isinstance(op, DequantizeOp):
            self._linear("DequantizeLinear", op.x, op.y, op.x, op)
        elif isinstance(op, OnnxOp):
            self._node(op)
        elif isinstance(op, RUNTIME_OPS):
            self._runtime(op)
        else:
            raise ModelError(f"{describe(op)} cannot be written as ONNX; export a module from before integerize")

    def _node_name(self, base: str) -> str:
        """`base`, numbered where several ops come from one original node: onnxruntime wants names to be unique."""
        count = self.node_names[base] = self.node_names.get(base, 0) + 1
        return base if count == 1 else self._node_name(f"{base}.{count}")

    def _initializer(self, base: str, array: np.ndarray) -> str:
        """Adds an initializer under a name that no value has; returns the name."""
        name, number = base, 1
        while name in self.taken:
            name, number = f"{base}.{number}", number + 1
        self.taken.add(name)
        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        return name

    def _constant(self, op: ConstantOp) -> None:
        if op.resource not in self.constants:
            self.taken.discard(self.names.pop(op.y, ""))
            array = presented(self.store[op.resource], small_type(op.y))
            self.constants[op.resource] = self._initializer(op.resource, array)
        self.names[op.y] = self.constants[op.resource]

    def _linear(self, kind: str, x: SSAValue, y: SSAValue, typed: SSAValue, op: Operation) -> None:
        element = tensor(typed).element_type
        assert isinstance(element, UniformType)
        name = self.names[y]
        scale = self._initializer(f"{name}.scale", element.scales)
        zero = self._initializer(f"{name}.zero_point", element.zero_points.astype(element.dtype))
        attributes = {} if element.axis is None else {"axis": element.axis}
        for axis, size in element.blocks.items():
            if size > 1:
                attributes = {"axis": axis, "block_size": size}
        node = helper.make_node(kind, [self.names[x], scale, zero], [name], name=self._node_name(name), **attributes)
        self.nodes.append(node)

    def _node(self, op: OnnxOp) -> None:
        inputs = ["" if isinstance(v.type, NoneType) else self.names[v] for v in op.operands]
        outputs = ["" if isinstance(r.type, NoneType) else self.names[r] for r in op.results]
        label = location_names(op)
        name = self._node_name(label[-1] if label else outputs[0])
        node = helper.make_node(op.SCHEMA.name, inputs, outputs, name=name)
        for name, attribute in sorted(op.properties.items()):
            node.attribute.append(self._attribute(name, attribute))
        self.nodes.append(node)

    def _runtime(self, op: Operation) -> None:
        """An op with run-time parameters, under ONNX's name for it."""
        inputs, outputs = [self.names[v] for v in op.operands], [self.names[r] for r in op.results]
        attributes = dict(op.properties)
        if isinstance(op, QuantizeLinearOp | DequantizeLinearOp):
            code = element_number(op.y if isinstance(op, QuantizeLinearOp) else op.x)
            self.opset = max(self.opset, _LATER.get(code, OPSET))
        if isinstance(op, QuantizeLinearOp):
            attributes["saturate"] = IntegerAttr(int(bool(op.saturate)), i64)
            if op.zero_point is None:
                attributes["output_dtype"] = IntegerAttr(code, i64)
        if isinstance(op, DynamicRangeOp):
            outputs.insert(0, f"{outputs[0]}.quantized")
        name = self._node_name((location_names(op) or outputs)[-1])
        node = helper.make_node(_RUNTIME_NAMES[type(op)], inputs, outputs, name=name)
        node.attribute.extend(self._attribute(key, value) for key, value in sorted(attributes.items()))
        self.nodes.append(node)

    def _attribute(self, name: str, attribute: Attribute) -> onnx.AttributeProto:
        match attribute:
            case IntegerAttr() | FloatAttr():
                return helper.make_attribute(name, attribute.value.data)
            case StringAttr():
                return helper.make_attribute(name, attribute.data)
            case DenseArrayBase():
                values = list(attribute.get_values())
                kind = (
                    onnx.AttributeProto.INTS if all(isinstance(v, int) for v in values) else onnx.AttributeProto.FLOATS
                )
                return helper.make_attribute(name, values, attr_type=kind)
            case ArrayAttr():
                return helper.make_attribute(name, [a.data for a in attribute.data])
            case DenseResourceAttr():
                return helper.make_attribute(name, numpy_helper.from_array(self.store[attribute.resource_handle.data]))
        raise ModelError(f"attribute '{name}' of kind {attribute.name} has no form in ONNX")


def save_onnx(model: onnx.ModelProto, path: Path) -> list[Path]:
    """Writes a model; weights beyond what protobuf holds go to a second file. Returns the files."""
    data = sum(len(i.raw_data) for i in model.graph.initializer)
    if data < _LARGEST_PROTOBUF:
        onnx.save_model(model, str(path))
        return [path]
    outside = path.with_name(path.name + ".data")
    onnx.save_model(model, str(path), save_as_external_data=True, location=outside.name, size_threshold=1024)
    return [path, outside]
