"""Graph questions, answered with networkx: scale classes, the border between integer and float, live ranges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import networkx as nx
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue

from qcompiler.ir.onnx_dialect import NoneOp
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.values import body, is_tensor, size


def is_activation(value: SSAValue) -> bool:
    """Whether a value depends on the inputs."""
    return is_tensor(value) and not isinstance(value.owner, ConstantOp | NoneOp)


def dataflow(module: ModuleOp) -> nx.MultiDiGraph:
    """Operations, and the block for the arguments, as nodes; an edge for each operand with its `value` and `index`."""
    block = body(module)
    graph = nx.MultiDiGraph()
    graph.add_node(block)
    for op in block.ops:
        graph.add_node(op)
        for index, value in enumerate(op.operands):
            graph.add_edge(value.owner, op, value=value, index=index)
    return graph


def classes(pairs: Iterable[tuple[SSAValue, SSAValue]]) -> list[set[SSAValue]]:
    """Equivalence classes of values, from the pairs that must share one scale and zero point."""
    graph: nx.Graph = nx.Graph()
    graph.add_edges_from(pairs)
    return list(nx.connected_components(graph))


def border(
    module: ModuleOp, gains: Mapping[Operation, float], inner: Iterable[SSAValue] = ()
) -> tuple[float, set[Operation]]:
    """The operations to run in integers, by a minimum cut; the rest runs in float.

    `gains` gives, for every op with an integer form, what integers save over float, in the unit of one byte of
    traffic; ops not in it are float, and so are arguments and results of the function. A value whose producer and
    readers disagree costs its size once, however many readers it has. `inner` values are never stored, so their
    producer and readers always agree. Of cuts with equal cost the one with the most integer operations is
    taken. Returns the cost and the set.
    """
    net: nx.DiGraph = nx.DiGraph()
    graph = dataflow(module)
    net.add_nodes_from(("integer", "float"))
    for node in graph:
        if isinstance(node, Block) or node not in gains:
            if not isinstance(node, ConstantOp | NoneOp):
                net.add_edge(node, "float")  # an edge without capacity cannot be cut
        else:
            net.add_edge("integer", node, capacity=float(gains[node]))
    fixed = set(inner)
    values = {data["value"] for _, _, data in graph.edges(data=True) if is_activation(data["value"])}
    for value in values:
        cost = {} if value in fixed else {"capacity": float(size(value))}
        down, up = ("dequantize", value), ("quantize", value)
        net.add_edge(value.owner, down, **cost)
        net.add_edge(up, value.owner, **cost)
        for user in {use.operation for use in value.uses}:
            net.add_edge(down, user)
            net.add_edge(user, up)
    cost, (integer, _) = nx.minimum_cut(net, "integer", "float")
    return cost, {node for node in integer if isinstance(node, Operation)}


def live_ranges(module: ModuleOp) -> dict[SSAValue, tuple[int, int]]:
    """Index of the defining operation (-1 for arguments) and of the last reader of every activation."""
    block = body(module)
    ranges = {value: (-1, -1) for value in block.args}
    for index, op in enumerate(block.ops):
        for value in op.operands:
            if value in ranges:
                ranges[value] = (ranges[value][0], index)
        ranges.update({r: (index, index) for r in op.results if is_activation(r)})
    return ranges
