"""Dialect `quant`: the quantized element type, in MLIR's spelling.

    !quant.uniform<u8:f32, 1.86e-02:114>                           per tensor: scale 0.0186, zero point 114
    !quant.uniform<i8<-127:127>:f32:0, {1.0e-01, 2.0e-01:3}>       per axis 0, narrow storage range
    !quant.uniform<i8:f32:{0:1, 1:32}, {{1.0e-01}, {2.0e-01}}>     sub-channel: blocks of 1 x 32 on axes 0 and 1

A stored integer `q` stands for the real number `scale * (q - zero_point)`. Scales are float32 and print with the
fewest digits that read back to the same float32.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from xdsl.dialects.builtin import ArrayAttr, DenseArrayBase, Float32Type, IntAttr, IntegerType, StringAttr, f32, i64
from xdsl.ir import Attribute, Dialect, ParametrizedAttribute, TypeAttribute
from xdsl.irdl import irdl_attr_definition
from xdsl.parser import AttrParser
from xdsl.printer import Printer
from xdsl.utils.exceptions import VerifyException

from qcompiler.arithmetic.affine import storage_dtype, storage_range
from qcompiler.arithmetic.grouped import factors_of

_STORAGE = re.compile(r"[iu](?:[2-9]|1[0-6])|i32")


def scale_text(value: float) -> str:
    """Shortest decimal of a float32 that reads back to it; always with a point, which MLIR's lexer wants."""
    return np.format_float_scientific(np.float32(value), unique=True, trim="0", exp_digits=2)


@irdl_attr_definition
class UniformType(ParametrizedAttribute, TypeAttribute):
    """`real = scale * (stored - zero_point)`.

    `axes` and `blocks` empty: one scale. One axis and no block: one scale per index of that axis. Axes with blocks:
    one scale per block; `grid` is the shape of the array of scales.
    """

    name = "quant.uniform"
    storage_: StringAttr
    qmin_: IntAttr
    qmax_: IntAttr
    expressed: Float32Type
    axes_: ArrayAttr[IntAttr]
    blocks_: ArrayAttr[IntAttr]
    grid_: ArrayAttr[IntAttr]
    scales_: DenseArrayBase[Float32Type]
    zero_points_: DenseArrayBase[IntegerType]

    @staticmethod
    def make(
        storage: str,
        scale: ArrayLike,
        zero_point: ArrayLike = 0,
        *,
        axis: int | None = None,
        blocks: dict[int, int] | None = None,
        storage_range: tuple[int, int] | None = None,
    ) -> UniformType:
        """A type from arrays. `storage` is "u8", "i8", "i16"...; `scale` has rank 0, 1 (`axis`) or that of `blocks`."""
        scales = np.asarray(scale, np.float32)
        zeros = np.broadcast_to(np.asarray(zero_point, np.int64), scales.shape)
        axes = list(blocks) if blocks else ([] if axis is None else [axis])
        return UniformType(
            *_parameters(
                storage,
                storage_range or _default_range(storage),
                axes,
                list((blocks or {}).values()),
                scales.shape,
                scales.ravel().tolist(),
                zeros.ravel().tolist(),
            )
        )

    @property
    def storage(self) -> str:
        """Spelling of the storage type: `u8`, `i8`, `i16`..."""
        return self.storage_.data

    @property
    def dtype(self) -> np.dtype:
        """The numpy type that holds the stored integers."""
        return storage_dtype(self.storage)

    @property
    def qmin(self) -> int:
        return self.qmin_.data

    @property
    def qmax(self) -> int:
        return self.qmax_.data

    @property
    def grid(self) -> tuple[int, ...]:
        return tuple(a.data for a in self.grid_.data)

    @property
    def axis(self) -> int | None:
        """The axis of a per-axis type, else None."""
        return self.axes_.data[0].data if self.axes_.data and not self.blocks_.data else None

    @property
    def blocks(self) -> dict[int, int]:
        """Axis to block size, of a sub-channel type."""
        return {a.data: b.data for a, b in zip(self.axes_.data, self.blocks_.data, strict=False)}

    @property
    def per_tensor(self) -> bool:
        return not self.axes_.data

    @property
    def scales(self) -> NDArray[np.float32]:
        return np.frombuffer(self.scales_.data.data, np.float32).reshape(self.grid)

    @property
    def zero_points(self) -> NDArray[np.int64]:
        return np.frombuffer(self.zero_points_.data.data, np.int64).reshape(self.grid)

    def along(self, axis: int) -> UniformType:
        """The per-axis type with these scales along another axis."""
        limits = (self.qmin, self.qmax)
        return UniformType.make(self.storage, self.scales, self.zero_points, axis=axis, storage_range=limits)

    def spread(self, extents: Sequence[int]) -> tuple[NDArray[np.float32], NDArray[np.int64], int | None]:
        """Scales, zero points and axis for arithmetic on an array of this shape; blocks repeat their scales."""
        scales, zeros = self.scales, self.zero_points
        for dimension, (axis, size) in enumerate(self.blocks.items()):
            scales, zeros = (
                np.repeat(v, size, dimension).take(range(extents[axis]), dimension) for v in (scales, zeros)
            )
        return scales, zeros, self.axis

    @property
    def scale(self) -> np.float32:
        """The scale of a per-tensor type."""
        return self.scales[()]

    @property
    def zero_point(self) -> int:
        """The zero point of a per-tensor type, or the one that all channels of a per-axis type share.

        Raises:
            ValueError: the channels have different zero points.
        """
        zeros = np.unique(self.zero_points)
        if len(zeros) > 1:
            raise ValueError(f"{self} has no common zero point")
        return int(zeros[0])

    @property
    def reach(self) -> int:
        """The largest `|stored - zero_point|`."""
        return int(max(self.zero_points.max() - self.qmin, self.qmax - self.zero_points.min()))

    def verify(self) -> None:
        if not _STORAGE.fullmatch(self.storage):
            raise VerifyException(f"storage type must be i2..i16, u2..u16 or i32, got {self.storage}")
        low, high = _default_range(self.storage)
        if not low <= self.qmin < self.qmax <= high:
            raise VerifyException(f"storage range {self.qmin}:{self.qmax} is not inside {low}:{high}")
        if not all(math.isfinite(s) and s > 0 for s in self.scales_.get_values()):
            raise VerifyException("a scale must be finite and positive")
        if not all(self.qmin <= z <= self.qmax for z in self.zero_points_.get_values()):
            raise VerifyException(f"a zero point lies outside the storage range {self.qmin}:{self.qmax}")
        if problem := _axes_problem([a.data for a in self.axes_.data], list(self.blocks.values()), self.grid):
            raise VerifyException(problem)

    @classmethod
    def parse_parameters(cls, parser: AttrParser) -> Sequence[Attribute]:
        scales: list[float] = []
        zeros: list[int] = []
        zero_positions: list[int] = []

        def leaf() -> None:
            scales.append(_parse_scale(parser))
            zero_positions.append(parser.pos)
            zeros.append(parser.parse_integer() if parser.parse_optional_punctuation(":") else 0)

        with parser.in_angle_brackets():
            start = parser.pos
            storage = parser.parse_identifier(" (a storage type)")
            if not _STORAGE.fullmatch(storage):
                parser.raise_error(f"expected a storage type i2..i16, u2..u16 or i32, got '{storage}'", start)
            low, high = qmin, qmax = _default_range(storage)
            if parser.parse_optional_punctuation("<"):
                start = parser.pos
                qmin = parser.parse_integer()
                parser.parse_punctuation(":")
                qmax = parser.parse_integer()
                parser.parse_punctuation(">")
                if not low <= qmin < qmax <= high:
                    parser.raise_error(f"expected a storage range inside {low}:{high}, got {qmin}:{qmax}", start)
            parser.parse_punctuation(":")
            parser.parse_keyword("f32")
            start = parser.pos
            axes, blocks = _parse_axes(parser)
            parser.parse_punctuation(",")
            if axes:
                grid = _parse_nested(parser, leaf)
            else:
                grid = ()
                leaf()
            if problem := _axes_problem(axes, blocks, grid):
                parser.raise_error(problem, start)
            for zero, position in zip(zeros, zero_positions, strict=True):
                if not qmin <= zero <= qmax:
                    parser.raise_error(f"expected a zero point in {qmin}:{qmax}, got {zero}", position)
        return _parameters(storage, (qmin, qmax), axes, blocks, grid, scales, zeros)

    def print_parameters(self, printer: Printer) -> None:
        pairs = zip(self.scales_.get_values(), self.zero_points_.get_values(), strict=True)
        texts = [scale_text(s) + (f":{z}" if z else "") for s, z in pairs]
        with printer.in_angle_brackets():
            printer.print_string(self.storage)
            if (self.qmin, self.qmax) != _default_range(self.storage):
                printer.print_string(f"<{self.qmin}:{self.qmax}>")
            printer.print_string(":f32")
            if self.blocks:
                printer.print_string(":{" + ", ".join(f"{a}:{b}" for a, b in self.blocks.items()) + "}")
            elif self.axis is not None:
                printer.print_string(f":{self.axis}")
            printer.print_string(", " + _nested_text(texts, self.grid))


def column_scales(kind: UniformType) -> NDArray[np.float64]:
    """What one step of a weight is worth in the int32 sums it goes into: one number, or one an output channel.

    Of a type with groups of rows: the units of its columns.

    Raises:
        ValueError: scales of groups that are not a unit times an integer (qcompiler.arithmetic.grouped).
    """
    if not kind.blocks:
        return kind.scales.astype(np.float64).reshape(-1)
    parts = factors_of(kind.scales)
    if parts is None:
        raise ValueError(f"{kind} has scales that are no unit of a column times an integer")
    return parts[0]


_OTHER = {"u8": "i8", "i8": "u8", "u16": "i16", "i16": "u16"}


def flipped(kind: UniformType) -> UniformType:
    """The type of 8 or 16 bits and the other signedness that stands for the same real numbers."""
    storage = _OTHER[kind.storage]
    step = _default_range(storage)[0] - _default_range(kind.storage)[0]
    limits = (kind.qmin + step, kind.qmax + step)
    return UniformType.make(storage, kind.scales, kind.zero_points + step, axis=kind.axis, storage_range=limits)


def _default_range(storage: str) -> tuple[int, int]:
    return storage_range(storage)


def _axes_problem(axes: Sequence[int], blocks: Sequence[int], grid: Sequence[int]) -> str | None:
    if min((0, *axes)) < 0 or len(set(axes)) != len(axes):
        return f"expected axes that are not negative, each once, got {list(axes)}"
    if min((1, *blocks)) < 1:
        return f"expected blocks of at least one element, got {list(blocks)}"
    if len(grid) != len(axes) or 0 in grid:
        return f"expected scales in as many dimensions as there are axes ({len(axes)}), got {list(grid)}"
    return None


def _ints(values: Sequence[int]) -> ArrayAttr[IntAttr]:
    return ArrayAttr([IntAttr(int(v)) for v in values])


def _parameters(
    storage: str,
    limits: tuple[int, int],
    axes: Sequence[int],
    blocks: Sequence[int],
    grid: Sequence[int],
    scales: Sequence[float],
    zeros: Sequence[int],
) -> tuple[Attribute, ...]:
    return (
        StringAttr(storage),
        IntAttr(limits[0]),
        IntAttr(limits[1]),
        f32,
        _ints(axes),
        _ints(blocks),
        _ints(grid),
        DenseArrayBase.from_list(f32, list(scales)),
        DenseArrayBase.from_list(i64, list(zeros)),
    )


def _nested_text(texts: Sequence[str], grid: Sequence[int]) -> str:
    if not grid:
        return texts[0]
    step = math.prod(grid[1:])
    parts = [_nested_text(texts[i * step : (i + 1) * step], grid[1:]) for i in range(grid[0])]
    return "{" + ", ".join(parts) + "}"


def _parse_nested(parser: AttrParser, leaf: Callable[[], None]) -> tuple[int, ...]:
    """Reads nested braces, calling `leaf` at each innermost element; returns their shape."""
    shapes: list[tuple[int, ...]] = []

    def element() -> None:
        if parser._current_token.text == "{":  # the parser has no public way to look ahead
            shapes.append(_parse_nested(parser, leaf))
        else:
            leaf()
            shapes.append(())

    start = parser.pos
    parser.parse_comma_separated_list(parser.Delimiter.BRACES, element)
    if not shapes or any(s != shapes[0] for s in shapes):
        parser.raise_error("expected a non-empty, rectangular list of scales", start)
    return (len(shapes), *shapes[0])


def _parse_scale(parser: AttrParser) -> float:
    start = parser.pos
    if parser._current_token.text.startswith("0x"):  # mlir-opt writes some doubles as the hexadecimal of their bits
        number = struct.unpack("<d", struct.pack("<Q", parser.parse_integer()))[0]
    else:
        number = parser.parse_float()
    with np.errstate(over="ignore"):
        value = float(np.float32(number))
    if not (math.isfinite(value) and value > 0.0):
        parser.raise_error(f"expected a finite, positive scale, got {number}", start)
    return value


def _parse_axes(parser: AttrParser) -> tuple[list[int], list[int]]:
    axes: list[int] = []
    blocks: list[int] = []
    if parser.parse_optional_punctuation(":") is None:
        return axes, blocks
    if (axis := parser.parse_optional_integer(allow_boolean=False)) is not None:
        return [axis], blocks

    def entry() -> None:
        axes.append(parser.parse_integer())
        parser.parse_punctuation(":")
        blocks.append(parser.parse_integer())

    parser.parse_comma_separated_list(parser.Delimiter.BRACES, entry)
    return axes, blocks


Quant = Dialect("quant", [], [UniformType])
