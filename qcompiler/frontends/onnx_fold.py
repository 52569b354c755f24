"""Simplification that keeps all results: constants folded, no-ops and dead nodes removed."""

from __future__ import annotations

import math

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qcompiler.frontends.onnx_graph import (
    Graph,
    distinct,
    integer,
    integers,
    reads,
    rename_reads,
    sort_nodes,
    subgraphs,
    walk,
)
from qcompiler.frontends.onnx_shapes import infer
from qcompiler.frontends.onnx_upgrade import upgrade_node
from qcompiler.ir.opset import OPSET

FOLD_BYTES = 16 << 20
"""A folded result may have this many bytes, or `FOLD_GROWTH` times those of the constants it is made of."""

FOLD_GROWTH = 4

_NEVER_FOLDED = frozenset(
    {
        # a model that is already quantized keeps its own scales
        "QuantizeLinear",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        # a new value at each run
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
        "Multinomial",
        "Bernoulli",
        # control flow
        "If",
        "Loop",
        "Scan",
    }
)

_SAME_IF_SHAPE = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Expand", "Tile"})

_SAME_IF_SINGLE = frozenset({"Concat", "Sum", "Max", "Min", "Mean"})


def settle(graph: Graph) -> None:
    """Infers shapes and simplifies in turn until nothing changes."""
    changed = True
    while changed:
        infer(graph)
        changed = simplify(graph)


def simplify(graph: Graph) -> bool:
    """One round of folding, no-op removal and dead-node removal; whether anything changed."""
    before = len(graph.nodes)
    inlined = _inline_constant_ifs(graph)
    sort_nodes(graph)
    _fold(graph)
    _remove_no_ops(graph)
    _remove_dead(graph)
    return inlined or len(graph.nodes) != before


# ---- constants


def _fold(graph: Graph) -> None:
    rest: list[onnx.NodeProto] = []
    for node in graph.nodes:
        values = _evaluate(graph, node)
        if values is None:
            rest.append(node)
            continue
        for name, array in zip(node.output, values, strict=True):
            if name:
                array = np.asarray(array)
                array.flags.writeable = False
                graph.constants[name] = array
    graph.nodes = rest


def _evaluate(graph: Graph, node: onnx.NodeProto) -> list[np.ndarray] | None:
    if node.domain or node.op_type in _NEVER_FOLDED or any(subgraphs(node)):
        return None
    if node.op_type in ("Shape", "Size"):
        kind = graph.types.get(node.input[0])
        if kind is None or kind.shape is None:
            return None
        if node.op_type == "Size":
            return [np.array(math.prod(kind.shape), np.int64)]
        start, end = integer(node, "start", 0), integer(node, "end", len(kind.shape))
        return [np.array(kind.shape[start:end], np.int64)]
    if any(name and name not in graph.constants for name in node.input):
        return None
    inputs = {name: graph.constants[name] for name in node.input if name}
    if node.op_type == "ConstantOfShape":
        value = next((numpy_helper.to_array(a.t) for a in node.attribute), np.zeros(1, np.float32))
        shape = tuple(int(size) for size in inputs[node.input[0]])
        try:
            # a view of one element: a constant of any size takes no memory
            return [np.broadcast_to(value.reshape(()), shape)]
        except ValueError as error:
            raise graph.error(node, f"there is no tensor of shape {list(shape)}: {error}") from None
    if node.op_type != "Constant" and not _worth_folding(graph, node, inputs):
        return None
    return _compute(graph, node, inputs)


def _compute(graph: Graph, node: onnx.NodeProto, values: dict[str, np.ndarray]) -> list[np.ndarray] | None:
    """The node's results by ONNX's reference, which knows few old versions of ops: at the project's opset."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    for step in [copy] if graph.opset == OPSET else upgrade_node(graph, copy):
        inputs = {name: values.get(name, graph.constants.get(name)) for name in step.input if name}
        try:
            results = ReferenceEvaluator(step, opsets={"": OPSET}).run(None, inputs)
        except Exception:
            # the reference lacks an op or a case of it: the node is then computed at run time
            return None
        if not all(isinstance(r, np.ndarray | np.generic) for r in results):
            return None
        values.update({name: np.asarray(r) for name, r in zip(step.output, results, strict=True)})
    return [values[name] for name in node.output]


def _worth_folding(graph: Graph, node: onnx.NodeProto, inputs: dict[str, np.ndarray]) -> bool:
    limit = max(FOLD_BYTES, FOLD_GROWTH * sum(distinct(a).nbytes for a in inputs.values()))
    size = 0
    for name in filter(None, node.output):
        kind = graph.types.get(name)
        if kind is not None and kind.shape is not None:
            size += math.prod(kind.shape) * helper.tensor_dtype_to_np_dtype(kind.element).itemsize
    return size <= limit


# ---- no-ops


def _remove_no_ops(graph: Graph) -> None:
    """Drops nodes that return their first input unchanged; Identity stays from an input to an output."""
    renamed: dict[str, str] = {}
    by_output = {name: node for node in graph.nodes for name in node.output}
    kept: list[onnx.NodeProto] = []
    used = {name for node in graph.nodes for name in reads(node)} | set(graph.outputs)
    outputs = set(graph.outputs)
    exposed: dict[str, str] = {}
    for node in graph.nodes:
        rename_reads(node, renamed)
        if not _is_no_op(graph, node) or any(name in used for name in node.output[1:]):
            kept.append(node)
            continue
        source, result = node.input[0], node.output[0]
        if result not in outputs:
            renamed[result] = source
        elif source in by_output and source not in outputs and source not in exposed:
            exposed[source] = result
        else:
            kept.append(helper.make_node("Identity", [source], [result], node.name))
    for source, result in exposed.items():
        producer = by_output[source]
        index = list(producer.output).index(source)
        producer.output[index] = result
    for node in kept:
        rename_reads(node, exposed)
    graph.nodes = kept


def _is_no_op(graph: Graph, node: onnx.NodeProto) -> bool:
    kind = node.op_type
    if node.domain or not node.input:
        return False
    if kind == "Identity":
        return True
    if kind == "Dropout":
        if len(node.input) < 3 or not node.input[2]:
            return True
        training = graph.constants.get(node.input[2])
        return training is not None and not training.any()
    if kind in _SAME_IF_SINGLE:
        return len(node.input) == 1
    source, result = graph.types.get(node.input[0]), graph.types.get(node.output[0])
    if source is None or result is None:
        return False
    if kind == "Cast":
        return source.element == result.element
    if source.shape is None or source.shape != result.shape:
        return False
    if kind in _SAME_IF_SHAPE:
        return True
    if kind == "Transpose":
        order = integers(node, "perm") or list(reversed(range(len(source.shape))))
        moved = [axis for axis in order if source.shape[axis] != 1]
        return moved == sorted(moved)
    if kind == "Slice":
        if len(node.input) < 5 or not node.input[4]:
            return True
        steps = graph.constants.get(node.input[4])
        return steps is not None and bool((steps > 0).all())
    if kind == "Pad":
        pads = graph.constants.get(node.input[1]) if len(node.input) > 1 else np.array(integers(node, "pads"))
        return pads is not None and not pads.any()
    return False


# ---- dead nodes


def _remove_dead(graph: Graph) -> None:
    used = set(graph.outputs)
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.nodes):
        if any(name in used for name in node.output):
            _clear_unused_outputs(graph, node, used)
            used |= reads(node)
            kept.append(node)
    graph.nodes = kept[::-1]
    graph.constants = {name: array for name, array in graph.constants.items() if name in used}


def _clear_unused_outputs(graph: Graph, node: onnx.NodeProto, used: set[str]) -> None:
    if len(node.output) == 1:
        return
    option = defs.OpSchema.FormalParameterOption.Optional
    formals = [] if node.domain else defs.get_schema(node.op_type, graph.opset, "").outputs
    for index, name in enumerate(node.output):
        optional = index > 0 if node.domain else index < len(formals) and formals[index].option == option
        if optional and name not in used:
            node.output[index] = ""
    while node.output and not node.output[-1]:
        node.output.pop()


# ---- conditions


def _inline_constant_ifs(graph: Graph) -> bool:
    """Replaces each If whose condition is constant by the branch taken."""
    chosen = [n for n in graph.nodes if n.op_type == "If" and not n.domain and n.input[0] in graph.constants]
    for node in chosen:
        taken = "then_branch" if graph.constants[node.input[0]].item() else "else_branch"
        branch = next(a.g for a in node.attribute if a.name == taken)
        nodes = _branch_nodes(graph, node, branch)
        graph.nodes = [n for n in graph.nodes if n is not node] + nodes
    return bool(chosen)


def _branch_nodes(graph: Graph, node: onnx.NodeProto, branch: onnx.GraphProto) -> list[onnx.NodeProto]:
    others = {*graph.constants, *graph.inputs, *graph.outputs}
    for other in walk(n for n in graph.nodes if n is not node):
        others.update(other.input, other.output)
    defined = [t.name for t in branch.initializer] + [n for c in branch.node for n in c.output if n]
    names = {name: graph.fresh(name) if name in others else name for name in defined}
    for tensor in branch.initializer:
        graph.constants[names[tensor.name]] = numpy_helper.to_array(tensor)
    nodes: list[onnx.NodeProto] = []
    for child in branch.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(child)
        rename_reads(copy, names)
        for index, name in enumerate(copy.output):
            copy.output[index] = names.get(name, "")
        copy.name = f"{node.name}/{child.name}" if child.name else ""
        nodes.append(copy)
    for value, result in zip(branch.output, node.output, strict=True):
        nodes.append(helper.make_node("Identity", [names.get(value.name, value.name)], [result]))
    return nodes
