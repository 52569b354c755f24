"""All floating-point computation in float32."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import numpy_helper

from qcompiler.frontends.onnx_graph import Graph, ValueType

_P = onnx.TensorProto
_CONVERTED: dict[int, str] = {_P.FLOAT16: "float16", _P.BFLOAT16: "bfloat16", _P.DOUBLE: "float64"}
_DTYPES = {np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float64)}
_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "precision", "stash_type"})


def compute_in_float32(graph: Graph) -> bool:
    """Turns float16, bfloat16 and float64 into float32, inputs and outputs included; whether there were any.

    Finite values beyond float32's range become its largest. The graph's notes say what was done.
    """
    elements = {kind.element for kind in graph.types.values()}
    elements |= {a.i for node in graph.nodes for a in node.attribute if a.name == "precision"}
    found = sorted({_CONVERTED[element] for element in elements if element in _CONVERTED})
    if not found:
        return False
    changed = [name for name, kind in graph.inputs.items() if kind.element in _CONVERTED]
    changed += [n for n in graph.outputs if n in graph.types and graph.types[n].element in _CONVERTED]
    for name in changed:
        if name in graph.inputs:
            graph.inputs[name] = ValueType(_P.FLOAT, graph.inputs[name].dims)
    for name, array in graph.constants.items():
        if array.dtype in _DTYPES:
            graph.constants[name] = to_float32(array)
    for node in graph.nodes:
        for item in node.attribute:
            if item.name in _TYPE_ATTRIBUTES and item.i in _CONVERTED:
                item.i = _P.FLOAT
            elif item.type == onnx.AttributeProto.TENSOR and item.t.data_type in _CONVERTED:
                item.t.CopyFrom(numpy_helper.from_array(to_float32(numpy_helper.to_array(item.t)), item.t.name))
    graph.types = {}
    graph.declared = {
        name: ValueType(_P.FLOAT, kind.dims) if kind.element in _CONVERTED else kind
        for name, kind in graph.declared.items()
    }
    note = f"values of type {', '.join(found)} are computed as float32"
    if changed:
        note += f", the inputs and outputs {', '.join(changed)} too"
    graph.notes.append(note)
    return True


def to_float32(array: np.ndarray) -> np.ndarray:
    """The array as float32, finite values clipped to its range; a repeated element stays a view of one."""
    if array.size > 1 and not any(array.strides):
        return np.broadcast_to(to_float32(array[(0,) * array.ndim]), array.shape)
    if array.dtype == np.float64:
        limit = np.finfo(np.float32).max
        array = np.where(np.isfinite(array), np.clip(array, -limit, limit), array)
    result = np.asarray(array, np.float32)
    result.flags.writeable = False
    return result
