"""A float graph in onnxruntime whose values and constants can be rounded to quantized types, anew in each run.

One session serves all questions of the kind "what if only this tensor were stored in 8 bits": a *tap* is a value that
an `If` node passes on as it is, or rounded by `scale * clamp(rne(x / scale), qmin - z, qmax - z)`, with flag, scale
and bounds fed in each run; a *variable* is a constant operand (weight, bias) that is fed as well. This is the
arithmetic of QuantizeLinear and DequantizeLinear, so a run differs from the QDQ graph only in the order of sums.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from qcompiler.arithmetic.affine import along_axis, dequantize, quantize
from qcompiler.errors import CalibrationError, ModelError
from qcompiler.exporters.onnx_export import save_onnx
from qcompiler.ir.quant_types import UniformType

RAW = "//raw"
"""Suffix of the name of a tapped value as its producer gives it, where all readers take the rounded one."""


@dataclass(frozen=True)
class Tap:
    """A float value that can be rounded on the way to its readers.

    `readers` are the first results of the nodes that take the rounded value; None: all, the model's outputs included.
    """

    value: str
    rank: int
    readers: frozenset[str] | None = None


@dataclass(frozen=True)
class Variable:
    """A constant operand that can be fed: of the node with this first result, by position; `array` is its own value."""

    node: str
    operand: int
    array: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.node}//operand{self.operand}"


def rounded(array: np.ndarray, kind: UniformType) -> np.ndarray:
    """float32 `array` after quantize and dequantize with a type of any granularity."""
    scales, zeros, axis = kind.spread(array.shape)
    stored = quantize(array, scales, zeros, kind.qmin, kind.qmax, np.int32, axis)
    return dequantize(stored, scales, zeros, axis)


class Simulator:
    """Runs a float model with chosen taps rounded and chosen variables replaced.

    Args:
        model: the float model as `export_onnx` gives it; it is changed.
        taps: values that can be rounded.
        variables: constant operands that can be replaced.
        observed: values, besides the outputs, that `run` can be asked for; a tap's raw form by its name and `RAW`.
        threads: of onnxruntime; 0 for all cores.

    Raises:
        ModelError: onnxruntime cannot load the model.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        taps: Sequence[Tap],
        variables: Iterable[Variable] = (),
        observed: Sequence[str] = (),
        threads: int = 0,
    ) -> None:
        import onnxruntime

        self.outputs = [o.name for o in model.graph.output]
        self.variables = {v.name: v for v in variables}
        self._ranks = {tap.value: tap.rank for tap in taps}
        self._exact = {name: array for value in self._ranks for name, array in _exact(value).items()}
        _feed_variables(model.graph, self.variables.values())
        _insert_taps(model.graph, taps)
        known = set(self.outputs)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in observed if name not in known)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        self._partial = onnxruntime.RunOptions()
        self._partial.only_execute_path_to_fetches = True
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = save_onnx(model, Path(folder) / "simulated.onnx")[0]
                self._session: Any = onnxruntime.InferenceSession(
                    os.fspath(path), options, providers=["CPUExecutionProvider"]
                )
        except Exception as error:  # the errors of onnxruntime have no common base
            raise ModelError(f"onnxruntime cannot load the float model for simulation: {error}") from None

    def run(
        self,
        feed: Mapping[str, np.ndarray],
        types: Mapping[str, UniformType],
        replaced: Mapping[str, np.ndarray],
        fetches: Sequence[str] | None = None,
    ) -> dict[str, np.ndarray]:
        """Outputs, or the values `fetches`, by name; only what they depend on is computed.

        Args:
            feed: the model's inputs.
            types: for each tapped value that is to be rounded, its type, per tensor or along axis 1.
            replaced: other arrays for variables, by their names.

        Raises:
            CalibrationError: the model does not run on this feed.
        """
        inputs = {**self._exact, **feed}
        for value, kind in types.items():
            inputs.update(_rounding(value, kind, self._ranks[value]))
        inputs.update({name: replaced.get(name, v.array) for name, v in self.variables.items()})
        names = self.outputs if fetches is None else list(fetches)
        try:
            return dict(zip(names, self._session.run(names, inputs, self._partial), strict=True))
        except Exception as error:
            raise CalibrationError(f"the float model does not run on a calibration sample: {error}") from None


_PARAMETERS = {"on": TensorProto.BOOL, "scale": TensorProto.FLOAT, "low": TensorProto.FLOAT, "high": TensorProto.FLOAT}


def _exact(value: str) -> dict[str, np.ndarray]:
    """Inputs of a tap that passes its value on as it is."""
    one = np.array(1, np.float32)
    return {f"{value}//on": np.array(False), f"{value}//scale": one, f"{value}//low": one, f"{value}//high": one}


def _rounding(value: str, kind: UniformType, rank: int) -> dict[str, np.ndarray]:
    """Inputs of a tap that rounds to a type; the zero points of a per-axis type are equal."""
    scale = np.ascontiguousarray(along_axis(kind.scales, kind.axis, rank))
    low, high = (np.array(limit - kind.zero_point, np.float32) for limit in (kind.qmin, kind.qmax))
    return {f"{value}//on": np.array(True), f"{value}//scale": scale, f"{value}//low": low, f"{value}//high": high}


def _feed_variables(graph: onnx.GraphProto, variables: Iterable[Variable]) -> None:
    """Makes an input of each variable; initializers that nothing reads any more go."""
    nodes = {node.output[0]: node for node in graph.node}
    for variable in variables:
        nodes[variable.node].input[variable.operand] = variable.name
        kind = helper.np_dtype_to_tensor_dtype(variable.array.dtype)
        graph.input.append(helper.make_tensor_value_info(variable.name, kind, variable.array.shape))
    read = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _insert_taps(graph: onnx.GraphProto, taps: Sequence[Tap]) -> None:
    """Puts a switch behind every tapped value, right after the node that computes it."""
    switches: dict[str, onnx.NodeProto] = {}
    raw: dict[str, str] = {}
    for tap in taps:
        for name, kind in _PARAMETERS.items():
            extent = [] if name == "on" else None
            graph.input.append(helper.make_tensor_value_info(f"{tap.value}//{name}", kind, extent))
        if tap.readers is None:
            raw[tap.value] = tap.value + RAW
            switches[tap.value] = _switch(tap.value, raw[tap.value], tap.value)
        else:
            switches[tap.value] = _switch(tap.value, tap.value, f"{tap.value}//rounded")
            for node in graph.node:
                if node.output[0] in tap.readers:
                    node.input[:] = [f"{tap.value}//rounded" if name == tap.value else name for name in node.input]
    nodes = [switches[value.name] for value in graph.input if value.name in switches]
    for node in graph.node:
        made = [switches[name] for name in node.output if name in switches]
        node.output[:] = [raw.get(name, name) for name in node.output]
        nodes += [node, *made]
    del graph.node[:]
    graph.node.extend(nodes)


def _switch(value: str, x: str, y: str) -> onnx.NodeProto:
    """`y = x`, rounded if the flag of the tap on `value` is set."""
    steps = (
        ("Div", [x, f"{value}//scale"], f"{value}//units"),
        ("Clip", [f"{value}//units", f"{value}//low", f"{value}//high"], f"{value}//clipped"),
        ("Round", [f"{value}//clipped"], f"{value}//whole"),
        ("Mul", [f"{value}//whole", f"{value}//scale"], f"{value}//real"),
    )
    nodes = [helper.make_node(kind, operands, [result], name=result) for kind, operands, result in steps]
    copy = helper.make_node("Identity", [x], [f"{value}//copy"], name=f"{value}//copy")
    rounds, copies = (
        helper.make_graph(
            body, f"{value}//graph", [], [helper.make_tensor_value_info(body[-1].output[0], TensorProto.FLOAT, None)]
        )
        for body in (nodes, [copy])
    )
    flag = f"{value}//on"
    return helper.make_node("If", [flag], [y], name=f"{value}//if", then_branch=rounds, else_branch=copies)
