"""Rules for matrix products on CPUs, in the order they are tried.

With stored values, `sum (a - za) * (b - zb) = sum a*b - za * sum_k b - zb * (sum_k a - K * za)`: a term for
each column, which starts the accumulator together with the bias, and one for each row, needed only if `zb` is
not 0. The dot product takes a signed right-hand side, so unsigned values enter as `b - 128` with `zb - 128`.

An instruction set with a `weight_offset` takes sums of activations off anyway, and `zb` times them as well. What fills
up the last dot product of a column then is `zb` instead of 0.
"""

from __future__ import annotations

from math import prod

import numpy as np
from tvm import tirx

from qcompiler.lowering.compute_conv import generic_matmul
from qcompiler.lowering.program import Kernel
from qcompiler.lowering.schedules import scheduled_kernel
from qcompiler.lowering.space import Space, decide
from qcompiler.lowering.tir import (
    Buffer,
    Expr,
    Stmt,
    Tile,
    buffer,
    constant_buffers,
    function,
    int32,
    load,
    loop,
    shuffle,
    splat,
    store,
)
from qcompiler.lowering.workload import MatmulWorkload
from qcompiler.targets.cpu.choices import Dense, DenseChoice, dense_choices
from qcompiler.targets.cpu.dense import (
    ChannelBlocks,
    channel_blocks,
    constant_kernel,
    dense_tile,
    pack_channels,
    pack_weights,
    packed_parameters,
    rule_name,
    tile_start,
)
from qcompiler.targets.cpu.epilogue import STORED, Epilogue, start_of
from qcompiler.targets.cpu.isa import BYTES, Isa, product_isas_of
from qcompiler.targets.cpu.plain import plain_products
from qcompiler.targets.spec import TargetSpec

_SUM_LANES = 16
"""Elements of a row added at once."""


def matmul_constant(
    workload: MatmulWorkload, b: np.ndarray | None, bias: np.ndarray | None, spec: TargetSpec
) -> Kernel | None:
    """A constant right-hand side `[k, n]` that is int8 once its zero point is subtracted."""
    if b is None or prod(workload.b_batch) > 1 or not _is_regular(workload):
        return None
    centred = b.reshape(workload.k, workload.n).astype(np.int64) - workload.b_zero_point
    if centred.min() < -128 or centred.max() > 127:
        return None
    start = _bias(workload, bias) - workload.a_zero_point * centred.sum(0)
    a = buffer("a", workload.a_shape, workload.a_dtype)
    y = buffer("y", workload.y_shape, workload.requantize.out_dtype)
    columns = _as_channels(centred)
    return constant_kernel(dense_of(workload), columns, start, workload.requantize, workload.acc_bound, a, y, spec)


def matmul_packed(
    workload: MatmulWorkload, b: np.ndarray | None, bias: np.ndarray | None, spec: TargetSpec
) -> Kernel | None:
    """Any zero points; a right-hand side that is no constant is packed at run time."""
    if not _is_regular(workload):
        return None
    dense = dense_of(workload)
    any_weights = np.array([-128], np.int8)
    choices = dense_choices(dense, [isa for isa in product_isas_of(spec) if isa.takes(any_weights)])
    rule, matrices = "packed" if b is None else "packed-constant", prod(workload.b_batch)
    plain = plain_products(dense, rule, workload.a_shape, workload.y_shape, workload.requantize, spec, matrices)
    return decide(Space(plain, choices, lambda choice: _packed(workload, dense, choice, b, bias, spec)))


def _packed(
    workload: MatmulWorkload,
    dense: Dense,
    choice: DenseChoice,
    b: np.ndarray | None,
    bias: np.ndarray | None,
    spec: TargetSpec,
) -> Kernel:
    """The kernel of `matmul_packed` for one choice."""
    isa, tile = choice.isa, choice.tile
    blocks = channel_blocks(workload.n, tile.vectors, isa.channels)
    lanes = isa.spread(blocks.channels)
    matrices = prod(workload.b_batch)
    factor = workload.a_zero_point + isa.bias_offset(workload.a_dtype)
    magic = start_of(isa, workload.requantize, workload.acc_bound)
    zero_point = _signed_zero_point(workload)
    filling = zero_point if isa.weight_offset else 0
    filled = dense.dots(isa.depth) * isa.depth
    first = _bias(workload, bias) + magic + factor * (isa.weight_offset + filling) * filled
    start, *parameters = packed_parameters(first, workload.requantize, 1, lanes)
    hides = isa.hides_constants(tile.pixels, tile.vectors, dense.steps(isa.depth))
    parameters += [np.zeros(1, np.int32)] if hides else []
    a = buffer("a", workload.a_shape, workload.a_dtype)
    y = buffer("y", workload.y_shape, workload.requantize.out_dtype)
    packed_shape = (matrices * len(blocks.channels), dense.steps(isa.depth) * tile.vectors * isa.bytes)
    inputs, constants, tiles, scratch = [a], list(parameters), [], []
    if b is None:
        right = buffer("b", workload.b_shape, workload.b_dtype)
        weights, columns = (
            buffer("packed", packed_shape, "int8"),
            buffer("columns", (matrices * start.size,), "int32"),
        )
        inputs.append(right)
        scratch += [weights, columns]
        constants.insert(0, start)
        buffers = constant_buffers(constants)
        start_buffer, *parameter_buffers = buffers
        tiles.append(_pack_tile(workload, dense, blocks, isa, right, start_buffer, weights, columns, factor, filling))
    else:
        signed = _signed(b).reshape(matrices, workload.k, workload.n)
        signed = np.pad(signed, ((0, 0), (0, filled - workload.k), (0, 0)), constant_values=filling)
        packed = [pack_weights(_as_channels(matrix), blocks, isa) for matrix in signed]
        starts = first - factor * (signed + isa.weight_offset).sum(1)
        ordered = [pack_channels(row.astype(np.int32), 1, lanes) for row in starts]
        constants = [np.concatenate(packed), np.concatenate(ordered), *parameters]
        buffers = constant_buffers(constants)
        weights, columns, *parameter_buffers = buffers
    zero = parameter_buffers.pop() if hides else None
    rows = None
    if zero_point and not isa.weight_offset:
        rows = buffer("rows", (prod(workload.a_batch) * workload.m,), "int32")
        scratch.append(rows)
        tiles.append(_row_terms_tile(workload, zero_point, a, rows))
    epilogue = Epilogue(isa, workload.requantize, parameter_buffers, workload.acc_bound, magic)
    batch_of = None if matrices == 1 else (lambda n: n)
    tiles.append(dense_tile(dense, choice, a, weights, columns, epilogue, y, rows, batch_of, zero, filling))
    func = function([*inputs, *buffers, y, *scratch], tiles).mod["main"]
    shapes = tuple((tuple(int(n) for n in s.shape), str(s.dtype)) for s in scratch)
    return scheduled_kernel(func, rule_name(spec, choice, "packed"), constants, shapes)


def matmul_generic(workload: MatmulWorkload, b: np.ndarray | None, bias: np.ndarray | None, spec: TargetSpec) -> Kernel:
    """The target-neutral loops: any broadcasting of batch axes, any output type."""
    return generic_matmul(workload, b, bias)


matmul_rules = [matmul_constant, matmul_packed, matmul_generic]


def matmul_kernel(workload: MatmulWorkload, b: np.ndarray | None, bias: np.ndarray | None, spec: TargetSpec) -> Kernel:
    """The kernel of the first rule that applies.

    `b` is the constant right-hand side, 8-bit `[*b_batch, k, n]`, or None if it is the second activation;
    `bias` is int32 `[n]` or None.
    """
    return next(kernel for rule in matmul_rules if (kernel := rule(workload, b, bias, spec)) is not None)


def _is_regular(workload: MatmulWorkload) -> bool:
    """Whether operands are bytes, results one of `STORED`, and an operand has one matrix or one for each result."""
    count = prod(workload.batch)
    types_fit = {workload.a_dtype, workload.b_dtype} <= set(BYTES) and workload.requantize.out_dtype in STORED
    return types_fit and all(prod(batch) in (1, count) for batch in (workload.a_batch, workload.b_batch))


def _bias(workload: MatmulWorkload, bias: np.ndarray | None) -> np.ndarray:
    return np.zeros(workload.n, np.int64) if bias is None else bias.astype(np.int64)


def _as_channels(matrix: np.ndarray) -> np.ndarray:
    """`[k, n]` as `[group, channel, tap row, tap column, run]` of one group and one tap."""
    return matrix.T.astype(np.int8)[None, :, None, None, :]


def _signed(b: np.ndarray) -> np.ndarray:
    return b.astype(np.int64) - (128 if b.dtype == np.uint8 else 0)


def _signed_zero_point(workload: MatmulWorkload) -> int:
    return workload.b_zero_point - (128 if workload.b_dtype == "uint8" else 0)


def dense_of(workload: MatmulWorkload) -> Dense:
    """Rows of the left-hand side are pixels: of one image if there is one right-hand side for all."""
    count = prod(workload.batch)
    one = prod(workload.b_batch) == 1
    x_image = workload.m * workload.k if prod(workload.a_batch) == count else 0
    return Dense(
        grid=(1, 1, count * workload.m) if one else (count, 1, workload.m),
        x_steps=(x_image, 0, workload.k),
        x_origin=0,
        y_steps=(workload.m * workload.n, 0, workload.n),
        y_origin=0,
        taps=(1, 1),
        tap_steps=(0, 0),
        run=workload.k,
        groups=1,
        channels=workload.n,
        x_dtype=workload.a_dtype,
    )


def _row_terms_tile(workload: MatmulWorkload, zero_point: int, a: Buffer, rows: Buffer) -> Tile:
    """`rows[i] = -zero_point * (sum_k a[i, k] - K * a_zero_point)`."""
    k = workload.k
    whole = k // _SUM_LANES

    def body(row: Expr) -> list[Stmt]:
        lanes = f"int32x{_SUM_LANES}"
        total = tile.local(_SUM_LANES, "int32")

        def add(i: Expr) -> list[Stmt]:
            elements = load(a, row * k + i * _SUM_LANES, _SUM_LANES).astype(lanes)
            return [store(total, 0, load(total, 0, _SUM_LANES) + elements, _SUM_LANES)]

        statements = [store(total, 0, splat(0, "int32", _SUM_LANES), _SUM_LANES)]
        statements += loop(whole, add) if whole else []
        terms = [shuffle([load(total, 0, _SUM_LANES)], [lane]) for lane in range(_SUM_LANES)]
        terms += [load(a, row * k + i).astype("int32") for i in range(whole * _SUM_LANES, k)]
        value = sum(terms[1:], terms[0]) * (-zero_point) + zero_point * k * workload.a_zero_point
        return [*statements, store(rows, row, value)]

    tile = Tile("row_terms", {"row": prod(workload.a_batch) * workload.m}, body, [a], [rows])
    return tile


def _pack_tile(
    workload: MatmulWorkload,
    dense: Dense,
    blocks: ChannelBlocks,
    isa: Isa,
    b: Buffer,
    start: Buffer,
    packed: Buffer,
    columns: Buffer,
    factor: int,
    filling: int,
) -> Tile:
    """Packs signed `b` as `pack_weights` does, with rows of `filling` behind the last.

    `columns = start - factor * sum_k b`, for `b` as it is stored then.
    """
    count, vectors, _ = blocks.channels.shape
    lanes, depth = isa.lanes, isa.depth
    k, n = workload.k, workload.n
    block_lanes, step_bytes = vectors * lanes, vectors * isa.bytes
    units = _packing_units(blocks, isa)
    is_unsigned = workload.b_dtype == "uint8"
    sign = int(np.uint8(128).view(workload.b_dtype))
    last = int(np.uint8(filling + isa.weight_offset).view(np.int8))

    def vectors_of(offsets: list[Expr], count: int) -> list[Expr]:
        """`depth` rows, missing ones filled up, as `count` vectors in the order of `Isa.arrange`."""
        width = isa.row_bytes(count)
        rows = [load(b, offset, width) for offset in offsets]
        if is_unsigned != (isa.weight_offset > 0):
            rows = [row ^ splat(sign, workload.b_dtype, width) for row in rows]
        rows = [tirx.reinterpret(f"int8x{width}", row) for row in rows]
        rows += [splat(last, "int8", width)] * (depth - len(rows))
        return isa.woven(rows)[:count]

    def body(matrix: Expr, c: Expr) -> list[Stmt]:
        source = matrix * (k * n) + tile_start(c, blocks.span, n)
        block = matrix * count + c
        ones = isa.ones()
        sums = [tile.local(lanes, "int32") for _ in range(vectors)]

        def step(number: Expr, rows: int = depth) -> list[Stmt]:
            statements = []
            for unit in units:
                statements += isa.fence() if unit[0] else []
                offsets = [source + (number * depth + j) * n + blocks.starts[unit[0]] for j in range(rows)]
                for v, vector in zip(unit, vectors_of(offsets, len(unit)), strict=True):
                    target = (block * dense.dots(depth) + number) * step_bytes + v * isa.bytes
                    statements.append(store(packed, target, vector, isa.bytes))
                    value = isa.dot(load(sums[v], 0, lanes), ones, packed, target)
                    statements.append(store(sums[v], 0, value, lanes))
            return statements

        statements = [store(total, 0, splat(0, "int32", lanes), lanes) for total in sums]
        statements += loop(k // depth, step) if k >= depth else []
        statements += step(int32(k // depth), k % depth) if k % depth else []
        first = c * block_lanes
        if isa.definitions:
            cell = tile.local(1, "int64")
            statements.append(store(cell, 0, isa.hidden(first.astype("int64"))))
            first = load(cell, 0)
        for v, total in enumerate(sums):
            value = load(start, first + v * lanes, lanes)
            value = value - load(total, 0, lanes) * splat(factor, "int32", lanes)
            statements.append(store(columns, block * block_lanes + v * lanes, value, lanes))
        return statements

    matrices = prod(workload.b_batch)
    tile = Tile(
        "pack", {"matrix": matrices, "c": count}, body, [b, start], [packed, columns], definitions=isa.definitions
    )
    return tile


def _packing_units(blocks: ChannelBlocks, isa: Isa) -> list[range]:
    """Vectors of a block whose channels follow each other, up to `Isa.packs`."""
    units: list[range] = []
    for v, start in enumerate(blocks.starts):
        follows = v and start == blocks.starts[v - 1] + isa.channels
        if follows and len(units[-1]) < isa.packs:
            units[-1] = range(units[-1].start, v + 1)
        else:
            units.append(range(v, v + 1))
    return units
