"""The committed digits example: accurate, readable as calibration data, small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from qcompiler.calibration.data import open_calibration
from qcompiler.calibration.runner import calibrate

FOLDER = Path(__file__).parents[1] / "examples" / "digits"
INPUTS = {"image": ((1, 1, 8, 8), np.float32)}


def test_float_accuracy():
    session = onnxruntime.InferenceSession(FOLDER / "digits.onnx")
    labels = np.load(FOLDER / "test.npz")["labels"]
    feeds = open_calibration(FOLDER / "test.npz", INPUTS)
    predicted = [session.run(None, feed)[0].argmax() for feed in feeds]
    assert len(predicted) == len(labels) == 360
    assert np.mean(predicted == labels) > 0.97


def test_calibration_sees_every_kind_of_layer():
    model = onnx.load(FOLDER / "digits.onnx")
    kinds = {node.op_type for node in model.graph.node}
    assert kinds >= {"Conv", "BatchNormalization", "Clip", "Add", "MaxPool", "GlobalAveragePool", "Gemm"}
    values = ["image", *(node.output[0] for node in model.graph.node)]
    feeds = open_calibration(FOLDER / "calibration.npz", INPUTS)
    statistics = calibrate(model, values, feeds)
    assert len(feeds) == 128 and all(s.samples == 128 for s in statistics.values())
    assert (statistics["image"].minimum, statistics["image"].maximum) == (0.0, 1.0)
    assert statistics["depthwise/relu6"].minimum == 0.0 < statistics["depthwise/relu6"].maximum <= 6.0


def test_test_images_are_held_out():
    calibration, test = (np.load(FOLDER / name)["image"] for name in ("calibration.npz", "test.npz"))
    seen = {image.tobytes() for image in calibration}
    assert not any(image.tobytes() in seen for image in test)


def test_size():
    assert sum(file.stat().st_size for file in FOLDER.iterdir() if file.is_file()) < 200_000
