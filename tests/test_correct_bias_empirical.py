"""Pass correct-bias-empirical: shifts of the mean go, prediction layers and the float model stay."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_graphs import Feeds, Graph, feeds_of, onnxruntime_outputs, outputs, passed, run_passes
from test_simulate import chosen

from qcompiler.errors import CalibrationError
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.values import body
from qcompiler.model import Model
from qcompiler.passes import correct_bias_empirical
from qcompiler.passes.originals import original
from qcompiler.passes.sites import Level, Simulation


def biased() -> onnx.ModelProto:
    """Convolutions whose weights round badly: one large weight a channel, and inputs that are all positive."""
    g = Graph(x=(1, 3, 8, 8))
    y = g("Relu", "x")
    for channels in (3, 8):
        weight = g.rng.normal(0, 0.02, (8, channels, 3, 3)).astype(np.float32)
        weight[:, 0, 0, 0] = 4
        y = g("Relu", g("Conv", y, g.constant(weight), pads=[1, 1, 1, 1]))
    return g.proto(g("Conv", y, g.weight(4, 8, 1, 1), g.weight(4)))


def bias_errors(model: Model, feeds: list[Feeds], reference: list[Feeds]) -> np.ndarray:
    """Mean error of each channel of the only output."""
    complete = passed(model, "insert-qdq,integerize")
    name = next(iter(reference[0]))
    found = outputs(complete, feeds)
    return np.mean([(f[name] - r[name]).mean(axis=(0, 2, 3)) for f, r in zip(found, reference, strict=True)], axis=0)


def convolutions(model: Model) -> list:  # type: ignore[type-arg]
    return [op for op in body(model.module).ops if op_name(op) == "Conv"]


@pytest.fixture(scope="module")
def case() -> tuple[onnx.ModelProto, list[Feeds], Model]:
    proto = biased()
    feeds = feeds_of(proto, 8)
    return proto, feeds, chosen(proto, feeds)


def test_the_mean_error_of_the_outputs_shrinks(case: tuple[onnx.ModelProto, list[Feeds], Model]) -> None:
    proto, feeds, model = case
    reference = [onnxruntime_outputs(proto, feed) for feed in feeds]
    after = passed(model, "correct-bias-empirical{samples=8}", feeds)
    before = np.abs(bias_errors(model, feeds, reference)).mean()
    assert np.abs(bias_errors(after, feeds, reference)).mean() < 0.6 * before


def test_prediction_layers_keep_their_bias(case: tuple[onnx.ModelProto, list[Feeds], Model]) -> None:
    _, feeds, model = case
    after = passed(model, "correct-bias-empirical", feeds)
    assert ["q.original" in op.attributes for op in convolutions(after)] == [True, True, False]


@pytest.mark.parametrize("pipeline", ["correct-bias", "correct-bias-empirical", "correct-bias,correct-bias-empirical"])
def test_simulation_still_knows_the_float_model(
    case: tuple[onnx.ModelProto, list[Feeds], Model], pipeline: str
) -> None:
    proto, feeds, model = case
    after = passed(model, pipeline, feeds)
    first = convolutions(after)[0]
    assert np.array_equal(original(first, 2, after.store), np.zeros(8, np.float32))
    simulation = Simulation(after.module, after.store)
    assert np.any(simulation.bias(first) != 0)
    for name, array in simulation.run(feeds[0], {}, Level.FLOAT).items():
        np.testing.assert_allclose(array, onnxruntime_outputs(proto, feeds[0])[name], rtol=1e-4, atol=1e-4)


def test_nothing_is_corrected_where_the_outputs_would_not_gain(
    case: tuple[onnx.ModelProto, list[Feeds], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, feeds, model = case
    harm = lambda ctx, simulation, layers, samples: {op: simulation.bias(op) + np.float32(9) for op in layers}  # noqa: E731
    monkeypatch.setattr(correct_bias_empirical, "_corrected", harm)
    after = model.clone()
    context = run_passes(after, "correct-bias-empirical", feeds)
    assert "was left out, the outputs would not gain" in context.notes[0]
    simulation = Simulation(after.module, after.store)
    assert not any(np.any(simulation.bias(op)) for op in convolutions(after)[:2])


def test_needs_calibration_data(case: tuple[onnx.ModelProto, list[Feeds], Model]) -> None:
    with pytest.raises(CalibrationError, match="correct-bias-empirical needs calibration data"):
        passed(case[2], "correct-bias-empirical")
