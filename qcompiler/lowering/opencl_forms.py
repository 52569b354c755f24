"""From lowered TIR to the subset that TVM's OpenCL generator prints correctly.

The generator has four faults that this rewriting keeps away from: it turns a vector load whose offset is not provably a
multiple of its lanes into arithmetic on scalars (apache/tvm#5464), prints float constants with six digits, prints
shuffles in a syntax that is not OpenCL C, and leaves the result of max(NaN, x) open. Vectors in memory are accessed by
`vloadN` and `vstoreN`, which ask for the alignment of one element alone; float constants are given by their bits.

float16 becomes uint16, its bits, and what is done with it calls of the functions in `opencl_prelude`: so a device that
cannot compute in it can still read and write it. Only sums, products and the like are computed in float16.

Arithmetic is done in vectors of up to four lanes, as a work-item's registers are scalars of 32 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tvm import tirx
from tvm.ir import Call, Expr, Op, PrimType, StringImm, TensorLoad
from tvm.sym import Analyzer
from tvm.target.codegen import llvm_get_intrinsic_name
from tvm.tirx import (
    AllocBuffer,
    Bind,
    Broadcast,
    BufferLoad,
    BufferStore,
    Cast,
    DeclBuffer,
    Div,
    Evaluate,
    FloatImm,
    For,
    IfThenElse,
    IntImm,
    Let,
    Max,
    Min,
    Not,
    Ramp,
    Select,
    SeqStmt,
    Shuffle,
    Stmt,
    Var,
)
from tvm_ffi import structural_equal, structural_walk

from .contraction import ALLOW_CONTRACTION
from .float_loops import substitute

_ARITHMETIC_LANES = 4
_MOVED_LANES = 16
"""Most lanes of a vector that is only copied."""
_LANES = (16, 8, 4, 2, 1)
_LAZY = "prim.if_then_else"
_BINARY = tuple(
    getattr(tirx, name)
    for name in (
        *("Add", "Sub", "Mul", "Div", "Mod", "FloorDiv", "FloorMod", "Min", "Max"),
        *("LShift", "RShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor"),
        *("EQ", "NE", "LT", "LE", "GT", "GE", "And", "Or"),
    )
)
_LIBRARY = {
    f"{name}f": name
    for name in (
        *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "atan2"),
        *(
            "exp",
            "exp2",
            "log",
            "log2",
            "log10",
            "log1p",
            "erf",
            "pow",
            "sqrt",
            "floor",
            "ceil",
            "trunc",
            "round",
            "fmod",
        ),
    )
}
"""OpenCL's names of functions of the C library."""
HALF = "float16"
_IN_HALF = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Max": "max", "Min": "min"}
"""Operations that the prelude has for float16."""
_REDUCTIONS: dict[str, Callable[[Expr, Expr], Expr]] = {
    "llvm.vector.reduce.add": lambda a, b: a + b,
    "llvm.vector.reduce.umax": tirx.max,
    "llvm.vector.reduce.smax": tirx.max,
    "llvm.vector.reduce.umin": tirx.min,
    "llvm.vector.reduce.smin": tirx.min,
}


def type_name(dtype: str, lanes: int = 1) -> str:
    """OpenCL's name of a type."""
    names = {"int8": "char", "uint8": "uchar", "int16": "short", "uint16": "ushort", "int32": "int", "uint32": "uint"}
    names |= {"int64": "long", "uint64": "ulong", "float32": "float", "bool": "char"}
    return names[dtype] + (str(lanes) if lanes > 1 else "")


def to_opencl(func: tirx.PrimFunc, halves: Mapping[Var, Var]) -> Stmt:
    """The body of a function after `tirx.transform.VectorizeLoop`, in the forms above.

    Args:
        halves: for each float16 buffer in memory the buffer of uint16 that takes its place.

    Raises ValueError for an instruction that has no such form.
    """
    return _Rewriter(func.body, halves, exact=not func.attrs.get(ALLOW_CONTRACTION)).statement(func.body)


def in_memory(dtype: str) -> str:
    """The type of a buffer in the forms above."""
    return "uint16" if dtype == HALF else dtype


def lanes_of(value: Expr) -> int:
    return int(value.ty.dtype.lanes)


def scalar_type(value: Expr) -> str:
    """The type of a value's lanes."""
    return str(value.ty.dtype).partition("x")[0]


def _vector(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def _int32(value: int) -> Expr:
    return tirx.const(value, "int32")


class _Rewriter:
    """Rewrites one function; `exact` divides float32 with the rounding of IEEE 754."""

    def __init__(self, body: Stmt, halves: Mapping[Var, Var], *, exact: bool) -> None:
        self.exact = exact
        self.halves = dict(halves)
        self.private: dict[Var, Var] = {}
        """What takes the place of temporaries: arrays of vectors where all accesses are whole vectors, else scalars."""
        for buffer, lanes in _private_widths(body).items():
            size = -(-int(np.prod([int(n) for n in buffer.shape])) // lanes)
            self.private[buffer] = tirx.decl_buffer(
                (size,), _vector(in_memory(str(buffer.dtype)), lanes), buffer.name, scope="local"
            )

    # ----------------------------------------------------------------------------------------- statements

    def statement(self, node: Stmt) -> Stmt:
        if isinstance(node, SeqStmt):
            return _joined([self.statement(s) for s in node.seq])
        if isinstance(node, For):
            return For(
                node.loop_var, self.whole(node.min), self.whole(node.extent), node.kind, self.statement(node.body)
            )
        if isinstance(node, IfThenElse):
            other = None if node.else_case is None else self.statement(node.else_case)
            return IfThenElse(self.whole(node.condition), self.statement(node.then_case), other)
        if isinstance(node, Bind):
            if scalar_type(node.value) == HALF:
                self.halves[node.var] = Var(node.var.name, _vector(in_memory(HALF), lanes_of(node.value)))
            return Bind(self.halves.get(node.var, node.var), self.whole(node.value))
        if isinstance(node, BufferStore):
            return self._store(node)
        if isinstance(node, Evaluate):
            return Evaluate(self.whole(node.value)) if isinstance(node.value, Call) else node
        if isinstance(node, AllocBuffer):
            return AllocBuffer(self.private[node.buffer])
        if isinstance(node, DeclBuffer):
            return node
        raise ValueError(f"a statement of type {type(node).__name__} has no form in OpenCL")

    def _store(self, node: BufferStore) -> Stmt:
        (index,) = node.indices
        lanes = lanes_of(node.value)
        if (private := self.private.get(node.buffer)) is not None:
            return self._keep(node, private)
        memory = self.halves.get(node.buffer, node.buffer)
        if lanes == 1:
            return BufferStore(memory, self.whole(node.value), [self.whole(index)])
        contiguous = isinstance(index, Ramp) and _is_one(index.stride)
        moved = isinstance(node.value, TensorLoad | Broadcast)
        is_bool = scalar_type(node.value) == "bool"
        most = (_MOVED_LANES if moved else _ARITHMETIC_LANES) if contiguous and not is_bool else 1
        pieces = _pieces(lanes, most)
        values = [self.piece(node.value, start, n) for start, n in pieces]
        bound, values = self._before_storing(node, values)
        stores = []
        for (start, n), value in zip(pieces, values, strict=True):
            place = self.piece(index, start, 1)
            if n == 1:
                stores.append(BufferStore(memory, value, [place]))
            else:
                address = tirx.address_of(BufferLoad(memory, [place]))
                stores.append(Evaluate(tirx.call_extern("void", f"vstore{n}", value, _int32(0), address)))
        return _joined([*bound, *stores])

    def _before_storing(self, node: BufferStore, values: list[Expr]) -> tuple[list[Stmt], list[Expr]]:
        """Pieces of the stored value, computed before the first one is stored if that could change another."""
        if len(values) == 1 or not self._may_read_what_is_stored(node, node.indices[0]):
            return [], values
        variables = [Var("v", str(value.ty.dtype)) for value in values]
        return [Bind(variable, value) for variable, value in zip(variables, values, strict=True)], list(variables)

    def _keep(self, node: BufferStore, private: Var) -> Stmt:
        """A store to a temporary, by its vectors."""
        (index,) = node.indices
        width, lanes = int(private.dtype.lanes), lanes_of(node.value)
        pieces = [(start, width) for start in range(0, lanes, width)]
        values = [self.piece(node.value, start, n) for start, n in pieces]
        bound, values = self._before_storing(node, values)
        places = [_divided(self.piece(index, start, 1), width) for start, _ in pieces]
        stores = [BufferStore(private, value, [place]) for value, place in zip(values, places, strict=True)]
        return _joined([*bound, *stores])

    def _kept(self, private: Var, index: Expr, start: int, n: int) -> Expr:
        """Lanes of a temporary."""
        width = int(private.dtype.lanes)
        first = self.piece(index, start, 1)
        if n >= width:
            return _packed([BufferLoad(private, [_divided(first + i, width)]) for i in range(0, n, width)])
        base = self.piece(index, 0, 1) if isinstance(index, Ramp) else first
        whole = BufferLoad(private, [_divided(base + start // width * width, width)])
        return _part(whole, start % width, n)

    @staticmethod
    def _may_read_what_is_stored(node: BufferStore, index: Expr) -> bool:
        """Whether a piece may need an element that another piece stores."""
        own: list[bool] = []
        shuffles: list[Shuffle] = []

        def load(access: TensorLoad) -> None:
            if access.source.same_as(node.buffer):
                own.append(structural_equal(access.indices[0], index))

        structural_walk(node.value, [(TensorLoad, load), (Shuffle, shuffles.append)])
        return bool(own) and (bool(shuffles) or not all(own))

    # ---------------------------------------------------------------------------------------- expressions

    def whole(self, node: Expr) -> Expr:
        return self.piece(node, 0, lanes_of(node)) if isinstance(node.ty, PrimType) else node

    def piece(self, node: Expr, start: int, n: int) -> Expr:
        """Lanes `start` to `start + n` of a value."""
        lanes = lanes_of(node)
        if isinstance(node, IntImm | Var) and (start, n) == (0, lanes):
            return self.halves.get(node, node) if isinstance(node, Var) else node
        if isinstance(node, FloatImm):
            return _float_constant(float(node.value), scalar_type(node))
        if isinstance(node, TensorLoad):
            return self._load(node, start, n)
        if isinstance(node, Broadcast):
            value = self.piece(node.value, 0, 1)
            return value if n == 1 else Broadcast(value, n)
        if isinstance(node, Ramp):
            base, stride = self.whole(node.base), self.whole(node.stride)
            return _packed([base + stride * (start + i) if start + i else base for i in range(n)])
        if isinstance(node, Shuffle):
            return self._shuffle(node, start, n)
        if isinstance(node, Cast):
            if HALF in (scalar_type(node), scalar_type(node.value)):
                return self._converted(node, start, n)
            if n > 1 and scalar_type(node.value) == "bool":  # true is -1 in a vector of OpenCL, and 1 in a scalar
                return _packed([self.piece(node, start + i, 1) for i in range(n)])
            return self.piece(node.value, start, n).astype(_vector(scalar_type(node), n))
        if isinstance(node, Select):
            return self._select(node, start, n)
        if isinstance(node, Let):
            return self.piece(substitute(node.body, {node.var: node.value}), start, n)
        if isinstance(node, Not):
            return Not(self.piece(node.a, start, n))
        if isinstance(node, _BINARY):
            return self._binary(node, self.piece(node.a, start, n), self.piece(node.b, start, n))
        if isinstance(node, Call):
            return self._call(node, start, n)
        raise ValueError(f"lanes {start} to {start + n} of a {type(node).__name__} have no form in OpenCL")

    def _converted(self, node: Cast, start: int, n: int) -> Expr:
        """A conversion from or to float16, by way of float32."""
        value = self.piece(node.value, start, n)
        if scalar_type(node.value) == HALF:
            value = _from_half(value)
        elif scalar_type(node.value) != "float32":
            value = self.piece(Cast(_vector("float32", lanes_of(node.value)), node.value), start, n)
        if scalar_type(node) == HALF:
            return _to_half(value)
        return value if scalar_type(node) == "float32" else value.astype(_vector(scalar_type(node), n))

    def _binary(self, node: Expr, a: Expr, b: Expr) -> Expr:
        is_float = node.a.ty.dtype.is_float
        if scalar_type(node.a) == HALF:
            if (name := _IN_HALF.get(type(node).__name__)) is not None:
                return tirx.call_pure_extern(str(a.ty.dtype), f"qc_half_{name}{_suffix(lanes_of(a))}", a, b)
            a, b = _from_half(a), _from_half(b)
        if isinstance(node, Max | Min) and is_float:
            name = "fmax" if isinstance(node, Max) else "fmin"
            return tirx.call_pure_extern(str(a.ty.dtype), name, a, b)
        if isinstance(node, Div) and is_float and self.exact:
            return tirx.call_pure_extern(str(a.ty.dtype), f"qc_div{_suffix(lanes_of(a))}", a, b)
        return type(node)(a, b)

    def _load(self, node: TensorLoad, start: int, n: int) -> Expr:
        (index,) = node.indices
        memory = self.halves.get(node.source, node.source)
        if (private := self.private.get(node.source)) is not None:
            if lanes_of(index) > 1 and not (isinstance(index, Ramp) and _is_one(index.stride)):
                return _packed([BufferLoad(private, [self.piece(index, start + i, 1)]) for i in range(n)])
            return self._kept(private, index, start, n)
        if lanes_of(index) == 1:
            return BufferLoad(memory, [self.whole(index)])
        if n > 1 and isinstance(index, Ramp) and _is_one(index.stride):
            if n not in _LANES:
                return _packed([self._load(node, start + i, 1) for i in range(n)])
            address = tirx.address_of(BufferLoad(memory, [self.piece(index, start, 1)]))
            kind = _vector(in_memory(scalar_type(node)), n)
            return tirx.call_pure_extern(kind, f"vload{n}", _int32(0), address)
        return _packed([BufferLoad(memory, [self.piece(index, start + i, 1)]) for i in range(n)])

    def _shuffle(self, node: Shuffle, start: int, n: int) -> Expr:
        widths = [lanes_of(v) for v in node.vectors]
        places = [divmod_widths(int(i), widths) for i in list(node.indices)[start : start + n]]
        vector, first = places[0]
        if all(place == (vector, first + i) for i, place in enumerate(places)):
            return self.piece(node.vectors[vector], first, n)
        return _packed([self.piece(node.vectors[v], lane, 1) for v, lane in places])

    def _select(self, node: Select, start: int, n: int) -> Expr:
        condition = self.piece(node.condition, start if lanes_of(node.condition) > 1 else 0, 1)
        values = [self.piece(v, start, n) for v in (node.true_value, node.false_value)]
        if n == 1 or lanes_of(node.condition) == 1:
            return tirx.if_then_else(condition, *values)
        return _packed(
            [
                tirx.if_then_else(
                    self.piece(node.condition, start + i, 1),
                    self.piece(node.true_value, start + i, 1),
                    self.piece(node.false_value, start + i, 1),
                )
                for i in range(n)
            ]
        )

    def _call(self, node: Call, start: int, n: int) -> Expr:
        name = node.op.name if isinstance(node.op, Op) else ""
        if name in ("tirx.call_llvm_pure_intrin", "tirx.call_llvm_intrin"):
            return self._reduced(node)
        if name == "tirx.reinterpret":
            return self._reinterpret(node, start, n)
        if name == "tirx.call_pure_extern" and str(node.args[0].value).startswith("qc_"):
            arguments = [node.args[0], *map(self.whole, node.args[1:])]
            return _part(Call(node.op, arguments, node.attrs, node.ty_args, ret_ty=node.ty), start, n)
        arguments = []
        for position, argument in enumerate(node.args):
            if not isinstance(argument.ty, PrimType):
                text = getattr(argument, "value", None)
                arguments.append(StringImm(_LIBRARY[text]) if position == 0 and text in _LIBRARY else argument)
            else:
                value = self.piece(argument, start, n) if lanes_of(argument) > 1 else self.whole(argument)
                arguments.append(_from_half(value) if scalar_type(argument) == HALF and name != _LAZY else value)
        if not isinstance(node.ty, PrimType):
            return Call(node.op, arguments, node.attrs, node.ty_args, ret_ty=node.ty)
        by_float = scalar_type(node) == HALF and name != _LAZY  # functions are those of float32, rounded
        dtype = "float32" if by_float else in_memory(scalar_type(node))
        call = Call(node.op, arguments, node.attrs, node.ty_args, ret_ty=PrimType(_vector(dtype, n)))
        return _to_half(call) if by_float else call

    def _reduced(self, node: Call) -> Expr:
        """A call of one of LLVM's reductions of a vector."""
        name = str(llvm_get_intrinsic_name(int(node.args[0])))
        value = node.args[1]
        if (combine := _REDUCTIONS.get(name)) is None:
            raise ValueError(f"{name} has no form in OpenCL")
        total = self.piece(value, 0, 1)
        for lane in range(1, lanes_of(value)):
            total = combine(total, self.piece(value, lane, 1))
        return total

    def _reinterpret(self, node: Call, start: int, n: int) -> Expr:
        value, kind = node.args[0], in_memory(scalar_type(node))
        if lanes_of(value) == lanes_of(node):
            source = self.piece(value, start, n)
        elif lanes_of(node) == n:
            source = self.whole(value)
        else:
            return _packed([_lane(self.whole(node), start + i) for i in range(n)])
        return tirx.call_pure_extern(_vector(kind, n), f"as_{type_name(kind, n)}", source)


def divmod_widths(index: int, widths: Sequence[int]) -> tuple[int, int]:
    """The vector, and the lane in it, of an element of vectors one after the other."""
    for number, width in enumerate(widths):
        if index < width:
            return number, index
        index -= width
    raise ValueError(f"there is no lane {index} beyond the vectors")


def _lane(value: Expr, lane: int) -> Expr:
    return Shuffle([value], [_int32(lane)])


def _packed(values: Sequence[Expr]) -> Expr:
    """A vector of scalars, or of smaller vectors."""
    if len(values) == 1:
        return values[0]
    dtype, lanes = scalar_type(values[0]), sum(map(lanes_of, values))
    return tirx.call_pure_extern(_vector(dtype, lanes), f"({type_name(dtype, lanes)})", *values)


def _part(value: Expr, start: int, n: int) -> Expr:
    """Neighbouring lanes of a vector."""
    if n == lanes_of(value):
        return value
    if n == 1:
        return _lane(value, start)
    if n in _LANES and start % n == 0:
        return tirx.call_pure_extern(_vector(scalar_type(value), n), f"qc_lanes{n}_{start}", value)
    return _packed([_lane(value, start + i) for i in range(n)])


def _divided(index: Expr, width: int) -> Expr:
    return index if width == 1 else Analyzer().simplify(tirx.floordiv(index, width))


def _private_widths(body: Stmt) -> dict[Var, int]:
    """For each temporary the most lanes of a vector that all its accesses are whole and aligned multiples of."""
    widths: dict[Var, int] = {}
    structural_walk(body, (AllocBuffer, lambda node: widths.update({node.buffer: _MOVED_LANES})))
    analyzer = Analyzer()

    def limit(buffer: Var, index: Expr, most: int) -> None:
        if buffer not in widths:
            return
        contiguous = isinstance(index, Ramp) and _is_one(index.stride)
        most = min(most, widths[buffer], lanes_of(index) if contiguous else 1)
        while most > 1 and (
            most not in _LANES
            or lanes_of(index) % most
            or not analyzer.can_prove_equal(tirx.floormod(index.base, most), 0)
        ):
            most -= 1
        widths[buffer] = most

    def load(node: TensorLoad) -> None:
        limit(node.source, node.indices[-1], _MOVED_LANES)

    def store(node: BufferStore) -> None:
        moved = isinstance(node.value, TensorLoad | Broadcast)
        limit(node.buffer, node.indices[-1], _MOVED_LANES if moved else _ARITHMETIC_LANES)

    structural_walk(body, [(TensorLoad, load), (BufferStore, store)])
    return widths


def _float_constant(value: float, dtype: str) -> Expr:
    if dtype == "float64":
        raise ValueError("devices have no float64")
    if dtype == HALF:
        return tirx.const(int(np.float16(value).view(np.uint16)), in_memory(HALF))
    bits = int(np.float32(value).view(np.uint32))
    return tirx.call_pure_extern(dtype, f"as_{type_name(dtype)}", tirx.const(bits, "uint32"))


def _from_half(value: Expr) -> Expr:
    """float32 for the bits of float16."""
    n = lanes_of(value)
    return tirx.call_pure_extern(_vector("float32", n), f"qc_from_half{_suffix(n)}", value)


def _to_half(value: Expr) -> Expr:
    """The bits of the nearest float16."""
    n = lanes_of(value)
    return tirx.call_pure_extern(_vector(in_memory(HALF), n), f"qc_to_half{_suffix(n)}", value)


def _is_one(stride: Expr) -> bool:
    return isinstance(stride, IntImm) and int(stride) == 1


def _pieces(lanes: int, most: int) -> list[tuple[int, int]]:
    """Where pieces of at most `most` lanes, each of a legal length, start."""
    found, start = [], 0
    while start < lanes:
        n = next(n for n in _LANES if n <= min(most, lanes - start))
        found.append((start, n))
        start += n
    return found


def _suffix(lanes: int) -> str:
    return str(lanes) if lanes > 1 else ""


def _joined(statements: Sequence[Stmt]) -> Stmt:
    return statements[0] if len(statements) == 1 else SeqStmt(list(statements))
