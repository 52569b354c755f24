"""Ops of any opset from 7 on, as the project's opset spells them.

An op whose later versions only take more types or have new attributes with the old behaviour as default needs
no change. The rest have an adapter here, written from the operator changelog of the ONNX specification. The
adapters of an op are applied in the order of the table, each if the model's opset is below the adapter's.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import defs, helper

from qcompiler.frontends.onnx_graph import (
    Graph,
    Replacement,
    drop_attributes,
    integer,
    integers,
    number,
    set_attribute,
    subgraphs,
    text,
)
from qcompiler.ir.opset import OPSET, version_of

OLDEST = 7
"""The oldest opset that is read: earlier ones broadcast by attributes and carry training modes."""

Adapter = Callable[[Graph, onnx.NodeProto], "list[onnx.NodeProto] | None"]
"""Changes a node in place and returns None, or returns the nodes that take its place."""


def upgrade(graph: Graph) -> None:
    """Rewrites all nodes to the project's opset, those of subgraphs included.

    Raises:
        ModelError: an op or attribute that this opset cannot express.
    """
    graph.nodes = [new for node in graph.nodes for new in upgrade_node(graph, node)]
    graph.opset = OPSET


def upgrade_node(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """The nodes that stand for `node` under the project's opset; `node` itself may be changed.

    Raises:
        ModelError: as `upgrade`.
    """
    for subgraph in subgraphs(node):
        nodes = [new for child in subgraph.node for new in upgrade_node(graph, child)]
        del subgraph.node[:]
        subgraph.node.extend(nodes)
    if node.domain:
        return [node]
    if graph.opset > OPSET:
        _lower(graph, node)
        return [node]
    replaced = None
    for op, below, adapter in ADAPTERS:
        if node.op_type == op and graph.opset < below:
            replaced = adapter(graph, node)
            if replaced is not None:
                break
    return [node] if replaced is None else replaced


def _lower(graph: Graph, node: onnx.NodeProto) -> None:
    """Checks that a node of a newer opset means the same under ours; drops attributes at their defaults."""
    newer = defs.get_schema(node.op_type, graph.opset, "")
    if not defs.has(node.op_type, OPSET, ""):
        raise graph.error(
            node,
            f"the op came with opset {newer.since_version}; export the model with opset {OPSET} or older",
        )
    schema = defs.get_schema(node.op_type, version_of(node.op_type), "")
    for item in list(node.attribute):
        if item.name in schema.attributes:
            continue
        default = newer.attributes[item.name].default_value
        if helper.get_attribute_value(item) != helper.get_attribute_value(default):
            raise graph.error(
                node,
                f"its attribute '{item.name}' came with opset {newer.since_version}; "
                f"export the model with opset {OPSET} or older",
            )
        drop_attributes(node, item.name)
    if len(node.input) > schema.max_input:
        raise graph.error(node, f"it has {len(node.input)} inputs; opset {OPSET} allows {schema.max_input}")


def _int64(graph: Graph, node: onnx.NodeProto, what: str, values: list[int] | int) -> str:
    return graph.add_constant(f"{node.output[0]}_{what}", np.array(values, np.int64))


def _append(node: onnx.NodeProto, position: int, name: str) -> None:
    """Sets input `position`, absent ones before it left empty."""
    while len(node.input) <= position:
        node.input.append("")
    node.input[position] = name


def _axes_to_input(graph: Graph, node: onnx.NodeProto) -> None:
    axes = integers(node, "axes")
    drop_attributes(node, "axes")
    if axes:
        _append(node, 1, _int64(graph, node, "axes", axes))


def _slice(graph: Graph, node: onnx.NodeProto) -> None:
    for position, what in enumerate(("starts", "ends", "axes"), 1):
        values = integers(node, what)
        if values is not None:
            _append(node, position, _int64(graph, node, what, values))
    drop_attributes(node, "starts", "ends", "axes")


def _pad(graph: Graph, node: onnx.NodeProto) -> None:
    _append(node, 1, _int64(graph, node, "pads", integers(node, "pads") or []))
    value = number(node, "value", 0.0)
    if value:
        _append(node, 2, _like(graph, node, "value", value))
    drop_attributes(node, "pads", "value")


def _like(graph: Graph, node: onnx.NodeProto, what: str, value: float) -> str:
    """A scalar constant of the type of the node's first input."""
    element = graph.element(node.input[0]) or onnx.TensorProto.FLOAT
    kind = helper.tensor_dtype_to_np_dtype(element)
    return graph.add_constant(f"{node.output[0]}_{what}", np.array(value).astype(kind))


def _clip(graph: Graph, node: onnx.NodeProto) -> None:
    limit = float(np.finfo(np.float32).max)
    low, high = number(node, "min", -limit), number(node, "max", limit)
    if low > -limit:
        _append(node, 1, _like(graph, node, "min", low))
    if high < limit:
        _append(node, 2, _like(graph, node, "max", high))
    drop_attributes(node, "min", "max")


def _split_to_input(graph: Graph, node: onnx.NodeProto) -> None:
    sizes = integers(node, "split")
    drop_attributes(node, "split")
    if sizes:
        _append(node, 1, _int64(graph, node, "split", sizes))


def _split_count(graph: Graph, node: onnx.NodeProto) -> None:
    if len(node.input) < 2 or not node.input[1]:
        set_attribute(node, "num_outputs", len(node.output))


def _top_k(graph: Graph, node: onnx.NodeProto) -> None:
    _append(node, 1, _int64(graph, node, "k", [integer(node, "k", 1)]))
    drop_attributes(node, "k")


def _dropout(graph: Graph, node: onnx.NodeProto) -> None:
    drop_attributes(node, "ratio")


def _batch_normalization(graph: Graph, node: onnx.NodeProto) -> None:
    if not integer(node, "spatial", 1):
        raise graph.error(node, "spatial=0 (statistics per activation) is not supported; export with opset 9 or newer")
    drop_attributes(node, "spatial")
    if len([name for name in node.output if name]) > 1:
        raise graph.error(node, "it has the outputs of training mode; export the model for inference")


def _softmax(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Before opset 13 the op worked on the input flattened to two dimensions at `axis`, 1 by default."""
    axis, kind = integer(node, "axis", 1), graph.types.get(node.input[0])
    if kind is not None and kind.dims is not None:
        axis %= len(kind.dims)
        longer = [index for index in range(axis, len(kind.dims)) if kind.dims[index] != 1]
        if len(longer) <= 1:
            set_attribute(node, "axis", longer[0] if longer else axis)
            return None
    new = Replacement(graph, node)
    shape = new.add("Shape", [node.input[0]], "shape")
    flat = new.add("Flatten", [node.input[0]], "flat", axis=axis)
    return new.last("Reshape", [new.add(node.op_type, [flat], "scaled", axis=-1), shape])


def _upsample_to_inputs(graph: Graph, node: onnx.NodeProto) -> None:
    scales = next((list(a.floats) for a in node.attribute if a.name == "scales"), [])
    drop_attributes(node, "scales")
    node.input.append(graph.add_constant(f"{node.output[0]}_scales", np.array(scales, np.float32)))


def _resize_from_10(graph: Graph, node: onnx.NodeProto) -> None:
    """Upsample and the first Resize: coordinates divided by the scale, rounded down, or up when shrinking."""
    scales = graph.constants.get(node.input[1])
    shrinks = scales is not None and bool((scales <= 1).all())
    node.op_type = "Resize"
    scales_name = node.input[1]
    del node.input[1:]
    _append(node, 2, scales_name)
    set_attribute(node, "coordinate_transformation_mode", "asymmetric")
    set_attribute(node, "nearest_mode", "ceil" if shrinks else "floor")


def _resize_from_11(graph: Graph, node: onnx.NodeProto) -> None:
    """From opset 13 on, `roi` may be left out and the mode tf_half_pixel_for_nn is gone."""
    if text(node, "coordinate_transformation_mode", "half_pixel") != "tf_half_pixel_for_nn":
        return
    # the mode's coordinate is that of half_pixel plus one half, so its rounding moves by one half
    rounding = text(node, "nearest_mode", "round_prefer_floor")
    moved = {"floor": "round_prefer_ceil", "round_prefer_floor": "ceil"}.get(rounding)
    if moved is None:
        raise graph.error(node, f"tf_half_pixel_for_nn with nearest_mode {rounding} has no form in later opsets")
    set_attribute(node, "coordinate_transformation_mode", "half_pixel")
    set_attribute(node, "nearest_mode", moved)


def _resize_inputs(graph: Graph, node: onnx.NodeProto) -> None:
    """Empty constants for `roi` and `scales` stood for absent ones."""
    for position in (1, 2):
        if position < len(node.input):
            value = graph.constants.get(node.input[position])
            if value is not None and value.size == 0:
                node.input[position] = ""


def _rename(name: str) -> Adapter:
    def adapter(graph: Graph, node: onnx.NodeProto) -> None:
        node.op_type = name

    return adapter


def _roi_align(graph: Graph, node: onnx.NodeProto) -> None:
    set_attribute(node, "coordinate_transformation_mode", "output_half_pixel")


def _grid_sample(graph: Graph, node: onnx.NodeProto) -> None:
    mode = text(node, "mode", "bilinear")
    set_attribute(node, "mode", {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))


def _dft(graph: Graph, node: onnx.NodeProto) -> None:
    _append(node, 2, _int64(graph, node, "axis", integer(node, "axis", 1)))
    drop_attributes(node, "axis")


def _group_normalization(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Scale and bias were given per group; since opset 21 per channel."""
    kind = graph.types.get(node.input[0])
    channels = None if kind is None or kind.dims is None else kind.dims[1]
    if channels is None:
        raise graph.error(node, "the number of channels of its input is not known")
    new = Replacement(graph, node)
    repeats = _int64(graph, node, "repeats", [1, channels // integer(node, "num_groups", 1)])
    column, flat = _int64(graph, node, "axes", [1]), _int64(graph, node, "shape", [-1])
    for position, what in ((1, "scale"), (2, "bias")):
        groups = new.add("Unsqueeze", [node.input[position], column], f"{what}_column")
        wide = new.add("Tile", [groups, repeats], f"{what}_repeated")
        node.input[position] = new.add("Reshape", [wide, flat], f"{what}_per_channel")
    return [*new.nodes, node]


def _scan(graph: Graph, node: onnx.NodeProto) -> None:
    raise graph.error(node, "Scan of opset 8 is not supported; export the model with opset 9 or newer")


_REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSumSquare",
)

ADAPTERS: tuple[tuple[str, int, Adapter], ...] = (
    ("BatchNormalization", 14, _batch_normalization),
    ("Clip", 11, _clip),
    ("DFT", 20, _dft),
    ("Dropout", 12, _dropout),
    ("GridSample", 20, _grid_sample),
    ("GroupNormalization", 21, _group_normalization),
    ("Hardmax", 13, _softmax),
    ("LogSoftmax", 13, _softmax),
    ("Pad", 11, _pad),
    *((op, 18, _axes_to_input) for op in _REDUCTIONS),
    ("ReduceSum", 13, _axes_to_input),
    ("Resize", 11, _resize_from_10),
    ("Resize", 13, _resize_from_11),
    ("Resize", OPSET, _resize_inputs),
    ("Upsample", 9, _upsample_to_inputs),
    ("Upsample", OPSET, _resize_from_10),
    ("RoiAlign", 16, _roi_align),
    ("Scan", 9, _scan),
    ("Scatter", OPSET, _rename("ScatterElements")),
    ("Slice", 10, _slice),
    ("Softmax", 13, _softmax),
    ("Split", 13, _split_to_input),
    ("Split", 18, _split_count),
    ("Squeeze", 13, _axes_to_input),
    ("TopK", 10, _top_k),
    ("Unsqueeze", 13, _axes_to_input),
)
"""(op, first opset that no longer needs the adapter, adapter)."""
