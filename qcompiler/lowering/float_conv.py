"""Float convolutions as products over shifted rows.

The image of one group is copied with its padding into rows of a common pitch; for a stride of `s` the copy holds
`s * s` images of every `s`-th row and column. Then every weight meets a contiguous stretch of the copy, the output
positions of all rows are the columns of one product, and the few positions between the rows are computed, never read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import tvm
from tvm import te, tirx
from tvm.ir import TensorLoad
from tvm.relax import BlockBuilder
from tvm.s_tir import SBlock
from tvm.tirx import BufferLoad, BufferStore
from tvm_ffi import structural_map

from .float_gemm import Product, TileShape, choose_tile, emit_product, pack_rows, packed_offset
from .float_loops import Axis, Nest, Stmt, Var, emit, index, loads, sequence, serial, substitute

if TYPE_CHECKING:
    from .float_schedule import FloatFunction

CONV = "qcompiler.conv"
"""Annotation of a convolution's block: the fields of `ConvShape` in order."""

CHUNK_BYTES = 128 * 1024
"""The sums of one chunk stay within this size, where whole rows allow it."""

OUT_ELEMENTWISE_FUSABLE = 4
"""TVM's operator pattern `kOutEWiseFusable`."""


@dataclass(frozen=True)
class ConvShape:
    """A convolution over one or two axes; one axis has `h = kh = 1`. Channels are per group."""

    n: int
    groups: int
    ic: int
    oc: int
    h: int
    w: int
    kh: int
    kw: int
    oh: int
    ow: int
    stride_h: int
    stride_w: int
    dilation_h: int
    dilation_w: int
    top: int
    left: int


def legalize_conv(builder: BlockBuilder, call: tvm.ir.Call) -> tvm.ir.Expr:
    """Turns relax `nn.conv1d` and `nn.conv2d` in ONNX's layouts into one annotated block."""
    x, w = call.args
    attrs = call.attrs
    one = len(attrs.strides) == 1
    begin, end = list(attrs.padding)[: len(attrs.strides)], list(attrs.padding)[len(attrs.strides) :]
    x_shape, w_shape = [[int(d) for d in v.ty.shape] for v in (x, w)]
    strides, dilations = [int(s) for s in attrs.strides], [int(d) for d in attrs.dilation]
    begin, end = [int(p) for p in begin], [int(p) for p in end]
    out = [
        (size + b + e - d * (k - 1) - 1) // s + 1
        for size, k, b, e, s, d in zip(x_shape[2:], w_shape[2:], begin, end, strides, dilations, strict=True)
    ]
    unit = [1] if one else []
    groups = int(attrs.groups)
    fields = [x_shape[0], groups, w_shape[1], w_shape[0] // groups, *unit, *x_shape[2:], *unit, *w_shape[2:]]
    fields += [*unit, *out, *unit, *strides, *unit, *dilations, *[0 for _ in unit], *begin]
    shape = ConvShape(*fields)

    def compute(x: te.Tensor, w: te.Tensor) -> te.Tensor:
        channel = te.reduce_axis((0, shape.ic), name="channel")
        taps = [te.reduce_axis((0, k), name="tap") for k in w_shape[2:]]

        def value(n, o, *position):
            place = [p * s + t * d - b for p, s, t, d, b in zip(position, strides, taps, dilations, begin, strict=True)]
            inside = [c for p, size in zip(place, x_shape[2:], strict=True) for c in (p >= 0, p < size)]
            pixel = x(n, o // shape.oc * shape.ic + channel, *place)
            pixel = tirx.if_then_else(tirx.all(*inside), pixel, tirx.const(0, "float32"))
            return te.sum(pixel * w(o, channel, *taps), axis=[channel, *taps])

        return te.compute((x_shape[0], w_shape[0], *out), value, name="conv", attrs={CONV: fields})

    attrs = {"op_pattern": OUT_ELEMENTWISE_FUSABLE}
    return builder.call_te(compute, x, w, primfunc_name_hint="conv", primfunc_attrs=attrs)


def emit_conv(state: FloatFunction, block: SBlock, epilogue: SBlock | None) -> Stmt:
    """Code for an annotated block and the element-wise block that alone reads its result, if there is one.

    Sums of some output rows of one group at a time go to a small buffer, and from there through the epilogue. They go
    to the result, and the epilogue works there, where the sums of a channel take no more place than its results.
    """
    shape = ConvShape(*(int(value) for value in block.annotations[CONV]))
    store = block.body
    x, w = (load.source for load in loads(store.value) if not load.source.same_as(store.buffer))
    image = _Image.of(shape, state.lanes)
    n, g, chunk = (Var(name, "int64") for name in ("n", "g", "chunk"))
    first = (n * index(shape.groups) + g) * index(shape.ic * shape.h * shape.w)
    statements = []
    if image.in_place:
        source, base = state.layout.flat[x], first
    else:
        source, base = state.temporary((shape.ic * image.channel + state.lanes,), "image"), index(0)
        statements += [emit(nest, state.lanes) for nest in image.copies(state.layout.flat[x], first, source)]
    base = base + chunk * index(image.chunk_rows * image.pitch)
    tile = choose_tile(shape.oc, image.columns, state.lanes)
    weights, packed = _weights(state, shape, w, tile)
    steps, taps = shape.ic * shape.kh * shape.kw, shape.kh * shape.kw

    def a_offset(row: tvm.ir.Expr, i: int, height: int, k: Sequence[tvm.ir.Expr]) -> tvm.ir.Expr:
        step = k[0] * index(taps) + k[1] * index(shape.kw) + k[2]
        row = g * index(shape.oc) + row
        return packed_offset(steps, row, i, height, step) if packed else (row + index(i)) * index(steps) + step

    last = store if epilogue is None else epilogue.body
    whole = image.chunk_rows == shape.oh and image.y_pitch == shape.oh * shape.ow
    direct = whole and (epilogue is None or _keeps_places(epilogue))
    sums = state.layout.flat[last.buffer] if direct else state.temporary((shape.oc * image.y_pitch,), "sums")
    y_row = (n * index(shape.groups) + g) * index(shape.oc)
    product = Product(
        rows=shape.oc,
        columns=image.columns,
        reduction=((shape.ic, False), (shape.kh, taps <= 9), (shape.kw, shape.kw <= 9)),
        a=weights,
        b=source,
        y=sums,
        a_offset=a_offset,
        b_offset=lambda k, column, _: base + k[0] * index(image.channel) + image.shift(k[1], k[2]) + column,
        y_offset=lambda row, column: (y_row + row if direct else row) * index(image.y_pitch) + column,
    )
    body = [emit_product(product, tile, state.lanes)]
    if epilogue is not None or not direct:
        first_row = y_row if direct else index(0)
        nest = _results(state, shape, image, (sums, first_row), store, epilogue, (n, g, chunk))
        body.append(emit(nest, state.lanes))
    statements.append(serial([Axis(chunk, shape.oh // image.chunk_rows)], sequence(body)))
    return serial([Axis(n, shape.n), Axis(g, shape.groups)], sequence(statements))


def _keeps_places(epilogue: SBlock) -> bool:
    """Whether each element of the result takes the place of the sum it comes from, and its type."""
    store = epilogue.body
    pairs = zip(store.indices, epilogue.iter_vars, store.buffer.shape, strict=True)
    return str(store.buffer.dtype) == "float32" and all(
        i.same_as(v.var) and int(extent) == int(v.dom.extent) for i, v, extent in pairs
    )


def _results(
    state: FloatFunction,
    shape: ConvShape,
    image: _Image,
    sums: tuple[Var, tvm.ir.Expr],
    store: BufferStore,
    epilogue: SBlock | None,
    position: tuple[Var, Var, Var],
) -> Nest:
    """The nest that takes the sums of one chunk of one group through the epilogue, or as they are, to the result.

    `sums` are a buffer and the row of the group's first channel there.
    """
    n, g, chunk = position
    channel, row, column = (Var(name, "int64") for name in ("channel", "row", "column"))
    axes = (Axis(channel, shape.oc), Axis(row, image.chunk_rows), Axis(column, shape.ow))
    total = BufferLoad(sums[0], [(sums[1] + channel) * index(image.y_pitch) + row * index(image.pitch) + column])
    place = [n, g * index(shape.oc) + channel, chunk * index(image.chunk_rows) + row, column]
    if len(store.indices) == 3:
        del place[2]
    if epilogue is None:
        target = state.layout.apply(BufferStore(store.buffer, total, place))
    else:
        own = (TensorLoad, lambda load: total if load.source.same_as(store.buffer) else load)
        target = structural_map(epilogue.body, own)
        variables = {iteration.var: p for iteration, p in zip(epilogue.iter_vars, place, strict=True)}
        target = state.layout.apply(substitute(target, variables))
    return Nest(axes, (), target.buffer, target.indices[0], target.value)


def _weights(state: FloatFunction, shape: ConvShape, w: Var, tile: TileShape) -> tuple[Var, bool]:
    """The flat weights, packed by row tiles where they are constant, and whether they are."""
    if not state.may_pack(w):
        return state.layout.flat[w], False

    def pack(values: np.ndarray) -> np.ndarray:
        groups = values.reshape(shape.groups, shape.oc, -1)
        return np.concatenate([pack_rows(matrix, tile.rows) for matrix in groups])

    return state.pack(w, shape.groups * shape.oc * shape.ic * shape.kh * shape.kw, pack), True


@dataclass(frozen=True)
class _Image:
    """The padded copy of one group's image, and the output's positions along its rows."""

    shape: ConvShape
    phases_h: int
    phases_w: int
    rows: int
    pitch: int
    chunk_rows: int
    """Output rows whose sums are computed before the next step; divides the output's rows."""
    columns: int
    """Positions of one chunk, from the first row's start to the last row's end."""
    y_pitch: int
    """The same, up to whole vectors."""
    in_place: bool
    """The image itself serves as the copy."""

    @staticmethod
    def of(s: ConvShape, lanes: int) -> _Image:
        reach_h, reach_w = (s.kh - 1) * s.dilation_h, (s.kw - 1) * s.dilation_w
        phases_h = max(i * s.dilation_h % s.stride_h for i in range(s.kh)) + 1
        phases_w = max(j * s.dilation_w % s.stride_w for j in range(s.kw)) + 1
        pitch = s.ow + reach_w // s.stride_w
        pointwise = s.kh == s.kw == s.stride_h == s.stride_w == 1 and (s.oh, s.ow) == (s.h, s.w)
        in_place = pointwise and s.oh * s.ow % lanes == 0

        def columns(rows: int) -> int:
            return (rows - 1) * pitch + s.ow

        def cost(rows: int) -> tuple[float, float, int]:
            padded = -(-columns(rows) // lanes) * lanes
            cycles = choose_tile(s.oc, padded, lanes).cycles / (rows * s.ow)
            return max(4 * s.oc * padded, CHUNK_BYTES), cycles, -rows

        # In place, a chunk that is no whole number of vectors would read past the end of the last one.
        choices = [r for r in range(1, s.oh + 1) if s.oh % r == 0 and not (in_place and columns(r) % lanes)]
        rows = min(choices, key=cost)
        y_pitch = -(-columns(rows) // lanes) * lanes
        image_rows = s.oh + reach_h // s.stride_h
        return _Image(s, phases_h, phases_w, image_rows, pitch, rows, columns(rows), y_pitch, in_place)

    @property
    def plane(self) -> int:
        return self.rows * self.pitch

    @property
    def channel(self) -> int:
        """Elements of one channel."""
        return self.shape.h * self.shape.w if self.in_place else self.phases_h * self.phases_w * self.plane

    def shift(self, i: tvm.ir.Expr, j: tvm.ir.Expr) -> tvm.ir.Expr:
        """Elements from a channel's start to what tap (i, j) reads for the first output position."""
        s = self.shape
        down, right = i * index(s.dilation_h), j * index(s.dilation_w)
        phase = down % index(s.stride_h) * index(self.phases_w) + right % index(s.stride_w)
        return phase * index(self.plane) + down // index(s.stride_h) * index(self.pitch) + right // index(s.stride_w)

    def copies(self, x: Var, first: tvm.ir.Expr, copy: Var) -> list[Nest]:
        """The nests that fill the copy from the image that starts at `first`."""
        s = self.shape
        nests = []
        for phase in range(self.phases_h * self.phases_w):
            down, right = phase // self.phases_w - s.top, phase % self.phases_w - s.left
            channel, row, column = (Var(name, "int64") for name in ("channel", "row", "column"))
            i = row * index(s.stride_h) + index(down)
            j = column * index(s.stride_w) + index(right)
            inside = tirx.all(i >= index(0), i < index(s.h), j >= index(0), j < index(s.w))
            pixel = BufferLoad(x, [first + channel * index(s.h * s.w) + i * index(s.w) + j])
            value = tirx.if_then_else(inside, pixel, tirx.const(0.0, "float32"))
            offset = channel * index(self.channel) + index(phase * self.plane) + row * index(self.pitch) + column
            axes = (Axis(channel, s.ic), Axis(row, self.rows), Axis(column, self.pitch))
            nests.append(Nest(axes, (), copy, offset, value))
        return nests
