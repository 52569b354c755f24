"""Which loops of a kernel several threads may share.

Before a kernel is lowered, `mark_parallel` marks the outermost loop of each nest that does enough work, joined with
the loops inside it while it has few iterations. After lowering, `keep_independent` leaves the mark where the
iterations can be proven not to depend on each other. `parts_of` then cuts the function into parts: a part is one such
loop, or what stands between two of them. All threads finish a part before the next one begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from tvm.ir import Call, Expr, Op, PointerType, Range, TensorLoad
from tvm.s_tir import SBlock, SBlockRealize
from tvm.sym import Analyzer
from tvm.target.codegen import llvm_lookup_intrinsic_id
from tvm.tirx import (
    AllocBuffer,
    Bind,
    BufferStore,
    DeclBuffer,
    For,
    ForKind,
    IfThenElse,
    IntImm,
    IterVar,
    PrimFunc,
    Ramp,
    SeqStmt,
    Stmt,
    Var,
    const,
)
from tvm_ffi import structural_map, structural_walk

from .float_loops import substitute, variables
from .hoist import is_hoisted

_ENOUGH_WORK = 1 << 15
"""Vectors read and written and operations called by a nest that is worth sharing; about 10 microseconds."""
_ENOUGH_TASKS = 16
"""Iterations that a shared loop should have, so that a few threads get equal shares."""


def mark_parallel(func: PrimFunc) -> PrimFunc:
    """Marks the outermost loop of each nest of a scheduled function that is worth sharing among threads."""
    if not isinstance(func.body, SBlockRealize):
        return func.with_body(_joined([_marked(statement) for statement in statements_of(func.body)]))
    root = func.body.block
    marked = [_marked(statement) for statement in statements_of(root.body)]
    block = SBlock(
        root.iter_vars,
        root.reads,
        root.writes,
        root.name_hint,
        _joined(marked),
        root.init,
        root.alloc_buffers,
        root.match_buffers,
        root.annotations,
    )
    return func.with_body(SBlockRealize(func.body.iter_values, func.body.predicate, block))


def _marked(nest: Stmt) -> Stmt:
    loops, inner = [], nest
    while isinstance(inner, For) and prod(_extent(loop) for loop in loops) < _ENOUGH_TASKS and _is_spatial(inner):
        loops.append(inner)
        inner = inner.body
    total = prod(_extent(loop) for loop in loops)
    if total == 1 or total * _work(inner) < _ENOUGH_WORK:
        return nest
    shared = Var("shared", loops[0].loop_var.ty)
    values: dict[Var, Expr] = {}
    rest: Expr = shared
    for loop in reversed(loops):
        values[loop.loop_var] = rest if loop.same_as(loops[0]) else rest % _extent(loop)
        rest = rest // _extent(loop)
    extent = const(total, str(shared.ty.dtype))
    return For(shared, loops[0].min, extent, ForKind.PARALLEL, substitute(inner, values))


def _is_spatial(loop: Stmt) -> bool:
    """Whether a loop starts at 0, has a constant extent, and no block inside reduces along it."""
    reducing = []

    def visit(realize: SBlockRealize) -> None:
        for value, axis in zip(realize.iter_values, realize.block.iter_vars, strict=True):
            if axis.iter_type != IterVar.DataPar and loop.loop_var in variables(value):
                reducing.append(axis)

    structural_walk(loop.body, (SBlockRealize, visit))
    plain = loop.kind in (ForKind.SERIAL, ForKind.PARALLEL) and not loop.annotations
    return plain and isinstance(loop.extent, IntImm) and int(loop.min) == 0 and not reducing


def _work(statement: Stmt) -> int:
    """Vectors read and written, and calls, in one execution of a statement; both branches of a condition count."""
    if isinstance(statement, SeqStmt):
        return sum(map(_work, statement.seq))
    if isinstance(statement, SBlockRealize):
        return _work(statement.block.body)
    if isinstance(statement, For):
        once = statement.kind == ForKind.VECTORIZED or not isinstance(statement.extent, IntImm)
        return _work(statement.body) * (1 if once else _extent(statement))
    if isinstance(statement, IfThenElse):
        return _work(statement.then_case) + (_work(statement.else_case) if statement.else_case is not None else 0)
    found = []
    structural_walk(statement, ((TensorLoad, BufferStore, Call), lambda node: found.append(node)))
    return len(found)


def keep_independent(func: PrimFunc) -> PrimFunc:
    """Makes marked loops of a lowered function serial unless threads may share them.

    They may if no iteration reads what another one writes. Two may write the same place, as vectors that overlap at
    the end of a row do: they store the same values. What an iteration writes for its own use has to be allocated in
    it, on the stack.
    """
    statements = statements_of(func.body)
    owners = owners_of(func.body)
    local = {s.buffer for s in statements if isinstance(s, AllocBuffer) and not is_hoisted(s.buffer)}
    used = [local & Accesses(s, owners).buffers for s in statements]
    kept = []
    for statement, temporaries in zip(statements, used, strict=True):
        new = _serial(statement)
        if is_shared(statement) and not temporaries and is_independent(new, owners):
            new = _of_kind(new, ForKind.PARALLEL)
        kept.append(new)
    # Parts share nothing that lies on the stack, nor values read between them.
    passed_on = sum(map(len, used)) > len(set().union(*used))
    if passed_on or any(isinstance(s, Bind) and Accesses(s, owners).buffers for s in statements):
        return without_marks(func)
    return func.with_body(_joined(kept))


def without_marks(func: PrimFunc) -> PrimFunc:
    """Makes all parallel loops serial."""
    return func.with_body(_serial(func.body))


def parts_of(body: Stmt) -> tuple[list[Stmt], list[list[Stmt]]]:
    """Declarations, and the parts: shared loops, each alone, and runs of other statements."""
    declarations: list[Stmt] = []
    parts: list[list[Stmt]] = []
    for statement in statements_of(body):
        if isinstance(statement, AllocBuffer | DeclBuffer | Bind):
            declarations.append(statement)
            continue
        if not parts or is_shared(statement) or is_shared(parts[-1][-1]):
            parts.append([])
        parts[-1].append(statement)
    return declarations, parts


def is_shared(statement: Stmt) -> bool:
    """Whether a statement is a loop that threads may share."""

    return isinstance(statement, For) and statement.kind == ForKind.PARALLEL


def share_of(loop: For, task: Var, tasks: Var) -> For:
    """The iterations of a loop that fall to task number `task` of `tasks`: of equal size, or one more."""

    def bound(index: Expr) -> Expr:
        return (index.astype("int64") * _extent(loop) // tasks.astype("int64")).astype(str(loop.loop_var.ty.dtype))

    first = bound(task)
    return For(loop.loop_var, first, bound(task + 1) - first, ForKind.SERIAL, loop.body)


class Accesses:
    """What a statement does with memory, by buffer; views count for the buffer that they show."""

    def __init__(self, statement: Stmt, owners: Mapping[Var, Var]) -> None:
        self.read: dict[Var, list[Expr]] = {}
        self.written: dict[Var, list[Expr]] = {}
        self.allocated: set[Var] = set()
        self.loops: list[For] = []
        self.bound: dict[Var, Expr] = {}
        self.opaque = False
        """Whether anything gets a pointer, beside instructions that fetch ahead."""

        def load(node: TensorLoad) -> None:
            self.read.setdefault(owners.get(node.source, node.source), []).append(node.indices[-1])

        def store(node: BufferStore) -> None:
            self.written.setdefault(owners.get(node.buffer, node.buffer), []).append(node.indices[-1])

        def call(node: Call) -> None:
            if any(isinstance(argument.ty, PointerType) for argument in node.args) and not _is_prefetch(node):
                self.opaque = True

        def bind(node: Bind) -> None:
            self.bound[node.var] = substitute(node.value, self.bound)

        structural_walk(
            statement,
            [
                (TensorLoad, load),
                (BufferStore, store),
                (Call, call),
                (Bind, bind),
                (AllocBuffer, lambda node: self.allocated.add(node.buffer)),
                (For, self.loops.append),
            ],
        )

    @property
    def buffers(self) -> set[Var]:
        return {*self.read, *self.written}


def is_independent(loop: For, owners: Mapping[Var, Var], *, private: bool = False) -> bool:
    """Whether no iteration reads what another one writes; with `private`, each has whatever it allocates to itself."""
    accesses = Accesses(loop.body, owners)
    if accesses.opaque or (not private and any(map(is_hoisted, accesses.allocated))):
        return False
    both = accesses.read.keys() & accesses.written.keys() - accesses.allocated
    return all(_is_apart(loop, accesses, [*accesses.read[b], *accesses.written[b]]) for b in both)


def _is_apart(loop: For, accesses: Accesses, indices: Sequence[Expr]) -> bool:
    """Whether no two iterations touch the same element of a buffer that is accessed at `indices`.

    They do not if every index is `step * iteration + rest`, and the rests span fewer elements than a step.
    """

    analyzer = Analyzer()
    for inner in accesses.loops:
        analyzer.bind(inner.loop_var, Range.from_min_extent(inner.min, inner.extent))
    variable, zero = loop.loop_var, loop.min * 0
    steps, least, most = set(), [], []
    for index in indices:
        first, width = (index.base, int(index.lanes) * int(index.stride)) if isinstance(index, Ramp) else (index, 1)
        first = substitute(first, accesses.bound)
        rest = analyzer.simplify(substitute(first, {variable: zero}))
        step = analyzer.simplify(substitute(first, {variable: variable + 1}) - first)
        if not isinstance(step, IntImm) or width < 1:
            return False
        bound = analyzer.const_int_bound(rest)
        steps.add(abs(int(step)))
        least.append(bound.min_value)
        most.append(bound.max_value + width)
    return len(steps) == 1 and max(most) - min(least) <= steps.pop()


def owners_of(body: Stmt) -> dict[Var, Var]:
    """For each view of a buffer, the buffer."""

    owners: dict[Var, Var] = {}

    def declare(node: DeclBuffer) -> None:
        found: list[Var] = []
        structural_walk(node.data, (Var, lambda var: found.append(var)))
        owners[node.buffer] = owners.get(found[0], found[0])

    structural_walk(body, (DeclBuffer, declare))
    return owners


def _is_prefetch(call: Call) -> bool:
    intrinsic = call.op.same_as(Op.get("tirx.call_llvm_intrin"))
    return intrinsic and int(call.args[0]) == llvm_lookup_intrinsic_id("llvm.prefetch")


def statements_of(body: Stmt) -> list[Stmt]:
    """The statements that follow each other in a body."""
    return [s for part in body.seq for s in statements_of(part)] if isinstance(body, SeqStmt) else [body]


def _joined(statements: Sequence[Stmt]) -> Stmt:
    return statements[0] if len(statements) == 1 else SeqStmt(list(statements))


def _serial(statement: Stmt) -> Stmt:
    def change(loop: For) -> For:
        return _of_kind(loop, ForKind.SERIAL) if loop.kind == ForKind.PARALLEL else loop

    return structural_map(statement, (For, change))


def _of_kind(loop: For, kind: int) -> For:
    return For(loop.loop_var, loop.min, loop.extent, kind, loop.body)


def _extent(loop: For) -> int:
    return int(loop.extent)
