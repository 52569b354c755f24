"""A module as a list of nodes with names: what `diff`, the graph exports and the explorer read."""

from __future__ import annotations

from dataclasses import dataclass, field

from xdsl.dialects.builtin import ArrayAttr, TensorType
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Attribute, Operation, SSAValue

from qcompiler.ir.onnx_dialect import NoneOp
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.values import (
    body,
    input_names,
    is_absent,
    location_names,
    main,
    numbers_of,
    output_names,
    string,
)
from qcompiler.model import Model

INPUT, OUTPUT = "input", "output"
_REASONS = ("q.why", "q.numbers", "q.types", "value")
"""Attributes that a node shows in fields of their own."""

_HELPERS = ("q.quantize", "q.dequantize", "q.transpose", "q.reshape", "onnx.Transpose", "onnx.Reshape")
"""Operations that passes put beside the one that computes."""


@dataclass(frozen=True)
class Tensor:
    """A result: its name, and its type as the text of the IR spells it.

    `future` is the quantized type that it is to have, between choose-scheme and insert-qdq.
    """

    name: str
    type: Attribute
    future: UniformType | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.type.get_shape()) if isinstance(self.type, TensorType) else ()

    @property
    def quantized(self) -> UniformType | None:
        """The quantized type that it has or is to have."""
        element = self.type.element_type if isinstance(self.type, TensorType) else None
        return element if isinstance(element, UniformType) else self.future


@dataclass(frozen=True)
class Node:
    """An operation, an argument of the function (`input`), or a result of it (`output`).

    Constants are called after their arrays, `resource`; all others after the node of the ONNX model that they come
    from, of which `origin` has all. `operands` are names of tensors, empty where an optional one is absent.
    """

    name: str
    op: str
    operands: tuple[str, ...]
    results: tuple[Tensor, ...]
    attributes: dict[str, str] = field(default_factory=dict)
    origin: tuple[str, ...] = ()
    why: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    resource: str = ""


def nodes_of(model: Model) -> list[Node]:
    """The nodes of a model in order of execution: inputs first, outputs last. Unread constants are left out."""
    module = model.module
    names = node_names(model)
    function, block = main(module), body(module)
    kinds, reasons = (_items(function.attributes.get(key), len(block.args)) for key in ("q.types", "q.why"))
    nodes: dict[str, Node] = {}
    for name, argument, kind, why in zip(input_names(module), block.args, kinds, reasons, strict=True):
        figures = numbers_of(function.attributes.get("q.numbers")) if len(block.args) == 1 else {}
        nodes[name] = Node(name, INPUT, (), (_tensor(name, argument, kind),), why=string(why), numbers=figures)
    for op in block.ops:
        if isinstance(op, ReturnOp):
            for label, value in zip(output_names(module), op.operands, strict=True):
                node = Node(f"{OUTPUT}:{label}", OUTPUT, (names[value],), ())
                nodes[node.name] = node
        elif not isinstance(op, NoneOp) and not (isinstance(op, ConstantOp) and not op.y.uses):
            node = _node(op, names)
            nodes.setdefault(node.name, node)
    return list(nodes.values())


def node_names(model: Model) -> dict[SSAValue, str]:
    """Unique names of all values that are read or no constants.

    Of several operations that come from one node the last that computes has the node's name, others `name#2`, `name#3`.
    """
    module = model.module
    inputs = dict(zip(body(module).args, input_names(module), strict=True))
    groups: dict[str, list[Operation]] = {}
    for op in body(module).ops:
        if op.results and not isinstance(op, ConstantOp):
            groups.setdefault((location_names(op) or (op.name,))[-1], []).append(op)
    names: dict[SSAValue, str] = {**inputs}
    taken = set(inputs.values())
    for base, ops in groups.items():
        first = next((op for op in reversed(ops) if op.name not in _HELPERS), ops[0])
        for op in (first, *(op for op in ops if op is not first)):
            name, number = base, 2
            while name in taken:
                name, number = f"{base}#{number}", number + 1
            taken.add(name)
            names.update({r: f"{name}:{i}" if i else name for i, r in enumerate(op.results)})
    for op in body(module).ops:
        if isinstance(op, ConstantOp) and op.y.uses:
            names[op.y] = op.resource if op.resource not in taken else f"{op.resource} (constant)"
    return names


def type_text(tensor: Tensor) -> str:
    """Shape and element type on one line, scales of channels as their number and range."""
    extents = "x".join(map(str, tensor.shape))
    kind = tensor.quantized
    if kind is None:
        element = tensor.type.element_type if isinstance(tensor.type, TensorType) else tensor.type
        return f"{extents} {element}".strip()
    return f"{extents} {quantized_text(kind)}".strip()


def quantized_text(kind: UniformType) -> str:
    """A quantized type in words: `u8, scale 0.0235, zero point 114`."""
    scales = kind.scales
    if kind.per_tensor:
        return f"{kind.storage}, scale {kind.scale:.6g}, zero point {kind.zero_point}"
    return f"{kind.storage}, {scales.size} scales {scales.min():.3g} to {scales.max():.3g}"


def _node(op: Operation, names: dict[SSAValue, str]) -> Node:
    every = {**op.properties, **op.attributes}
    kinds = _items(every.get("q.types"), len(op.results))
    results = tuple(_tensor(names[r], r, kind) for r, kind in zip(op.results, kinds, strict=True))
    return Node(
        name=results[0].name if results else op.name,
        op=op.name,
        operands=tuple("" if is_absent(v) else names[v] for v in op.operands),
        results=results,
        attributes={key: str(value) for key, value in sorted(every.items()) if key not in _REASONS},
        origin=location_names(op),
        why=string(every.get("q.why")),
        numbers=numbers_of(every.get("q.numbers")),
        resource=op.resource if isinstance(op, ConstantOp) else "",
    )


def _tensor(name: str, value: SSAValue, kind: Attribute | None) -> Tensor:
    return Tensor(name, value.type, kind if isinstance(kind, UniformType) else None)


def _items(attribute: Attribute | None, count: int) -> list[Attribute | None]:
    """The items of an array, or as many times None."""
    return list(attribute.data) if isinstance(attribute, ArrayAttr) else [None] * count
