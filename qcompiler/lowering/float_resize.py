"""Resize in floating point: tables of indices and weights, made when the model is compiled.

TVM's own takes the ratio of the sizes for the scale, which is another one where the scaled size was rounded, and
computes coordinates for each element, with a rounding that differs from machine to machine.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import onnx
import tvm
from tvm import relax, te, tirx

from ..arithmetic.resize import coordinates, cubic_taps, linear_taps, nearest_indices
from ..errors import ModelError
from .float_rewriter import Rewriter, attributes_of

_CROP = "tf_crop_and_resize"
_POLICIES = {b"not_larger": np.min, b"not_smaller": np.max}
_ATTRIBUTES = ("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside")


def rewrite_resize(add: Rewriter, node: onnx.NodeProto) -> bool:
    """The same by resizes of two axes to sizes; of a volume the last two first. Returns whether it was rewritten.

    The scales stand in the region of interest, which TVM's converter hands on to `legalize_resize`.

    Raises:
        ModelError: `antialias`, axes that are not spatial, or scales and sizes that are no constants.
    """
    attributes = attributes_of(node)
    name = node.name or node.output[0]
    if attributes.get("antialias"):
        raise ModelError(f"node {name!r}: Resize with antialias cannot be compiled; set antialias to 0")
    sizes, target = add.shapes[node.input[0]], add.shapes[node.output[0]]
    rank = len(sizes)
    if attributes.get("coordinate_transformation_mode") == _CROP.encode() or rank not in (3, 4, 5):
        return False
    if sizes[:2] != target[:2]:
        raise ModelError(f"node {name!r}: Resize of the first two axes cannot be compiled; transpose the tensor before")
    images, (*depth, last) = sizes[:2], _scales(add, node, attributes)[2:]
    kept = {key: attributes[key] for key in _ATTRIBUTES if key in attributes}

    def plane(x: str, shape: list[int], to: list[int], scales: list[float]) -> str:
        """`x` seen as images of `shape`, these resized."""
        whole = [images[0], int(np.prod(shape[:-2])) * images[1]]
        region = add.array(np.float32([0, 0, *scales, 0, 0, 0, 0]))
        x = add("Reshape", x, add.array([*whole, *shape[-2:]]))
        return add("Resize", x, region, "", add.array([*whole, *to]), **kept)

    x = node.input[0]
    if rank == 3:
        x = plane(x, [1, sizes[2]], [1, target[2]], [1.0, last])
    else:
        x = plane(x, sizes[2:], target[-2:], [depth[-1], last])
    if rank == 5:
        area = target[3] * target[4]
        x = plane(x, [sizes[2], area], [target[2], area], [depth[0], 1.0])
    add("Reshape", x, add.array(target), output=node.output[0])
    return True


def _scales(add: Rewriter, node: onnx.NodeProto, attributes: dict) -> list[float]:
    """The scale of each axis."""
    shape, target = add.shapes[node.input[0]], add.shapes[node.output[0]]
    axes = [axis % len(shape) for axis in attributes.get("axes", range(len(shape)))]
    scales, sizes = add.constant(node, 2), add.constant(node, 3)
    if scales is not None and scales.size:
        given = dict(zip(axes, scales, strict=True))
        return [float(given.get(axis, 1)) for axis in range(len(shape))]
    found = np.array(target, np.float32) / np.array(shape, np.float32)
    if sizes is not None and (choose := _POLICIES.get(attributes.get("keep_aspect_ratio_policy", b"stretch"))):
        found[axes] = choose(sizes.astype(np.float32) / np.array([shape[axis] for axis in axes], np.float32))
    return [float(scale) for scale in found]


def legalize_resize(builder: relax.BlockBuilder, call: tvm.ir.Call) -> tvm.ir.Expr:
    """A resize made by `rewrite_resize`, as one function of the tensor and the tables."""
    attrs, x = call.attrs, call.args[0]
    form = str(attrs.coordinate_transformation_mode)
    if form == _CROP:
        return call.op.get_attr("FLegalize")(builder, call)
    shape = [int(n) for n in x.ty.shape]
    target = [*shape[:2], *(int(n) for n in call.args[1].values)]
    tables = []
    for axis, scale in zip(range(2, len(shape)), attrs.roi, strict=False):
        if shape[axis] != target[axis] or float(scale) != 1:
            tables.append((axis, *_taps(attrs, form, shape[axis], target[axis], float(scale))))
    dtype = str(x.ty.dtype)
    arguments = [relax.const(table) for _, *pair in tables for table in pair]

    def resized(source: te.Tensor, *given: te.Tensor) -> te.Tensor:
        rest = iter(given)
        own = [(axis, *(next(rest) for _ in pair)) for axis, *pair in tables]

        def element(*place: tirx.Var) -> tvm.ir.Expr:
            total = None
            for taps in product(*(range(int(indices.shape[0])) for _, indices, *_ in own)):
                at, factors = list(place), []
                for tap, (axis, indices, *weights) in zip(taps, own, strict=True):
                    at[axis] = indices[tap, place[axis]]
                    factors += [table[tap, place[axis]] for table in weights]
                value = source[tuple(at)]
                for factor in factors:
                    value = value.astype("float32") * factor
                total = value if total is None else total + value
            return total.astype(dtype)

        return te.compute(target, element, name="resize")

    return builder.call_te(resized, x, *arguments)


def _taps(attrs: tvm.ir.Attrs, form: str, size: int, wanted: int, scale: float) -> tuple[np.ndarray, ...]:
    """int32 indices and, of more than one tap, float32 weights, `[taps, wanted]`."""
    method = str(attrs.method)
    if method == "nearest_neighbor":
        return (nearest_indices(size, wanted, form, str(attrs.rounding_method), scale).astype(np.int32)[None],)
    places = coordinates(size, wanted, form, scale)
    if method == "linear":
        indices, weights = linear_taps(places, size)
    else:
        excluded = bool(int(attrs.cubic_exclude))
        indices, weights = cubic_taps(places, size, float(attrs.cubic_alpha), exclude_outside=excluded)
    return indices.astype(np.int32), weights
