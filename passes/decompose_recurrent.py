"""Pass `decompose-recurrent`: LSTM and GRU layers of known length become matrix products and pointwise operators.

The definitions are those of the ONNX operators LSTM and GRU. The input's product is one for all steps; each step adds
the product of the hidden state. Sums in front of the activations and the cell state are read by no matrix product,
so they may be stored in 16 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import ArrayAttr, ModuleOp, TensorType, UnitAttr, f32
from xdsl.ir import Block, Operation, SSAValue

from qcompiler.ir.build import onnx_op
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import (
    body,
    describe,
    integer,
    integers,
    is_absent,
    location,
    location_names,
    real,
    shape,
    string,
)
from qcompiler.passes.canonicalize import constant_array
from qcompiler.pipeline import CompilerContext, QuantPass, Stage

_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh")}
_GATES = {"LSTM": 4, "GRU": 3}
_PARAMETERS: dict[str, dict[str, float | None]] = {
    "Relu": {},
    "Tanh": {},
    "Sigmoid": {},
    "Softsign": {},
    "Softplus": {},
    "LeakyRelu": {"alpha": 0.01},
    "ThresholdedRelu": {"alpha": 1.0},
    "Elu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "Affine": {"alpha": None, "beta": None},
    "ScaledTanh": {"alpha": None, "beta": None},
}
"""The activations, and the values their parameters have where the layer gives none (None: it must)."""


class _Kept(Exception):
    """The reason why a layer is not decomposed."""


STATE = "q.state"
"""Mark of the ops that make sums and states of recurrent layers."""


@dataclass(frozen=True)
class _Activation:
    name: str
    parameters: dict[str, float]


@dataclass
class _Emitter:
    """Puts float operations in front of a layer; they carry its names and that of the part they compute."""

    layer: Operation
    store: ConstantStore
    part: str = ""

    def __call__(self, name: str, operands: Sequence[SSAValue], *shapes: Sequence[int], **attributes: object) -> tuple:
        names = location_names(self.layer)
        place = location(*names, f"{names[-1]}/{self.part}") if names else self.layer.location
        results = [TensorType(f32, list(s)) for s in shapes]
        op = onnx_op(name, operands, results, place, **attributes)  # type: ignore[arg-type]
        self._insert(op)
        return tuple(op.results)

    def constant(self, array: np.ndarray) -> SSAValue:
        names = location_names(self.layer)
        name = f"{names[-1] if names else self.layer.name}/{self.part}"
        op = ConstantOp.of(self.store, name, np.ascontiguousarray(array), location=self.layer.location)
        self._insert(op)
        return op.y

    def _insert(self, op: Operation) -> None:
        assert isinstance(self.layer.parent, Block)
        self.layer.parent.insert_op_before(op, self.layer)

    def binary(self, name: str, a: SSAValue, b: SSAValue) -> SSAValue:
        return self(name, [a, b], np.broadcast_shapes(shape(a), shape(b)))[0]

    def number(self, value: float) -> SSAValue:
        return self.constant(np.array(value, np.float32))

    def matmul(self, a: SSAValue, b: np.ndarray) -> SSAValue:
        return self("MatMul", [a, self.constant(b)], (*shape(a)[:-1], b.shape[1]))[0]

    def reshape(self, x: SSAValue, target: Sequence[int]) -> SSAValue:
        return self("Reshape", [x, self.constant(np.array(target, np.int64))], target)[0]

    def transpose(self, x: SSAValue, perm: Sequence[int]) -> SSAValue:
        return self("Transpose", [x], [shape(x)[axis] for axis in perm], perm=list(perm))[0]

    def split(self, x: SSAValue, parts: int, axis: int) -> tuple[SSAValue, ...]:
        """Equal parts."""
        if parts == 1:
            return (x,)
        extents = [n // parts if i == axis else n for i, n in enumerate(shape(x))]
        lengths = self.constant(np.full(parts, extents[axis], np.int64))
        return self("Split", [x, lengths], *[extents] * parts, axis=axis)

    def concat(self, values: Sequence[SSAValue]) -> SSAValue:
        """Along the first axis."""
        if len(values) == 1:
            return values[0]
        extents = [sum(shape(v)[0] for v in values), *shape(values[0])[1:]]
        return self("Concat", values, extents, axis=0)[0]

    def activation(self, function: _Activation, x: SSAValue, clip: float) -> SSAValue:
        """`function` of `x`, which is clipped to `[-clip, clip]` if `clip` is not 0."""
        if clip:
            x = self("Clip", [x, self.number(-clip), self.number(clip)], shape(x))[0]
        alpha, beta = function.parameters.get("alpha", 0.0), function.parameters.get("beta", 0.0)
        if function.name == "Affine":
            return self.binary("Add", self.binary("Mul", x, self.number(alpha)), self.number(beta))
        if function.name == "ScaledTanh":
            (y,) = self("Tanh", [self.binary("Mul", x, self.number(beta))], shape(x))
            return self.binary("Mul", y, self.number(alpha))
        return self(function.name, [x], shape(x), **function.parameters)[0]


@dataclass(frozen=True)
class _Layer:
    """A recurrent layer that can be decomposed; weights are one a direction."""

    op: Operation
    kind: str
    steps: int
    batch: int
    hidden: int
    reverse: tuple[bool, ...]
    weights: np.ndarray
    recurrence: np.ndarray
    bias: np.ndarray
    """`[directions, 2, gates * hidden]`: added to the input's and to the state's product."""
    peepholes: np.ndarray | None
    """`[directions, 3, hidden]` of the gates i, o, f."""
    lengths: np.ndarray
    """Steps of each sequence of the batch."""
    functions: tuple[tuple[_Activation, ...], ...]
    clip: float

    def flag(self, name: str) -> bool:
        return bool(integer(self.op.properties.get(name)))


def _layer(op: Operation, limit: int, store: ConstantStore) -> _Layer:
    """What the op says, checked. Raises `_Kept`."""
    kind = op_name(op)
    assert kind is not None
    operands = [*op.operands, *[None] * (8 - len(op.operands))]
    given = [None if value is None or is_absent(value) else value for value in operands]
    arrays = [None if value is None else constant_array(value, store) for value in given]
    for i, name in enumerate(("W", "R", "B", "sequence_lens"), 1):
        if given[i] is not None and arrays[i] is None:
            raise _Kept(f"its input {name} is no constant")
    if given[7] is not None and arrays[7] is None:
        raise _Kept("its input P is no constant")
    weights, recurrence = arrays[1], arrays[2]
    if weights is None or recurrence is None:
        raise _Kept("it has no weights")
    batch_first = bool(integer(op.properties.get("layout")))
    steps, batch, _ = shape(op.operands[0])
    if batch_first:
        steps, batch = batch, steps
    if steps > limit:
        raise _Kept(f"its {steps} steps are more than the {limit} that are unrolled")
    directions, hidden = recurrence.shape[0], recurrence.shape[2]
    direction = string(op.properties.get("direction"), "forward")
    bias = np.zeros((directions, 2, _GATES[kind] * hidden), np.float32) if arrays[3] is None else arrays[3]
    return _Layer(
        op,
        kind,
        steps,
        batch,
        hidden,
        (False, True) if direction == "bidirectional" else (direction == "reverse",),
        weights,
        recurrence,
        bias.reshape(directions, 2, -1),
        None if arrays[7] is None else arrays[7].reshape(directions, 3, hidden),
        np.full(batch, steps) if arrays[4] is None else arrays[4],
        _functions(op, kind, directions),
        real(op.properties.get("clip")),
    )


def _functions(op: Operation, kind: str, directions: int) -> tuple[tuple[_Activation, ...], ...]:
    """The activations of each direction. Raises `_Kept` for one that is unknown, or whose parameters are missing."""
    names = op.properties.get("activations")
    default = _DEFAULTS[kind]
    listed = [string(name) for name in names] if isinstance(names, ArrayAttr) else list(default) * directions
    values = {key: list(integers(op.properties.get(f"activation_{key}"))) for key in ("alpha", "beta")}
    functions = []
    for name in listed:
        if name not in _PARAMETERS:
            raise _Kept(f"its activation {name!r} is not known")
        parameters = {}
        for key, fallback in _PARAMETERS[name].items():
            value = values[key].pop(0) if values[key] else fallback
            if value is None:
                raise _Kept(f"it gives no activation_{key} for its activation {name!r}")
            parameters[key] = float(value)
        functions.append(_Activation(name, parameters))
    return tuple(tuple(functions[i : i + len(default)]) for i in range(0, len(functions), len(default)))


@dataclass
class _Direction:
    """One direction of a layer; the states are `[batch, hidden]`, None where they are zero."""

    layer: _Layer
    index: int
    emit: _Emitter

    def run(self, x: SSAValue) -> tuple[list[SSAValue], SSAValue, SSAValue | None]:
        """The outputs `[batch, hidden]` by step, and the last states, from `x`, `[steps * batch, inputs]`."""
        layer, emit, d = self.layer, self.emit, self.index
        prefix = "backward" if layer.reverse[d] else "forward"
        emit.part = f"{prefix}.initial"
        h = self._initial(5)
        c = self._initial(6) if layer.kind == "LSTM" else None
        emit.part = f"{prefix}.inputs"
        bias = emit.constant(self._input_bias())
        inputs = emit.binary("Add", emit.matmul(x, layer.weights[d].T), bias)
        rows = emit.split(inputs, layer.steps, 0)
        outputs: dict[int, SSAValue] = {}
        cell = self._lstm if layer.kind == "LSTM" else self._gru
        for t in reversed(range(layer.steps)) if layer.reverse[d] else range(layer.steps):
            emit.part = f"{prefix}.{t}"
            running = layer.lengths > t
            if not running.any():
                outputs[t] = self._zeros()
                continue
            new_h, new_c = cell(rows[t], h, c)
            outputs[t] = self._where(running, new_h, None)
            h = self._where(running, new_h, h)
            c = None if new_c is None else self._where(running, new_c, c)
        return [outputs[t] for t in range(layer.steps)], self._zeros() if h is None else h, c

    def _zeros(self) -> SSAValue:
        return self.emit.constant(np.zeros((self.layer.batch, self.layer.hidden), np.float32))

    def _where(self, running: np.ndarray, new: SSAValue, old: SSAValue | None) -> SSAValue:
        """`new` for the sequences that have not ended, `old` (None: zero) for the others."""
        if running.all():
            return new
        condition = self.emit.constant(running.reshape(-1, 1))
        return self.emit("Where", [condition, new, self._zeros() if old is None else old], shape(new))[0]

    def _initial(self, position: int) -> SSAValue | None:
        op, layer = self.layer.op, self.layer
        if position >= len(op.operands) or is_absent(op.operands[position]):
            return None
        state = op.operands[position]
        axis = 1 if layer.flag("layout") else 0
        part = self.emit.split(state, len(layer.reverse), axis)[self.index]
        return self.emit.reshape(part, (layer.batch, layer.hidden))

    def _input_bias(self) -> np.ndarray:
        """What is added to the products of the input: all biases, unless a gate multiplies the state's."""
        added, recurrent = self.layer.bias[self.index]
        return added if self._resets_product else added + recurrent

    @property
    def _resets_product(self) -> bool:
        return self.layer.kind == "GRU" and self.layer.flag("linear_before_reset")

    def _gate(self, function: int, x: SSAValue) -> SSAValue:
        return self.emit.activation(self.layer.functions[self.index][function], x, self.layer.clip)

    def _lstm(self, row: SSAValue, h: SSAValue | None, c: SSAValue | None) -> tuple[SSAValue, SSAValue]:
        """One step; the gates lie in the order i, o, f, c."""
        layer, emit = self.layer, self.emit
        total = row if h is None else emit.binary("Add", emit.matmul(h, layer.recurrence[self.index].T), row)
        _mark_state(total)
        i, o, f, candidate = emit.split(total, 4, 1)

        def peek(gate: SSAValue, cell: SSAValue | None, which: int) -> SSAValue:
            if layer.peepholes is None or cell is None:
                return gate
            return emit.binary("Add", gate, emit.binary("Mul", cell, emit.constant(layer.peepholes[self.index, which])))

        i = self._gate(0, peek(i, c, 0))
        cell = emit.binary("Mul", i, self._gate(1, candidate))
        if c is not None:
            f = emit.binary("Sub", emit.number(1), i) if layer.flag("input_forget") else self._gate(0, peek(f, c, 2))
            kept = emit.binary("Mul", f, c)
            cell = emit.binary("Add", kept, cell)
            _mark_state(kept, cell)
        o = self._gate(0, peek(o, cell, 1))
        shown = emit.activation(layer.functions[self.index][2], cell, 0.0)
        return emit.binary("Mul", o, shown), cell

    def _gru(self, row: SSAValue, h: SSAValue | None, c: SSAValue | None) -> tuple[SSAValue, None]:
        """One step; the gates lie in the order z, r, h."""
        emit, size = self.emit, self.layer.hidden
        recurrence, bias = self.layer.recurrence[self.index], self.layer.bias[self.index, 1]
        z, r, candidate = emit.split(row, 3, 1)
        if self._resets_product:
            products = [emit.constant(part) for part in np.split(bias, 3)]
            if h is not None:
                products = emit.split(emit.binary("Add", emit.matmul(h, recurrence.T), emit.constant(bias)), 3, 1)
            z, r = (self._gate(0, emit.binary("Add", a, b)) for a, b in zip((z, r), products[:2], strict=True))
            candidate = emit.binary("Add", candidate, emit.binary("Mul", r, products[2]))
        elif h is None:
            z = self._gate(0, z)
        else:
            products = emit.split(emit.matmul(h, recurrence[: 2 * size].T), 2, 1)
            z, r = (self._gate(0, emit.binary("Add", a, b)) for a, b in zip((z, r), products, strict=True))
            candidate = emit.binary("Add", candidate, emit.matmul(emit.binary("Mul", r, h), recurrence[2 * size :].T))
        new = emit.binary("Mul", emit.binary("Sub", emit.number(1), z), self._gate(1, candidate))
        return new if h is None else emit.binary("Add", new, emit.binary("Mul", z, h)), None


def _decompose(layer: _Layer, store: ConstantStore) -> None:
    """Puts operations in the place of the layer."""
    op, emit = layer.op, _Emitter(layer.op, store, "inputs")
    batch_first = layer.flag("layout")
    x = emit.transpose(op.operands[0], (1, 0, 2)) if batch_first else op.operands[0]
    x = emit.reshape(x, (layer.steps * layer.batch, shape(x)[2]))
    directions = [_Direction(layer, d, emit).run(x) for d in range(len(layer.reverse))]
    emit.part = "outputs"
    size = (layer.batch, layer.hidden)
    sequences = [outputs for outputs, _, _ in directions]
    steps = [outputs[t] for t in range(layer.steps) for outputs in sequences]
    whole = [((layer.steps, len(directions), *size), (2, 0, 1, 3), steps)]
    last = [((len(directions), *size), (1, 0, 2), [states[i] for states in directions]) for i in (1, 2)]
    for result, (extents, perm, parts) in zip(op.results, whole + last, strict=False):
        if is_absent(result) or result.first_use is None:
            continue
        value = emit.reshape(emit.concat(parts), extents)
        result.replace_all_uses_with(emit.transpose(value, perm) if batch_first else value)
    op.detach()
    op.erase()


@dataclass(frozen=True)
class DecomposeRecurrent(QuantPass):
    """Unrolls LSTM and GRU layers into matrix products and pointwise operators, so that they run in integers.

    A layer of more than `steps` steps, with weights that are no constants, or with an activation that is not
    pointwise stays float, and a note says why.
    """

    name: ClassVar[str] = "decompose-recurrent"
    requires: ClassVar = (Stage.FLOAT,)

    steps: int = 256

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        for op in list(body(module).ops):
            if op_name(op) not in _GATES:
                continue
            try:
                _decompose(_layer(op, self.steps, ctx.store), ctx.store)
            except _Kept as reason:
                ctx.notes.append(f"{describe(op)} stays float: {reason}")


def _mark_state(*values: SSAValue) -> None:
    """Marks what makes sums and states, whose errors add up over the steps."""
    for value in values:
        if isinstance(value.owner, Operation):
            value.owner.attributes[STATE] = UnitAttr()
