"""Real ONNX models become static graphs with the same results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx_models import complete, ops, run, shape_of

from qcompiler.frontends.onnx_load import load_onnx

MODELS = Path(__file__).resolve().parents[2] / "shared" / "models"
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.onnx"))


def feeds_for(path: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds: dict[str, np.ndarray] = {}
    for value in session.get_inputs():
        if "int" in value.type:
            high = 2 if "mask" in value.name else 500
            feeds[value.name] = rng.integers(0, high, value.shape, dtype=np.int64)
        else:
            feeds[value.name] = rng.standard_normal(value.shape).astype(np.float32)
    return feeds


def check_real(path: Path) -> None:
    normalized = load_onnx(path)
    model = complete(normalized)
    onnx.checker.check_model(model)
    feeds = feeds_for(path)
    for expected, found in zip(run(str(path), feeds), run(model, feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.models
@pytest.mark.skipif(not MODELS.is_dir(), reason=f"the models are not at {MODELS}")
@pytest.mark.parametrize("path", paths(MODELS), ids=lambda path: path.stem)
def test_real_models_keep_their_results(path: Path) -> None:
    check_real(path)


@pytest.mark.parametrize("path", paths(LIGHT), ids=lambda path: path.stem)
def test_light_networks_normalize_to_static_inference_graphs(path: Path) -> None:
    normalized = load_onnx(path)
    assert not set(ops(normalized)) & {"ConstantOfShape", "Dropout", "Shape", "Unsqueeze", "Identity"}
    for value in (*normalized.proto.graph.value_info, *normalized.proto.graph.output):
        assert min(shape_of(value), default=1) > 0


@pytest.mark.slow
@pytest.mark.parametrize("path", paths(LIGHT), ids=lambda path: path.stem)
def test_light_networks_keep_their_results(path: Path) -> None:
    check_real(path)
