"""Relax's operators that move elements, in ONNX."""

# TVM's expressions have no attributes and operators for a type checker.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false

from __future__ import annotations

import numpy as np
from tvm.ir import Call, Expr, Tuple
from tvm.tirx import IntImm

from qcompiler.frontends.relax_emit import Emitter, Rule, Value, dtype_of, ints, require, shape_of


def _fields(call: Call) -> list[Expr]:
    require(isinstance(call.args[0], Tuple), "a tuple that is not written out")
    return list(call.args[0])


def _concat(emitter: Emitter, call: Call) -> Value:
    return emitter.node("Concat", *map(emitter.of, _fields(call)), axis=int(call.attrs.axis or 0))


def _stack(emitter: Emitter, call: Call) -> Value:
    axis = int(call.attrs.axis or 0) % len(shape_of(call))
    axes = emitter.constant([axis])
    return emitter.node("Concat", *(emitter.node("Unsqueeze", emitter.of(f), axes) for f in _fields(call)), axis=axis)


def _split(emitter: Emitter, call: Call) -> Value:
    rank = len(shape_of(call.args[0]))
    axis = int(call.attrs.axis) % rank
    sizes = []
    for kind in call.ty.fields:
        require(kind.shape is not None, "parts of unknown size")
        sizes.append(int(kind.shape[axis]))
    require(min(sizes) > 0, "an empty part")
    return emitter.nodes_of(
        "Split", len(sizes), emitter.of(call.args[0]), emitter.constant(np.array(sizes, np.int64)), axis=axis
    )


def _strided_slice(emitter: Emitter, call: Call) -> Value:
    x, *numbers = call.args
    require(
        all(isinstance(group, Tuple) and all(isinstance(v, IntImm) for v in group) for group in numbers),
        "a slice whose bounds are computed",
    )
    axes, first, last, *steps = ([int(v) for v in group] for group in numbers)
    steps = steps[0] if steps else [1] * len(axes)
    given = (emitter.constant(np.array(values, np.int64)) for values in (first, last, axes, steps))
    return emitter.node("Slice", emitter.of(x), *given)


def _take(emitter: Emitter, call: Call) -> Value:
    axis, rank = call.attrs.axis, len(shape_of(call.args[0]))
    require(axis is not None or rank == 1, "take from all axes")
    return emitter.node("Gather", *map(emitter.of, call.args), axis=0 if axis is None else int(axis))


def _permute(emitter: Emitter, call: Call) -> Value:
    rank = len(shape_of(call.args[0]))
    axes = list(reversed(range(rank))) if call.attrs.axes is None else [a % rank for a in ints(call.attrs.axes)]
    return emitter.node("Transpose", emitter.of(call.args[0]), perm=axes)


def _flip(emitter: Emitter, call: Call) -> Value:
    numbers = ([-1], [np.iinfo(np.int64).min], [int(call.attrs.axis)], [-1])
    return emitter.node("Slice", emitter.of(call.args[0]), *map(emitter.constant, numbers))


def _expand(emitter: Emitter, call: Call) -> Value:
    return emitter.node("Expand", emitter.of(call.args[0]), emitter.constant(shape_of(call)))


def _tile(emitter: Emitter, call: Call) -> Value:
    repeats, rank = ints(call.attrs.repeats), len(shape_of(call.args[0]))
    require(len(repeats) <= rank, "tiling along new axes")
    repeats = [1] * (rank - len(repeats)) + repeats
    return emitter.node("Tile", emitter.of(call.args[0]), emitter.constant(repeats))


_PAD_MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def _pad(emitter: Emitter, call: Call) -> Value:
    mode = _PAD_MODES.get(call.attrs.pad_mode)
    require(mode, f"mode {call.attrs.pad_mode}")
    widths = ints(call.attrs.pad_width)
    value = emitter.constant(np.array(float(call.attrs.pad_value), dtype_of(call)))
    return emitter.node(
        "Pad", emitter.of(call.args[0]), emitter.constant(widths[0::2] + widths[1::2]), value, mode=mode
    )


_NEAREST = {"round": "round_prefer_ceil", "": "floor"}


def _resize2d(emitter: Emitter, call: Call) -> Value:
    attributes = call.attrs
    require(attributes.layout == "NCHW", f"layout {attributes.layout}")
    mode = {"nearest_neighbor": "nearest", "linear": "linear"}.get(attributes.method)
    require(mode, f"method {attributes.method}")
    coordinates = attributes.coordinate_transformation_mode
    require(coordinates in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel"), coordinates)
    rounding = str(attributes.rounding_method)
    return emitter.node(
        "Resize",
        emitter.of(call.args[0]),
        "",
        "",
        emitter.constant(shape_of(call)),
        mode=mode,
        coordinate_transformation_mode=coordinates,
        nearest_mode=_NEAREST.get(rounding, rounding) if mode == "nearest" else None,
    )


RULES: dict[str, Rule] = {
    "relax.nn.pad": _pad,
    "relax.concat": _concat,
    "relax.stack": _stack,
    "relax.split": _split,
    "relax.strided_slice": _strided_slice,
    "relax.take": _take,
    "relax.permute_dims": _permute,
    "relax.flip": _flip,
    "relax.broadcast_to": _expand,
    "relax.tile": _tile,
    "relax.image.resize2d": _resize2d,
}
