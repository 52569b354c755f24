"""ONNX operators that TVM's converter lacks or computes slowly, rewritten in operators it has.

Definitions are those of the ONNX operator specification at the compiler's opset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import ModelError


class _Rewriter:
    """Collects the nodes and constants that replace some nodes of a graph."""

    def __init__(self, model: onnx.ModelProto):
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        infos = (*graph.input, *graph.value_info, *graph.output)
        self.shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in infos}
        self.tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self.nodes: list[onnx.NodeProto] = []
        self.added: list[onnx.TensorProto] = []
        self.prefix = ""

    def name(self) -> str:
        return f"{self.prefix}/{len(self.nodes) + len(self.added)}"

    def constant(self, node: onnx.NodeProto, position: int) -> np.ndarray | None:
        """Values of an input; None if it is absent."""
        name = node.input[position] if position < len(node.input) else ""
        if not name:
            return None
        if name not in self.tensors:
            raise ModelError(
                f"node {node.name or node.output[0]!r}: input {position} ({name!r}) of {node.op_type} must be a "
                "constant to be compiled; fold it into the model"
            )
        return numpy_helper.to_array(self.tensors[name])

    def array(self, values: np.ndarray | Sequence[int]) -> str:
        """A new constant; lists of integers are int64."""
        name = self.name()
        self.added.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def __call__(self, op: str, *inputs: str, output: str | None = None, **attributes) -> str:
        """A new node with one output; returns its name."""
        output = output or self.name()
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=f"{self.prefix}/{op}", **attributes))
        return output

    def split(self, value: str, parts: int, axis: int) -> list[str]:
        outputs = [f"{self.name()}.{i}" for i in range(parts)]
        attributes = {"axis": axis, "num_outputs": parts}
        self.nodes.append(helper.make_node("Split", [value], outputs, name=f"{self.prefix}/Split", **attributes))
        return outputs


def decompose(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that computes the same without the operators in `REWRITES`.

    Raises:
        ModelError: such an operator in a form that has no rewrite.
    """
    if not any(node.op_type in REWRITES for node in model.graph.node):
        return model
    rewriter = _Rewriter(model)
    for node in model.graph.node:
        rewriter.prefix = node.name or node.output[0]
        rewrite = REWRITES.get(node.op_type)
        if rewrite is None or not rewrite(rewriter, node):
            rewriter.nodes.append(node)
    graph = helper.make_graph(
        rewriter.nodes,
        model.graph.name,
        model.graph.input,
        model.graph.output,
        [*model.graph.initializer, *rewriter.added],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _attributes(node: onnx.NodeProto) -> dict:
    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def _batch_normalization(add: _Rewriter, node: onnx.NodeProto) -> bool:
    """One multiplication and one addition a channel."""
    if any(name not in add.tensors for name in node.input[1:]) or len([o for o in node.output if o]) > 1:
        return False
    scale, bias, mean, variance = (add.constant(node, i).astype(np.float64) for i in range(1, 5))
    multiplier = scale / np.sqrt(variance + _attributes(node).get("epsilon", 1e-5))
    shape = [-1, *[1] * (len(add.shapes[node.input[0]]) - 2)]
    factor = add.array(multiplier.reshape(shape).astype(np.float32))
    shift = add.array((bias - mean * multiplier).reshape(shape).astype(np.float32))
    add("Add", add("Mul", node.input[0], factor), shift, output=node.output[0])
    return True


def _clip(add: _Rewriter, node: onnx.NodeProto) -> bool:
    """Bounds of rank 1: TVM's converter does not take those of rank 0. A bound that is NaN is none."""
    if any(name and name not in add.tensors for name in node.input[1:]):
        return False
    bounds = [add.constant(node, i) for i in (1, 2)]
    if all(bound is None or bound.ndim for bound in bounds):
        return False
    names = [add.array(b.reshape(1)) if b is not None and not np.isnan(b) else "" for b in bounds]
    add("Clip", node.input[0], *names, output=node.output[0])
    return True


def _pairwise(add: _Rewriter, node: onnx.NodeProto) -> bool:
    """Sum, Mean, Max and Min, two operands at a time; TVM's converter stacks them all to one tensor."""
    value, *others = node.input
    for other in others:
        if node.op_type in ("Sum", "Mean"):
            value = add("Add", value, other)
        else:
            comparison = "Greater" if node.op_type == "Max" else "Less"
            value = add("Where", add(comparison, value, other), value, other)
    if node.op_type == "Mean":
        value = add("Div", value, add.array(np.float32(len(node.input))))
    add("Identity", value, output=node.output[0])
    return True


def _pow(add: _Rewriter, node: onnx.NodeProto) -> bool:
    """Squares, which need no call of the C library."""
    base, exponent = node.input
    if exponent not in add.tensors:
        return False
    values = numpy_helper.to_array(add.tensors[exponent])
    if values.size != 1 or values.ndim > len(add.shapes[base]) or values.item() != 2:
        return False
    add("Mul", base, base, output=node.output[0])
    return True


def _lrn(add: _Rewriter, node: onnx.NodeProto) -> bool:
    """`x / (bias + alpha / size * s)^beta`, `s` the sum of squares over `size` channels; powers by square roots."""
    attributes = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0, **_attributes(node)}
    roots = {0.5: (1,), 0.75: (1, 2), 1.0: (0,)}.get(attributes["beta"])
    x, size = node.input[0], attributes["size"]
    channels, rank = add.shapes[x][1], len(add.shapes[x])
    if roots is None or size > channels:
        return False
    before = (size - 1) // 2
    widths = np.zeros((2, rank), np.int64)
    widths[:, 1] = before, size - 1 - before
    padded = add("Pad", add("Mul", x, x), add.array(widths.reshape(-1)))
    axis, total = add.array([1]), ""
    for first in range(size):
        part = add("Slice", padded, add.array([first]), add.array([first + channels]), axis)
        total = add("Add", total, part) if total else part
    factor, bias = np.float32(attributes["alpha"] / size), np.float32(attributes["bias"])
    base = add("Add", add("Mul", total, add.array(factor)), add.array(bias))
    powers = [base]  # to the power of 1, 1/2, 1/4
    for _ in range(max(roots)):
        powers.append(add("Sqrt", powers[-1]))
    divisor = powers[roots[0]]
    for root in roots[1:]:
        divisor = add("Mul", divisor, powers[root])
    add("Div", x, divisor, output=node.output[0])
    return True


def _celu(add: _Rewriter, node: onnx.NodeProto) -> bool:
    """`max(0, x) + min(0, alpha * (exp(x / alpha) - 1))`."""
    alpha = np.float32(_attributes(node).get("alpha", 1.0))
    x, zero = node.input[0], add.array(np.float32(0))
    negative = add("Elu", add("Min", add("Div", x, add.array(alpha)), zero), alpha=1.0)
    add("Add", add("Max", x, zero), add("Mul", negative, add.array(alpha)), output=node.output[0])
    return True


def _lp_normalization(add: _Rewriter, node: onnx.NodeProto) -> bool:
    attributes = _attributes(node)
    reduction = {1: "ReduceL1", 2: "ReduceL2"}[attributes.get("p", 2)]
    axis = add.array(np.array([attributes.get("axis", -1)], np.int64))
    add("Div", node.input[0], add(reduction, node.input[0], axis, keepdims=1), output=node.output[0])
    return True


_ACTIVATIONS = {
    "Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu",
    "ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus",
}  # fmt: skip
_DEFAULT_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _recurrent(add: _Rewriter, node: onnx.NodeProto) -> bool:
    """LSTM, GRU and RNN of a fixed sequence length, unrolled; the inputs' products are one matrix product."""
    label = node.name or node.output[0]
    attributes = _attributes(node)
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


def _activation(add: _Rewriter, name: str, parameters: list[list[float]]) -> Callable[[str], str]:
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
    add: _Rewriter,
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


def _lstm_cell(add: _Rewriter, recurrence, bias, functions, attributes, peepholes):
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


def _gru_cell(add: _Rewriter, recurrence, bias, functions, attributes, peepholes):
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


def _rnn_cell(add: _Rewriter, recurrence, bias, functions, attributes, peepholes):
    weights, shift = add.array(np.ascontiguousarray(recurrence.T)), add.array(bias[1])

    def step(gate_inputs: str, hidden: str, cell: str) -> tuple[str, str]:
        return functions[0](add("Add", add("Add", add("MatMul", hidden, weights), gate_inputs), shift)), cell

    return step


_CELLS = {"LSTM": _lstm_cell, "GRU": _gru_cell, "RNN": _rnn_cell}


def _recurrent_outputs(
    add: _Rewriter,
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


REWRITES: dict[str, Callable[[_Rewriter, onnx.NodeProto], bool]] = {
    "BatchNormalization": _batch_normalization,
    "Celu": _celu,
    "Clip": _clip,
    "LRN": _lrn,
    "LpNormalization": _lp_normalization,
    "Max": _pairwise,
    "Mean": _pairwise,
    "Min": _pairwise,
    "Pow": _pow,
    "Sum": _pairwise,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
"""By operator: adds the replacement and returns True, or returns False to keep the node."""
