"""Small ONNX models for the front end's tests, and their results in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from qcompiler.frontends.onnx_load import NormalizedModel


def node(op: str, inputs: str, outputs: str = "y", name: str = "n", **attributes: Any) -> onnx.NodeProto:
    """A node whose inputs and outputs are named in comma-separated lists."""
    return helper.make_node(op, inputs.split(","), outputs.split(","), name, **attributes)


def i64(*values: int) -> np.ndarray:
    """A vector of int64."""
    return np.array(values, np.int64)


def weights(*shape: int) -> np.ndarray:
    """Random float32 weights, the same at each call."""
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def shape_of(value: onnx.ValueInfoProto) -> list[int]:
    """The sizes of a declared value."""
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def model_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str | None] | None],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = 21,
    element: int = TensorProto.FLOAT,
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model whose outputs are declared by name and element type alone."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info(name, element, shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def complete(model: NormalizedModel) -> onnx.ModelProto:
    """The normalized model with its arrays put back."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model.proto)
    for name, array in model.arrays.items():
        whole.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    return whole


def run(model: onnx.ModelProto | str, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """All outputs, in order, by onnxruntime without its optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    source = model if isinstance(model, str) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    return [np.asarray(result) for result in session.run(None, dict(feeds))]


def ops(model: NormalizedModel) -> list[str]:
    """The op types in order."""
    return [node.op_type for node in model.proto.graph.node]


def constant(model: NormalizedModel, name: str) -> np.ndarray:
    """An initializer, wherever it is kept."""
    if name in model.arrays:
        return model.arrays[name]
    return next(numpy_helper.to_array(i) for i in model.proto.graph.initializer if i.name == name)
