"""A module of any stage as a graph for other programs: Graphviz text, and an ONNX file for viewers such as Netron."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import helper, numpy_helper
from xdsl.dialects.builtin import TensorType

from qcompiler.exporters.onnx_export import stored_number
from qcompiler.model import Model
from qcompiler.report.nodes import INPUT, OUTPUT, Node, Tensor, nodes_of, type_text

DOMAIN = "q"
"""Operator domain of integer operations in a file for viewers; no runtime knows it."""

_STYLES = {
    INPUT: 'shape=ellipse, fillcolor="#ffffff"',
    OUTPUT: 'shape=ellipse, fillcolor="#ffffff"',
    "q": 'shape=box, fillcolor="#cfe3f5"',
    "onnx": 'shape=box, style="filled,dashed", fillcolor="#fbe3c0"',
}
"""Integer operations have whole borders, float ones dashed, so that nothing depends on colours."""


def dot_text(model: Model) -> str:
    """The graph in the language of Graphviz: operations as boxes, tensors with their types as edges, no constants."""
    nodes = [node for node in nodes_of(model) if not node.resource]
    makers = {tensor.name: (node, tensor) for node in nodes for tensor in node.results}
    lines = [f"digraph {_quoted(model.source)} {{", '  node [style=filled, fontname="sans-serif"];']
    for node in nodes:
        style = _STYLES.get(node.op) or _STYLES["onnx" if node.op.startswith("onnx.") else "q"]
        label = node.name if node.op in (INPUT, OUTPUT) else f"{node.op}\n{node.name}"
        lines.append(f"  {_quoted(node.name)} [label={_quoted(label)}, {style}];")
    for node in nodes:
        for name in node.operands:
            if name in makers:
                maker, tensor = makers[name]
                ends = f"{_quoted(maker.name)} -> {_quoted(node.name)}"
                lines.append(f"  {ends} [label={_quoted(type_text(tensor))}];")
    return "\n".join([*lines, "}", ""])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def viewer_model(model: Model) -> onnx.ModelProto:
    """The graph as ONNX that viewers show and nothing runs: integer operations lie in the domain `q`.

    Attributes are text, `type` and `why` among them; constants are initializers.
    """
    nodes = nodes_of(model)
    makers = {tensor.name: tensor for node in nodes for tensor in node.results}
    protos = [_proto(node) for node in nodes if node.op not in (INPUT, OUTPUT) and not node.resource]
    graph = helper.make_graph(
        protos,
        "main",
        [_info(node.results[0]) for node in nodes if node.op == INPUT],
        [_info(makers[node.operands[0]]) for node in nodes if node.op == OUTPUT],
        [numpy_helper.from_array(model.store[node.resource], node.name) for node in nodes if node.resource],
        value_info=_infos(
            [tensor for node in nodes if node.op != INPUT and not node.resource for tensor in node.results]
        ),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, producer_name="qcompiler")


def _proto(node: Node) -> onnx.NodeProto:
    dialect, _, kind = node.op.partition(".")
    results = [tensor.name for tensor in node.results]
    domain = "" if dialect == "onnx" else DOMAIN
    proto = helper.make_node(kind, node.operands, results, name=node.name, domain=domain)
    texts = {**node.attributes, "type": "; ".join(map(type_text, node.results)), "why": node.why}
    proto.attribute.extend(helper.make_attribute(key, text) for key, text in texts.items() if text)
    return proto


def _infos(tensors: Sequence[Tensor]) -> list[onnx.ValueInfoProto]:
    return [_info(tensor) for tensor in tensors if isinstance(tensor.type, TensorType)]


def _info(tensor: Tensor) -> onnx.ValueInfoProto:
    assert isinstance(tensor.type, TensorType)
    return helper.make_tensor_value_info(tensor.name, stored_number(tensor.type.element_type), tensor.shape)
