"""Builds the ONNX nodes and constants that replace an operator of a float island."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import ModelError


class Rewriter:
    """Collects the nodes and constants that replace some nodes of a graph."""

    def __init__(self, model: onnx.ModelProto):
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.shapes = {name: list(tensor.dims) for name, tensor in self.tensors.items()}
        self.types = {name: tensor.data_type for name, tensor in self.tensors.items()}
        for info in (*graph.input, *graph.value_info, *graph.output):
            self.shapes[info.name] = [d.dim_value for d in info.type.tensor_type.shape.dim]
            self.types[info.name] = info.type.tensor_type.elem_type
        self.nodes: list[onnx.NodeProto] = []
        self.added: list[onnx.TensorProto] = []
        self.prefix = ""

    def name(self) -> str:
        return f"{self.prefix}:rewrite{len(self.nodes) + len(self.added)}"

    def constant(self, node: onnx.NodeProto, position: int) -> np.ndarray | None:
        """Values of an input; None if it is absent."""
        name = node.input[position] if position < len(node.input) else ""
        if not name:
            return None
        if name not in self.tensors:
            raise ModelError(
                f"node {node.name or node.output[0]!r}: input {position} ({name!r}) of {node.op_type} must be a "
                "constant to be compiled; fold it into the model"
            )
        return numpy_helper.to_array(self.tensors[name])

    def array(self, values: np.ndarray | Sequence[int]) -> str:
        """A new constant; lists of integers are int64."""
        name = self.name()
        self.added.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def __call__(self, op: str, *inputs: str, output: str | None = None, **attributes) -> str:
        """A new node with one output; returns its name."""
        output = output or self.name()
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"{self.prefix}/{op}", **attributes))
        return output

    def split(self, value: str, parts: int, axis: int) -> list[str]:
        outputs = [f"{self.name()}.{i}" for i in range(parts)]
        attributes = {"axis": axis, "num_outputs": parts}
        self.nodes.append(helper.make_node("Split", [value], outputs, name=f"{self.prefix}/Split", **attributes))
        return outputs


def attributes_of(node: onnx.NodeProto) -> dict:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
