"""Regions of pointwise ops that depend on one tensor: sigmoid, SiLU, GELU, hard-swish, however they are written.

Such a region is one function of one number, so in integers it is a single table. A *root* is the tensor a region
starts from; values inside the region whose readers all lie inside it are never stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation, SSAValue

from qcompiler.arithmetic.table import function
from qcompiler.ir.onnx_dialect import OnnxOp
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import body, defining, is_absent, is_float, real, shape, size, string, users

UNARY = frozenset(
    [
        "Abs",
        "Ceil",
        "Celu",
        "Clip",
        "Cos",
        "Elu",
        "Erf",
        "Exp",
        "Floor",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "Log",
        "Mish",
        "Neg",
        "Reciprocal",
        "Relu",
        "Round",
        "Selu",
        "Sigmoid",
        "Sin",
        "Softplus",
        "Softsign",
        "Sqrt",
        "Swish",
        "Tanh",
        "ThresholdedRelu",
    ]
)
BINARY: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Min": np.minimum,
    "Max": np.maximum,
}
CLAMPS = frozenset(("Relu", "Clip"))
CLAMPING = frozenset(("Conv", "Gemm", "MatMul", "Add", "Sub", "Mul", "AveragePool", "GlobalAveragePool", "ReduceMean"))
"""Ops whose requantization takes in a following Relu or Clip."""


def op_name(op: object) -> str:
    """ONNX's name of an op, empty for others."""
    return op.SCHEMA.name if isinstance(op, OnnxOp) else ""


def scalar(value: SSAValue, store: ConstantStore) -> float | None:
    """The number a one-element constant holds."""
    constant = defining(value, ConstantOp)
    if constant is None or size(value) != 1 or not is_float(value):
        return None
    return float(store[constant.resource].reshape(()))


def clamp_bounds(op: Operation, store: ConstantStore) -> tuple[float, float] | None:
    """Bounds of a Relu or a Clip with constant bounds, infinite where open."""
    if op_name(op) == "Relu":
        return 0.0, np.inf
    if op_name(op) != "Clip":
        return None
    bounds = [-np.inf, np.inf]
    for i, value in enumerate(op.operands[1:]):
        if not is_absent(value):
            number = scalar(value, store)
            if number is None:
                return None
            bounds[i] = number
    return bounds[0], bounds[1]


def fused_clamp(value: SSAValue, store: ConstantStore) -> Operation | None:
    """The Relu or Clip that alone reads `value`, if `value`'s producer can take it in."""
    readers = users(value)
    if len(readers) != 1 or op_name(value.owner) not in CLAMPING:
        return None
    return readers[0] if clamp_bounds(readers[0], store) is not None and readers[0].operands[0] is value else None


@dataclass(frozen=True)
class Pointwise:
    """Roots of pointwise values of a function, computed once for a module that does not change meanwhile."""

    store: ConstantStore
    roots: dict[SSAValue, SSAValue] = field(default_factory=dict)

    @staticmethod
    def of(module: ModuleOp, store: ConstantStore) -> Pointwise:
        found = Pointwise(store)
        for op in body(module).ops:
            if len(op.results) == 1 and (root := found._root(op)) is not None:
                found.roots[op.results[0]] = root
        return found

    def _root(self, op: Operation) -> SSAValue | None:
        name = op_name(op)
        if name in CLAMPS and fused_clamp(op.operands[0], self.store) is op and op.operands[0] not in self.roots:
            return None
        if name in UNARY:
            if any(scalar(v, self.store) is None for v in op.operands[1:] if not is_absent(v)):
                return None
            variable = [op.operands[0]]
        elif name in BINARY and len(op.operands) == 2:
            variable = [v for v in op.operands if scalar(v, self.store) is None]
        else:
            return None
        roots = {self.roots.get(v, v) for v in variable}
        if len(roots) != 1 or not all(is_float(v) for v in variable):
            return None
        root = roots.pop()
        return root if shape(op.results[0]) == shape(root) else None

    def inner(self, value: SSAValue) -> bool:
        """Whether a value lies inside a region: every reader belongs to the same region."""
        root = self.roots.get(value)
        readers = users(value)
        return (
            root is not None
            and bool(readers)
            and all(len(op.results) == 1 and self.roots.get(op.results[0]) is root for op in readers)
        )


def evaluate(value: SSAValue, root: SSAValue, x: np.ndarray, store: ConstantStore) -> np.ndarray:
    """A region's value in float64 at the points `x` of its root."""
    known: dict[SSAValue, np.ndarray] = {root: x}

    def compute(v: SSAValue) -> np.ndarray:
        if v not in known:
            known[v] = _apply(v)
        return known[v]

    def _apply(v: SSAValue) -> np.ndarray:
        number = scalar(v, store)
        if number is not None:
            return np.full_like(x, number)
        op = v.owner
        assert isinstance(op, Operation)
        if (name := op_name(op)) in BINARY:
            return BINARY[name](compute(op.operands[0]), compute(op.operands[1]))
        return unary(op, store)(compute(op.operands[0]))

    with np.errstate(all="ignore"):
        return compute(value)


def unary(op: Operation, store: ConstantStore) -> Callable[[np.ndarray], np.ndarray]:
    """The function of one unary ONNX op in float64, attributes and constant bounds applied."""
    name = op_name(op)
    bounds = clamp_bounds(op, store)
    if name == "Clip" and bounds is not None:
        return lambda x: np.clip(x, *bounds)
    attributes = {key: (string(a) if key == "approximate" else real(a)) for key, a in op.properties.items()}
    return function(name, **attributes)
