"""A normalized ONNX graph becomes a module of the `onnx` dialect, op by op."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

import numpy as np
import onnx
from onnx import helper, numpy_helper
from xdsl.dialects.builtin import (
    ArrayAttr,
    DenseArrayBase,
    DenseResourceAttr,
    DictionaryAttr,
    FloatAttr,
    FunctionType,
    IntegerAttr,
    ModuleOp,
    NoneType,
    StringAttr,
    TensorType,
    f32,
    i64,
)
from xdsl.dialects.func import FuncOp, ReturnOp
from xdsl.ir import Attribute, Block, Region, SSAValue

from qcompiler.arithmetic.formats import stored
from qcompiler.errors import IRError, ModelError
from qcompiler.ir.onnx_dialect import ELEMENT_TYPES, NoneOp, onnx_ops
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import dtype_of, location
from qcompiler.model import Model

_KIND = onnx.AttributeProto


def value_hint(name: str) -> str | None:
    """A legal SSA name for an ONNX value; xDSL keeps `_<digits>` at the end for itself."""
    text = re.sub(r"[^A-Za-z0-9_$.]", "_", name).strip("_")
    text = re.sub(r"_(\d+)$", r".\1", text)
    return text if re.match(r"[A-Za-z_]", text) else None


def import_graph(
    proto: onnx.ModelProto, arrays: Mapping[str, np.ndarray] | None = None, source: str = "<model>"
) -> Model:
    """A model whose module has one `onnx.*` op for each node of a static, topologically sorted graph.

    `arrays` holds initializers that are not in `proto`. Node names become locations.

    Raises:
        ModelError: a value without a static shape, an op or attribute the dialect does not have.
    """
    return _Importer(proto.graph, dict(arrays or {}), source).run()


class _Importer:
    def __init__(self, graph: onnx.GraphProto, arrays: dict[str, np.ndarray], source: str) -> None:
        self.graph = graph
        self.source = source
        self.store = ConstantStore()
        self.block = Block()
        self.values: dict[str, SSAValue] = {}
        self.none: SSAValue | None = None
        self.arrays = {i.name: i for i in graph.initializer} | arrays
        typed = (*graph.value_info, *graph.output, *graph.input)
        self.types = {v.name: self._type(v) for v in typed}
        self.ops = onnx_ops()

    def run(self) -> Model:
        inputs = [v for v in self.graph.input if v.name not in self.arrays]
        for value in inputs:
            argument = self.block.insert_arg(self.types[value.name], len(self.block.args))
            try:
                dtype_of(argument)
            except IRError as error:
                raise ModelError(f"{self.source}: input '{value.name}': {error}; it cannot be an input") from None
            self._define(value.name, argument)
        for node in self.graph.node:
            self._node(node)
        outputs = [self._operand(v.name) for v in self.graph.output]
        self.block.add_op(ReturnOp(*outputs))
        kind = FunctionType.from_lists([a.type for a in self.block.args], [o.type for o in outputs])
        function = FuncOp(
            "main",
            kind,
            Region(self.block),
            arg_attrs=_name_attributes([v.name for v in inputs]),
            res_attrs=_name_attributes([v.name for v in self.graph.output]),
        )
        return Model(ModuleOp([function]), self.store, self.source)

    def _type(self, value: onnx.ValueInfoProto) -> TensorType:
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
            raise ModelError(f"{self.source}: value '{value.name}' has no tensor type of known rank")
        dims = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
        if min(dims, default=0) < 0:
            raise ModelError(f"{self.source}: value '{value.name}' has a dimension of unknown size: {dims}")
        element = ELEMENT_TYPES.get(kind.elem_type)
        if element is None:
            spelled = onnx.TensorProto.DataType.Name(kind.elem_type)
            raise ModelError(f"{self.source}: value '{value.name}' has elements of the unsupported type {spelled}")
        return TensorType(element, dims)

    def _define(self, name: str, value: SSAValue) -> None:
        self.values[name] = value
        value.name_hint = value_hint(name)

    def _operand(self, name: str) -> SSAValue:
        if name not in self.values and name in self.arrays:
            array = self.arrays[name]
            if isinstance(array, onnx.TensorProto):
                array = numpy_helper.to_array(array)
            element = ELEMENT_TYPES.get(helper.np_dtype_to_tensor_dtype(array.dtype))
            op = ConstantOp.of(self.store, name, stored(array), element)
            self.block.add_op(op)
            self._define(name, op.y)
        return self.values[name]

    def _absent(self) -> SSAValue:
        if self.none is None:
            op = NoneOp.create(result_types=[NoneType()])
            self.block.add_op(op)
            self.none = op.result
        return self.none

    def _node(self, node: onnx.NodeProto) -> None:
        label = node.name or node.output[0]
        kind = self.ops.get(node.op_type)
        if node.domain not in ("", "ai.onnx") or kind is None:
            raise ModelError(
                f"{self.source}: node '{label}' is a {node.domain or 'ai.onnx'}::{node.op_type}, which the compiler "
                "does not know; rewrite it with standard ONNX ops"
            )
        names = list(node.input)
        while names and not names[-1]:
            names.pop()
        operands = [self._operand(n) if n else self._absent() for n in names]
        results = [self._result_type(n, label) for n in node.output]
        properties = {a.name: self._attribute(a, label) for a in node.attribute}
        op = kind.create(operands=operands, result_types=results, properties=properties)
        op.location = location(label)
        self.block.add_op(op)
        for name, value in zip(node.output, op.results, strict=True):
            if name:
                self._define(name, value)

    def _result_type(self, name: str, label: str) -> Attribute:
        if not name:
            return NoneType()
        if name not in self.types:
            raise ModelError(f"{self.source}: node '{label}': the shape of its result '{name}' is not known")
        if 0 in self.types[name].get_shape():
            extents = list(self.types[name].get_shape())
            raise ModelError(f"{self.source}: node '{label}': its result '{name}' is empty, of shape {extents}")
        return self.types[name]

    def _attribute(self, attribute: onnx.AttributeProto, label: str) -> Attribute:
        match attribute.type:
            case _KIND.INT:
                return IntegerAttr(attribute.i, i64)
            case _KIND.FLOAT:
                return FloatAttr(attribute.f, f32)
            case _KIND.STRING:
                return StringAttr(attribute.s.decode())
            case _KIND.INTS:
                return DenseArrayBase.from_list(i64, list(attribute.ints))
            case _KIND.FLOATS:
                return DenseArrayBase.from_list(f32, list(attribute.floats))
            case _KIND.STRINGS:
                return ArrayAttr([StringAttr(s.decode()) for s in attribute.strings])
            case _KIND.TENSOR:
                array = numpy_helper.to_array(attribute.t)
                kind = TensorType(ELEMENT_TYPES[attribute.t.data_type], list(attribute.t.dims))
                return DenseResourceAttr.from_params(self.store.add(f"{label}.{attribute.name}", array), kind)
        raise ModelError(
            f"{self.source}: node '{label}' has the attribute '{attribute.name}' of kind "
            f"{_KIND.AttributeType.Name(attribute.type)}; control flow that does not fold to a constant is not compiled"
        )


def _name_attributes(names: list[str]) -> ArrayAttr[DictionaryAttr]:
    dictionaries = [DictionaryAttr({"onnx.name": StringAttr(name)}) for name in names]
    return cast("ArrayAttr[DictionaryAttr]", ArrayAttr(dictionaries))
