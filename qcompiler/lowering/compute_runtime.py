"""Kernels of the linear quantizations whose scales and zero points are read at run time (qcompiler.ir.q_runtime)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import tirx

from qcompiler.arithmetic.formats import float_format
from qcompiler.lowering.program import Kernel
from qcompiler.lowering.schedule_generic import (
    Elementwise,
    KernelBuilder,
    Strided,
    piece_start,
    power_of_two,
    schedule_elementwise,
)
from qcompiler.lowering.tir import Buffer, Expr, Stmt, Tile, block, int32, load, splat, store, vector
from qcompiler.lowering.view import View
from qcompiler.targets.spec import TargetSpec

Operand = View | np.ndarray
Granularity = tuple[int, int]
"""Axis and block size (0: none) along which parameters change."""

_MAGIC = 12582912.0
_MAGIC_BITS = 0x4B400000


def quantize_linear_kernel(
    x: Operand,
    parameters: Sequence[Operand],
    y: View,
    granularity: Granularity,
    form: tuple[int, int] | tuple[str, bool],
    spec: TargetSpec,
) -> Kernel:
    """`q.quantize_linear`; `parameters` are the scale and perhaps the zero point.

    `form` is the smallest and largest integer, or the name of a small float and whether it saturates.
    """
    builder = KernelBuilder(spec)
    operands = [builder.operand(x), *(_parameter(builder, p, y, granularity) for p in parameters)]
    first, second = form
    if isinstance(first, str):
        codes = _Codes(builder, first, bool(second))

        def body(values: list[Expr], lanes: int) -> Expr:
            real = values[0] / values[1]
            if len(values) > 2:
                real = real + codes.decode(values[2])
            return codes.encode(real)

        return _elementwise(builder, "quantize_linear", y, operands, body, 1, codes.tables)

    def integers(values: list[Expr], lanes: int) -> Expr:
        wide = vector("int32", lanes)
        zero = values[2].astype(wide) if len(values) > 2 else splat(0, "int32", lanes)
        low, high = (
            (splat(limit, "int32", lanes) - zero).astype(vector("float32", lanes)) for limit in (first, second)
        )
        # Clamping before rounding gives what clamping the rounded value would; a NaN leaves the lower bound.
        real = tirx.min(tirx.max(values[0] / values[1], low), high)
        bits = tirx.reinterpret(wide, real + splat(_MAGIC, "float32", lanes))
        return (bits - splat(_MAGIC_BITS, "int32", lanes) + zero).astype(vector(y.dtype, lanes))

    return _elementwise(builder, "quantize_linear", y, operands, integers, builder.lanes("float32"))


def dequantize_linear_kernel(
    x: Operand,
    parameters: Sequence[Operand],
    y: View,
    granularity: Granularity,
    form: str,
    spec: TargetSpec,
) -> Kernel:
    """`q.dequantize_linear`; `form` names a small float, or is empty for integers."""
    builder = KernelBuilder(spec)
    operands = [builder.operand(x), *(_parameter(builder, p, y, granularity) for p in parameters)]
    if form:
        codes = _Codes(builder, form, True)

        def body(values: list[Expr], lanes: int) -> Expr:
            real = codes.decode(values[0])
            if len(values) > 2:
                real = real - codes.decode(values[2])
            return real * values[1]

        return _elementwise(builder, "dequantize_linear", y, operands, body, 1, codes.tables)

    def integers(values: list[Expr], lanes: int) -> Expr:
        difference = values[0].astype(vector("int32", lanes))
        if len(values) > 2:
            difference = difference - values[2].astype(vector("int32", lanes))
        return difference.astype(vector("float32", lanes)) * values[1]

    return _elementwise(builder, "dequantize_linear", y, operands, integers, builder.lanes("float32"))


def dynamic_range_kernel(x: Operand, scale: View, zero_point: View, spec: TargetSpec) -> Kernel:
    """`q.dynamic_range`: scale and zero point of all of `x`."""
    builder = KernelBuilder(spec)
    source = builder.operand(x)
    targets = builder.output(scale), builder.output(zero_point)
    size = int(np.prod(x.shape, dtype=np.int64))
    lanes = power_of_two(min(builder.lanes("float32"), size))

    def body() -> list[Stmt]:
        ends = [tile.local(lanes, "float32") for _ in range(2)]
        piece = tirx.Var("piece", "int32")
        values = load(source.buffer, piece_start(piece, lanes, size), lanes)
        # a comparison with NaN is false, which leaves the end found so far
        updates = [
            store(end, 0, pick(values, load(end, 0, lanes)), lanes)
            for end, pick in zip(ends, (tirx.min, tirx.max), strict=True)
        ]
        start = [store(end, 0, splat(0.0, "float32", lanes), lanes) for end in ends]
        nest = tirx.For(piece, int32(0), int32(-(-size // lanes)), tirx.ForKind.SERIAL, block(updates))
        low, high = (load(end, 0) for end in ends)
        for lane in range(1, lanes):
            low, high = tirx.min(low, load(ends[0], lane)), tirx.max(high, load(ends[1], lane))
        outcome = [tile.local(1, "float32") for _ in range(3)]
        found, span, step = (load(local, 0) for local in outcome)
        one, zero, top = (tirx.const(value, "float32") for value in (1.0, 0.0, 255.0))
        stored = tirx.min(tirx.max(zero - found / step, zero), top) + tirx.const(_MAGIC, "float32")
        return [
            *start,
            nest,
            store(outcome[0], 0, low),
            store(outcome[1], 0, high - found),
            store(outcome[2], 0, tirx.Select(span > zero, span / top, one)),
            store(targets[0].buffer, 0, step),
            store(targets[1].buffer, 0, (tirx.reinterpret("int32", stored) - int32(_MAGIC_BITS)).astype("uint8")),
        ]

    tile = Tile("range", {"once": 1}, lambda _: body(), [source.buffer], [t.buffer for t in targets])
    return builder.kernel("dynamic_range", [tile])


class _Codes:
    """Codes of a small float, one element at a time."""

    def __init__(self, builder: KernelBuilder, name: str, saturate: bool) -> None:
        self.form = float_format(name)
        self.largest = len(self.form.limits(saturate))
        self.tables = [builder.constant(self.form.values)]

    def decode(self, code: Expr) -> Expr:
        return load(self.tables[0], code.astype("int32") & int32((1 << self.form.bits) - 1))

    def encode(self, real: Expr) -> Expr:
        """`qcompiler.arithmetic.formats.encode` by the bits of the float32, which give the same codes.

        Below the smallest normal value, adding a float32 whose last bit weighs as much as the smallest value rounds;
        above, adding just under half of what is cut off does, and half where the last bit kept is odd.
        """
        mantissa, values = self.form.mantissa, self.form.values
        cut = 23 - mantissa
        magic, normal = np.float32(values[1] * 2.0**23), values[1 << mantissa]
        bits = tirx.reinterpret("int32", real)
        positive = bits & int32(0x7FFFFFFF)
        magnitude = tirx.reinterpret("float32", positive)
        small = tirx.reinterpret("int32", magnitude + tirx.const(float(magic), "float32")) - _bits_of(magic)
        rounded = positive + int32((1 << (cut - 1)) - 1) + ((positive >> int32(cut)) & int32(1))
        large = (rounded >> int32(cut)) - ((_bits_of(normal) >> cut) - (1 << mantissa))
        count = tirx.Select(positive < int32(_bits_of(normal)), small, large)
        count = tirx.min(count, int32(self.largest))
        negative = bits < int32(0)
        if not self.form.negative_zero:
            negative = tirx.all(negative, count > int32(0))
        code = count | tirx.Select(negative, int32(self.form.sign), int32(0))
        is_nan = positive > int32(0x7F800000)
        return tirx.Select(is_nan, int32(self.form.nan), code).astype("uint8")


def _bits_of(value: np.floating) -> int:
    """The bits of a float32."""
    return int(np.float32(value).view(np.int32))


def _parameter(builder: KernelBuilder, parameter: Operand, y: View, granularity: Granularity) -> Strided:
    """A scale or zero point in a nest over `y`."""
    walk = builder.operand(parameter)
    axis, size = granularity
    extents = parameter.shape
    if int(np.prod(extents, dtype=np.int64)) == 1:
        return walk.over([None] * len(y.shape)) if extents else Strided(walk.buffer, 0, (0,) * len(y.shape))
    if not size:
        return walk.over([0 if i == axis else None for i in range(len(y.shape))])
    index = Strided(builder.constant(np.arange(y.shape[axis], dtype=np.int32) // size), 0, (1,))
    return walk.select(axis, index.over([0 if i == axis else None for i in range(len(y.shape))]))


def _elementwise(
    builder: KernelBuilder,
    op: str,
    y: View,
    operands: list[Strided],
    body,
    lanes: int,
    tables: Sequence[Buffer] = (),
) -> Kernel:
    problem = Elementwise(y.shape, tuple(operands), builder.output(y), body, lanes, tuple(tables))
    return builder.kernel(op, [schedule_elementwise(problem, builder.spec)])
