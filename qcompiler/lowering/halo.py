"""Halos of channels-last activations: filled by the kernel that writes the interior, or by a copy.

Nothing outside the buffers is accessed, so they may be the caller's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize

from qcompiler.lowering.program import Halo, Kernel
from qcompiler.lowering.schedule_generic import piece_start, power_of_two
from qcompiler.lowering.tir import (
    Buffer,
    Expr,
    Stmt,
    Tile,
    block,
    buffer,
    function,
    int32,
    load,
    loop,
    splat,
    store,
)
from qcompiler.lowering.workload import physical_shape

_LANES = 64
"""Elements moved at once."""
_DEVICE_LANES = 16
"""Elements that a work-item of a device moves."""

Shape = tuple[int, int, int, int]
"""Images, rows, columns, channels."""


def pad_copy_kernel(
    shape: Shape, x_halo: Halo, y_halo: Halo, pad_value: int, dtype: str, *, device: bool = False
) -> Kernel:
    """Copies the activation `shape` from a buffer with one halo to one with another, its border filled."""
    n, h, w, c = shape
    x = buffer("x", physical_shape(*shape, x_halo), dtype)
    y = buffer("y", physical_shape(*shape, y_halo), dtype)

    def body(image: Expr, row: Expr) -> list[Stmt]:
        source = _interior_row(shape, x_halo, image, row)
        target = _interior_row(shape, y_halo, image, row)
        return _runs(w * c, lambda i, lanes: store(y, target + i, load(x, source + i, lanes), lanes))

    def pieces(image: Expr, row: Expr, piece: Expr) -> list[Stmt]:
        lanes = power_of_two(min(_DEVICE_LANES, w * c))
        start = piece_start(piece, lanes, w * c)
        source = _interior_row(shape, x_halo, image, row)
        target = _interior_row(shape, y_halo, image, row)
        return [store(y, target + start, load(x, source + start, lanes), lanes)]

    loops = {"n": n, "h": h}
    if device:
        loops["i"] = -(-w * c // power_of_two(min(_DEVICE_LANES, w * c)))
    copy = Tile("copy", loops, pieces if device else body, [x], [y])
    schedule = function([x, y], [copy, *_border_tiles(y, shape, y_halo, pad_value, device)])
    return Kernel(schedule.mod["main"], "pad-copy")


def with_border(kernel: Kernel, shape: Shape, halo: Halo, value: int, *, device: bool = False) -> Kernel:
    """`kernel`, which writes only the interior of its last output, made to fill the border of it as well.

    For a device the border is one loop nest, of small equal pieces.
    """
    if not any(halo):
        return kernel
    parameters = kernel.func.params
    number = len(parameters) - len(kernel.scratch) - 1

    def extended(func: tirx.PrimFunc) -> tirx.PrimFunc:
        border = _border_tiles(func.params[number], shape, halo, value, device)
        realize = func.body
        root = realize.block
        body = SBlock(
            root.iter_vars,
            root.reads,
            root.writes,
            root.name_hint,
            block([root.body, *(tile.statement() for tile in border)]),
            root.init,
            root.alloc_buffers,
            root.match_buffers,
            root.annotations,
        )
        return tirx.PrimFunc(func.params, SBlockRealize(realize.iter_values, realize.predicate, body), attrs=func.attrs)

    plain = None if kernel.plain is None else extended(kernel.plain)
    return replace(kernel, func=extended(kernel.func), plain=plain)


def _border_tiles(y: Buffer, shape: Shape, halo: Halo, value: int, device: bool) -> list[Tile]:
    """The border as contiguous runs: above, below, and between the interiors of neighbouring rows."""
    n, h, w, c = shape
    top, left, bottom, right = halo
    row = (left + w + right) * c
    image = (top + h + bottom) * row
    begin, between, end = top * row + left * c, (right + left) * c, right * c + bottom * row

    def fill(offset: Expr, length: int) -> list[Stmt]:
        def put(i: Expr, lanes: int) -> Stmt:
            return store(y, offset + i, splat(value, str(y.dtype), lanes), lanes)

        return _runs(length, put)

    if device:
        runs = [(begin, 1, 0, 0), (between, h - 1, begin + w * c, row), (end, 1, image - end, 0)]
        return _border_pieces(y, n, image, [run for run in runs if run[0] and run[1]], value)
    tiles = []
    if begin:
        tiles.append(Tile("above", {"n": n}, lambda i: fill(i * image, begin), [], [y]))
    if end:
        tiles.append(Tile("below", {"n": n}, lambda i: fill(i * image + (image - end), end), [], [y]))
    if between and h > 1:
        first = begin + w * c
        tiles.append(
            Tile(
                "sides",
                {"n": n, "h": h - 1},
                lambda i, j: fill(i * image + j * row + first, between),
                [],
                [y],
            )
        )
    return tiles


def _border_pieces(
    y: Buffer, images: int, image: int, runs: Sequence[tuple[int, int, int, int]], value: int
) -> list[Tile]:
    """One nest over all pieces of the runs `(length, count, first, step)` of each image; those of a run may overlap."""
    if not runs:
        return []
    lanes = power_of_two(min(_DEVICE_LANES, *(length for length, *_ in runs)))
    pieces = [-(-length // lanes) for length, *_ in runs]

    def body(number: Expr, piece: Expr) -> list[Stmt]:
        offset: Expr | None = None
        end = sum(per * count for per, (_, count, _, _) in zip(pieces, runs, strict=True))
        for per, (length, count, first, step) in list(zip(pieces, runs, strict=True))[::-1]:
            inside = piece - (end - per * count)
            place = piece_start(inside % per if count > 1 else inside, lanes, length) + first
            if count > 1:
                place = place + inside // per * step
            end -= per * count
            offset = place if offset is None else tirx.Select(piece < end + per * count, place, offset)
        return [store(y, number * image + offset, splat(value, str(y.dtype), lanes), lanes)]

    total = sum(per * count for per, (_, count, _, _) in zip(pieces, runs, strict=True))
    return [Tile("border", {"n": images, "i": total}, body, [], [y])]


def _interior_row(shape: Shape, halo: Halo, image: Expr, row: Expr) -> Expr:
    """Offset of the first interior element of a row."""
    _, h, w, c = shape
    top, left, bottom, right = halo
    length = (left + w + right) * c
    return (image * (top + h + bottom) + row) * length + (top * length + left * c)


def _runs(length: int, move: Callable[[Expr, int], Stmt]) -> list[Stmt]:
    """`move(offset, lanes)` over `length` elements: whole vectors, then ever smaller ones."""
    whole = length // _LANES
    statements = loop(whole, lambda i: [move(i * _LANES, _LANES)]) if whole else []
    done, lanes = whole * _LANES, _LANES
    while done < length:
        while lanes > length - done:
            lanes //= 2
        statements.append(move(int32(done), lanes))
        done += lanes
    return statements
