"""From an ONNX file to a static graph at the project's opset, ready for the importer.

The steps, each in its module: read (`onnx_read`), inline functions and check (`onnx_check`), set input
shapes (`onnx_shapes`), fold and infer until nothing changes (`onnx_fold`), upgrade (`onnx_upgrade`), express
quantized and contributed ops through standard ones (`onnx_quantized`, `onnx_contrib`), compute in float32
(`onnx_floats`). Weights stay outside protobufs all the way, so a model may be larger than protobuf's 2 GB and
external data are only memory-mapped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from qcompiler.errors import ModelError
from qcompiler.frontends.onnx_check import (
    check_ops,
    check_text,
    check_weights,
    checked_opset,
    inline_functions,
    name_nodes,
)
from qcompiler.frontends.onnx_contrib import standardize
from qcompiler.frontends.onnx_floats import compute_in_float32
from qcompiler.frontends.onnx_fold import settle
from qcompiler.frontends.onnx_graph import SMALL, Graph, ValueType, sort_nodes, walk
from qcompiler.frontends.onnx_read import read_model, tensor_array
from qcompiler.frontends.onnx_shapes import bind_inputs, require_static
from qcompiler.frontends.onnx_upgrade import upgrade


@dataclass(frozen=True)
class NormalizedModel:
    """A static, topologically sorted graph at the project's opset.

    Every value has a type and shape in `proto`, every node a unique name. `arrays` holds the initializers of
    more than `onnx_graph.SMALL` elements, which `proto` does not have: read-only, those of external data
    memory-mapped, those that repeat one element a view of it. `notes` says what was changed beyond the form.
    """

    proto: onnx.ModelProto
    arrays: Mapping[str, np.ndarray]
    notes: tuple[str, ...] = ()


def load_onnx(path: str | Path, shapes: Mapping[str, tuple[int, ...]] | None = None) -> NormalizedModel:
    """Reads and normalizes a model; `shapes` gives the sizes of inputs whose dimensions are symbolic.

    Raises:
        ModelError: the file is not a readable ONNX model, or `normalize` raises it.
    """
    path = Path(path)
    return normalize(read_model(path), shapes, path.parent, str(path))


def normalize(
    model: onnx.ModelProto,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    base_dir: Path | None = None,
    source: str = "model.onnx",
) -> NormalizedModel:
    """The model with the same results in the one form that the importer reads; `model` is not changed.

    `base_dir` is where external data lie; `source` names the model in messages.

    Raises:
        ModelError: the model is inconsistent, has an op that is not known, an input without a given size, a
            value without a static shape, external data that are missing, or weights that are not finite.
    """
    graph = _graph_of(model, base_dir or Path(), source)
    bind_inputs(model.graph, graph, shapes or {})
    sort_nodes(graph)
    check_ops(graph)
    settle(graph)
    upgrade(graph)
    settle(graph)
    while standardize(graph):
        settle(graph)
    if compute_in_float32(graph):
        settle(graph)
    require_static(graph)
    check_weights(graph)
    _expose_constants(graph)
    name_nodes(graph)
    return _finish(graph)


def _graph_of(model: onnx.ModelProto, base_dir: Path, source: str) -> Graph:
    check_text(model, source)
    opset = checked_opset(model, source)
    if model.graph.sparse_initializer:
        name = model.graph.sparse_initializer[0].values.name
        raise ModelError(f"{source}: initializer '{name}' is sparse; store it as a dense tensor")
    constants: dict[str, np.ndarray] = {}
    for tensor in model.graph.initializer:
        if tensor.name in constants:
            raise ModelError(f"{source}: the initializer '{tensor.name}' is defined twice")
        constants[tensor.name] = tensor_array(tensor, base_dir, source)
    nodes: list[onnx.NodeProto] = []
    for node in inline_functions(model, opset, source):
        value = next((a for a in node.attribute if a.name == "value"), None)
        known = not node.output or node.output[0] in constants
        if node.op_type == "Constant" and not node.domain and value is not None and not known:
            constants[node.output[0]] = tensor_array(value.t, base_dir, source)
        else:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for part in walk([copy]):
                part.domain = "" if part.domain == "ai.onnx" else part.domain
            nodes.append(copy)
    inputs: dict[str, ValueType] = {}
    for value in model.graph.input:
        if value.name not in constants:
            kind = ValueType.of(value.type)
            if kind is None:
                raise ModelError(f"{source}: input '{value.name}' is not a tensor; only tensors can be inputs")
            inputs[value.name] = kind
    declared = {v.name: ValueType.of(v.type) for v in (*model.graph.value_info, *model.graph.output)}
    return Graph(
        source=source,
        name=model.graph.name,
        opset=opset,
        nodes=nodes,
        constants=constants,
        inputs=inputs,
        outputs=[value.name for value in model.graph.output],
        declared={name: kind for name, kind in declared.items() if kind is not None},
    )


def _expose_constants(graph: Graph) -> None:
    """Puts an Identity before every output that is a constant."""
    for name in graph.outputs:
        if name in graph.constants:
            constant = graph.add_constant(f"{name}_value", graph.constants.pop(name))
            graph.nodes.append(helper.make_node("Identity", [constant], [name]))


def _finish(graph: Graph) -> NormalizedModel:
    produced = {name for node in graph.nodes for name in node.output if name}
    proto = graph.proto({n: graph.types[n] for n in sorted(produced - set(graph.outputs))})
    del proto.graph.input[len(graph.inputs) :]
    proto.producer_name = "qcompiler"
    arrays = {name: array for name, array in graph.constants.items() if array.size > SMALL}
    return NormalizedModel(proto, arrays, tuple(graph.notes))
