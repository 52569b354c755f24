"""Real models compile for the host, and the compiled integers are those of the interpreter, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from real_models import CALIBRATION, NAMES, exact_on, real_inputs

import qcompiler
from qcompiler.api import Quantized, lowering_passes
from qcompiler.bundle import Bundle
from qcompiler.ir.text import parse_module
from qcompiler.model import Model
from qcompiler.pipeline import CompilerContext, PassManager
from qcompiler.targets.host.spec import runnable
from qcompiler.targets.spec import resolve_target
from qcompiler.verify import integer_program

SAMPLES = 16
LIGHT = sorted((Path(onnx.__file__).parent / "backend/test/data/light").glob("light_*.onnx"))


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
    exact_on(compile_real(model, tmp_path / "out"), real_inputs(model, SAMPLES), SAMPLES)


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
@pytest.mark.parametrize(("name", "per_channel"), [("mnist", False), ("resnet8", True)])
def test_model_quantized_by_onnxruntime_keeps_its_scales(
    catalogue: Any, name: str, per_channel: bool, tmp_path: Path
) -> None:
    from onnxruntime import quantization

    model = catalogue.MODELS[name]

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(model.calibration(limit=CALIBRATION))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)

    path = tmp_path / "qdq.onnx"
    quantization.quantize_static(
        str(model.path()), str(path), Reader(), per_channel=per_channel, extra_options={"WeightSymmetric": True}
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


_QUANTIZED_INPUT = """\
!x = !quant.uniform<u8:f32, 2.0e-02:113>
!w = !quant.uniform<i8<-127:127>:f32:0, {1.0e-02, 2.5e-02, 7.0e-03, 1.25e-02}>
!y = !quant.uniform<u8:f32, 8.0e-02:31>
!f = tensor<2x4x7x6xf32>
builtin.module attributes {q.stage = "qdq"} {
  func.func @main(%x: tensor<2x3x7x6x!x> {onnx.name = "x"}) -> (tensor<2x4x7x6x!y> {onnx.name = "y"}) {
    %0 = "q.dequantize"(%x) : (tensor<2x3x7x6x!x>) -> tensor<2x3x7x6xf32>
    %1 = "q.constant"() {value = dense_resource<w> : tensor<4x3x3x3x!w>} : () -> tensor<4x3x3x3x!w>
    %2 = "q.dequantize"(%1) : (tensor<4x3x3x3x!w>) -> tensor<4x3x3x3xf32>
    %3 = "onnx.Conv"(%0, %2) {pads = array<i64: 1, 1, 1, 1>} : (tensor<2x3x7x6xf32>, tensor<4x3x3x3xf32>) -> !f
    %4 = "q.quantize"(%3) : (tensor<2x4x7x6xf32>) -> tensor<2x4x7x6x!y>
    func.return %4 : tensor<2x4x7x6x!y>
  }
}
"""


def test_quantized_input_and_output(tmp_path: Path) -> None:
    """Bytes in, bytes out: the halo of the padded convolution holds the input's zero point."""
    rng = np.random.default_rng(0)
    qdq = Model(parse_module(_QUANTIZED_INPUT))
    qdq.store.add("w", rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8))
    integer = qdq.clone()
    PassManager(lowering_passes(), tmp_path / "ir").run(integer, CompilerContext(target=resolve_target("host")))
    bundle = qcompiler.compile(Quantized(integer, qdq, "host"), output=tmp_path / "out")
    info = bundle.manifest.inputs[0]
    assert (info.dtype, info.scale, info.zero_point) == ("uint8", np.float32(0.02), 113)
    for _ in range(4):
        feed = {"x": rng.integers(0, 256, (2, 3, 7, 6)).astype(np.uint8)}
        found, expected = bundle.run(feed)["y"], qcompiler.interpret(integer, feed)["y"]
        assert (found.dtype, found.shape) == (np.uint8, (2, 4, 7, 6))
        assert len(np.unique(found)) > 20
        assert np.array_equal(found, expected)


# ------------------------------------------------------- the topologies that the onnx package brings along


def test_nine_topologies_are_there() -> None:
    assert len(LIGHT) == 9


@pytest.mark.parametrize("path", LIGHT, ids=lambda path: path.stem)
def test_topology_imports(path: Path) -> None:
    model = qcompiler.import_onnx(path)
    assert len(model.outputs) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["light_squeezenet", "light_shufflenet"])
def test_topology_is_exact(name: str, tmp_path: Path) -> None:
    """Their weights repeat one number, so activations say little; every operation is compared all the same."""
    model = qcompiler.import_onnx(next(path for path in LIGHT if path.stem == name))
    (image,) = model.inputs
    rng = np.random.default_rng(0)
    feeds = [{image: rng.normal(0, 1, (1, 3, 224, 224)).astype(np.float32)} for _ in range(4)]
    bundle = qcompiler.compile(model, calibration=feeds, output=tmp_path / "out")
    exact_on(bundle, iter(feeds[:2]), 2)
