"""Kernels that compute every element on its own: nests over strided buffers, and rules to schedule them.

An `Elementwise` says what to compute: the extents of a loop nest, how it walks each buffer, and the
expression for one element or one vector of them. Rules turn it into a tile of TIR; they stand in `RULES` in
the order they are tried, and the last one always applies. Nothing reads or writes outside the tensors:
where an extent is no multiple of the vector, the last vector overlaps the one before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx import Broadcast

from qcompiler.lowering.program import Kernel
from qcompiler.lowering.tir import (
    Buffer,
    Expr,
    Stmt,
    Tile,
    buffer,
    function,
    int32,
    load,
    shuffle,
    store,
)
from qcompiler.lowering.view import View, row_major
from qcompiler.targets.spec import TargetSpec

_BLOCK = 16
"""Rows and columns of the blocks that are transposed in registers."""
_INTERLEAVED = 4
"""Most channels that one shuffle interleaves."""


@dataclass(frozen=True)
class Strided:
    """A buffer as a loop nest walks it: element `origin + sum(index * stride)` plus what selectors add."""

    buffer: Buffer
    origin: int
    strides: tuple[int, ...]
    selectors: tuple[Selector, ...] = ()

    @staticmethod
    def of(buffer: Buffer, view: View) -> Strided:
        return Strided(buffer, view.origin, view.strides)

    def at(self, *indices: int) -> Strided:
        """The same walk, begun at the element with these indices."""
        start = sum(index * stride for index, stride in zip(indices, self.strides, strict=True))
        return replace(self, origin=self.origin + start)

    def over(self, axes: Sequence[int | None]) -> Strided:
        """The walk of another nest: its axis `i` is axis `axes[i]` of this one, or stays put (None)."""
        selectors = tuple(replace(s, walk=s.walk.over(axes)) for s in self.selectors)
        strides = tuple(0 if axis is None else self.strides[axis] for axis in axes)
        return replace(self, strides=strides, selectors=selectors)

    def select(self, axis: int, walk: Strided, extent: int | None = None) -> Strided:
        """Along `axis` the walk goes where the integers of `walk` say; see `Selector` for `extent`."""
        strides = tuple(0 if i == axis else stride for i, stride in enumerate(self.strides))
        selector = Selector(walk, self.strides[axis], extent)
        return replace(self, strides=strides, selectors=(*self.selectors, selector))

    def offset(self, indices: Sequence[Expr]) -> Expr:
        terms = [index * stride for index, stride in zip(indices, self.strides, strict=True) if stride]
        return sum([*terms, *(s.offset(indices) for s in self.selectors)], int32(self.origin))

    @property
    def walks(self) -> list[tuple[int, ...]]:
        """The strides of this walk and of its selectors."""
        return [self.strides, *(s.walk.strides for s in self.selectors)]

    @property
    def buffers(self) -> list[Buffer]:
        return [self.buffer, *(s.walk.buffer for s in self.selectors)]


@dataclass(frozen=True)
class Selector:
    """An index along one axis of a buffer, read from an array of integers.

    With an `extent`, a negative index counts from the end and one outside the axis becomes the nearest
    inside it; without, the indices are trusted to lie in the axis.
    """

    walk: Strided
    stride: int
    extent: int | None

    def offset(self, indices: Sequence[Expr]) -> Expr:
        index = load(self.walk.buffer, self.walk.offset(indices))
        if self.extent is not None:
            index = tirx.Select(index < 0, index + self.extent, index)
            index = tirx.max(tirx.min(index, self.extent - 1), 0)
        return index.astype("int32") * self.stride


@dataclass(frozen=True)
class Elementwise:
    """`output[i] = body([input[i] for each input], lanes)` for all indices `i` below `extents`."""

    extents: tuple[int, ...]
    inputs: tuple[Strided, ...]
    output: Strided
    body: Callable[[list[Expr], int], Expr]
    """From one expression of `lanes` lanes for each input to one of as many lanes."""
    lanes: int
    """Elements a vector holds in the widest type `body` computes in."""
    tables: tuple[Buffer, ...] = ()
    """Further buffers that `body` reads."""

    @property
    def reads(self) -> list[Buffer]:
        return distinct([*(b for x in self.inputs for b in x.buffers), *self.tables])

    def merged(self) -> Elementwise:
        """The same with as few axes as possible, ordered by the output's strides, largest first."""
        walks = [strides for walk in (self.output, *self.inputs) for strides in walk.walks]
        order = sorted(range(len(self.extents)), key=lambda axis: -abs(self.output.strides[axis]))
        extents, axes = merge_axes(self.extents, walks, order)
        inputs = tuple(x.over(axes) for x in self.inputs)
        return replace(self, extents=extents, inputs=inputs, output=self.output.over(axes))


def merge_axes(
    extents: Sequence[int], walks: Sequence[Sequence[int]], order: Sequence[int]
) -> tuple[tuple[int, ...], list[int | None]]:
    """Fuses neighbours in `order` that all walks cross without a jump, and drops axes of one element.

    Returns the new extents, at least one, and for each the axis whose strides it has (None: any).
    """
    fused: list[int] = []
    axes: list[int | None] = []
    for axis in order:
        if extents[axis] == 1:
            continue
        if axes and all(walk[axes[-1]] == walk[axis] * extents[axis] for walk in walks):
            fused[-1] *= extents[axis]
            axes[-1] = axis
        else:
            fused.append(extents[axis])
            axes.append(axis)
    return (tuple(fused), axes) if fused else ((1,), [None])


def distinct(buffers: Sequence[Buffer]) -> list[Buffer]:
    """The buffers without repetitions."""
    result: list[Buffer] = []
    for candidate in buffers:
        if not any(candidate.same_as(other) for other in result):
            result.append(candidate)
    return result


Rule = Callable[[Elementwise], "Tile | None"]
"""Schedules a merged problem, or returns None where it does not apply."""


def rows(problem: Elementwise) -> Tile | None:
    """Vectors along the last axis, which all operands walk one by one or not at all."""
    if problem.extents[-1] > 1 and (
        problem.output.strides[-1] != 1
        or any(x.strides[-1] not in (0, 1) for x in problem.inputs)
        or any(s.walk.strides[-1] for x in problem.inputs for s in x.selectors)
    ):
        return None
    return _along_last_axis("rows", problem, power_of_two(min(problem.lanes, problem.extents[-1])))


def every_second(problem: Elementwise) -> Tile | None:
    """Every second element along the last axis of one input: whole vectors are loaded in pairs, half of them kept.

    Pairs start at even elements, as do all rows of the input, so that they end inside it.
    """
    if len(problem.inputs) != 1 or problem.inputs[0].selectors or problem.output.strides[-1] != 1:
        return None
    x, y = problem.inputs[0], problem.output
    *outer, step = x.strides
    size = int(np.prod([int(extent) for extent in x.buffer.shape]))
    if step != 2 or any(stride % 2 for stride in (*outer, size)):
        return None
    first, length = x.origin % 2, problem.extents[-1]
    lanes = power_of_two(min(problem.lanes, length))

    def body(*indices: Expr) -> list[Stmt]:
        indices = (*indices[:-1], piece_start(indices[-1], lanes, length))
        start = x.offset(indices) - first
        pair = [load(x.buffer, start + i * lanes, lanes) for i in range(2)]
        kept = shuffle(pair, range(first, lanes * 2, 2))
        return [store(y.buffer, y.offset(indices), problem.body([kept], lanes), lanes)]

    loops = {f"i{axis}": extent for axis, extent in enumerate((*problem.extents[:-1], -(-length // lanes)))}
    return Tile("every-second", loops, body, problem.reads, [y.buffer])


def blocks(problem: Elementwise) -> Tile | None:
    """Register transposes: the one input is contiguous along another axis than the output."""
    if (
        len(problem.inputs) != 1
        or problem.inputs[0].selectors
        or problem.output.strides[-1] != 1
        or 1 not in problem.inputs[0].strides[:-1]
    ):
        return None
    x, y = problem.inputs[0], problem.output
    across = x.strides.index(1)
    height, width = problem.extents[-1], problem.extents[across]
    # A few interleaved channels are loaded or stored together with their neighbours.
    flat_in = width <= _INTERLEAVED and x.strides[-1] == width
    flat_out = height <= _INTERLEAVED and y.strides[across] == height
    h = height if flat_out else power_of_two(min(_BLOCK, height))
    w = width if flat_in else power_of_two(min(_BLOCK, width))
    early = _item_bytes(y) <= _item_bytes(x)

    def body(*indices: Expr) -> list[Stmt]:
        indices = (
            *indices[:across],
            piece_start(indices[across], w, width),
            *indices[across + 1 : -1],
            piece_start(indices[-1], h, height),
        )
        x_start, y_start = x.offset(indices), y.offset(indices)
        apply_early = (lambda v, n: problem.body([v], n)) if early else (lambda v, n: v)
        apply_late = (lambda v, n: v) if early else (lambda v, n: problem.body([v], n))
        dtype = str((y if early else x).buffer.dtype)
        statements: list[Stmt] = []

        def keep(value: Expr, lanes: int) -> Expr:
            local = tile.local(lanes, dtype)
            statements.append(store(local, 0, value, lanes))
            return load(local, 0, lanes)

        if flat_in:
            vectors = [keep(apply_early(load(x.buffer, x_start, w * h), w * h), w * h)]
        else:
            vectors = [keep(apply_early(load(x.buffer, x_start + r * x.strides[-1], w), w), w) for r in range(h)]
        if flat_out:
            order = [r * w + c for c in range(w) for r in range(h)]
            columns = [(0, shuffle(vectors, order), w * h)]
        elif flat_in:
            columns = [(c * y.strides[across], shuffle(vectors, [r * w + c for r in range(h)]), h) for c in range(w)]
        else:
            columns = _transposed(vectors, w, y.strides[across], keep)
        for offset, value, lanes in columns:
            statements.append(store(y.buffer, y_start + offset, apply_late(value, lanes), lanes))
        return statements

    loops = {f"i{axis}": extent for axis, extent in enumerate(problem.extents)}
    loops[f"i{across}"] = -(-width // w)
    loops[f"i{len(loops) - 1}"] = -(-height // h)
    tile = Tile("blocks", loops, body, problem.reads, [y.buffer])
    return tile


def whole_vectors(problem: Elementwise, lanes: int, body: Callable[[list[Expr], int], Expr]) -> Tile | None:
    """Vectors along the last axis by a body that takes exactly `lanes`; None where no such vector fits."""
    merged = replace(problem.merged(), lanes=lanes, body=body)
    tile = rows(merged) if merged.extents[-1] >= lanes else None
    return tile and replace(tile, name="vectors")


def elements(problem: Elementwise) -> Tile:
    """One element at a time, for any strides."""
    return _along_last_axis("elements", problem, 1)


RULES: tuple[Rule, ...] = (rows, every_second, blocks, elements)


DEVICE_RULES: tuple[Rule, ...] = (rows, elements)
"""Those for work-items, whose registers hold no rows to transpose."""


def schedule_elementwise(problem: Elementwise, spec: TargetSpec) -> Tile:
    """The tile of the first rule that applies."""
    merged = problem.merged()
    rules = DEVICE_RULES if spec.driver else RULES
    return next(filter(None, (rule(merged) for rule in rules)))


def schedule_move(problem: Elementwise, spec: TargetSpec) -> Tile:
    """`schedule_elementwise` of a problem whose one operand is its result; the target's own rule comes first."""
    return target_rule(spec, "move", problem.merged()) or schedule_elementwise(problem, spec)


def target_rule(spec: TargetSpec, op: str, *arguments: Any) -> Any:
    """What the target's own rule for an op returns, None without one or where it does not apply.

    Rules stand in `RULES` of the module `elementwise` beside the target's `kernels`.
    """
    name = f"{spec.kernels.rpartition('.')[0]}.elementwise"
    rule = import_module(name).RULES.get(op) if find_spec(name) else None
    return rule(*arguments, spec) if rule else None


@dataclass
class KernelBuilder:
    """Collects the parameters of a kernel in the order `Kernel` asks for."""

    spec: TargetSpec
    inputs: list[Buffer] = field(default_factory=list)
    constants: list[Buffer] = field(default_factory=list)
    arrays: list[np.ndarray] = field(default_factory=list)
    outputs: list[Buffer] = field(default_factory=list)
    scratch: list[Buffer] = field(default_factory=list)

    def operand(self, x: View | np.ndarray) -> Strided:
        """An activation that the kernel reads, or a constant array with the strides of its shape."""
        if isinstance(x, np.ndarray):
            return Strided(self.constant(x), 0, row_major(x.shape))
        self.inputs.append(buffer(f"x{len(self.inputs)}", x.physical_shape, x.dtype))
        return Strided.of(self.inputs[-1], x)

    def constant(self, array: np.ndarray) -> Buffer:
        array = np.ascontiguousarray(array)
        self.arrays.append(array)
        self.constants.append(buffer(f"c{len(self.constants)}", array.shape or (1,), str(array.dtype)))
        return self.constants[-1]

    def output(self, y: View) -> Strided:
        self.outputs.append(buffer(f"y{len(self.outputs)}", y.physical_shape, y.dtype))
        return Strided.of(self.outputs[-1], y)

    def lanes(self, dtype: str) -> int:
        """Elements of `dtype` in a vector register."""
        if dtype == "float32" and not self.spec.float_vectors:
            return 1
        return self.spec.vector_bytes // np.dtype(dtype).itemsize

    @property
    def stored_lanes(self) -> int:
        """Elements to compute together in 32 bits, so that those stored in a byte fill a register of 16 at least.

        A work-item of a device computes the four bytes of a register.
        """
        return 4 if self.spec.driver else max(self.lanes("int32"), 16)

    @property
    def float_lanes(self) -> int:
        """As `stored_lanes`, where the elements are float32 on the way."""
        return self.stored_lanes if self.spec.float_vectors else 1

    def kernel(self, op: str, tiles: Sequence[Tile]) -> Kernel:
        """The kernel that runs `tiles`; its rule is named after the op and the rules of its tiles."""
        rule = f"{op}.{'+'.join(dict.fromkeys(tile.name for tile in tiles))}"
        for number, tile in enumerate(tiles):
            tile.name = f"{tile.name}{number}" if number else tile.name
        parameters = [*self.inputs, *self.constants, *self.outputs, *self.scratch]
        shapes = tuple((tuple(int(n) for n in b.shape), str(b.dtype)) for b in self.scratch)
        return Kernel(function(parameters, tiles).mod["main"], rule, tuple(self.arrays), shapes)


def broadcast(walk: Strided, shape: Sequence[int], to: Sequence[int]) -> Strided:
    """The walk over an operand of `shape` in a nest over `to`, by numpy's rules of broadcasting."""
    axes = [None if extent == 1 else axis for axis, extent in enumerate(shape)]
    return walk.over([None] * (len(to) - len(shape)) + axes)


def _along_last_axis(name: str, problem: Elementwise, lanes: int) -> Tile:
    *outer, last = problem.extents
    y = problem.output

    def body(*indices: Expr) -> list[Stmt]:
        indices = (*indices[:-1], piece_start(indices[-1], lanes, last))
        operands = []
        for x in problem.inputs:
            if x.strides[-1] == 0 and lanes > 1:
                operands.append(Broadcast(load(x.buffer, x.offset(indices)), lanes))
            else:
                operands.append(load(x.buffer, x.offset(indices), lanes))
        return [store(y.buffer, y.offset(indices), problem.body(operands, lanes), lanes)]

    loops = {f"i{axis}": extent for axis, extent in enumerate((*outer, -(-last // lanes)))}
    return Tile(name, loops, body, problem.reads, [y.buffer])


def _transposed(
    vectors: list[Expr], width: int, step: int, keep: Callable[[Expr, int], Expr]
) -> list[tuple[int, Expr, int]]:
    """The columns, `step` apart, of a matrix given as rows of `width`: offset, value, lanes of each piece.

    Interleaving the first half of the rows with the second doubles the distance between neighbours of a
    row; after log2(rows) rounds they are a column apart.
    """
    height = len(vectors)
    low = [j for i in range(width // 2) for j in (i, width + i)]
    high = [j + width // 2 for j in low]
    for _ in range(height.bit_length() - 1):
        pairs = [(vectors[i], vectors[i + height // 2]) for i in range(height // 2)]
        vectors = [keep(shuffle(pair, order), width) for pair in pairs for order in (low, high)]
    piece = min(width, height)
    columns = []
    for start in range(0, width * height, piece):
        vector, lane = divmod(start, width)
        value = vectors[vector]
        if piece < width:
            value = shuffle([value], range(lane, lane + piece))
        columns.append((start // height * step + start % height, value, piece))
    return columns


def piece_start(index: Expr, size: int, extent: int) -> Expr:
    """Where piece `index` of `size` starts; the last one overlaps where `extent` is no multiple."""
    if extent <= size:
        return int32(0)
    return index * size if extent % size == 0 else tirx.min(index * size, int32(extent - size))


def power_of_two(value: int) -> int:
    """The largest power of two not above `value`."""
    return 1 << (value.bit_length() - 1)


def _item_bytes(access: Strided) -> int:
    return np.dtype(str(access.buffer.dtype)).itemsize
