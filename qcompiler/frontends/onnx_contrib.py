"""Ops outside the ONNX standard that standard ops express: onnxruntime's fused and quantized ones.

Meanings from onnxruntime's ContribOperators.md.
"""

from __future__ import annotations

import onnx

from qcompiler.frontends.onnx_graph import Graph, Replacement, integer, number, text
from qcompiler.frontends.onnx_quantized import QUANTIZED, Rewrite


def standardize(graph: Graph) -> bool:
    """Rewrites the nodes listed in `REWRITES`, at the project's opset; whether there were any.

    Raises:
        ModelError: an attribute that standard ops cannot express, an input whose rank is not known.
    """
    nodes: list[onnx.NodeProto] = []
    waiting: list[onnx.NodeProto] = []
    changed = False
    for node in graph.nodes:
        rewrite = REWRITES.get((node.domain, node.op_type))
        replaced = rewrite(graph, node) if rewrite is not None else None
        if rewrite is not None and replaced is None:
            waiting.append(node)
        changed |= replaced is not None
        nodes += [node] if replaced is None else replaced
    graph.nodes = nodes
    if waiting and not changed:
        raise graph.error(waiting[0], "the rank of its inputs cannot be inferred")
    return changed


def _gelu(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Gelu, BiasGelu and FastGelu: an optional bias is added first."""
    new = Replacement(graph, node)
    biased = len(node.input) > 1 and bool(node.input[1])
    value = new.add("Add", node.input[:2], "biased") if biased else node.input[0]
    return new.last("Gelu", [value], approximate="tanh" if node.op_type == "FastGelu" else "none")


def _quick_gelu(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """x * sigmoid(alpha * x)."""
    new = Replacement(graph, node)
    scaled = new.add("Mul", [node.input[0], new.scalar("alpha", number(node, "alpha", 1.702))], "scaled")
    return new.last("Mul", [node.input[0], new.add("Sigmoid", [scaled], "gate")])


def _matmul(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """alpha * (A or its transpose) * (B or its transpose)."""
    if integer(node, "transBatchA", 0) or integer(node, "transBatchB", 0):
        raise graph.error(node, "transBatchA and transBatchB are not supported")
    new = Replacement(graph, node)
    operands: list[str] = []
    for position, what in ((0, "transA"), (1, "transB")):
        value = node.input[position]
        if integer(node, what, 0):
            rank = graph.rank(value)
            if rank is None:
                return None
            if rank > 1:
                value = new.add("Transpose", [value], what, perm=[*range(rank - 2), rank - 1, rank - 2])
        operands.append(value)
    alpha = number(node, "alpha", 1.0)
    if alpha == 1.0:
        return new.last("MatMul", operands)
    return new.last("Mul", [new.add("MatMul", operands, "product"), new.scalar("alpha", alpha)])


def _conv(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Conv, then the optional fourth input added, then an activation."""
    new = Replacement(graph, node)
    kept = [a for a in node.attribute if a.name not in ("activation", "activation_params")]
    value = new.add("Conv", node.input[:3], "conv")
    new.nodes[-1].attribute.extend(kept)
    if len(node.input) > 3 and node.input[3]:
        value = new.add("Add", [value, node.input[3]], "sum")
    parameters = next((list(a.floats) for a in node.attribute if a.name == "activation_params"), [])
    activation = text(node, "activation", "")
    match activation:
        case "":
            return new.last("Identity", [value])
        case "Relu" | "Sigmoid" | "Tanh":
            return new.last(activation, [value])
        case "LeakyRelu":
            return new.last(activation, [value], alpha=parameters[0])
        case "HardSigmoid":
            return new.last(activation, [value], alpha=parameters[0], beta=parameters[1])
        case "Clip":
            return new.last("Clip", [value, new.scalar("min", parameters[0]), new.scalar("max", parameters[1])])
    raise graph.error(node, f"its activation '{activation}' is not supported")


def _skip_layer_normalization(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """LayerNormalization over the last axis of input + skip (+ bias); the sum is the fourth output."""
    if any(node.output[1:3]):
        raise graph.error(node, "its outputs mean and inv_std_var are not supported")
    new = Replacement(graph, node)
    value = new.add("Add", node.input[:2], "skip")
    if len(node.input) > 4 and node.input[4]:
        value = new.add("Add", [value, node.input[4]], "biased")
    if len(node.output) > 3 and node.output[3]:
        new.nodes[-1].output[0] = value = node.output[3]
    parameters = node.input[2:4] if len(node.input) > 3 and node.input[3] else node.input[2:3]
    return new.last("LayerNormalization", [value, *parameters], axis=-1, epsilon=number(node, "epsilon", 1e-12))


REWRITES: dict[tuple[str, str], Rewrite] = {
    **QUANTIZED,
    ("com.microsoft", "BiasGelu"): _gelu,
    ("com.microsoft", "FastGelu"): _gelu,
    ("com.microsoft", "FusedConv"): _conv,
    ("com.microsoft", "FusedMatMul"): _matmul,
    ("com.microsoft", "Gelu"): _gelu,
    ("com.microsoft", "QuickGelu"): _quick_gelu,
    ("com.microsoft", "SkipLayerNormalization"): _skip_layer_normalization,
}
"""(domain, op) to its rewrite."""
