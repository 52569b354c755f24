"""Schedules for the float functions that TVM's converter makes.

`schedule` inlines what is cheap to compute twice, then writes code for each remaining block by the first rule that
applies: convolution, matrix product, reduction, element-wise; the last one, plain loops, applies to everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from math import prod

import numpy as np
import tvm
from tvm import tirx
from tvm.ir import TensorLoad
from tvm.s_tir import SBlock, SBlockRealize, Schedule, ScheduleError
from tvm.tirx import AllocBuffer, BufferLoad, BufferStore, For, ForKind, IntImm, PrimFunc, SeqStmt
from tvm_ffi import structural_equal, structural_map

from .contraction import ALLOW_CONTRACTION
from .float_conv import CONV, emit_conv
from .float_loops import SINGLE, Axis, Layout, Nest, Stmt, Var, emit, emit_single, index, loads, sequence, substitute
from .float_matmul import emit_matmul

Pack = Callable[[np.ndarray], np.ndarray]

MAX_INLINED = 400
"""Most nodes of an expression that inlining may duplicate."""


@dataclass
class FloatFunction:
    """A function while its blocks become code, in flat buffers."""

    lanes: int
    layout: Layout
    outputs: set[Var]
    """Original buffers that are outputs; their layout is fixed."""
    constants: set[Var]
    """Original buffers that are constants."""
    packed: dict[Var, tuple[Var, Pack]] = field(default_factory=dict)
    """Flat parameter that stands for a constant, and how to make its values."""
    temporaries: list[Var] = field(default_factory=list)
    blocks: list[SBlock | None] = field(default_factory=list)
    """Blocks of the function in order; None for a statement that is no single block."""
    fused: set[int] = field(default_factory=set)
    """Blocks whose code an earlier rule has written."""
    readers: Counter[Var] = field(default_factory=Counter)
    """Number of blocks that read each original buffer."""

    def temporary(self, shape: tuple[int, ...], name: str) -> Var:
        """A new flat buffer."""
        buffer = tirx.decl_buffer(shape, "float32", name)
        self.temporaries.append(buffer)
        return buffer

    def take_epilogue(self, position: int) -> SBlock | None:
        """The next block, if it alone reads what the block at `position` writes, each element at its own place.

        The caller writes its code.
        """
        block = self.blocks[position]
        following = self.blocks[position + 1] if position + 1 < len(self.blocks) else None
        if following is None or following.init is not None or self.readers[block.body.buffer] != 1:
            return None
        shape = [int(extent) for extent in block.body.buffer.shape]
        if block.body.buffer in self.outputs or [int(v.dom.extent) for v in following.iter_vars] != shape:
            return None
        own = [load for load in loads(following.body.value) if load.source.same_as(block.body.buffer)]
        for load in own:
            for i, v, extent in zip(load.indices, following.iter_vars, shape, strict=True):
                if not (i.same_as(v.var) or (extent == 1 and isinstance(i, IntImm))):
                    return None
        if not own:
            return None
        self.fused.add(position + 1)
        return following

    def may_pack(self, buffer: Var) -> bool:
        """Whether an original buffer is a constant that one block alone reads."""
        return buffer in self.constants and self.readers[buffer] == 1

    def pack(self, buffer: Var, size: int, pack: Pack) -> Var:
        """A flat parameter of `size` elements that takes the place of a constant, its values made by `pack`."""
        self.packed[buffer] = tirx.decl_buffer((size,), str(buffer.dtype), buffer.name), pack
        return self.packed[buffer][0]

    def accumulator(self, buffer: Var, strides: tuple[int, ...], rows: int) -> tuple[Var, list[Stmt]]:
        """A flat buffer with the given strides for the original `buffer`, whose row pitch is `rows` elements.

        Returns it and what has to run after it is written: a copy where `buffer` is an output.
        """
        shape = [int(extent) for extent in buffer.shape]
        contiguous = tuple(prod(shape[i + 1 :]) for i in range(len(shape)))
        size = shape[0] * strides[0] if len(shape) > 1 else rows
        if strides == contiguous and size == prod(shape):
            return self.layout.flat[buffer], []
        if buffer not in self.outputs:
            return self.layout.add(buffer, strides=strides, size=size), []
        padded = self.temporary((size,), "padded")
        axes = [Axis(Var("i", "int64"), extent) for extent in shape]
        offsets = [
            sum((axis.var * index(step) for axis, step in zip(axes, steps, strict=True)), index(0))
            for steps in (contiguous, strides)
        ]
        copy = Nest(tuple(axes), (), self.layout.flat[buffer], offsets[0], BufferLoad(padded, [offsets[1]]))
        return padded, [emit(copy, self.lanes)]


@dataclass(frozen=True, eq=False)
class Scheduled:
    func: PrimFunc
    """Parameters are those of the original function in the same order, flat."""
    rule: str
    pack: dict[int, Pack]
    """What makes the values that `func` expects from those of a constant, by position; others stay as they are."""


def schedule(func: PrimFunc, constants: Collection[int], outputs: int, vector_bytes: int) -> Scheduled:
    """Code for one function.

    Args:
        func: a function of blocks over buffers of static shape.
        constants: positions of the parameters that are constants.
        outputs: number of trailing parameters that are written.
        vector_bytes: size of a vector register; `SINGLE` for loops whose iterations become work-items.

    Raises:
        ValueError: the function calls TVM's run-time library.
    """
    _refuse_run_time_calls(func)
    func = inline(func)
    buffers = list(func.params)
    root = func.body.block
    layout = Layout()
    written = set(buffers[len(buffers) - outputs :])
    state = FloatFunction(vector_bytes // 4, layout, written, {buffers[i] for i in constants})
    children = _children(root.body)
    state.blocks = [read_block(child) for child in children]
    for buffer in (*buffers, *root.alloc_buffers):
        layout.add(buffer)
    for block in state.blocks:
        if block is not None:
            state.readers.update({load.source for load in loads(block.body)})
    written_by: dict[int, Stmt] = {}
    rules = []
    for position, child in enumerate(children):
        if position in state.fused:
            continue
        for name, rule in SINGLE_RULES if vector_bytes == SINGLE else RULES:
            if (statement := rule(state, child, position)) is not None:
                written_by[position] = statement
                rules.append(name)
                break
    statements = _in_place(state, written_by, set(root.alloc_buffers))
    temporaries = [layout.flat[buffer] for buffer in root.alloc_buffers] + state.temporaries
    used = _used_buffers(statements)
    body = sequence([*(AllocBuffer(t) for t in temporaries if t in used), *statements])
    params = [state.packed[b][0] if b in state.packed else layout.flat[b] for b in buffers]
    pack = {i: state.packed[b][1] for i, b in enumerate(buffers) if b in state.packed}
    attrs = {"tirx.noalias": True, "s_tir": True, ALLOW_CONTRACTION: 1}
    result = PrimFunc(params, body)
    for key, value in attrs.items():
        result = result.with_attr(key, value)
    result = tirx.transform.ConvertSSA()(tvm.IRModule({"main": result}))["main"]
    return Scheduled(result, _name(rules), pack)


def _in_place(state: FloatFunction, written_by: dict[int, Stmt], temporaries: Collection[Var]) -> list[Stmt]:
    """The statements, with temporaries moved into outputs that take their place element by element.

    So an output holds what is to be scaled, as in a softmax, and the function needs no memory of that size.
    """
    statements = dict(written_by)
    flat, strides = state.layout.flat, state.layout.strides
    for position in written_by:
        block = state.blocks[position]
        if block is None or block.init is not None or block.body.buffer not in state.outputs:
            continue
        target = block.body.buffer
        before = [statements[p] for p in statements if p < position]
        after = [statements[p] for p in statements if p > position]
        for source in dict.fromkeys(load.source for load in loads(block.body.value)):
            if (
                source in temporaries
                and _reads_in_place(block, source)
                and (source.dtype, strides[source]) == (target.dtype, strides[target])
                and int(flat[source].shape[0]) == int(flat[target].shape[0])
                and flat[target] not in _used_buffers(before)
                and flat[source] not in _used_buffers(after)
            ):
                statements = {p: _renamed(s, flat[source], flat[target]) for p, s in statements.items()}
                break
    return list(statements.values())


def _reads_in_place(block: SBlock, source: Var) -> bool:
    """Whether each element that a block writes depends on no element of `source` but that of its own place."""
    own = list(block.body.indices)
    reads = [load for load in loads(block.body.value) if load.source.same_as(source)]
    return all(structural_equal(list(load.indices), own) for load in reads)


def _renamed(statement: Stmt, old: Var, new: Var) -> Stmt:
    def load(access: TensorLoad):
        return BufferLoad(new, access.indices) if access.source.same_as(old) else access

    def store(access: BufferStore):
        return BufferStore(new, access.value, access.indices) if access.buffer.same_as(old) else access

    return structural_map(statement, [(TensorLoad, load), (BufferStore, store)])


def _name(rules: list[str]) -> str:
    """The most specific rule that was used."""
    return next(name for name, _ in RULES if name in rules)


def _refuse_run_time_calls(func: PrimFunc) -> None:
    def refuse(call: tvm.ir.Call):
        if (isinstance(call.op, tvm.ir.Op) and "call_packed" in call.op.name) or "call_cpacked" in str(call.op):
            raise ValueError(f"it needs {call.args[0]} of TVM's run-time library")
        return call

    structural_map(func.body, (tvm.ir.Call, refuse))


def _used_buffers(statements: list[Stmt]) -> set[Var]:
    used: set[Var] = set()

    def load(access: TensorLoad):
        used.add(access.source)
        return access

    def store(access: BufferStore):
        used.add(access.buffer)
        return access

    for statement in statements:
        structural_map(statement, [(TensorLoad, load), (BufferStore, store)])
    return used


def _children(body: Stmt) -> list[Stmt]:
    return list(body.seq) if isinstance(body, SeqStmt) else [body]


def inline(func: PrimFunc) -> PrimFunc:
    """Inlines the blocks of `func` that are cheap to compute at each use."""
    sch = Schedule(func)
    for block in sch.get_child_blocks(sch.get_sblock(func.body.block.name_hint)):
        if _worth_inlining(sch, block):
            try:
                sch.compute_inline(block)
            except ScheduleError:
                continue
    return sch.mod["main"]


def _worth_inlining(sch: Schedule, rv) -> bool:
    block = sch.get(rv)
    if block.init is not None or not isinstance(block.body, BufferStore) or CONV in block.annotations:
        return False
    consumers = [sch.get(c) for c in sch.get_consumers(rv)]
    if not consumers:
        return False
    value = block.body.value
    size = _size(value)
    calls = _has_call(value)
    domain = prod(int(v.dom.extent) for v in block.iter_vars)
    for consumer in consumers:
        if not isinstance(consumer.body, BufferStore) or CONV in consumer.annotations:
            return False
        repeated = prod(int(v.dom.extent) for v in consumer.iter_vars) > domain
        if repeated and (calls or (consumer.init is not None and not isinstance(value, TensorLoad))):
            return False
        uses = sum(load.source.same_as(block.body.buffer) for load in loads(consumer.body.value))
        if uses * size > MAX_INLINED or (calls and len(consumers) > 1):
            return False
    return True


def _size(value) -> int:
    count = 0

    def visit(node):
        nonlocal count
        count += 1
        return node

    structural_map(value, (tvm.ir.Expr, visit))
    return count


def _has_call(value) -> bool:
    """Whether the value costs more than a few additions and multiplications."""
    found = False

    def visit(node):
        nonlocal found
        found = found or isinstance(node, tirx.Div) or not node.op.same_as(_IF_THEN_ELSE)
        return node

    structural_map(value, ((tvm.ir.Call, tirx.Div), visit))
    return found


_IF_THEN_ELSE = tvm.ir.Op.get("prim.if_then_else")


def read_block(statement: Stmt) -> SBlock | None:
    """The block of a loop nest whose loops are the block's axes; None for any other statement."""
    bound = []
    while isinstance(statement, For):
        bound.append(statement.loop_var)
        statement = statement.body
    if not isinstance(statement, SBlockRealize):
        return None
    block = statement.block
    if not (isinstance(statement.predicate, IntImm) and int(statement.predicate)):
        return None
    values = list(statement.iter_values)
    if any(not isinstance(v, Var) and not isinstance(v, IntImm) for v in values):
        return None
    if block.alloc_buffers or block.match_buffers or not isinstance(block.body, BufferStore):
        return None
    if block.init is not None and not isinstance(block.init, BufferStore):
        return None
    return block


def as_nest(state: FloatFunction, block: SBlock) -> Nest:
    """The block's axes, store and value in flat buffers."""
    axes = {0: [], 2: []}
    for iteration in block.iter_vars:
        axes[int(iteration.iter_type)].append(Axis(iteration.var, int(iteration.dom.extent)))
    init = None if block.init is None else block.init.value
    store = state.layout.apply(block.body)
    return Nest(tuple(axes[0]), tuple(axes[2]), store.buffer, store.indices[0], store.value, init)


def _conv(state: FloatFunction, _: Stmt, position: int) -> Stmt | None:
    block = state.blocks[position]
    if block is None or CONV not in block.annotations:
        return None
    return emit_conv(state, block, state.take_epilogue(position))


def _matmul(state: FloatFunction, _: Stmt, position: int) -> Stmt | None:
    block = state.blocks[position]
    if block is None or block.init is None:
        return None
    original = {flat: buffer for buffer, flat in state.layout.flat.items()}
    return emit_matmul(state, as_nest(state, block), original)


def _nest(state: FloatFunction, _: Stmt, position: int) -> Stmt | None:
    block = state.blocks[position]
    return None if block is None else emit(as_nest(state, block), state.lanes)


def _single(state: FloatFunction, _: Stmt, position: int) -> Stmt | None:
    block = state.blocks[position]
    return None if block is None else emit_single(as_nest(state, block))


def _plain(state: FloatFunction, statement: Stmt, _: int) -> Stmt:
    """The statement as it is, in one thread, its blocks opened and its buffers flat."""

    def open_block(realize: SBlockRealize):
        block = realize.block
        values = {v.var: value for v, value in zip(block.iter_vars, realize.iter_values, strict=True)}
        body = block.body
        if block.init is not None:
            reduced = [values[v.var] for v in block.iter_vars if int(v.iter_type) == 2]
            first = tirx.all(*(value.equal(tirx.const(0, str(value.ty))) for value in reduced))
            body = sequence([tirx.IfThenElse(first, block.init, None), body])
        body = substitute(body, values)
        for buffer in block.alloc_buffers:
            state.temporaries.append(state.layout.add(buffer))
        condition = realize.predicate
        if not (isinstance(condition, IntImm) and int(condition)):
            body = tirx.IfThenElse(substitute(condition, values), body, None)
        return body

    def one_thread(loop: For):
        return For(loop.loop_var, loop.min, loop.extent, ForKind.SERIAL, loop.body)

    plain = structural_map(statement, [(SBlockRealize, open_block), (For, one_thread)])
    return state.layout.apply(plain)


RULES = (("conv", _conv), ("matmul", _matmul), ("loops", _nest), ("plain", _plain))
"""Rules in the order in which they are tried."""

SINGLE_RULES = (("loops", _single), ("plain", _plain))
"""The same where each result is a work-item's."""
