"""Real models compile for the host, and the compiled integers are those of the interpreter, bit for bit."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qcompiler
from qcompiler.bundle import Bundle
from qcompiler.targets.host.spec import runnable
from qcompiler.verify import integer_program, verify

SHARED = Path(__file__).resolve().parents[2] / "shared"
NAMES = (
    "mnist",
    "resnet8",
    "resnet8_wide",
    "kws",
    "vww",
    "mobilenetv1",
    "mobilenetv2",
    "squeezenet1.1",
    "yolox_nano",
    "ultraface",
    "ultraface_simplified",
    "silero_vad",
    "minilm",
    "stories260k",
)
"""All models of the catalogue; `test_no_model_is_left_out` compares."""

SAMPLES = 16
CALIBRATION = 16
LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("light_*.onnx"))


@pytest.fixture(scope="module")
def catalogue() -> Any:
    """The module that knows the pretrained models and their data."""
    if not (SHARED / "eval" / "realmodels.py").exists():
        pytest.skip(f"the pretrained models are not at {SHARED}")
    sys.path.insert(0, str(SHARED / "eval"))
    yield importlib.import_module("realmodels")
    sys.path.remove(str(SHARED / "eval"))


def exact_on(bundle: Bundle, feeds: Iterator[dict[str, np.ndarray]], samples: int) -> None:
    """All integer tensors of so many inputs equal the interpreter's."""
    result = verify(bundle, feeds)
    assert result.samples == samples
    assert result.differences == []
    assert result.tensors >= samples
    assert result.float_error < 1e-4


def compile_real(model: Any, output: Path, **options: Any) -> Bundle:
    calibration = model.calibration(limit=CALIBRATION)
    return qcompiler.compile(model.path(), calibration=calibration, output=output, **options)


@pytest.mark.models
def test_no_model_is_left_out(catalogue: Any) -> None:
    assert set(NAMES) == set(catalogue.MODELS)


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_real_model_is_exact(catalogue: Any, name: str, tmp_path: Path) -> None:
    model = catalogue.MODELS[name]
    exact_on(compile_real(model, tmp_path / "out"), model.calibration(limit=SAMPLES), SAMPLES)


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet8", "kws"])
def test_every_instruction_set_gives_the_same_integers(catalogue: Any, name: str, tmp_path: Path) -> None:
    """Each is exact against its own program; the outputs show that the programs agree too."""
    model = catalogue.MODELS[name]
    feeds = list(model.calibration(limit=8))
    targets = ["host", *(f"host:{kind}" for kind in ("avx2", "portable") if kind in runnable())]
    bundles = [compile_real(model, tmp_path / target.replace(":", "-"), target=target) for target in targets]
    expected = [bundles[0].run(feed) for feed in feeds]
    for bundle in bundles[1:]:
        exact_on(bundle, iter(feeds[:2]), 2)
        for feed, outputs in zip(feeds, expected, strict=True):
            for output, array in bundle.run(feed).items():
                assert np.array_equal(array, outputs[output])


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("rounding", ["fixed", "fixed2"])
def test_every_rounding_is_exact(catalogue: Any, rounding: str, tmp_path: Path) -> None:
    model = catalogue.MODELS["resnet8"]
    bundle = compile_real(model, tmp_path / "out", rounding=rounding)
    roundings = {
        op.properties["rounding"].data for op in integer_program(bundle).module.walk() if "rounding" in op.properties
    }
    assert roundings == {rounding}
    exact_on(bundle, model.calibration(limit=SAMPLES), SAMPLES)


# ------------------------------------------------------------------------- models that come quantized


@pytest.mark.models
@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "resnet8"])
def test_model_quantized_by_onnxruntime_keeps_its_scales(catalogue: Any, name: str, tmp_path: Path) -> None:
    from onnxruntime import quantization

    model = catalogue.MODELS[name]

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(model.calibration(limit=CALIBRATION))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    path = tmp_path / "qdq.onnx"
    quantization.quantize_static(
        str(model.path()), str(path), Reader(), per_channel=True, extra_options={"WeightSymmetric": True}
    )
    bundle = qcompiler.compile(path, output=tmp_path / "out")
    exact_on(bundle, model.calibration(limit=SAMPLES), SAMPLES)
    theirs = {
        np.float32(a).tobytes()
        for initializer in onnx.load(path).graph.initializer
        if initializer.name.endswith("_scale")
        for a in onnx.numpy_helper.to_array(initializer).ravel()
    }
    ours = {np.float32(value.scale).tobytes() for value in bundle.manifest.values.values() if value.scale}
    assert len(ours) > 3
    assert ours <= theirs
