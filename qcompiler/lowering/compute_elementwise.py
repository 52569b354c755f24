"""Kernels that compute each element on its own: the borders to float, sum, product, table.

Shapes are those of the views; operands broadcast as in numpy. Every kernel writes the interior of its output
alone. An operand that is a numpy array becomes a constant of the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from tvm import tirx

from qcompiler.lowering.program import Kernel
from qcompiler.lowering.requantize import requantize_constants, requantize_expression
from qcompiler.lowering.schedule_generic import (
    Elementwise,
    KernelBuilder,
    Strided,
    broadcast,
    schedule_elementwise,
    schedule_move,
    target_rule,
    whole_vectors,
)
from qcompiler.lowering.tir import Buffer, Expr, Tile, buffer, int32, load, shuffle, splat, vector
from qcompiler.lowering.view import View
from qcompiler.lowering.workload import Requantize
from qcompiler.targets.spec import TargetSpec

Scalar = int | float

_MAGIC = 12582912.0
"""1.5 * 2^23: adding it to a float32 of magnitude below 2^22 rounds to an integer, half to even."""
_MAGIC_BITS = 0x4B400000

_WORD = 8
"""Bytes of the widest integer register."""


def quantize_kernel(
    x: View,
    y: View,
    scale: np.ndarray | float,
    zero_point: np.ndarray | int,
    limits: tuple[int, int],
    spec: TargetSpec,
    *,
    axis: int | None = None,
    perm: Sequence[int] | None = None,
) -> Kernel:
    """Float32 to stored integers, `qcompiler.arithmetic.affine.quantize`.

    Axis `i` of `y` is axis `perm[i]` of `x`; without `perm` the axes are the same. `scale` and `zero_point`
    are scalars, or vectors along `axis` of `y`. `limits` are the smallest and largest stored integer.
    """
    if axis is None and (found := target_rule(spec, "quantize", y.dtype, scale, zero_point, limits)) is not None:
        builder = KernelBuilder(spec)
        source = builder.operand(x).over(perm or range(len(x.shape)))
        if tiles := _by_whole_vectors(builder, source, x, y, *found):
            return builder.kernel("quantize", tiles)
    builder = KernelBuilder(spec)
    source = builder.operand(x).over(perm or range(len(x.shape)))
    scales = _along(builder, np.asarray(scale, np.float32), axis, y)
    zero_points = _along(builder, np.asarray(zero_point, np.float32), axis, y)

    def body(operands: list[Expr], lanes: int) -> Expr:
        value, *parameters = operands
        divisor, zero = _parameters([scales, zero_points], parameters, "float32", lanes)
        # The bounds are integers, so clamping before rounding gives what clamping the rounded value would.
        # The comparison in max is false for NaN, which leaves the bound.
        real = tirx.max(value / divisor, splat(float(limits[0]), "float32", lanes) - zero)
        real = tirx.min(real, splat(float(limits[1]), "float32", lanes) - zero)
        bits = tirx.reinterpret(vector("int32", lanes), real + splat(_MAGIC, "float32", lanes))
        stored = bits - splat(_MAGIC_BITS, "int32", lanes) + zero.astype(vector("int32", lanes))
        return stored.astype(vector(y.dtype, lanes))

    return _elementwise(builder, "quantize", y, [source, scales, zero_points], body, lanes=builder.float_lanes)


def _by_whole_vectors(
    builder: KernelBuilder, source: Strided, x: View, y: View, lanes: int, body: Callable[[list[Expr], int], Expr]
) -> list[Tile]:
    """Tiles that compute vectors of `lanes` elements of `x`, along which `source` walks, and move them to their places.

    Without the second step where the elements lie in the same order; no tiles where there are too few.
    """
    problem = Elementwise(y.shape, (source,), builder.output(y), body, lanes)
    if (tile := whole_vectors(problem, lanes, body)) is not None:
        return [tile]
    kept = Strided(buffer("kept", (x.size,), y.dtype), 0, (1,))
    computed = Elementwise((x.size,), (replace(source, origin=0, strides=(1,)),), kept, body, lanes)
    if not x.contiguous or (tile := whole_vectors(computed, lanes, body)) is None:
        return []
    builder.scratch.append(kept.buffer)
    moved = replace(problem, inputs=(replace(source, buffer=kept.buffer),), body=lambda v, _: v[0])
    return [tile, schedule_move(moved, builder.spec)]


def dequantize_kernel(
    x: View,
    y: View,
    scale: np.ndarray | float,
    zero_point: np.ndarray | int,
    spec: TargetSpec,
    *,
    axis: int | None = None,
    perm: Sequence[int] | None = None,
) -> Kernel:
    """Stored integers to float32, `qcompiler.arithmetic.affine.dequantize`; `perm` as in `quantize_kernel`.

    `scale` and `zero_point` are scalars, or vectors along `axis` of `y`.
    """
    if axis is None and (found := target_rule(spec, "dequantize", x.dtype, scale, zero_point)) is not None:
        builder = KernelBuilder(spec)
        source = builder.operand(x).over(perm or range(len(x.shape)))
        if (tile := _by_tables(builder, source, y, *found)) is not None:
            return builder.kernel("dequantize", [tile])
    builder = KernelBuilder(spec)
    source = builder.operand(x).over(perm or range(len(x.shape)))
    scales = _along(builder, np.asarray(scale, np.float32), axis, y)
    zero_points = _along(builder, np.asarray(zero_point, np.float32), axis, y)

    def body(operands: list[Expr], lanes: int) -> Expr:
        value, *parameters = operands
        factor, zero = _parameters([scales, zero_points], parameters, "float32", lanes)
        difference = value.astype(vector("int32", lanes)) - zero.astype(vector("int32", lanes))
        return difference.astype(vector("float32", lanes)) * factor

    return _elementwise(builder, "dequantize", y, [source, scales, zero_points], body, lanes=builder.float_lanes)


def add_kernel(
    a: View | np.ndarray,
    b: View | np.ndarray,
    y: View,
    zero_points: tuple[int, int, int],
    parameters: tuple[int, int, int],
    clamp: tuple[int, int],
    spec: TargetSpec,
) -> Kernel:
    """Sum or difference, `qcompiler.arithmetic.elementwise.add`.

    `zero_points` are those of `a`, `b` and `y`; `parameters` are `A`, `B` and the shift of `add_parameters`.
    """
    zero_a, zero_b, zero_y = zero_points
    factor_a, factor_b, shift = parameters
    half = 1 << (shift - 1)
    if all(np.dtype(str(v.dtype)).itemsize == 1 for v in (a, b)):
        # With |A|, |B| <= 2^21 - 1 and 8-bit operands every partial sum fits int32 in this order, too.
        half, zero_a, zero_b = half - zero_a * factor_a - zero_b * factor_b, 0, 0

    def body(operands: list[Expr], lanes: int) -> Expr:
        left, right = (
            operand.astype(vector("int32", lanes)) - splat(zero, "int32", lanes)
            for operand, zero in zip(operands, (zero_a, zero_b), strict=True)
        )
        acc = left * splat(factor_a, "int32", lanes) + right * splat(factor_b, "int32", lanes)
        acc = (acc + splat(half, "int32", lanes)) >> splat(shift, "int32", lanes)
        acc = acc + splat(zero_y, "int32", lanes)
        return _clamped(acc, clamp, "int32", lanes).astype(vector(y.dtype, lanes))

    builder = KernelBuilder(spec)
    dtypes = [str(v.dtype) for v in (a, b, y)]
    vectors = target_rule(spec, "add", dtypes, zero_points, parameters, clamp)
    operands = _broadcast_operands(builder, [a, b], y)
    return _elementwise(builder, "add", y, operands, body, lanes=builder.stored_lanes, vectors=vectors)


def mul_kernel(
    a: View | np.ndarray,
    b: View | np.ndarray,
    y: View,
    zero_points: tuple[int, int],
    requantize: Requantize,
    spec: TargetSpec,
) -> Kernel:
    """Product, `qcompiler.arithmetic.elementwise.mul`; `zero_points` are those of `a` and `b`."""
    constants = [constant[0].item() for constant in requantize_constants(requantize, 1)]
    kind = "float32" if requantize.rounding == "fp32" else "int32"

    def body(operands: list[Expr], lanes: int) -> Expr:
        left, right = (
            operand.astype(vector("int32", lanes)) - splat(zero, "int32", lanes)
            for operand, zero in zip(operands, zero_points, strict=True)
        )
        parameters = [splat(constant, kind, lanes) for constant in constants]
        stored = requantize_expression(left * right, parameters, requantize, lanes)
        return stored.astype(vector(y.dtype, lanes))

    builder = KernelBuilder(spec)
    vectors = target_rule(spec, "mul", [str(v.dtype) for v in (a, b, y)], zero_points, requantize)
    operands = _broadcast_operands(builder, [a, b], y)
    lanes = builder.float_lanes if kind == "float32" else builder.stored_lanes
    return _elementwise(builder, "mul", y, operands, body, lanes=lanes, vectors=vectors)


def requantize_kernel(
    x: View, y: View, zero_point: int, requantize: Requantize, spec: TargetSpec, axis: int | None = None
) -> Kernel:
    """Change of type: `x - zero_point` requantized; with an `axis` of `y`, by a multiplier for each of its indices."""
    channels = 1 if axis is None else y.shape[axis]
    builder = KernelBuilder(spec)
    constants = [
        _along(builder, array if axis is not None else array[0], axis, y)
        for array in requantize_constants(requantize, channels)
    ]
    kind = "float32" if requantize.rounding == "fp32" else "int32"

    def body(operands: list[Expr], lanes: int) -> Expr:
        value, *parameters = operands
        acc = value.astype(vector("int32", lanes)) - splat(zero_point, "int32", lanes)
        factors = list(_parameters(constants, parameters, kind, lanes))
        return requantize_expression(acc, factors, requantize, lanes).astype(vector(y.dtype, lanes))

    source = builder.operand(x)
    lanes = builder.float_lanes if kind == "float32" else builder.stored_lanes
    return _elementwise(builder, "requantize", y, [source, *constants], body, lanes=lanes)


def lut_kernel(x: View, y: View, table: np.ndarray, spec: TargetSpec, axis: int | None = None) -> Kernel:
    """Table look-up, `qcompiler.arithmetic.table.apply_table`: `table[x - qmin]`, entries of type `y`.

    With an `axis` of `y`, `table` holds a row for each of its indices.
    """
    if axis is None and (found := target_rule(spec, "lut", table, x.dtype)) is not None:
        builder = KernelBuilder(spec)
        if (tile := _by_tables(builder, builder.operand(x), y, *found)) is not None:
            return builder.kernel("lut", [tile])
    builder = KernelBuilder(spec)
    # Indices are taken as unsigned: entry 0 of a row is that of the stored 0.
    by_word = np.roll(table, np.iinfo(x.dtype).min, axis=-1)
    source, entries = builder.operand(x), builder.constant(by_word.reshape(-1))
    starts: Strided | Scalar = 0
    step = 0
    if axis is not None:
        rows, entries_of_row = table.shape
        starts = _along(builder, np.arange(0, table.size, entries_of_row, dtype=np.int32), axis, y)
        # Neighbours in memory take the tables of neighbouring channels, or all the same.
        step = entries_of_row if rows > 1 and y.strides[axis] == 1 else 0

    def body(operands: list[Expr], lanes: int) -> Expr:
        value, *parameters = operands
        (start,) = _parameters([starts], parameters, "int32", lanes)
        first = start if lanes == 1 else shuffle([start], [0])
        indices = _unsigned_lanes(value, x.dtype, lanes)
        loaded = [load(entries, first + int32(step * lane) + index) for lane, index in enumerate(indices)]
        return loaded[0] if lanes == 1 else shuffle(loaded, range(lanes))

    return _elementwise(
        builder, "lut", y, [source, starts], body, lanes=min(_WORD, builder.stored_lanes), tables=[entries]
    )


def _by_tables(
    builder: KernelBuilder,
    source: Strided,
    y: View,
    arrays: Sequence[np.ndarray],
    lanes: int,
    look_up: Callable[[list[Expr], Sequence[Buffer]], Expr],
) -> Tile | None:
    """Vectors of a target's own form of a look-up; None where no such vector fits."""
    tables = [builder.constant(array) for array in arrays]
    problem = Elementwise(
        y.shape,
        (source,),
        builder.output(y),
        lambda operands, _: look_up(operands, tables),
        lanes,
        tuple(tables),
    )
    return whole_vectors(problem, lanes, problem.body)


def _unsigned_lanes(value: Expr, dtype: str, lanes: int) -> Iterator[Expr]:
    """The lanes of a vector of integers as int32, read as unsigned.

    They are cut out of words of up to 64 bits: LLVM would take them from the vector one by one, or gather.
    """
    item = np.dtype(dtype).itemsize
    size = min(_WORD // item, lanes)
    kind = f"uint{8 * item * size}"
    for begin in range(0, lanes, size):
        part = value if size == lanes else shuffle([value], range(begin, begin + size))
        word = tirx.reinterpret(kind, part)
        for i in range(size):
            bits = (word >> tirx.const(8 * item * i, kind)) & tirx.const(256**item - 1, kind)
            yield bits.astype("int32")


def _elementwise(
    builder: KernelBuilder,
    op: str,
    y: View,
    operands: Sequence[Strided | Scalar],
    body: Callable[[list[Expr], int], Expr],
    *,
    lanes: int,
    tables: Sequence[Buffer] = (),
    vectors: tuple[int, Callable[[list[Expr], int], Expr]] | None = None,
) -> Kernel:
    """The kernel of one nest over `y`; `vectors` are the lanes and the body of the target's own form."""
    inputs = tuple(operand for operand in operands if isinstance(operand, Strided))
    problem = Elementwise(y.shape, inputs, builder.output(y), body, lanes, tuple(tables))
    tile = whole_vectors(problem, *vectors) if vectors else None
    return builder.kernel(op, [tile or schedule_elementwise(problem, builder.spec)])


def _broadcast_operands(builder: KernelBuilder, operands: Sequence[View | np.ndarray], y: View) -> list[Strided]:
    return [broadcast(builder.operand(operand), operand.shape, y.shape) for operand in operands]


def _along(builder: KernelBuilder, values: np.ndarray, axis: int | None, y: View) -> Strided | Scalar:
    """Values along an axis of `y` as an operand; a scalar stays a number in the code."""
    if axis is None or values.ndim == 0:
        return values.item()
    strides = [0] * len(y.shape)
    strides[axis] = 1
    return Strided(builder.constant(values), 0, tuple(strides))


def _parameters(
    declared: Sequence[Strided | Scalar], operands: Sequence[Expr], dtype: str, lanes: int
) -> Iterator[Expr]:
    """An expression for each result of `_along`: the next operand, or the number in all lanes."""
    remaining = iter(operands)
    return (next(remaining) if isinstance(p, Strided) else splat(p, dtype, lanes) for p in declared)


def _clamped(value: Expr, clamp: tuple[int, int], dtype: str, lanes: int) -> Expr:
    return tirx.min(tirx.max(value, splat(clamp[0], dtype, lanes)), splat(clamp[1], dtype, lanes))
