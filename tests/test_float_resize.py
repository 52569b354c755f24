"""Resize of floats against onnxruntime: every way to place, to round and to interpolate, by scales and to sizes."""

from __future__ import annotations

import numpy as np
import pytest
from float_graphs import check, graph, node, rand

from qcompiler.errors import ModelError
from qcompiler.lowering.float_island import lower_float

FORMS = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
SCALES = ((1.7, 0.6), (2.0, 3.0), (0.5, 1 / 3))
RESIZES = [
    *(
        ("nearest", form, {"nearest_mode": rounding}, scale)
        for form in FORMS
        for rounding in ROUNDINGS
        for scale in SCALES
    ),
    *((mode, form, {}, scale) for mode in ("linear", "cubic") for form in FORMS for scale in SCALES),
    ("cubic", "half_pixel", {"cubic_coeff_a": -0.5, "exclude_outside": 1}, (1.7, 0.6)),
]


def resize_of(cases):
    """A model of resizes by scales whose products are no whole sizes, and to sizes; and an input."""
    x, nodes, constants = rand(1, 3, 7, 9), [], {"sizes": np.array([1, 3, 11, 4]), "two": np.array([11, 4])}
    for number, (mode, form, attributes, scale) in enumerate(cases):
        constants[f"s{number}"] = np.array([1, 1, *scale], np.float32)
        attributes = {"mode": mode, "coordinate_transformation_mode": form, **attributes}
        nodes.append(node("Resize", f"x,,s{number}", f"y{number}", **attributes))
        if scale == SCALES[0]:
            nodes.append(node("Resize", "x,,,sizes", f"z{number}", **attributes))
    for policy in ("not_larger", "not_smaller"):
        kept = {"keep_aspect_ratio_policy": policy, "axes": [2, 3], "mode": "linear"}
        nodes.append(node("Resize", "x,,,two", policy, **kept))
    inputs = {"x": x, "line": rand(2, 3, 9), "volume": rand(1, 2, 3, 4, 5)}
    constants |= {"s1d": np.float32([1, 1, 1.7]), "s3d": np.float32([1, 1, 1.7, 0.6, 2])}
    nodes.append(node("Resize", "line,,s1d", "longer", mode="linear"))
    nodes.append(node("Resize", "volume,,s3d", "larger", mode="nearest"))
    return graph(nodes, inputs, [n.output[0] for n in nodes], constants), inputs


def test_resize():
    check(*resize_of(RESIZES[::7]))
    x = {"x": rand(1, 3, 4, 4)}
    model = graph([node("Resize", "x,,s", "y")], x, ["y"], {"s": np.float32([1, 2, 1, 1])})
    with pytest.raises(ModelError, match=r"the_Resize.*first two axes"):
        lower_float(model)


@pytest.mark.slow
@pytest.mark.parametrize("vector_bytes", [16, 64])
def test_all_resizes(vector_bytes):
    check(*resize_of(RESIZES), vector_bytes)
