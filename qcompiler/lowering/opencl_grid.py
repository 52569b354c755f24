"""A lowered function as launches: each of its loop nests becomes a kernel whose outer loops are work-items.

The loops of a nest that are proven not to depend on each other are spread over the grid: the innermost of them along
its first axis, the next along the second, all others along the third. What cannot be spread is one work-item.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from tvm import tirx
from tvm.ir import Expr, TensorLoad
from tvm.tirx import AllocBuffer, Bind, BufferStore, DeclBuffer, For, IfThenElse, IntImm, Stmt, Var
from tvm_ffi import structural_walk

from .float_loops import substitute
from .hoist import is_hoisted
from .parallel import is_independent, owners_of, statements_of
from .work_groups import Size


@dataclass(frozen=True)
class Part:
    """What one kernel does: `body` for all values of `items` below `extents`; no items for a single work-item."""

    body: Stmt
    items: tuple[Var, ...]
    """Variables of the work-item, first axis of the grid first; at most three."""
    extents: tuple[int, ...]
    buffers: tuple[Var, ...]
    """Buffers that it accesses, by their order in the function: parameters, then temporaries."""

    @property
    def serial(self) -> bool:
        """Whether one work-item does everything though there is a loop to do."""
        return not self.items


def parts_of_grid(func: tirx.PrimFunc) -> tuple[list[Part], list[Var]]:
    """The parts of a function in order, and its temporaries: memory that parts may share.

    Raises ValueError if parts pass on values outside of memory.
    """
    statements = statements_of(func.body)
    owners = owners_of(func.body)
    temporaries = [s.buffer for s in statements if isinstance(s, AllocBuffer)]
    if any(isinstance(s, Bind) for s in statements):
        raise ValueError("a value is passed on between the loops of a kernel")
    known = [*func.params, *temporaries]
    parts: list[Part] = []
    pending: list[Stmt] = []

    def close() -> None:
        if pending:
            parts.append(_part(tirx.SeqStmt(list(pending)) if len(pending) > 1 else pending[0], [], owners, known))
            pending.clear()

    for statement in statements:
        if isinstance(statement, AllocBuffer | DeclBuffer):
            continue
        loops = _independent_loops(statement, owners)
        if not loops:
            pending.append(statement)
            continue
        close()
        parts.append(_part(loops[-1].body, loops, owners, known))
    close()
    return _with_own_temporaries(parts, temporaries)


def _with_own_temporaries(parts: Sequence[Part], temporaries: Sequence[Var]) -> tuple[list[Part], list[Var]]:
    """Gives temporaries to the single work-item that alone uses them; the others remain memory."""
    own: dict[int, list[Var]] = {}
    for buffer in temporaries:
        users = [number for number, part in enumerate(parts) if buffer in part.buffers]
        if len(users) == 1 and parts[users[0]].serial and not is_hoisted(buffer):
            own.setdefault(users[0], []).append(buffer)
    found = []
    for number, part in enumerate(parts):
        taken = own.get(number, [])
        body = tirx.SeqStmt([*map(AllocBuffer, taken), part.body]) if taken else part.body
        found.append(replace(part, body=body, buffers=tuple(b for b in part.buffers if b not in taken)))
    private = {buffer for taken in own.values() for buffer in taken}
    return found, [buffer for buffer in temporaries if buffer not in private]


def _independent_loops(statement: Stmt, owners: Mapping[Var, Var]) -> list[For]:
    """The outermost loops of a nest whose iterations may run at the same time."""
    found: list[For] = []
    zeros: dict[Var, Expr] = {}
    while isinstance(statement, For) and isinstance(statement.extent, IntImm) and int(statement.min) == 0:
        loop = For(
            statement.loop_var, statement.min, statement.extent, statement.kind, substitute(statement.body, zeros)
        )
        if not is_independent(loop, owners, private=True):
            break
        found.append(statement)
        zeros[statement.loop_var] = statement.min * 0
        statement = statement.body
    return found


def _part(body: Stmt, loops: Sequence[For], owners: Mapping[Var, Var], known: Sequence[Var]) -> Part:
    items: list[Var] = []
    extents: list[int] = []
    wide = [loop for loop in loops if int(loop.extent) > 1]
    values = {loop.loop_var: tirx.const(0, str(loop.loop_var.ty.dtype)) for loop in loops if int(loop.extent) == 1}
    for loop in reversed(wide[max(len(wide) - 2, 0) :]):
        items.append(Var("xy"[len(items)], "int32"))
        extents.append(int(loop.extent))
        values[loop.loop_var] = _as_type_of(items[-1], loop.loop_var)
    if rest := wide[:-2]:
        items.append(Var("z", "int32"))
        extents.append(prod(int(loop.extent) for loop in rest))
        remaining = items[-1]
        for loop in reversed(rest):
            first = loop.same_as(rest[0])
            values[loop.loop_var] = _as_type_of(remaining if first else remaining % int(loop.extent), loop.loop_var)
            remaining = remaining // int(loop.extent)
    body = substitute(body, values)
    used = {owner for buffer in _accessed(body) for owner in (owners.get(buffer, buffer),)}
    buffers = tuple(b for b in known if b in used)
    return Part(body, tuple(items), tuple(extents), buffers)


def _as_type_of(value, variable: Var):
    dtype = str(variable.ty.dtype)
    return value if dtype == "int32" else value.astype(dtype)


def _accessed(body: Stmt) -> set[Var]:
    found: set[Var] = set()
    structural_walk(
        body,
        [(TensorLoad, lambda node: found.add(node.source)), (BufferStore, lambda node: found.add(node.buffer))],
    )
    return found


def spread(part: Part, local: Size) -> tuple[Stmt, Size]:
    """The body with its items read from the grid, and the global size for work-groups of `local` items.

    Work-items beyond the extents do nothing.
    """
    sizes = (*part.extents, *[1] * (3 - len(part.extents)))
    grid = tuple(-(-n // step) * step for n, step in zip(sizes, local, strict=True))
    binds: list[Stmt] = []
    inside = []
    for axis, item in enumerate(part.items):
        number = tirx.call_extern("int32", "get_global_id", tirx.const(axis, "int32"))
        binds.append(Bind(item, number))
        if grid[axis] != sizes[axis]:
            inside.append(item < sizes[axis])
    body = IfThenElse(tirx.all(*inside), part.body, None) if inside else part.body
    return tirx.SeqStmt([*binds, body]) if binds else body, grid  # type: ignore[return-value]
