"""The working form of an ONNX graph: nodes, constants as arrays outside protobufs, types of values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from qcompiler.errors import ModelError

SMALL = 1024
"""Constants of at most this many elements are in the protobufs made from a graph, for shape inference."""

IR_VERSION = 10
"""The ONNX file format that belongs to the project's opset."""


@dataclass(frozen=True)
class ValueType:
    """Element type (ONNX number) and dimensions of a tensor; None where unknown."""

    element: int
    dims: tuple[int | None, ...] | None

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The dimensions if all are known."""
        if self.dims is None:
            return None
        known = tuple(d for d in self.dims if d is not None)
        return known if len(known) == len(self.dims) else None

    @staticmethod
    def of(proto: onnx.TypeProto) -> ValueType | None:
        """Of a tensor's type; None for anything else."""
        if not proto.HasField("tensor_type") or not proto.tensor_type.elem_type:
            return None
        kind = proto.tensor_type
        if not kind.HasField("shape"):
            return ValueType(kind.elem_type, None)
        return ValueType(
            kind.elem_type, tuple(d.dim_value if d.HasField("dim_value") else None for d in kind.shape.dim)
        )

    @staticmethod
    def of_array(array: np.ndarray) -> ValueType:
        """Of a constant."""
        return ValueType(helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    def value_info(self, name: str) -> onnx.ValueInfoProto:
        """A declaration of `name` with this type."""
        return helper.make_tensor_value_info(name, self.element, self.dims)


@dataclass
class Graph:
    """A graph under work. `types` is what shape inference found, constants and inputs included."""

    source: str
    name: str
    opset: int
    nodes: list[onnx.NodeProto]
    constants: dict[str, np.ndarray]
    inputs: dict[str, ValueType]
    outputs: list[str]
    declared: dict[str, ValueType]
    types: dict[str, ValueType] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _used: set[str] = field(default_factory=set)

    def label(self, node: onnx.NodeProto) -> str:
        """The node as messages name it: its name, or its first output's."""
        return f"node '{node.name or next(iter(node.output), '?')}' ({node.op_type})"

    def error(self, node: onnx.NodeProto, text: str) -> ModelError:
        """An error about `node`."""
        return ModelError(f"{self.source}: {self.label(node)}: {text}")

    def rank(self, name: str) -> int | None:
        """Number of dimensions of a value, None if unknown."""
        kind = self.types.get(name)
        return None if kind is None or kind.dims is None else len(kind.dims)

    def element(self, name: str) -> int | None:
        """Element type of a value, None if unknown."""
        kind = self.types.get(name)
        return None if kind is None else kind.element

    def add_constant(self, name: str, array: np.ndarray) -> str:
        """A new constant under a name made unique; returns that name."""
        name = self.fresh(name)
        self.constants[name] = array
        self.types[name] = ValueType.of_array(array)
        return name

    def fresh(self, name: str) -> str:
        """A value name not yet in use, in subgraphs neither."""
        if not self._used:
            self._used = {*self.constants, *self.inputs, *self.outputs}
            for node in walk(self.nodes):
                self._used.update(node.input, node.output)
        unique, number = name, 1
        while unique in self._used:
            unique, number = f"{name}_{number}", number + 1
        self._used.add(unique)
        return unique

    def proto(self, typed: Mapping[str, ValueType] | None = None) -> onnx.ModelProto:
        """The graph with small constants as initializers and each large one as a typed input."""
        typed = typed or {}
        graph = onnx.GraphProto(name=self.name or "graph")
        graph.node.extend(self.nodes)
        graph.input.extend(kind.value_info(name) for name, kind in self.inputs.items())
        for name, array in self.constants.items():
            if array.size <= SMALL:
                graph.initializer.append(numpy_helper.from_array(array, name))
            else:
                graph.input.append(ValueType.of_array(array).value_info(name))
        graph.value_info.extend(kind.value_info(name) for name, kind in typed.items())
        for name in self.outputs:
            kind = self.types.get(name) or self.declared.get(name)
            # without a known type inference fills it in; the declared shape is not trusted
            graph.output.append(
                onnx.ValueInfoProto(name=name)
                if kind is None
                else ValueType(kind.element, self.types[name].dims if name in self.types else None).value_info(name)
            )
        opsets = {"": self.opset} | {n.domain: 1 for n in self.nodes if n.domain}
        return onnx.ModelProto(
            ir_version=IR_VERSION,
            graph=graph,
            opset_import=[helper.make_opsetid(d, v) for d, v in opsets.items()],
        )


def distinct(array: np.ndarray) -> np.ndarray:
    """The part of an array that takes memory: a dimension of stride 0 repeats one element and counts once."""
    return array[tuple(slice(None) if stride else slice(1) for stride in array.strides)]


class Replacement:
    """Collects the nodes that take the place of one node, named after it."""

    def __init__(self, graph: Graph, node: onnx.NodeProto) -> None:
        self.graph = graph
        self.node = node
        self.nodes: list[onnx.NodeProto] = []

    def add(self, op: str, inputs: Sequence[str], what: str, **attributes: Any) -> str:
        """Adds a node for the intermediate result `what`; returns the value's name."""
        result = self.graph.fresh(f"{self.node.output[0]}_{what}")
        name = f"{self.node.name or self.node.output[0]}.{what}"
        self.nodes.append(helper.make_node(op, inputs, [result], name, **attributes))
        return result

    def scalar(self, what: str, value: float) -> str:
        """A float32 constant."""
        return self.graph.add_constant(f"{self.node.output[0]}_{what}", np.array(value, np.float32))

    def last(self, op: str, inputs: Sequence[str], **attributes: Any) -> list[onnx.NodeProto]:
        """Adds the node that yields the replaced node's result; returns all."""
        self.nodes.append(helper.make_node(op, inputs, [self.node.output[0]], self.node.name, **attributes))
        return self.nodes


def integer(node: onnx.NodeProto, name: str, default: int) -> int:
    """An integer attribute."""
    return next((a.i for a in node.attribute if a.name == name), default)


def number(node: onnx.NodeProto, name: str, default: float) -> float:
    """A floating-point attribute."""
    return next((a.f for a in node.attribute if a.name == name), default)


def integers(node: onnx.NodeProto, name: str) -> list[int] | None:
    """An attribute that is a list of integers, None if it is absent."""
    return next((list(a.ints) for a in node.attribute if a.name == name), None)


def text(node: onnx.NodeProto, name: str, default: str) -> str:
    """A string attribute."""
    return next((a.s.decode() for a in node.attribute if a.name == name), default)


def drop_attributes(node: onnx.NodeProto, *names: str) -> None:
    """Removes attributes by name."""
    for index in reversed(range(len(node.attribute))):
        if node.attribute[index].name in names:
            del node.attribute[index]


def set_attribute(node: onnx.NodeProto, name: str, value: object) -> None:
    """Sets an attribute, replacing one of that name."""
    drop_attributes(node, name)
    node.attribute.append(helper.make_attribute(name, value))


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in the attributes of a control-flow node."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def walk(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """All nodes, those of subgraphs after the node that holds them."""
    for node in nodes:
        yield node
        for graph in subgraphs(node):
            yield from walk(graph.node)


def reads(node: onnx.NodeProto) -> set[str]:
    """The values of the enclosing graph that a node reads, itself or in its subgraphs."""
    names = {name for name in node.input if name}
    for graph in subgraphs(node):
        inner: set[str] = {value.name for value in graph.input} | {i.name for i in graph.initializer}
        used = {value.name for value in graph.output}
        for child in graph.node:
            inner.update(child.output)
            used |= reads(child)
        names |= used - inner
    return names


def rename_reads(node: onnx.NodeProto, mapping: Mapping[str, str]) -> None:
    """Replaces value names that a node reads, in its subgraphs too."""
    for index, name in enumerate(node.input):
        if name in mapping:
            node.input[index] = mapping[name]
    for graph in subgraphs(node):
        for child in graph.node:
            rename_reads(child, mapping)
        for value in graph.output:
            value.name = mapping.get(value.name, value.name)


def sort_nodes(graph: Graph) -> None:
    """Puts nodes into topological order, as close to their present order as that allows.

    Raises:
        ModelError: a value that nothing defines, one defined twice, a cycle.
    """
    producer: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        for name in filter(None, node.output):
            if name in producer or name in graph.inputs or name in graph.constants:
                raise graph.error(node, f"its output '{name}' is already defined")
            producer[name] = index
    for name in graph.outputs:
        if name not in producer and name not in graph.inputs and name not in graph.constants:
            raise ModelError(f"{graph.source}: the graph's output '{name}' is not defined by any node")
    done: list[onnx.NodeProto] = []
    state = [0] * len(graph.nodes)
    for root in range(len(graph.nodes)):
        stack = [root]
        while stack:
            index = stack[-1]
            node = graph.nodes[index]
            if state[index] == 0:
                state[index] = 1
                for name in sorted(reads(node)):
                    if name in graph.inputs or name in graph.constants:
                        continue
                    if name not in producer:
                        raise graph.error(node, f"its input '{name}' is not defined by any node, input or initializer")
                    before = producer[name]
                    if state[before] == 1:
                        raise graph.error(node, f"its input '{name}' depends on its own output: a cycle")
                    if state[before] == 0:
                        stack.append(before)
            else:
                stack.pop()
                if state[index] == 1:
                    state[index] = 2
                    done.append(node)
    graph.nodes = done
