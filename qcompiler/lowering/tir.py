"""Short forms for building TIR directly: flat addressing, statement lists, functions made of opaque tiles.

TVMScript is parsed anew for every kernel; these build the same nodes at once, and Python loops unroll.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import tirx
from tvm.ir import Range, StringImm
from tvm.s_tir import SBlock, SBlockRealize, Schedule
from tvm.s_tir.schedule import LoopRV
from tvm.target.codegen import llvm_lookup_intrinsic_id
from tvm.tirx import Broadcast, BufferLoad, BufferStore, For, ForKind, Ramp, SeqStmt, Shuffle

Expr = tvm.ir.Expr
Stmt = tirx.Stmt
Buffer = tirx.Var


def int32(value: int) -> Expr:
    return tirx.const(value, "int32")


def splat(value: int | float, dtype: str, lanes: int) -> Expr:
    """A constant in every lane; a scalar for one lane."""
    scalar = tirx.const(value, dtype)
    return scalar if lanes == 1 else Broadcast(scalar, lanes)


def vector(dtype: str, lanes: int) -> str:
    """Spelling of a vector type; one lane is the scalar type."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def load(buffer: Buffer, offset: Expr | int, lanes: int = 1) -> Expr:
    """`lanes` consecutive elements from `offset`, counted from the buffer's start across all its axes."""
    return BufferLoad(buffer, _indices(buffer, offset, lanes))


def store(buffer: Buffer, offset: Expr | int, value: Expr, lanes: int = 1) -> Stmt:
    """Stores to `lanes` consecutive elements from `offset`, counted like in `load`."""
    return BufferStore(buffer, value, _indices(buffer, offset, lanes))


def _indices(buffer: Buffer, offset: Expr | int, lanes: int) -> list[Expr]:
    offset = int32(offset) if isinstance(offset, int) else offset
    last = offset if lanes == 1 else Ramp(offset, tirx.const(1, offset.ty.dtype), lanes)
    return [*[int32(0)] * (len(buffer.shape) - 1), last]


def llvm(name: str, dtype: str, *args: Expr) -> Expr:
    """Call of an LLVM intrinsic without side effects. Raises KeyError if this LLVM does not know it."""
    if not (number := llvm_lookup_intrinsic_id(name)):
        raise KeyError(f"LLVM has no intrinsic {name}")
    return tirx.call_llvm_pure_intrin(dtype, tirx.const(number, "uint32"), *args)


def prefetch(buffer: Buffer, offset: Expr) -> Stmt:
    """Fetches the cache line of an element into the second-level cache, to be read soon."""
    read, second_level, data = int32(0), int32(2), int32(1)
    number = tirx.const(llvm_lookup_intrinsic_id("llvm.prefetch"), "uint32")
    address = tirx.address_of(load(buffer, offset))
    return tirx.Evaluate(tirx.call_llvm_intrin("void", number, address, read, second_level, data))


def shuffle(vectors: Sequence[Expr], indices: Sequence[int]) -> Expr:
    """Chosen elements of the concatenated vectors."""
    return Shuffle(list(vectors), [int32(int(i)) for i in indices])


def loop(extent: int, body: Callable[[Expr], list[Stmt]], name: str = "i") -> list[Stmt]:
    """A serial loop; no loop at all for one iteration."""
    if extent == 1:
        return body(int32(0))
    variable = tirx.Var(name, "int32")
    return [For(variable, int32(0), int32(extent), ForKind.SERIAL, block(body(variable)))]


def block(statements: list[Stmt]) -> Stmt:
    return statements[0] if len(statements) == 1 else SeqStmt(statements)


LOOPS = "qcompiler.loops"
"""Annotation of a block whose loops are to be scheduled: how, as `qcompiler.lowering.schedules` reads it."""


@dataclass
class Tile:
    """A loop nest around one opaque block, as a list of these makes a kernel.

    `body` gets one variable for each entry of `loops` (name to extent, in nest order).
    """

    name: str
    loops: Mapping[str, int]
    body: Callable[..., list[Stmt]]
    reads: Sequence[Buffer]
    writes: Sequence[Buffer]
    temporaries: list[Buffer] = field(default_factory=list)
    order: str = ""
    """The block's `LOOPS`; empty if its loops stay as they are."""
    definitions: str = ""
    """LLVM IR of functions that `body` calls by `tirx.call_extern`; they become part of the calling code."""

    def local(self, lanes: int, dtype: str) -> Buffer:
        """A temporary that lives in a register if it is always accessed as a whole."""
        buffer = tirx.decl_buffer((lanes,), dtype, f"t{len(self.temporaries)}")
        self.temporaries.append(buffer)
        return buffer

    def statement(self) -> Stmt:
        axes = [_axis(name, extent, tirx.IterVar.DataPar) for name, extent in self.loops.items()]
        body = block(self.body(*[axis.var for axis in axes]))
        if self.definitions:
            body = tirx.AttrStmt(int32(0), "pragma_import_llvm", StringImm(self.definitions), body)
        inner = SBlock(
            axes,
            [_whole(buffer) for buffer in self.reads],
            [_whole(buffer) for buffer in self.writes],
            self.name,
            body,
            alloc_buffers=self.temporaries,
            annotations=_annotations(self.order),
        )
        return _nest(self.loops, inner)


Access = tuple[Buffer, list[Expr]]
"""One element of a buffer."""


@dataclass
class ElementBlock:
    """A schedulable block that writes one element: `update`, after `initial` where there is a reduction.

    The callables get all axes by name, and return values; `reads` and `write` name the elements touched.
    """

    name: str
    spatial: Mapping[str, int]
    reduction: Mapping[str, int]
    write: Callable[..., Access]
    reads: Callable[..., list[Access]]
    update: Callable[..., Expr]
    initial: Callable[..., Expr] | None = None
    order: str = ""
    """As in `Tile`."""

    def statement(self) -> Stmt:
        spatial = [_axis(name, extent, tirx.IterVar.DataPar) for name, extent in self.spatial.items()]
        reduction = [_axis(name, extent, tirx.IterVar.CommReduce) for name, extent in self.reduction.items()]
        extents = {**self.spatial, **self.reduction}
        variables = {name: axis.var for name, axis in zip(extents, spatial + reduction, strict=True)}
        target, indices = self.write(**variables)
        init = None if self.initial is None else BufferStore(target, self.initial(**variables), indices)
        inner = SBlock(
            spatial + reduction,
            [_element(*access) for access in self.reads(**variables)],
            [_element(target, indices)],
            self.name,
            BufferStore(target, self.update(**variables), indices),
            init,
            annotations=_annotations(self.order),
        )
        return _nest(extents, inner)


def buffer(name: str, shape: Sequence[int], dtype: str) -> Buffer:
    return tirx.decl_buffer(tuple(shape), dtype, name)


def constant_buffers(arrays: Sequence[np.ndarray]) -> list[Buffer]:
    """Parameters for the packed constants of a kernel."""
    return [buffer(f"c{i}", array.shape, str(array.dtype)) for i, array in enumerate(arrays)]


def _annotations(order: str) -> dict[str, str]:
    return {LOOPS: order} if order else {}


def _axis(name: str, extent: int, kind: int) -> tirx.IterVar:
    return tirx.IterVar(Range(0, extent), tirx.Var(f"v{name}", "int32"), kind)


def _nest(extents: Mapping[str, int], inner: SBlock) -> Stmt:
    variables = {name: tirx.Var(name, "int32") for name in extents}
    nest: Stmt = SBlockRealize(list(variables.values()), True, inner)
    for name, extent in reversed(extents.items()):
        nest = For(variables[name], int32(0), int32(extent), ForKind.SERIAL, nest)
    return nest


def _whole(source: Buffer):
    return tirx.BufferRegion(source, [Range(0, extent) for extent in source.shape])


def _element(source: Buffer, indices: Sequence[Expr]):
    return tirx.BufferRegion(source, [Range.from_min_extent(index, 1) for index in indices])


def function(
    params: Sequence[Buffer], blocks: Sequence[Tile | ElementBlock], temporaries: Sequence[Buffer] = ()
) -> Schedule:
    """A schedule of the PrimFunc `main` that runs `blocks` in order; its parameters do not overlap."""
    body = block([part.statement() for part in blocks])
    root = SBlock([], [], [], "root", body, alloc_buffers=list(temporaries))
    attrs = {"global_symbol": "main", "s_tir": True, "tirx.noalias": True}
    func = tirx.PrimFunc(list(params), SBlockRealize([], True, root), attrs=tvm.ir.make_node("ir.DictAttrs", **attrs))
    return Schedule(tvm.IRModule({"main": func}))


def loops_of(schedule: Schedule, name: str) -> dict[str, LoopRV]:
    """The loops around a block by the names of their variables, outermost first."""
    loops = schedule.get_loops(schedule.get_sblock(name))
    return {schedule.get(loop).loop_var.name: loop for loop in loops}
