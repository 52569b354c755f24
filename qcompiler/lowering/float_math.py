"""Elementary functions of float32 in vector arithmetic; LLVM would call the C library once for each lane.

Largest errors, over all magnitudes, with fused multiply-adds or without: `exp` 1.1 units in the last place, `erf` 1.2,
`tanh` 1.5, `sigmoid` 2.4. Infinities, NaN and results below the smallest normal number come out as in the C library.

The polynomials of `exp` are Taylor's; those of `erf` and `tanh` are least-squares fits, reweighted to equal ripple, of
`erf(x)/x - 1` in `x^2` on |x| < 0.9, of `log(erfc(x))` on 0.9 <= x <= 4, and of `(tanh(x) - x)/x^3` in `x^2` on
|x| < 0.35.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import factorial

import tvm
from tvm import tirx
from tvm.tirx import AllocBuffer, BufferLoad, BufferStore, Select
from tvm_ffi import structural_map

Expr = tvm.ir.Expr
Stmt = tirx.Stmt

_EXP = [1 / factorial(k) for k in range(2, 8)]
_ERF_SMALL = [0.128379151, -0.376125336, 0.112822302, -0.0267819576, 0.00501622818, -0.000611129159]
_ERF_LARGE = [
    -0.000166439073,
    -1.12779725,
    -0.636976004,
    -0.104113743,
    0.0223152488,
    -0.00306549994,
    0.000198220703,
]
_TANH_SMALL = [-0.333333343, 0.133333281, -0.0539640747, 0.0217679106, -0.00786361378]


def _real(value: float) -> Expr:
    return tirx.const(value, "float32")


class Bindings:
    """Intermediate values in small local buffers, one element for each lane, which LLVM keeps in registers.

    TVM's simplifier would copy the value of a `Bind` to each of its uses.
    """

    def __init__(self, lane: Expr, width: int) -> None:
        self.lane = lane
        self.width = width
        self.statements: list[Stmt] = []

    def __call__(self, value: Expr, dtype: str = "float32") -> Expr:
        buffer = tirx.decl_buffer((self.width,), dtype, "t", scope="local")
        self.statements += [AllocBuffer(buffer), BufferStore(buffer, value, [self.lane])]
        return BufferLoad(buffer, [self.lane])


def _polynomial(coefficients: Sequence[float], x: Expr) -> Expr:
    value = _real(coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * x + _real(coefficient)
    return value


def _power_of_two(exponent: Expr) -> Expr:
    """`2^exponent` for an int32 from -126 to 127."""
    return tirx.reinterpret("float32", (exponent + tirx.const(127, "int32")) << tirx.const(23, "int32"))


def _reduced(bind: Bindings, x: Expr) -> tuple[Expr, Expr]:
    """`n` (int32) and `q` with `exp(x) = 2^n * (1 + q)`; ln 2 in two parts as in Cody and Waite's method."""
    rounded = bind(tirx.floor(x * _real(1.4426950408889634) + _real(0.5)))
    rest = bind((x - rounded * _real(0.693359375)) - rounded * _real(-2.12194440e-4))
    q = bind(rest * rest * _polynomial(_EXP, rest) + rest)
    return bind(tirx.Cast("int32", rounded), "int32"), q


def _exp(bind: Bindings, x: Expr) -> Expr:
    x = bind(x)
    x = bind(Select(x < _real(-104.0), _real(-104.0), Select(x > _real(89.0), _real(89.0), x)))
    n, q = _reduced(bind, x)
    # Two factors: 2^n alone leaves the range of normal numbers.
    half = bind(n >> tirx.const(1, "int32"), "int32")
    return bind((q + _real(1.0)) * _power_of_two(half) * _power_of_two(n - half))


def _sigmoid(bind: Bindings, x: Expr) -> Expr:
    return _real(1.0) / (_exp(bind, _real(0.0) - x) + _real(1.0))


def _negative(x: Expr, value: Expr) -> Expr:
    return Select(x < _real(0.0), _real(0.0) - value, value)


def _tanh(bind: Bindings, x: Expr) -> Expr:
    x = bind(x)
    size = bind(Select(x < _real(0.0), _real(0.0) - x, x))
    n, q = _reduced(bind, bind(Select(size > _real(10.0), _real(20.0), size * _real(2.0))))
    scale = bind(_power_of_two(n))
    e = bind(scale * q + (scale - _real(1.0)))
    square = bind(x * x)
    small = x + x * square * _polynomial(_TANH_SMALL, square)
    return Select(size < _real(0.35), small, _negative(x, e / (e + _real(2.0))))


def _erf(bind: Bindings, x: Expr) -> Expr:
    x = bind(x)
    size = bind(Select(x < _real(0.0), _real(0.0) - x, x))
    square = bind(x * x)
    small = x + x * _polynomial(_ERF_SMALL, square)
    capped = bind(Select(size > _real(4.0), _real(4.0), size))
    large = _real(1.0) - _exp(bind, _polynomial(_ERF_LARGE, capped))
    return Select(size < _real(0.9), small, _negative(x, large))


_FUNCTIONS: dict[str, Callable[[Bindings, Expr], Expr]] = {
    "tirx.exp": _exp,
    "tirx.sigmoid": _sigmoid,
    "tirx.tanh": _tanh,
    "tirx.erf": _erf,
}
_LIBRARY = {"tirx.sinh": "sinhf", "tirx.cosh": "coshf"}
"""Functions of the C library for which TVM has no LLVM intrinsic."""

_LAZY = "prim.if_then_else"


def _calls(value: Expr) -> list[tvm.ir.Call]:
    found: list[tvm.ir.Call] = []
    structural_map(value, (tvm.ir.Call, lambda call: found.append(call) or call))
    return found


def _name(call: tvm.ir.Call) -> str:
    return call.op.name if isinstance(call.op, tvm.ir.Op) else ""


def _function(call: tvm.ir.Call) -> Callable[[Bindings, Expr], Expr] | None:
    return _FUNCTIONS.get(_name(call)) if str(call.ty) in ("float32", "float16") else None


def _in_float32(call: tvm.ir.Call) -> Expr:
    """Elementary functions of float16 are those of float32, rounded."""
    if str(call.ty) != "float16" or _name(call) not in _FUNCTIONS:
        return call
    return tvm.ir.Call(call.op, [call.args[0].astype("float32")], ret_ty=tvm.ir.PrimType("float32")).astype("float16")


def is_vectorizable(value: Expr) -> bool:
    """Whether all calls in `value` have a vector form."""
    return all(_function(call) or _has_vector_form(call) for call in _calls(value))


def _has_vector_form(call: tvm.ir.Call) -> bool:
    """Whether TVM's vectorizer keeps the call whole."""
    return _name(call) not in ("", _LAZY, *_LIBRARY) and bool(call.op.get_attr("TVectorizable"))


def expand_calls(value: Expr, lane: Expr, width: int) -> tuple[list[Stmt], Expr]:
    """The value with calls of elementary functions replaced, and the statements that have to stand before it.

    A value with cases that are evaluated lazily is left as it is: the statements would evaluate all of them.

    Args:
        lane: index of the innermost loop, from 0 to `width`.
    """

    def call_library(call: tvm.ir.Call):
        symbol = _LIBRARY.get(_name(call)) if str(call.ty) == "float32" else None
        return call if symbol is None else tirx.call_extern("float32", symbol, *call.args)

    value = structural_map(structural_map(value, (tvm.ir.Call, _in_float32)), (tvm.ir.Call, call_library))
    if any(_name(call) == _LAZY for call in _calls(value)):
        return [], value
    bind = Bindings(lane, width)

    def replace(call: tvm.ir.Call):
        function = _function(call)
        return call if function is None else bind(function(bind, call.args[0]))

    value = structural_map(value, (tvm.ir.Call, replace))
    return bind.statements, value
