"""Order of execution: float ops in groups that compile as one, between the integer ops around them.

The level of an op counts the changes between integer and float on the longest path to it. Ops of one level have no
path between them that leaves the level, so the float ops of a level form one island, and levels run in order.
"""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.dialects.builtin import ModuleOp
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation, SSAValue

from qcompiler.ir.graph import is_activation
from qcompiler.ir.onnx_dialect import NoneOp, OnnxOp
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.values import body


@dataclass(frozen=True)
class Island:
    """Float ops that compile as one graph; `inputs` are made outside, `outputs` are read outside."""

    ops: tuple[OnnxOp, ...]
    inputs: tuple[SSAValue, ...]
    outputs: tuple[SSAValue, ...]


def schedule(module: ModuleOp) -> list[Operation | Island]:
    """Integer ops and islands in an order that defines every value before its readers; no constants, no return."""
    levels: dict[Operation, int] = {}
    for op in body(module).ops:
        if isinstance(op, ConstantOp | NoneOp | ReturnOp):
            continue
        before = [v.owner for v in op.operands if isinstance(v.owner, Operation) and v.owner in levels]
        is_float = isinstance(op, OnnxOp)
        levels[op] = max((levels[b] + (isinstance(b, OnnxOp) != is_float) for b in before), default=0)
    order: list[Operation | Island] = []
    for level in range(max(levels.values(), default=-1) + 1):
        members = [op for op, of in levels.items() if of == level]
        floats = tuple(op for op in members if isinstance(op, OnnxOp))
        if floats:
            order.append(_island(floats))
        order += [op for op in members if not isinstance(op, OnnxOp)]
    return order


def _island(ops: tuple[OnnxOp, ...]) -> Island:
    inside = {r for op in ops for r in op.results}
    members = set(ops)
    inputs = dict.fromkeys(v for op in ops for v in op.operands if is_activation(v) and v not in inside)
    outputs = [r for op in ops for r in op.results if any(u.operation not in members for u in r.uses)]
    return Island(ops, tuple(inputs), tuple(outputs))
