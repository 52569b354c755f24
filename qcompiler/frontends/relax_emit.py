"""The ONNX graph that stands for Relax calls, while it is put together."""

# TVM's expressions have no attributes and operators for a type checker.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, helper
from tvm.ir import Call, Expr, GenericConst, Type
from tvm.relax import ShapeExpr, TensorType, Var
from tvm.tirx import FloatImm, IntImm

from qcompiler.errors import ModelError

Value = str | tuple[str, ...]
"""Name of an ONNX value, or of each element of a tuple."""


class NotUnderstood(ModelError):
    """A call that has no counterpart in ONNX; the message says why."""


class Emitter:
    """Nodes and constants of the ONNX graph that stands for calls, in the order in which they are emitted."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.values: dict[Var, Value] = {}
        self.label = "node"
        """Base of the names of what is emitted next."""
        self._taken: set[str] = set()

    def of(self, expr: Expr) -> str:
        """The ONNX value of a tensor.

        Raises:
            NotUnderstood: it is no tensor, or not one of static shape.
        """
        if isinstance(expr, GenericConst):
            return self.constant(expr.value.numpy())
        if isinstance(expr, IntImm | FloatImm):
            return self.constant(np.array(expr.value, str(expr.ty.dtype)))
        value = self.values.get(expr) if isinstance(expr, Var) else None
        if not isinstance(value, str):
            raise NotUnderstood(f"{expr} is no tensor that is known here")
        return value

    def constant(self, array: np.ndarray | Sequence[int] | float) -> str:
        """A new constant; numbers become int64, or float32."""
        if not isinstance(array, np.ndarray | np.generic):
            array = np.array(array, np.float32 if isinstance(array, float) else np.int64)
        name = self._fresh("constant")
        self.constants[name] = np.asarray(array)
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Adds a node of one result; returns the result's name."""
        return self.nodes_of(kind, 1, *inputs, **attributes)[0]

    def nodes_of(self, kind: str, results: int, *inputs: str, **attributes: Any) -> tuple[str, ...]:
        """Adds a node; returns the names of its results."""
        names = tuple(self._fresh(kind.lower()) for _ in range(results))
        attributes = {key: value for key, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(kind, inputs, names, name=names[0], **attributes))
        return names

    def _fresh(self, kind: str) -> str:
        name, number = f"{self.label}.{kind}", 1
        while name in self._taken:
            name, number = f"{self.label}.{kind}.{number}", number + 1
        self._taken.add(name)
        return name


def shape_of(value: Expr | Type) -> list[int]:
    """The static shape of a tensor or of a tensor's type.

    Raises:
        NotUnderstood: its shape or rank is not known.
    """
    kind = value.ty if isinstance(value, Expr) else value
    extents = kind.shape if isinstance(kind, TensorType) else None
    if not isinstance(extents, ShapeExpr) or not all(isinstance(extent, IntImm) for extent in extents):
        raise NotUnderstood(f"{kind} is no tensor of known shape")
    return [int(extent) for extent in extents]


def dtype_of(value: Expr | Type) -> np.dtype:
    """The element type of a tensor or of a tensor's type."""
    return np.dtype(str((value.ty if isinstance(value, Expr) else value).dtype))


def require(condition: object, reason: str) -> None:
    if not condition:
        raise NotUnderstood(reason)


def ints(values: Sequence[Any]) -> list[int]:
    return [int(value) for value in values]


Rule = Callable[[Emitter, Call], Value]
"""Emits the nodes of a call of one operator; raises `NotUnderstood` if its attributes have none."""
