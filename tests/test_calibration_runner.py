"""The runner: statistics equal those of the values themselves; memory; external data; messages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qcompiler.calibration.data import open_calibration
from qcompiler.calibration.ranges import range_from
from qcompiler.calibration.runner import calibrate
from qcompiler.calibration.statistics import TensorStatistics
from qcompiler.errors import CalibrationError, ModelError

RNG = np.random.default_rng(0)
FEEDS = [{"x": x[None]} for x in RNG.normal(size=(6, 3, 8, 8)).astype(np.float32)]
VALUES = ["x", "conv", "relu", "pool", "flat", "logits"]


def model() -> onnx.ModelProto:
    weights = {
        "w": RNG.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "b": RNG.normal(size=4).astype(np.float32),
        "m": RNG.normal(size=(4, 5)).astype(np.float32),
        "shape": np.array([1, 4]),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        helper.make_node("Reshape", ["pool", "shape"], ["flat"]),
        helper.make_node("MatMul", ["flat", "m"], ["logits"]),
        helper.make_node("ArgMax", ["logits"], ["class"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("class", TensorProto.INT64, [1, 1])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


MODEL = model()


def test_statistics_are_those_of_every_value():
    statistics = calibrate(MODEL, VALUES, FEEDS)
    assert list(statistics) == VALUES
    observed = onnx.ModelProto()
    observed.CopyFrom(MODEL)
    observed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in VALUES[1:])
    reference = ReferenceEvaluator(observed)
    samples = [dict(zip(VALUES[1:], reference.run(VALUES[1:], feed), strict=True)) | feed for feed in FEEDS]
    for name, s in statistics.items():
        x = np.concatenate([sample[name] for sample in samples])
        assert (s.samples, s.count) == (6, x.size)
        np.testing.assert_allclose([s.minimum, s.maximum], [x.min(), x.max()], rtol=1e-4, atol=1e-5)
        others = tuple(i for i in range(x.ndim) if i != 1)
        np.testing.assert_allclose(s.channel_mean, x.mean(axis=others), rtol=1e-4, atol=1e-5)
    assert statistics["conv"].minimum < 0 == statistics["relu"].minimum
    assert (statistics["relu"].channel_axis, statistics["logits"].channel_axis) == (1, -1)


def test_the_model_is_left_as_it_was():
    before = MODEL.SerializeToString()
    calibrate(MODEL, VALUES, FEEDS[:1])
    assert MODEL.SerializeToString() == before


def test_shards_merge_to_one_pass():
    whole = calibrate(MODEL, VALUES, FEEDS)
    shards = [calibrate(MODEL, VALUES, FEEDS[i : i + 2]) for i in (0, 2, 4)]
    for name in VALUES:
        merged = shards[0][name].merge(shards[1][name]).merge(shards[2][name])
        np.testing.assert_array_equal(merged.histogram, whole[name].histogram)
        assert (merged.exponent, merged.first_bin) == (whole[name].exponent, whole[name].first_bin)
        for method in ("minmax", "percentile", "entropy", "mse"):
            assert range_from(merged, method, 0, 255, False) == range_from(whole[name], method, 0, 255, False)


def test_statistics_do_not_grow_with_the_samples():
    def size(statistics: dict[str, TensorStatistics]) -> int:
        return sum(array.nbytes for s in statistics.values() for array in s.to_arrays().values())

    assert size(calibrate(MODEL, VALUES, FEEDS[:1])) == size(calibrate(MODEL, VALUES, FEEDS * 5))


def test_one_sample_at_a_time_is_in_memory(monkeypatch):
    """When a sample is asked for, the arrays of the one before are gone."""
    import weakref

    alive = []

    class Session(onnxruntime.InferenceSession):
        def run(self, *arguments):
            assert not any(array() is not None for array in alive)
            outputs = super().run(*arguments)
            alive[:] = [weakref.ref(output) for output in outputs]
            return outputs

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    calibrate(MODEL, ["conv", "relu"], FEEDS)
    assert len(alive) == 2


def test_external_data_next_to_the_model(tmp_path):
    path = tmp_path / "net.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(MODEL)
    onnx.save(copy, path, save_as_external_data=True, location="weights.bin", size_threshold=100)
    assert (tmp_path / "weights.bin").exists()
    from_path, from_proto = calibrate(path, VALUES, FEEDS), calibrate(MODEL, VALUES, FEEDS)
    for name in VALUES:
        np.testing.assert_array_equal(from_path[name].histogram, from_proto[name].histogram)
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match="onnxruntime cannot load the float model"):
        calibrate(path, VALUES, FEEDS)


def test_progress_is_reported():
    calls = []
    calibrate(MODEL, ["relu"], FEEDS, lambda done, total: calls.append((done, total)))
    assert calls == [(i, 6) for i in range(1, 7)]
    calls.clear()
    calibrate(MODEL, ["relu"], iter(FEEDS[:2]), lambda done, total: calls.append(done))
    assert calls == [1, 2]


def test_no_bar_without_a_terminal(capfd):
    calibrate(MODEL, ["relu"], FEEDS)
    assert capfd.readouterr() == ("", "")


def test_channel_axes_can_be_given():
    statistics = calibrate(MODEL, ["conv", "relu"], FEEDS, channel_axes={"conv": 3, "relu": None})
    assert (statistics["conv"].channels, statistics["relu"].channels) == (8, 1)


def test_messages(tmp_path):
    with pytest.raises(ModelError, match="no values 'w2', 'z' to observe"):
        calibrate(MODEL, ["relu", "w2", "z"], FEEDS)
    with pytest.raises(CalibrationError, match=r"'class' is tensor\(int64\): only float tensors"):
        calibrate(MODEL, ["class"], FEEDS)
    with pytest.raises(CalibrationError, match="the calibration data is empty"):
        calibrate(MODEL, VALUES, [])
    with pytest.raises(CalibrationError, match="sample 1: the float model does not run on it"):
        calibrate(MODEL, VALUES, [FEEDS[0], {"x": np.zeros((1, 2, 8, 8), np.float32)}])
    bad = {"x": np.full((1, 3, 8, 8), np.nan, np.float32)}
    with pytest.raises(CalibrationError, match="sample 2: value 'x' of the float model holds NaN in 192 of 192"):
        calibrate(MODEL, VALUES, [*FEEDS[:2], bad])
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x07garbage")
    with pytest.raises(ModelError, match=r"broken\.onnx"):
        calibrate(tmp_path / "broken.onnx", VALUES, FEEDS)
    with pytest.raises(ModelError, match=r"missing\.onnx"):
        calibrate(tmp_path / "missing.onnx", VALUES, FEEDS)


@pytest.mark.models
def test_a_real_network(tmp_path):
    path = Path(__file__).parents[2] / "shared" / "models" / "mnist.onnx"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    graph = onnx.load(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    (value,) = [value for value in graph.input if value.name not in constants]
    shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
    np.savez(tmp_path / "data.npz", **{value.name: RNG.uniform(0, 255, (4, *shape[1:]))})
    feeds = open_calibration(tmp_path / "data.npz", {value.name: (shape, np.float32)})
    outputs = [output.name for output in graph.output]
    statistics = calibrate(path, outputs, feeds)
    session = onnxruntime.InferenceSession(path)
    highest = max(float(session.run(outputs[:1], feed)[0].max()) for feed in feeds)
    assert statistics[outputs[0]].maximum == pytest.approx(highest, rel=1e-4)
