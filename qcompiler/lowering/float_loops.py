"""Loop nests over flat buffers: how an element-wise block or a reduction of a float function becomes vector code.

A block of a PrimFunc is read as a `Nest` (axes, one store, its value). All buffers become one-dimensional, so that an
access is one offset whose dependence on an axis is a single coefficient. From these coefficients follows which axes
can be fused, which axis is contiguous and can hold the vector lanes, and where padding or concatenation splits a loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from math import prod

import tvm
from tvm import tirx
from tvm.ir import TensorLoad
from tvm.sym import Analyzer
from tvm.tirx import AllocBuffer, BufferLoad, BufferStore, Evaluate, For, ForKind, IntImm, SeqStmt
from tvm_ffi import structural_map

from .float_math import expand_calls, is_vectorizable

Expr = tvm.ir.Expr
Var = tirx.Var
Stmt = tirx.Stmt

MAX_PIECES = 64
"""Most pieces a nest is split into where its value is defined by cases."""


def index(value: int) -> Expr:
    """An offset or extent."""
    return tirx.const(value, "int64")


@dataclass(frozen=True, eq=False)
class Axis:
    var: Var
    extent: int


@dataclass(frozen=True, eq=False)
class Nest:
    """`buffer[offset] = value` over all spatial axes; with reduction axes the value is applied again and again.

    In a reduction `value` reads `buffer[offset]`, which starts at `init`.
    """

    spatial: tuple[Axis, ...]
    reduction: tuple[Axis, ...]
    buffer: Var
    offset: Expr
    value: Expr
    init: Expr | None = None

    @property
    def axes(self) -> tuple[Axis, ...]:
        return (*self.spatial, *self.reduction)


@dataclass
class Layout:
    """Where the elements of each original buffer lie in a one-dimensional one."""

    flat: dict[Var, Var] = field(default_factory=dict)
    strides: dict[Var, tuple[int, ...]] = field(default_factory=dict)

    def add(self, buffer: Var, *, strides: Sequence[int] | None = None, size: int | None = None) -> Var:
        """Declares the flat form of `buffer`: row-major, or with the given strides and size in elements."""
        shape = [int(extent) for extent in buffer.shape]
        if strides is None:
            strides = [prod(shape[i + 1 :]) for i in range(len(shape))]
        flat = tirx.decl_buffer((size or prod(shape),), str(buffer.dtype), buffer.name)
        self.flat[buffer] = flat
        self.strides[buffer] = tuple(strides)
        return flat

    def apply(self, node):
        """`node` with every access to an original buffer replaced by one to its flat form."""

        def offset(buffer: Var, indices: Sequence[Expr]) -> list[Expr]:
            terms = zip(indices, self.strides[buffer], strict=True)
            return [sum((i.astype("int64") * index(s) for i, s in terms), index(0))]

        def load(access: TensorLoad):
            flat = self.flat.get(access.source)
            return access if flat is None else BufferLoad(flat, offset(access.source, access.indices))

        def store(access: BufferStore):
            flat = self.flat.get(access.buffer)
            return access if flat is None else BufferStore(flat, access.value, offset(access.buffer, access.indices))

        return structural_map(node, [(TensorLoad, load), (BufferStore, store)])


def substitute(node, values: dict[Var, Expr]):
    return structural_map(node, (Var, lambda var: values.get(var, var)))


def variables(node: Expr) -> set[Var]:
    found: set[Var] = set()
    structural_map(node, (Var, lambda var: found.add(var) or var))
    return found


def loads(node: Expr) -> list[TensorLoad]:
    found: list[TensorLoad] = []
    structural_map(node, (TensorLoad, lambda load: found.append(load) or load))
    return found


def coefficient(expr: Expr, var: Var) -> int | None:
    """`c` where `expr` is `c * var` plus terms free of `var`; None where it is not of that form."""
    if isinstance(expr, Var):
        return int(expr.same_as(var))
    if isinstance(expr, IntImm):
        return 0
    if isinstance(expr, (tirx.Add, tirx.Sub)):
        a, b = coefficient(expr.a, var), coefficient(expr.b, var)
        if a is None or b is None:
            return None
        return a + b if isinstance(expr, tirx.Add) else a - b
    if isinstance(expr, tirx.Mul) and isinstance(expr.b, IntImm):
        a = coefficient(expr.a, var)
        return None if a is None else a * int(expr.b)
    return None if var in variables(expr) else 0


def simplify(nest: Nest) -> Nest:
    """Resolves the cases of the value that its axes' ranges decide, and brings every offset to its simplest form."""
    analyzer = Analyzer()
    for axis in nest.axes:
        analyzer.bind(axis.var, tvm.ir.Range(index(0), index(axis.extent)))

    def decide(node):
        while True:
            if isinstance(node, tirx.Select):
                condition, chosen, other = node.condition, node.true_value, node.false_value
            elif isinstance(node, tvm.ir.Call) and node.op.same_as(_IF_THEN_ELSE):
                condition, chosen, other = node.args
            else:
                return node
            known = analyzer.simplify(condition)
            if not isinstance(known, IntImm):
                return node
            node = chosen if int(known) else other

    def load(access: TensorLoad):
        return BufferLoad(access.source, [analyzer.simplify(access.indices[0])])

    value = structural_map(nest.value, [((tirx.Select, tvm.ir.Call), decide)], order="pre")
    value = structural_map(value, (TensorLoad, load))
    return replace(nest, value=value, offset=analyzer.simplify(nest.offset))


_IF_THEN_ELSE = tvm.ir.Op.get("prim.if_then_else")


def split_cases(nest: Nest) -> Iterator[Nest]:
    """Splits axes where a comparison in the value changes its outcome, so that each piece has one case."""
    cuts = {axis.var: {0, axis.extent} for axis in nest.spatial}

    def compare(node):
        smaller, larger = (node.a, node.b) if isinstance(node, (tirx.LT, tirx.LE)) else (node.b, node.a)
        strict = isinstance(node, (tirx.LT, tirx.GT))
        difference = smaller - larger
        used = variables(difference)
        if len(used) == 1 and (var := used.pop()) in cuts and (c := coefficient(difference, var)):
            rest = Analyzer().simplify(substitute(difference, {var: index(0)}))
            if isinstance(rest, IntImm):
                # The condition is c*v + k < 0.
                k = int(rest) - (0 if strict else 1)
                cuts[var].add(-(k // c) if c > 0 else k // -c + 1)
        return node

    structural_map(nest.value, ((tirx.LT, tirx.LE, tirx.GT, tirx.GE), compare))
    ranges = [list(pairwise(sorted(cut for cut in cuts[axis.var] if 0 <= cut <= axis.extent))) for axis in nest.spatial]
    if prod(len(r) for r in ranges) > MAX_PIECES:
        ranges[:-1] = [[(0, axis.extent)] for axis in nest.spatial[:-1]]
    for piece in product(*ranges):
        axes = tuple(Axis(axis.var, hi - lo) for axis, (lo, hi) in zip(nest.spatial, piece, strict=True))
        moved = {axis.var: axis.var + index(lo) for axis, (lo, _) in zip(axes, piece, strict=True) if lo}
        moved_nest = replace(nest, spatial=axes)
        if moved:
            moved_nest = replace(moved_nest, value=substitute(nest.value, moved), offset=substitute(nest.offset, moved))
        yield simplify(moved_nest)


def fuse_axes(nest: Nest) -> Nest:
    """Fuses neighbouring axes wherever all accesses run through both as through one; drops axes of one step."""
    nest = _fuse(_fuse(nest, "spatial"), "reduction")
    if nest.init is None or nest.reduction:
        return nest
    start = (TensorLoad, lambda load: nest.init if load.source.same_as(nest.buffer) else load)
    return replace(nest, value=structural_map(nest.value, start), init=None)


def _fuse(nest: Nest, kind: str) -> Nest:
    axes = [axis for axis in getattr(nest, kind) if axis.extent != 1]
    unit = {axis.var: index(0) for axis in getattr(nest, kind) if axis.extent == 1}
    nest = replace(nest, offset=substitute(nest.offset, unit), value=substitute(nest.value, unit))
    accesses = [nest.offset] + [load.indices[0] for load in loads(nest.value)]
    outside = variables(structural_map(nest.value, (TensorLoad, lambda load: tirx.const(0, str(load.ty))), order="pre"))
    fused: list[Axis] = []
    for axis in axes:
        if fused and fused[-1].var not in outside and axis.var not in outside:
            outer = fused[-1]
            pairs = [(coefficient(a, outer.var), coefficient(a, axis.var)) for a in accesses]
            if all(o is not None and i is not None and o == i * axis.extent for o, i in pairs):
                zero = {outer.var: index(0)}
                nest = replace(nest, offset=substitute(nest.offset, zero), value=substitute(nest.value, zero))
                accesses = [substitute(a, zero) for a in accesses]
                fused[-1] = Axis(axis.var, outer.extent * axis.extent)
                continue
        fused.append(axis)
    return simplify(replace(nest, **{kind: tuple(fused)}))


def serial(axes: Sequence[Axis], body: Stmt) -> Stmt:
    for axis in reversed(axes):
        body = For(axis.var, index(0), index(axis.extent), ForKind.SERIAL, body)
    return body


def sequence(statements: Sequence[Stmt]) -> Stmt:
    if not statements:
        return Evaluate(index(0))
    return statements[0] if len(statements) == 1 else SeqStmt(list(statements))


def chunks(extent: int, lanes: int, unroll: int) -> Iterator[tuple[int, int, int]]:
    """Covers `extent` by (start, width, count): as many of the widest vectors as fit, narrower ones, then a rest."""
    start = 0
    width = lanes * unroll
    while width >= lanes:
        if count := (extent - start) // width:
            yield start, width, count
            start += count * width
        width //= 2
    if start < extent:
        yield start, extent - start, 1


def emit(nest: Nest, lanes: int) -> Stmt:
    """Code for the nest, by the first rule that applies.

    Args:
        lanes: float32 values in one vector register; a nest that computes in float16 takes twice as many.
    """
    lanes *= 2 if _computes_in_float16(nest.value) else 1
    pieces = [simplify(nest)] if nest.reduction else list(split_cases(nest))
    return sequence([_emit_piece(fuse_axes(piece), lanes) for piece in pieces])


SINGLE = 0
"""In place of the size of a vector register: code in which every result stands alone."""


def emit_single(nest: Nest) -> Stmt:
    """Plain loops over the results; each is summed up, or otherwise reduced, in a register of its own.

    Neighbours that are computed in float16 stand in vectors of four or two, as their registers hold two.
    """
    nest = fuse_axes(simplify(nest))
    update = _split_update(nest) if nest.reduction else None
    if update is None:
        return _pairs(nest) or _scalar(nest)
    operator, operand = update
    total = tirx.decl_buffer((1,), str(nest.buffer.dtype), "total", scope="local")
    own = BufferLoad(total, [index(0)])
    reduce = sequence(_assign(total, index(0), operator(own, operand), index(0), 1))
    body = [
        AllocBuffer(total),
        BufferStore(total, nest.init, [index(0)]),
        serial(nest.reduction, reduce),
        BufferStore(nest.buffer, own, [nest.offset]),
    ]
    return serial(nest.spatial, sequence(body))


def _pairs(nest: Nest) -> Stmt | None:
    """Vectors of float16 that cover the last axis; None where nothing is computed in it or no vector fits."""
    if nest.reduction or not nest.spatial or not _computes_in_float16(nest.value):
        return None
    lanes = next((n for n in (4, 2) if nest.spatial[-1].extent % n == 0), None)
    return None if lanes is None else _elementwise(nest, lanes)


def _computes_in_float16(value: Expr) -> bool:
    """Whether a value does more with float16 than to load and convert it."""
    found = []

    def visit(node: Expr) -> Expr:
        if str(node.ty) == "float16":
            found.append(node)
        return node

    structural_map(value, ((tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Max, tirx.Min, tvm.ir.Call), visit))
    return bool(found)


def _emit_piece(nest: Nest, lanes: int) -> Stmt:
    rules = (_lanes_over_reduction, _lanes_over_space) if nest.reduction else (_elementwise,)
    for rule in rules:
        if (statement := rule(nest, lanes)) is not None:
            return statement
    return _scalar(nest)


def _contiguous(nest: Nest, axis: Axis) -> bool:
    """Whether all loads run along `axis` with step 1, or stay in place."""
    return all(coefficient(load.indices[0], axis.var) in (0, 1) for load in loads(nest.value))


def _assign(buffer: Var, offset: Expr, value: Expr, lane: Expr, width: int) -> list[Stmt]:
    statements, value = expand_calls(value, lane, width)
    return [*statements, BufferStore(buffer, value, [offset])]


def _vector_loop(axis: Axis, start: int, width: int, count: int, body) -> Stmt:
    """Loops over `count` vectors of `width` positions of `axis` from `start`.

    Args:
        body: gives the statements for a position on the axis, which holds the lane index, that index, and the width.
    """
    lane = Var("lane", "int64")
    step = Var(axis.var.name, "int64")
    position = index(start) + step * index(width) + lane if count > 1 else index(start) + lane
    statements = body(position, lane, width)
    # The vectorizer would give an allocation inside the loop one copy for each lane.
    allocations = [s for s in statements if isinstance(s, AllocBuffer)]
    inner = sequence([s for s in statements if not isinstance(s, AllocBuffer)])
    if width == 1:
        inner = substitute(inner, {lane: index(0)})
    else:
        inner = For(lane, index(0), index(width), ForKind.VECTORIZED, inner)
    inner = sequence([*allocations, inner])
    if count == 1:
        return inner
    return For(step, index(0), index(count), ForKind.SERIAL, inner)


def _elementwise(nest: Nest, lanes: int) -> Stmt | None:
    """Lanes over the contiguous last axis."""
    if not nest.spatial:
        return None
    *outer, last = nest.spatial
    if coefficient(nest.offset, last.var) != 1 or not is_vectorizable(nest.value) or not _contiguous(nest, last):
        return None

    def body(position: Expr, lane: Var, width: int) -> list[Stmt]:
        at = {last.var: position}
        return _assign(nest.buffer, substitute(nest.offset, at), substitute(nest.value, at), lane, width)

    loops = [_vector_loop(last, *chunk, body) for chunk in chunks(last.extent, lanes, 1)]
    return serial(outer, sequence(loops))


def _split_update(nest: Nest) -> tuple[type, Expr] | None:
    """The operator and operand of a reduction `x = operator(x, operand)`."""
    value = nest.value
    if not isinstance(value, (tirx.Add, tirx.Mul, tirx.Max, tirx.Min)):
        return None
    for own, operand in ((value.a, value.b), (value.b, value.a)):
        if isinstance(own, TensorLoad) and own.source.same_as(nest.buffer):
            if any(load.source.same_as(nest.buffer) for load in loads(operand)):
                return None
            return type(value), operand
    return None


def _lanes_over_space(nest: Nest, lanes: int) -> Stmt | None:
    """A reduction for many neighbouring results at once, kept in registers."""
    update = _split_update(nest)
    if update is None or not nest.spatial or not is_vectorizable(nest.value):
        return None
    operator, operand = update
    *outer, last = nest.spatial
    if last.extent < 2 or coefficient(nest.offset, last.var) != 1 or not _contiguous(nest, last):
        return None
    loops = []
    for start, width, count in chunks(last.extent, lanes, 4):
        total = tirx.decl_buffer((width,), str(nest.buffer.dtype), "total", scope="local")
        step = Axis(Var(last.var.name, "int64"), count)
        base = index(start) + step.var * index(width)
        whole = Axis(last.var, width)

        def reset(position: Expr, lane: Var, width: int, total=total) -> list[Stmt]:
            return [BufferStore(total, nest.init, [lane])]

        def accumulate(position: Expr, lane: Var, width: int, total=total, base=base) -> list[Stmt]:
            value = operator(BufferLoad(total, [lane]), substitute(operand, {last.var: base + lane}))
            return _assign(total, lane, value, lane, width)

        def finish(position: Expr, lane: Var, width: int, total=total, base=base) -> list[Stmt]:
            offset = substitute(nest.offset, {last.var: base + lane})
            return [BufferStore(nest.buffer, BufferLoad(total, [lane]), [offset])]

        reduction = serial(nest.reduction, _vector_loop(whole, 0, width, 1, accumulate))
        body = [AllocBuffer(total), _vector_loop(whole, 0, width, 1, reset), reduction]
        body.append(_vector_loop(whole, 0, width, 1, finish))
        loops.append(serial([step], sequence(body)))
    return serial(outer, sequence(loops))


def _lanes_over_reduction(nest: Nest, lanes: int) -> Stmt | None:
    """A reduction along a contiguous axis: one partial result per lane, combined pairwise at the end."""
    update = _split_update(nest)
    if update is None or not is_vectorizable(nest.value):
        return None
    operator, operand = update
    *outer, last = nest.reduction
    if last.extent < lanes or not _contiguous(nest, last):
        return None
    if all(coefficient(load.indices[0], last.var) == 0 for load in loads(operand)):
        return None
    pieces = list(chunks(last.extent, lanes, 4))
    width = max(width for _, width, _ in pieces)
    total = tirx.decl_buffer((width,), str(nest.buffer.dtype), "total", scope="local")

    def reset(position: Expr, lane: Var, width: int) -> list[Stmt]:
        return [BufferStore(total, nest.init, [lane])]

    def accumulate(position: Expr, lane: Var, width: int) -> list[Stmt]:
        value = operator(BufferLoad(total, [lane]), substitute(operand, {last.var: position}))
        return _assign(total, lane, value, lane, width)

    def combine(half: int):
        def body(position: Expr, lane: Var, width: int) -> list[Stmt]:
            value = operator(BufferLoad(total, [lane]), BufferLoad(total, [lane + index(half)]))
            return [BufferStore(total, value, [lane])]

        return body

    body: list[Stmt] = [AllocBuffer(total), _vector_loop(last, 0, width, 1, reset)]
    body.append(serial(outer, sequence([_vector_loop(last, *piece, accumulate) for piece in pieces])))
    half = width // 2
    while half:
        body.append(_vector_loop(last, 0, half, 1, combine(half)))
        half //= 2
    body.append(BufferStore(nest.buffer, BufferLoad(total, [index(0)]), [nest.offset]))
    return serial(nest.spatial, sequence(body))


def _scalar(nest: Nest) -> Stmt:
    """Plain loops; applies to everything."""
    body: Stmt = sequence(_assign(nest.buffer, nest.offset, nest.value, index(0), 1))
    if nest.reduction:
        start = BufferStore(nest.buffer, nest.init, [nest.offset])
        body = sequence([start, serial(nest.reduction, body)])
    return serial(nest.spatial, body)
