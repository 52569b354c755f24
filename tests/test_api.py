"""The Python API on the example: import, quantize, compile, run, interpret, verify."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import qcompiler
from qcompiler.errors import CalibrationError, ModelError, PipelineError, TargetError
from qcompiler.exporters import onnx_export
from qcompiler.exporters.onnx_export import export_onnx
from qcompiler.ir.values import body
from qcompiler.pipeline import Stage, stage
from qcompiler.verify import verify

EXAMPLE = Path(__file__).parents[1] / "examples" / "digits"


@pytest.fixture(scope="module")
def test_set() -> dict[str, np.ndarray]:
    with np.load(EXAMPLE / "test.npz") as data:
        return dict(data)


@pytest.fixture(scope="module")
def feeds(test_set) -> list[dict[str, np.ndarray]]:
    return [{"image": image[None]} for image in test_set["image"]]


@pytest.fixture(scope="module")
def quantized() -> qcompiler.Quantized:
    return qcompiler.quantize(qcompiler.import_onnx(EXAMPLE / "digits.onnx"), EXAMPLE / "calibration.npz")


@pytest.fixture(scope="module")
def bundle(quantized, tmp_path_factory):
    return qcompiler.compile(quantized, output=tmp_path_factory.mktemp("bundle") / "out")


def test_every_integer_equals_the_interpreters(bundle, quantized, feeds):
    result = verify(bundle, feeds[:16])
    assert result.exact
    assert result.samples == 16
    for feed in feeds[:4]:
        expected = qcompiler.interpret(quantized, feed)
        assert (bundle.run(feed)["logits"] == expected["logits"]).all()


def test_run_with_reused_memory_equals_the_trace_without(bundle, feeds):
    """Kernels share the arena: none may be inlined into the entry, where LLVM would reorder their accesses."""
    output = bundle.manifest.outputs[0]
    for feed in feeds[:8]:
        traced = bundle.trace(feed)[output.buffer].reshape(output.shape)
        assert (bundle.run(feed)[output.name] == traced).all()


def test_verify_sees_a_wrong_integer(bundle, quantized, feeds):
    altered = quantized.model.clone()
    conv = next(op for op in body(altered.module).ops if op.name == "q.conv")
    name = conv.bias.owner.resource
    altered.store.put(name, altered.store[name] + 400)
    result = verify(bundle, feeds[:1], altered)
    assert not result.exact
    assert result.differences[0].elements > 0


def test_accuracy_is_that_of_the_float_model(bundle, feeds, test_set):
    session = onnxruntime.InferenceSession(str(EXAMPLE / "digits.onnx"), providers=["CPUExecutionProvider"])
    float_hits = [session.run(None, f)[0].argmax() == y for f, y in zip(feeds, test_set["labels"], strict=True)]
    int8_hits = [bundle.run(f)["logits"].argmax() == y for f, y in zip(feeds, test_set["labels"], strict=True)]
    assert sum(int8_hits) >= sum(float_hits) - 3


def test_everything_but_the_borders_is_integer(quantized):
    names = {op.name for op in body(quantized.model.module).ops}
    assert not {n for n in names if n.startswith("onnx.")}
    assert stage(quantized.model.module) is Stage.LAID_OUT
    assert stage(quantized.qdq.module) is Stage.QDQ


def test_the_qdq_model_runs_in_onnxruntime(quantized, feeds):
    """Its float arithmetic between quantize and dequantize may move an integer by one; the classes must agree."""
    model = export_onnx(quantized.qdq.module, quantized.qdq.store)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for feed in feeds[:16]:
        expected = qcompiler.interpret(quantized, feed)["logits"]
        assert session.run(None, feed)[0].argmax() == expected.argmax()


def test_models_beyond_protobufs_limit_take_external_data(monkeypatch, tmp_path, feeds):
    monkeypatch.setattr(onnx_export, "_LARGEST_PROTOBUF", 1000)
    model = qcompiler.import_onnx(EXAMPLE / "digits.onnx")
    built = qcompiler.compile(model, calibration=feeds[:4], output=tmp_path / "out")
    assert (tmp_path / "out" / "model.qdq.onnx.data").stat().st_size > 1000
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.qdq.onnx"), providers=["CPUExecutionProvider"])
    assert session.run(None, feeds[0])[0].argmax() == built.run(feeds[0])["logits"].argmax()


def test_the_given_model_is_left_as_it_was(feeds):
    model = qcompiler.import_onnx(EXAMPLE / "digits.onnx")
    before = model.text()
    qcompiler.quantize(model, feeds[:2])
    assert model.text() == before


@pytest.mark.parametrize("policy", ["symmetric", "affine", "mixed"])
def test_policies_force_a_scheme(policy, feeds):
    model = qcompiler.import_onnx(EXAMPLE / "digits.onnx")
    result = qcompiler.quantize(model, feeds[:8], policy=policy)
    quantizes = [op for op in body(result.qdq.module).ops if op.name == "q.quantize"]
    zero_points = {op.results[0].type.element_type.zero_point for op in quantizes}
    assert (zero_points == {128}) == (policy == "symmetric")
    if policy == "mixed":
        assert {0, 128} >= zero_points


def test_nodes_stay_float_by_name(feeds):
    model = qcompiler.import_onnx(EXAMPLE / "digits.onnx")
    name = next(op for op in body(model.module).ops if op.name == "onnx.Conv").location.desc.data
    result = qcompiler.quantize(model, feeds[:2], keep_float=[name])
    floats = [op for op in body(result.model.module).ops if op.name == "onnx.Conv"]
    assert len(floats) == 1
    assert floats[0].attributes["q.float"].data == "kept in float by the recipe (float32)"


def test_errors(feeds, quantized, tmp_path):
    model = qcompiler.import_onnx(EXAMPLE / "digits.onnx")
    with pytest.raises(ModelError, match="needs calibration data"):
        qcompiler.quantize(model, None)
    with pytest.raises(TargetError, match="unknown target 'hots'"):
        qcompiler.quantize(model, feeds[:1], target="hots")
    with pytest.raises(PipelineError, match="option unknown calibration method"):
        qcompiler.quantize(model, feeds[:1], method="guess")
    with pytest.raises(CalibrationError):
        qcompiler.quantize(model, [])
    with pytest.raises(TargetError, match="quantized for host"):
        qcompiler.compile(quantized, target="host:portable", output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_indices_outside_a_float_table_read_its_nearest_row(tmp_path, capfd):
    """An error in ONNX; here no other memory is read. Negative indices count from the end."""
    table = np.arange(40, dtype=np.float32).reshape(10, 4) / 40
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Gather", ["table", "i"], ["rows"]), onnx.helper.make_node("Exp", ["rows"], ["y"])],
        "graph",
        [onnx.helper.make_tensor_value_info("i", onnx.TensorProto.INT64, [3])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3, 4])],
        [onnx.numpy_helper.from_array(table, "table")],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)]), tmp_path / "model.onnx")
    feeds = [{"i": np.array([0, 3, 9])}]
    built = qcompiler.compile(tmp_path / "model.onnx", calibration=feeds, output=tmp_path / "out")
    for given, read in (([0, -1, 4], [0, 9, 4]), ([10**9, 11, -(10**9)], [9, 9, 0])):
        np.testing.assert_allclose(built.run({"i": np.array(given)})["y"], np.exp(table[read]), rtol=1e-6)
    assert "Warning" not in capfd.readouterr().err
