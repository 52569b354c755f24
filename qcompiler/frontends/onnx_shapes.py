"""Static shapes: symbolic input dimensions set by the user, all others inferred."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import shape_inference

from qcompiler.errors import ModelError
from qcompiler.frontends.onnx_graph import Graph, ValueType

_AS_INPUT = frozenset({"GroupNormalization"})
"""Ops whose result has the type of their first input, but which ONNX gives no inference function."""


def bind_inputs(model: onnx.GraphProto, graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Gives every graph input a static shape: the declared one, its symbols replaced through `shapes`.

    A symbol set on one input holds on all of them.

    Raises:
        ModelError: an input that is not there, of another rank or fixed size, or left without a size.
    """
    declared = {v.name: v for v in model.input if v.name in graph.inputs}
    for name in shapes:
        if name not in declared:
            raise ModelError(
                f"{graph.source}: --shape names the input '{name}', which the model does not have; "
                f"its inputs are: {', '.join(declared) or 'none'}"
            )
    symbols: dict[str, tuple[int, str]] = {}
    for name, shape in shapes.items():
        _check_given(declared[name], shape, graph.source)
        for dim, size in zip(declared[name].type.tensor_type.shape.dim, shape, strict=False):
            if dim.dim_param:
                other, owner = symbols.setdefault(dim.dim_param, (size, name))
                if other != size:
                    raise ModelError(
                        f"{graph.source}: dimension '{dim.dim_param}' is {other} in input '{owner}' "
                        f"but {size} in input '{name}'; give both the same size in --shape"
                    )
    for name, value in declared.items():
        element = value.type.tensor_type.elem_type
        if name in shapes:
            graph.inputs[name] = ValueType(element, tuple(shapes[name]))
            continue
        kind = value.type.tensor_type
        if not kind.HasField("shape"):
            raise ModelError(
                f"{graph.source}: input '{name}' has no shape; give one, such as --shape {name}=1x3x224x224"
            )
        dims = [symbols[d.dim_param][0] if d.dim_param in symbols else d.dim_value for d in kind.shape.dim]
        for index, (dim, size) in enumerate(zip(kind.shape.dim, dims, strict=True)):
            if size <= 0:
                what = f"symbolic ('{dim.dim_param}')" if dim.dim_param else f"of size {size}"
                if not dim.HasField("dim_value") and not dim.dim_param:
                    what = "of unknown size"
                example = "x".join(str(d) if d > 0 else "1" for d in dims)
                raise ModelError(
                    f"{graph.source}: input '{name}': dimension {index} is {what}; set it with "
                    f"--shape {name}={example} (with the size you need)"
                )
        graph.inputs[name] = ValueType(element, tuple(dims))


def _check_given(value: onnx.ValueInfoProto, shape: tuple[int, ...], source: str) -> None:
    text = "x".join(str(s) for s in shape)
    if any(size <= 0 for size in shape):
        raise ModelError(f"{source}: --shape {value.name}={text}: every size must be 1 or more")
    if not value.type.tensor_type.HasField("shape"):
        return
    dims = value.type.tensor_type.shape.dim
    declared = "x".join(d.dim_param or (str(d.dim_value) if d.HasField("dim_value") else "?") for d in dims)
    fits = len(dims) == len(shape) and all(
        d.dim_value in (0, size) for d, size in zip(dims, shape, strict=True) if d.HasField("dim_value")
    )
    if not fits:
        raise ModelError(
            f"{source}: --shape {value.name}={text} contradicts the model, whose input '{value.name}' is "
            f"{declared or 'a scalar'}"
        )


def infer(graph: Graph, hints: Mapping[str, ValueType] | None = None) -> None:
    """Fills `graph.types` by ONNX's shape inference with data propagation; `hints` declares types."""
    hints = dict(hints or {})
    while True:
        graph.types = {name: kind for name, kind in graph.types.items() if name in graph.outputs}
        inferred = shape_inference.infer_shapes(graph.proto(hints), data_prop=True).graph
        graph.types = {**graph.inputs, **{n: ValueType.of_array(a) for n, a in graph.constants.items()}}
        for value in (*inferred.value_info, *inferred.output):
            kind = ValueType.of(value.type)
            if kind is not None:
                graph.types.setdefault(value.name, kind)
        more = {
            node.output[0]: graph.types[node.input[0]]
            for node in graph.nodes
            if node.op_type in _AS_INPUT and graph.rank(node.input[0]) is not None
        }
        if all(graph.rank(name) is not None or name in hints for name in more):
            return
        hints |= more


def require_static(graph: Graph) -> None:
    """Checks that every value has a type and a static shape; falls back on what the model declares.

    Raises:
        ModelError: naming the first node whose result has none, with the reason shape inference gives.
    """
    if _unknown(graph) is not None:
        produced = {name for node in graph.nodes for name in node.output}
        infer(graph, {n: k for n, k in graph.declared.items() if n in produced and k.shape is not None})
    unknown = _unknown(graph)
    if unknown is None:
        return
    node, name = unknown
    try:
        shape_inference.infer_shapes(graph.proto(), strict_mode=True, data_prop=True)
        reason = "it depends on the data"
    except shape_inference.InferenceError as error:
        reason = str(error).strip().splitlines()[0]
    raise graph.error(
        node,
        f"the shape of its result '{name}' is not static ({reason}); only models of fixed shapes compile",
    )


def _unknown(graph: Graph) -> tuple[onnx.NodeProto, str] | None:
    for node in graph.nodes:
        for name in filter(None, node.output):
            if name not in graph.types or graph.types[name].shape is None:
                return node, name
    return None
