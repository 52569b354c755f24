"""Recurrent ONNX layers as matrix products and elementwise operators, one set for each step.

Definitions are those of the ONNX operator specification at the compiler's opset.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from ..errors import ModelError
from .float_rewriter import Rewriter, attributes_of

_ACTIVATIONS = {
    "Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu",
    "ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus",
}  # fmt: skip
_DEFAULT_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def unroll_recurrent(add: Rewriter, node: onnx.NodeProto) -> bool:
    """LSTM, GRU and RNN of a fixed sequence length, unrolled; the inputs' products are one matrix product."""
    label = node.name or node.output[0]
    attributes = attributes_of(node)
    hidden, gates = int(attributes["hidden_size"]), _GATES[node.op_type]
    batch_first = bool(attributes.get("layout", 0))
    direction = attributes.get("direction", b"forward").decode()
    x = node.input[0]
    if batch_first:
        x = add("Transpose", x, perm=[1, 0, 2])
    first, second = add.shapes[node.input[0]][:2]
    steps, batch = (second, first) if batch_first else (first, second)
    lengths = add.constant(node, 4)
    if lengths is not None and np.any(lengths != steps):
        raise ModelError(
            f"node {label!r}: {node.op_type} with sequence lengths {lengths.tolist()} shorter than the {steps} steps "
            "of its input cannot be compiled; give all sequences the full length"
        )
    if attributes.get("input_forget") or "clip" in attributes:
        raise ModelError(f"node {label!r}: {node.op_type} with clip or input_forget cannot be compiled; remove it")
    weights, recurrence = add.constant(node, 1), add.constant(node, 2)
    bias = add.constant(node, 3)
    peepholes = add.constant(node, 7) if node.op_type == "LSTM" else None
    per_direction = len(_DEFAULT_ACTIVATIONS[node.op_type])
    names = [a.decode() for a in attributes.get("activations", [])]
    names = names or list(_DEFAULT_ACTIVATIONS[node.op_type]) * weights.shape[0]
    if unknown := set(names) & {"Affine", "ScaledTanh"} or set(names) - _ACTIVATIONS:
        raise ModelError(f"node {label!r}: activation {sorted(unknown)} of {node.op_type} cannot be compiled")
    parameters = [list(attributes.get(key, [])) for key in ("activation_alpha", "activation_beta")]
    directions = [direction == "reverse"] if direction != "bidirectional" else [False, True]
    sequences, last_h, last_c = [], [], []
    for d, reverse in enumerate(directions):
        functions = [_activation(add, name, parameters) for name in names[d * per_direction : (d + 1) * per_direction]]
        initial = [_initial_state(add, node, i, d, len(directions), batch_first, batch, hidden) for i in (5, 6)]
        cell_bias = np.zeros((2, gates * hidden), np.float32) if bias is None else bias[d].reshape(2, -1)
        peephole = None if peepholes is None else peepholes[d]
        cell = _CELLS[node.op_type](add, recurrence[d], cell_bias, functions, attributes, peephole)
        inputs = add("MatMul", x, add.array(np.ascontiguousarray(weights[d].T)))
        inputs = add("Add", inputs, add.array(cell_bias[0]))
        slices = add.split(inputs, steps, 0) if steps > 1 else [inputs]
        state, outputs = tuple(initial), []
        for t in reversed(range(steps)) if reverse else range(steps):
            gate_inputs = add("Squeeze", slices[t], add.array(np.array([0], np.int64)))
            state = cell(gate_inputs, *state)
            outputs.append(state[0])
        sequences.append(outputs[::-1] if reverse else outputs)
        last_h.append(state[0])
        last_c.append(state[1])
    _recurrent_outputs(add, node, sequences, last_h, last_c, batch_first)
    return True


def _activation(add: Rewriter, name: str, parameters: list[list[float]]) -> Callable[[str], str]:
    """An activation function; takes its parameters from the lists of the node."""
    defaults = {
        "LeakyRelu": {"alpha": 0.01},
        "ThresholdedRelu": {"alpha": 1.0},
        "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
        "Elu": {"alpha": 1.0},
    }.get(name, {})
    values = dict(defaults)
    for key, given in zip(("alpha", "beta"), parameters, strict=True):
        if key in defaults and given:
            values[key] = given.pop(0)
    return lambda value: add(name, value, **values)


def _initial_state(
    add: Rewriter,
    node: onnx.NodeProto,
    position: int,
    direction: int,
    directions: int,
    batch_first: bool,
    batch: int,
    hidden: int,
) -> str:
    name = node.input[position] if position < len(node.input) else ""
    if not name:
        return add.array(np.zeros((batch, hidden), np.float32))
    axis = 1 if batch_first else 0
    part = add.split(name, directions, axis)[direction] if directions > 1 else name
    return add("Squeeze", part, add.array(np.array([axis], np.int64)))


def _lstm_cell(add: Rewriter, recurrence, bias, functions, attributes, peepholes):
    f, g, h = functions
    weights = add.array(np.ascontiguousarray(recurrence.T))
    shift = add.array(bias[1])
    peep = [] if peepholes is None else [add.array(p) for p in np.split(peepholes, 3)]

    def peek(gate: str, cell: str, which: int) -> str:
        return add("Add", gate, add("Mul", cell, peep[which])) if peep else gate

    def step(gate_inputs: str, hidden: str, cell: str) -> tuple[str, str]:
        gates = add("Add", add("Add", add("MatMul", hidden, weights), gate_inputs), shift)
        i, o, forget, c = add.split(gates, 4, -1)
        i, forget = f(peek(i, cell, 0)), f(peek(forget, cell, 2))
        cell = add("Add", add("Mul", forget, cell), add("Mul", i, g(c)))
        return add("Mul", f(peek(o, cell, 1)), h(cell)), cell

    return step


def _gru_cell(add: Rewriter, recurrence, bias, functions, attributes, peepholes):
    f, g = functions
    size = recurrence.shape[1]
    linear_before_reset = bool(attributes.get("linear_before_reset", 0))
    gate_weights = add.array(np.ascontiguousarray(recurrence[: 2 * size].T))
    gate_bias = add.array(bias[1, : 2 * size])
    candidate_weights = add.array(np.ascontiguousarray(recurrence[2 * size :].T))
    candidate_bias = add.array(bias[1, 2 * size :])
    one = add.array(np.float32(1))

    def step(gate_inputs: str, hidden: str, cell: str) -> tuple[str, str]:
        parts = add.split(gate_inputs, 3, -1)
        gates = add("Add", add("MatMul", hidden, gate_weights), gate_bias)
        z, r = (f(add("Add", a, b)) for a, b in zip(parts[:2], add.split(gates, 2, -1), strict=True))
        if linear_before_reset:
            candidate = add("Mul", r, add("Add", add("MatMul", hidden, candidate_weights), candidate_bias))
        else:
            candidate = add("Add", add("MatMul", add("Mul", r, hidden), candidate_weights), candidate_bias)
        candidate = g(add("Add", parts[2], candidate))
        kept = add("Mul", z, hidden)
        return add("Add", add("Mul", add("Sub", one, z), candidate), kept), cell

    return step


def _rnn_cell(add: Rewriter, recurrence, bias, functions, attributes, peepholes):
    weights, shift = add.array(np.ascontiguousarray(recurrence.T)), add.array(bias[1])

    def step(gate_inputs: str, hidden: str, cell: str) -> tuple[str, str]:
        return functions[0](add("Add", add("Add", add("MatMul", hidden, weights), gate_inputs), shift)), cell

    return step


_CELLS = {"LSTM": _lstm_cell, "GRU": _gru_cell, "RNN": _rnn_cell}


def _recurrent_outputs(
    add: Rewriter,
    node: onnx.NodeProto,
    sequences: list[list[str]],
    last_h: list[str],
    last_c: list[str],
    batch_first: bool,
) -> None:
    """Stacks the states to the node's outputs: `[steps, directions, batch, hidden]`, or with the batch first."""
    outputs = [*node.output, "", "", ""]
    if outputs[0]:
        step_axis, direction_axis = (1, 2) if batch_first else (0, 1)
        axes = add.array(np.array([step_axis, direction_axis], np.int64))
        rows = []
        for t in range(len(sequences[0])):
            parts = [add("Unsqueeze", states[t], axes) for states in sequences]
            rows.append(add("Concat", *parts, axis=direction_axis) if len(parts) > 1 else parts[0])
        add("Concat", *rows, axis=step_axis, output=outputs[0])
    axis = 1 if batch_first else 0
    for name, states in ((outputs[1], last_h), (outputs[2], last_c)):
        if name:
            where = add.array(np.array([axis], np.int64))
            add("Concat", *(add("Unsqueeze", s, where) for s in states), axis=axis, output=name)
