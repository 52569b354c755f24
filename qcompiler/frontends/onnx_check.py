"""Checks of a model, its opset and its functions, before and after the work on the graph."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import checker, defs, helper, inliner

from qcompiler.errors import ModelError
from qcompiler.frontends.onnx_contrib import REWRITES
from qcompiler.frontends.onnx_graph import IR_VERSION, Graph, distinct, subgraphs, walk
from qcompiler.frontends.onnx_upgrade import OLDEST
from qcompiler.ir.opset import OPSET

_TAKES_INFINITY = frozenset({"Clip", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min"})
_TAKES_INFINITY |= {"Pad", "Where", "IsInf", "Identity"}


def check_text(model: onnx.ModelProto, source: str) -> None:
    """Checks that all names are text; protobuf hands out the bytes of a string that is not UTF-8.

    Raises:
        ModelError: naming what is not.
    """
    graph, names = model.graph, [model.graph.name, *(o.domain for o in model.opset_import)]
    for value in (*graph.input, *graph.output, *graph.value_info):
        names += [value.name, *(dim.dim_param for dim in value.type.tensor_type.shape.dim)]
    for tensor in graph.initializer:
        names += [tensor.name, *(part for entry in tensor.external_data for part in (entry.key, entry.value))]
    for node in walk((*graph.node, *(n for function in model.functions for n in function.node))):
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
        names += [attribute.name for attribute in node.attribute]
    for name in names:
        if not isinstance(name, str):
            raise ModelError(f"{source}: the name {name!r} is not UTF-8 text; the file is damaged")


def checked_opset(model: onnx.ModelProto, source: str) -> int:
    """The version of the default operator set.

    Raises:
        ModelError: none is given, or one that is too old or too new.
    """
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if not versions:
        raise ModelError(f"{source}: the model names no opset of the default domain; it is truncated or damaged")
    newest = defs.onnx_opset_version()
    if not OLDEST <= versions[0] <= newest:
        remedy = "export it again with a newer opset" if versions[0] < OLDEST else "update the onnx package"
        raise ModelError(f"{source}: opset {versions[0]} is not in the range {OLDEST} to {newest}; {remedy}")
    return versions[0]


def inline_functions(model: onnx.ModelProto, opset: int, source: str) -> Sequence[onnx.NodeProto]:
    """The model's nodes, calls of its own functions replaced by their bodies.

    Ops newer than the project's opset that ONNX defines through older ones are replaced likewise.

    Raises:
        ModelError: the functions cannot be inlined.
    """
    newer = [
        ("", name)
        for name in sorted({n.op_type for n in walk(model.graph.node) if n.domain in ("", "ai.onnx")})
        if not defs.has(name, OPSET, "") and defs.has(name, opset, "")
    ]
    if not model.functions and not newer:
        return model.graph.node
    light = onnx.ModelProto(ir_version=IR_VERSION, opset_import=model.opset_import, functions=model.functions)
    light.graph.name = "graph"
    light.graph.node.extend(model.graph.node)
    for node in walk(light.graph.node):
        if ("", node.op_type) in newer:
            _fill_defaults(node, opset)
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    light.graph.value_info.extend(model.graph.value_info)
    known = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name not in known:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    try:
        if model.functions:
            light = inliner.inline_local_functions(light, convert_version=True)
        if newer:
            light = inliner.inline_selected_functions(light, newer, inline_schema_functions=True)
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{source}: the model's functions cannot be inlined: {error}") from None
    return light.graph.node


def _fill_defaults(node: onnx.NodeProto, opset: int) -> None:
    """Writes out absent attributes that have a default: bodies of functions refer to them."""
    present = {item.name for item in node.attribute}
    for name, attribute in defs.get_schema(node.op_type, opset, "").attributes.items():
        if name not in present and attribute.default_value.name:
            node.attribute.append(attribute.default_value)


def check_ops(graph: Graph) -> None:
    """Checks that every op is known and every node fits its definition.

    Raises:
        ModelError: naming the nodes.
    """
    foreign: dict[str, list[str]] = {}
    for node in walk(graph.nodes):
        if node.domain:
            if (node.domain, node.op_type) not in REWRITES:
                foreign.setdefault(f"{node.domain}::{node.op_type}", []).append(node.name or node.output[0])
        elif not defs.has(node.op_type, graph.opset, ""):
            raise graph.error(node, f"ONNX has no such op in opset {graph.opset}; is the name right?")
    if foreign:
        listed = "; ".join(f"{op} ({', '.join(names)})" for op, names in sorted(foreign.items()))
        raise ModelError(f"{graph.source}: ops outside the ONNX standard: {listed}; export the model without them")
    context = checker.C.CheckerContext()
    context.ir_version = IR_VERSION
    context.opset_imports = {"": graph.opset} | {node.domain: 1 for node in walk(graph.nodes) if node.domain}
    for node in walk(graph.nodes):
        deprecated = not node.domain and defs.get_schema(node.op_type, graph.opset, "").deprecated
        if deprecated or any(subgraphs(node)):
            # a deprecated op is upgraded; nodes within control flow are checked one by one
            continue
        try:
            checker.check_node(node, context)
        except checker.ValidationError as error:
            reason = " ".join(str(error).split())
            raise graph.error(node, f"it does not fit the definition of the op: {reason}") from None


def check_weights(graph: Graph) -> None:
    """Checks that float32 constants are finite.

    Infinity may stand in limits, comparisons and added masks of 0 and -inf.

    Raises:
        ModelError: naming the tensor and a node that uses it.
    """
    for name, array in graph.constants.items():
        if array.dtype != np.float32 or not array.size:
            continue
        values = distinct(array)
        low, high = float(np.min(values)), float(np.max(values))
        if np.isfinite(low) and np.isfinite(high):
            continue
        what = "NaN" if np.isnan(low) or np.isnan(high) else "an infinite value"
        for node in graph.nodes:
            if name not in node.input:
                continue
            if what != "NaN" and (node.op_type in _TAKES_INFINITY or (node.op_type == "Add" and _is_mask(values))):
                continue
            raise ModelError(
                f"{graph.source}: the weights '{name}' of {graph.label(node)} hold {what}; "
                "retrain or export the model again"
            )


def _is_mask(array: np.ndarray) -> bool:
    return bool(((array == 0) | (array == -np.inf)).all())


def name_nodes(graph: Graph) -> None:
    """Gives every node a unique name: its own, else its first output's, with a number where that is taken."""
    used: set[str] = set()
    for node in graph.nodes:
        base = node.name or next(name for name in node.output if name)
        name, number = base, 1
        while name in used:
            name, number = f"{base}_{number}", number + 1
        used.add(name)
        node.name = name
