"""Integer forms of ops that move elements: operands and result keep one scale and zero point."""

from __future__ import annotations

import numpy as np
from xdsl.dialects.builtin import StringAttr, TensorType
from xdsl.ir import Operation, SSAValue

from qcompiler.arithmetic.resize import nearest_indices
from qcompiler.ir.pointwise import scalar
from qcompiler.ir.q_base import array, number
from qcompiler.ir.q_movement import (
    ConcatOp,
    GatherOp,
    MaxPoolOp,
    PadOp,
    ReshapeOp,
    ResizeOp,
    SliceOp,
    TransposeOp,
)
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import integer, integers, quantized, rank, shape, string
from qcompiler.passes.integer_rules import Rule, Site, always, constant, one_scale, present, stored
from qcompiler.passes.rules_compute import windows

_LAYOUT = StringAttr("NCHW")


def _moved(site: Site, kind: type, properties: dict, *more: SSAValue) -> SSAValue | None:  # type: ignore[type-arg]
    """An op of `kind` on the first operand in the operand's own type, then the result's type."""
    x = site.source(site.op.operands[0])
    if x is None or not one_scale(quantized(x)):
        return None
    result = TensorType(quantized(x), shape(site.chain[-1].results[0]))
    y = site.emit(kind.create(operands=[x, *more], result_types=[result], properties=properties))
    return site.as_type(y, site.y)


def _reshape(site: Site) -> SSAValue | None:
    return _moved(site, ReshapeOp, {})


def _transpose(site: Site) -> SSAValue | None:
    order = integers(site.op.properties.get("perm"), range(rank(site.op.operands[0]))[::-1])
    return _moved(site, TransposeOp, {"perm": array(order)})


def _concat(site: Site) -> SSAValue | None:
    sources = [site.source(v) for v in site.op.operands]
    if not site.y.per_tensor or any(s is None or not one_scale(quantized(s)) for s in sources):
        return None
    parts = [site.as_type(s, site.y) for s in sources if s is not None]
    axis = integer(site.op.properties.get("axis")) % rank(site.op.results[0])
    return site.emit(ConcatOp.create(operands=parts, result_types=[site.result()], properties={"axis": number(axis)}))


def _check_slice(op: Operation, store: ConstantStore) -> str | None:
    if not all(constant(v) for i in range(1, len(op.operands)) if (v := present(op, i)) is not None):
        return "Slice with bounds that are no constants"
    return None if 0 not in shape(op.results[0]) else "Slice with an empty result"


def slice_extents(op: Operation, store: ConstantStore) -> tuple[list[int], list[int]]:
    """Start and step on every axis of a Slice with constant bounds."""
    extents = shape(op.operands[0])
    given = [stored(op.operands[1], store).tolist(), stored(op.operands[2], store).tolist()]
    axes_value, steps_value = present(op, 3), present(op, 4)
    axes = list(range(len(given[0]))) if axes_value is None else stored(axes_value, store).tolist()
    steps = [1] * len(given[0]) if steps_value is None else stored(steps_value, store).tolist()
    starts_all, steps_all = [0] * len(extents), [1] * len(extents)
    for start, axis, step in zip(given[0], axes, steps, strict=True):
        extent = extents[axis]
        start = start + extent if start < 0 else start
        starts_all[axis] = min(max(start, 0), extent if step > 0 else extent - 1)
        steps_all[axis] = step
    return starts_all, steps_all


def _slice(site: Site) -> SSAValue | None:
    starts, steps = slice_extents(site.op, site.store)
    return _moved(site, SliceOp, {"starts": array(starts), "steps": array(steps)})


def _check_pad(op: Operation, store: ConstantStore) -> str | None:
    if not constant(op.operands[1]) or present(op, 3) is not None:
        return "Pad with amounts that are no constants, or with axes"
    if stored(op.operands[1], store).min(initial=0) < 0:
        return "Pad that cuts off"
    if string(op.properties.get("mode"), "constant") not in ("constant", "edge", "reflect"):
        return f"Pad in mode {string(op.properties.get('mode'))}"
    value = present(op, 2)
    return None if value is None or scalar(value, store) is not None else "Pad with a value that is no constant"


def _pad(site: Site) -> SSAValue | None:
    x = site.source(site.op.operands[0])
    if x is None or not one_scale(quantized(x)):
        return None
    kind = quantized(x)
    value = present(site.op, 2)
    real = scalar(value, site.store) if value is not None else 0.0
    filled = np.rint((real or 0.0) / float(kind.scale)) + kind.zero_point
    if not kind.qmin <= filled <= kind.qmax:  # infinite and NaN among others
        return None
    properties = {
        "pads": array(stored(site.op.operands[1], site.store).tolist()),
        "value": number(int(filled)),
        "mode": StringAttr(string(site.op.properties.get("mode"), "constant")),
    }
    return _moved(site, PadOp, properties)


def _check_gather(op: Operation, store: ConstantStore) -> str | None:
    if constant(op.operands[0]):
        return "Gather from a constant table is a look-up of float rows"
    indices = op.operands[1]
    return None if constant(indices) else "Gather with indices that are no constant"


def _gather(site: Site) -> SSAValue | None:
    axis = integer(site.op.properties.get("axis")) % rank(site.op.operands[0])
    indices = site.constant("indices", stored(site.op.operands[1], site.store).astype(np.int64))
    return _moved(site, GatherOp, {"axis": number(axis)}, indices)


def _check_max_pool(op: Operation, store: ConstantStore) -> str | None:
    if len(op.results) > 1 and op.results[1].first_use:
        return "MaxPool whose indices are read"
    return None if rank(op.operands[0]) in (3, 4) else f"MaxPool of rank {rank(op.operands[0])}"


def _max_pool(site: Site) -> SSAValue | None:
    n = rank(site.op.operands[0]) - 2
    dilations = array(integers(site.op.properties.get("dilations"), [1] * n))
    return _moved(site, MaxPoolOp, {**windows(site.op), "dilations": dilations, "layout": _LAYOUT})


def _check_resize(op: Operation, store: ConstantStore) -> str | None:
    mode = string(op.properties.get("mode"), "nearest")
    if mode != "nearest":
        return f"Resize in mode {mode}"
    if rank(op.operands[0]) != 4 or shape(op.operands[0])[:2] != shape(op.results[0])[:2]:
        return "Resize of axes other than rows and columns"
    if string(op.properties.get("coordinate_transformation_mode"), "half_pixel") == "tf_crop_and_resize":
        return "Resize with a crop"
    axes = [axis % 4 for axis in integers(op.properties.get("axes"), range(4))]
    if axes not in ([2, 3], [0, 1, 2, 3]):
        return f"Resize of the axes {axes}"
    scales = present(op, 2)
    return None if scales is None or constant(scales) else "Resize by factors that are no constants"


def _resize(site: Site) -> SSAValue | None:
    op = site.op
    before, after = shape(op.operands[0])[2:], shape(op.results[0])[2:]
    given = present(op, 2)
    factors = stored(given, site.store).tolist() if given is not None else []
    scales = [float(f) for f in factors[-2:]] if factors else [a / b for a, b in zip(after, before, strict=True)]
    coordinates = string(op.properties.get("coordinate_transformation_mode"), "half_pixel")
    nearest = string(op.properties.get("nearest_mode"), "round_prefer_floor")
    rows, columns = (
        site.constant("indices", nearest_indices(b, a, coordinates, nearest, s))
        for b, a, s in zip(before, after, scales, strict=True)
    )
    return _moved(site, ResizeOp, {"layout": _LAYOUT}, rows, columns)


def _split(site: Site) -> SSAValue | None:
    return None  # several results: integerize builds it for all of them at once


MOVEMENT: dict[str, Rule] = {
    "Reshape": Rule(always, _reshape, moves=True),
    "Transpose": Rule(always, _transpose, moves=True),
    "Concat": Rule(always, _concat, moves=True),
    "Split": Rule(always, _split, moves=True),
    "Slice": Rule(_check_slice, _slice, moves=True),
    "Pad": Rule(_check_pad, _pad, moves=True),
    "Gather": Rule(_check_gather, _gather, moves=True),
    "MaxPool": Rule(_check_max_pool, _max_pool, moves=True),
    "GlobalMaxPool": Rule(always, _max_pool, moves=True),
    "Resize": Rule(_check_resize, _resize, moves=True),
}
