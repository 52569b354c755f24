"""TIR functions that TVM's converters write in place of operators: recognized by what they compute, never by name.

Known are functions of one block that store, for each element of the result, an expression of elements of the operands
at the same place (as numpy broadcasts them), and functions that pad an operand by a constant.
"""

# TVM's expressions have no attributes and operators for a type checker.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm.ir import Call, Expr, Op, TensorLoad
from tvm.s_tir import SBlockRealize
from tvm.tirx import LE, LT, Add, And, BufferStore, Div, FloatImm, For, IntImm, Max, Min, Mul, PrimFunc, Sub, Var
from tvm_ffi import structural_equal

from qcompiler.frontends.relax_emit import Emitter, NotUnderstood, require

_BINARY = {Add: "Add", Sub: "Sub", Mul: "Mul", Div: "Div", Max: "Max", Min: "Min"}
_UNARY = {"exp": "Exp", "erf": "Erf", "tanh": "Tanh", "sigmoid": "Sigmoid", "sqrt": "Sqrt", "log": "Log"}


def emit_call(emitter: Emitter, function: PrimFunc, operands: Sequence[str]) -> str:
    """The nodes of a call of `function` on `operands`.

    Raises:
        NotUnderstood: it computes something else.
    """
    return _Reader(emitter, function, operands).read()


class _Reader:
    def __init__(self, emitter: Emitter, function: PrimFunc, operands: Sequence[str]) -> None:
        require(len(function.params) == len(operands) + 1, "a function of several results")
        self.emitter = emitter
        self.operands = dict(zip(function.params[:-1], operands, strict=True))
        self.result = function.params[-1]
        realize = function.body
        require(
            isinstance(realize, SBlockRealize) and not len(realize.block.alloc_buffers), "a function of several stages"
        )
        loops: dict[Var, int] = {}
        statement = realize.block.body
        while isinstance(statement, For):
            require(int(statement.min) == 0 and isinstance(statement.extent, IntImm), "a loop of unknown length")
            loops[statement.loop_var] = int(statement.extent)
            statement = statement.body
        require(isinstance(statement, SBlockRealize), "a function of several stages")
        block = statement.block
        require(block.init is None and isinstance(block.body, BufferStore), "a reduction, or several stores")
        self.store = block.body
        self.axes = [axis.var for axis in block.iter_vars]
        extents = [loops.get(value, 0) for value in statement.iter_values]
        require(self.store.buffer.same_as(self.result) and _same(self.store.indices, self.axes), "a store elsewhere")
        require(extents == _extents(self.result), "a store of a part")

    def read(self) -> str:
        value = self.store.value
        return self._pad(value) if _called(value) == "if_then_else" else self._value(value)

    def _value(self, value: Expr) -> str:
        if isinstance(value, TensorLoad):
            return self._load(value)
        if isinstance(value, FloatImm | IntImm):
            return self.emitter.constant(np.array(value.value, str(value.ty.dtype)))
        kind = _BINARY.get(type(value))
        if kind is not None:
            require(kind != "Div" or value.ty.dtype.is_float, "a division of integers")
            return self.emitter.node(kind, self._value(value.a), self._value(value.b))
        kind = _UNARY.get(_called(value))
        if kind is not None:
            return self.emitter.node(kind, self._value(value.args[0]))
        raise NotUnderstood(f"a function that computes {value}")

    def _load(self, load: TensorLoad) -> str:
        """An operand read at the place of the result, or at 0 where it has one element only."""
        name, extents = self._operand(load), _extents(load.source)
        axes = self.axes[len(self.axes) - len(extents) :]
        require(len(axes) == len(extents), "an operand of higher rank")
        for index, axis, extent, whole in zip(
            load.indices, axes, extents, _extents(self.result)[len(self.axes) - len(extents) :], strict=True
        ):
            at_zero = isinstance(index, IntImm) and int(index) == 0 and extent == 1
            require(at_zero or (index.same_as(axis) and extent == whole), "an operand read elsewhere")
        return name

    def _operand(self, load: Any) -> str:
        require(isinstance(load, TensorLoad) and load.source in self.operands, "a value of unknown origin")
        return self.operands[load.source]

    def _pad(self, value: Call) -> str:
        condition, load, filling = value.args
        name = self._operand(load)
        require(isinstance(filling, FloatImm | IntImm), "a border that is not constant")
        inner, outer = _extents(load.source), _extents(self.result)
        require(len(inner) == len(outer), "an operand of another rank")
        before = [self._offset(index, axis) for index, axis in zip(load.indices, self.axes, strict=True)]
        after = [whole - first - extent for whole, first, extent in zip(outer, before, inner, strict=True)]
        require(min(*before, *after, 0) == 0, "an operand that is cut")
        allowed, needed = [], []
        for axis, first, extent, behind in zip(self.axes, before, inner, after, strict=True):
            low, high = (IntImm(str(axis.ty.dtype), bound) for bound in (first, first + extent))
            tests = (LE(low, axis), LT(axis, high))
            allowed += tests
            needed += [test for test, used in zip(tests, (first, behind), strict=True) if used]
        found = _conjuncts(condition)
        require(all(_is_among(test, allowed) for test in found), "a border where the operand ought to be")
        require(all(_is_among(test, found) for test in needed), "an operand read outside of its bounds")
        border = self.emitter.constant(np.array(filling.value, str(filling.ty.dtype)))
        return self.emitter.node("Pad", name, self.emitter.constant(before + after), border, mode="constant")

    def _offset(self, index: Expr, axis: Var) -> int:
        if index.same_as(axis):
            return 0
        known = isinstance(index, Sub) and index.a.same_as(axis) and isinstance(index.b, IntImm)
        require(known, "an operand read elsewhere")
        return int(index.b)


def _extents(buffer: Var) -> list[int]:
    extents = list(buffer.shape)
    require(all(isinstance(extent, IntImm) for extent in extents), "a symbolic shape")
    return [int(extent) for extent in extents]


def _same(found: Sequence[Expr], wanted: Sequence[Var]) -> bool:
    return len(found) == len(wanted) and all(a.same_as(b) for a, b in zip(found, wanted, strict=True))


def _conjuncts(condition: Expr) -> list[Expr]:
    if isinstance(condition, And):
        return [*_conjuncts(condition.a), *_conjuncts(condition.b)]
    return [condition]


def _is_among(test: Expr, tests: Sequence[Expr]) -> bool:
    return any(structural_equal(test, other) for other in tests)


def _called(value: Expr) -> str:
    """Name of the operator that is called, without its dialect; empty for what is no such call."""
    return value.op.name.rpartition(".")[2] if isinstance(value, Call) and isinstance(value.op, Op) else ""
