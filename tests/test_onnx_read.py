"""ONNX files and their tensors: what is damaged is refused, external data are memory-mapped."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import model_of, node, ops, weights

from qcompiler.errors import ModelError
from qcompiler.frontends.onnx_load import load_onnx, normalize


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"this is not a model at all, only text", "not an ONNX model"),
        (b"\x00\x01\x02\x03", "not an ONNX model"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "no graph with outputs"),
    ],
)
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        load_onnx(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ModelError, match="cannot read the model"):
            load_onnx(path)


def test_every_truncation_of_a_model_is_refused(tmp_path: Path) -> None:
    model = model_of([node("MatMul", "x,w")], {"x": [2, 3]}, ["y"], {"w": weights(3, 4)})
    data = model.SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    assert ops(load_onnx(path)) == ["MatMul"]
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        with pytest.raises(ModelError):
            load_onnx(path)


def test_the_model_given_is_not_changed() -> None:
    model = model_of([node("Unsqueeze", "x", axes=[0])], {"x": ["N", 2]}, ["y"], opset=9)
    before = model.SerializeToString(deterministic=True)
    normalize(model, {"x": (4, 2)})
    assert model.SerializeToString(deterministic=True) == before


def external_model(tmp_path: Path, array: np.ndarray, **entry: str) -> Path:
    tensor = TensorProto(name="w", data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", "offset": "16", "length": str(array.nbytes), **entry}.items():
        tensor.external_data.add(key=key, value=value)
    model = model_of([node("MatMul", "x,w")], {"x": [2, array.shape[0]]}, ["y"])
    model.graph.initializer.append(tensor)
    (tmp_path / "w.bin").write_bytes(bytes(16) + array.tobytes())
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_are_memory_mapped(tmp_path: Path) -> None:
    array = weights(64, 32)
    model = load_onnx(external_model(tmp_path, array))
    mapped = model.arrays["w"]
    base = mapped
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap) and not mapped.flags.writeable
    assert np.array_equal(mapped, array)
    assert not model.proto.graph.initializer


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"location": "gone.bin"}, r"tensor 'w'.*gone\.bin' does not exist"),
        ({"location": "../w.bin"}, "outside the model's folder"),
        ({"length": "12"}, r"holds 12 bytes for it, expected 8192 for shape \[64, 32\]"),
        ({"offset": "17"}, "has 8208 bytes, expected at least 8209"),
        ({"offset": "abc"}, "tensor 'w' is damaged"),
    ],
)
def test_wrong_external_data_are_refused(tmp_path: Path, entry: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_onnx(external_model(tmp_path, weights(64, 32), **entry))


def test_weights_beyond_two_gigabytes_are_not_read(tmp_path: Path) -> None:
    rows, columns = 1 << 15, 1 << 15
    path = external_model(tmp_path, weights(8, 8))
    model = onnx.load(path, load_external_data=False)
    tensor = model.graph.initializer[0]
    tensor.data_type = TensorProto.INT8
    tensor.dims[:] = [3 * rows, columns]
    tensor.external_data[2].value = str(3 * rows * columns)
    with open(tmp_path / "w.bin", "r+b") as file:
        file.truncate(16 + 3 * rows * columns)
    del model.graph.node[:]
    model.graph.node.append(node("Gather", "w,i"))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("i", TensorProto.INT64, [2]))
    path.write_bytes(model.SerializeToString())
    begin = time.perf_counter()
    normalized = load_onnx(path)
    assert time.perf_counter() - begin < 2
    assert normalized.arrays["w"].nbytes == 3 << 30
    assert normalized.proto.ByteSize() < 1000


def test_a_damaged_tensor_is_refused() -> None:
    model = model_of([node("MatMul", "x,w")], {"x": [2, 3]}, ["y"], {"w": weights(3, 4)})
    model.graph.initializer[0].raw_data = b"\0" * 20
    with pytest.raises(ModelError, match="tensor 'w' is damaged"):
        normalize(model)
