"""ONNX files and their tensors, weights memory-mapped where they lie outside the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper, numpy_helper

from qcompiler.errors import ModelError

_PACKED = frozenset(
    getattr(onnx.TensorProto, name)
    for name in ("STRING", "INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2", "FLOAT6E2M3", "FLOAT6E3M2")
    if hasattr(onnx.TensorProto, name)
)


def read_model(path: Path) -> onnx.ModelProto:
    """The parsed file, external data not loaded.

    Raises:
        ModelError: the file is missing, unreadable, empty, truncated or not ONNX.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot read the model: {error.strerror}") from None
    if not data:
        raise ModelError(f"{path}: the file is empty; expected an ONNX model")
    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        raise ModelError(f"{path}: not an ONNX model, or truncated: the protobuf does not parse") from None
    if not model.HasField("graph") or not model.graph.output:
        raise ModelError(f"{path}: not an ONNX model, or truncated: it has no graph with outputs")
    return model


def tensor_array(tensor: onnx.TensorProto, base_dir: Path, source: str) -> np.ndarray:
    """The tensor as a read-only array; external data is memory-mapped, not loaded.

    Raises:
        ModelError: external data that are missing, too short or outside the model's folder; data that do not
            fit the tensor's shape or type.
    """
    try:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            array = _external(tensor, base_dir, source)
        elif tensor.HasField("raw_data") and tensor.data_type not in _PACKED:
            kind = _little_endian(tensor)
            array = np.frombuffer(tensor.raw_data, kind).reshape(tuple(tensor.dims))
        else:
            array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"{source}: tensor '{tensor.name}' is damaged: {error}") from None
    if array.flags.writeable:
        array.flags.writeable = False
    return array


def _external(tensor: onnx.TensorProto, base_dir: Path, source: str) -> np.ndarray:
    entry = {e.key: e.value for e in tensor.external_data}
    path = base_dir / entry.get("location", "")
    where = f"{source}: tensor '{tensor.name}': its external data file '{path}'"
    if not path.resolve().is_relative_to(base_dir.resolve()):
        raise ModelError(f"{where} lies outside the model's folder, which is not allowed")
    if not path.is_file():
        raise ModelError(f"{where} does not exist; copy it beside the model")
    kind = _little_endian(tensor)
    shape = tuple(tensor.dims)
    count = int(np.prod(shape, dtype=np.int64))
    packed = tensor.data_type in _PACKED
    offset = int(entry.get("offset", 0))
    size = int(entry["length"]) if packed and "length" in entry else count * kind.itemsize
    if int(entry.get("length", size)) != size:
        raise ModelError(f"{where} holds {entry['length']} bytes for it, expected {size} for shape {list(shape)}")
    if path.stat().st_size < offset + size:
        raise ModelError(f"{where} has {path.stat().st_size} bytes, expected at least {offset + size}: truncated?")
    if count == 0:
        return np.empty(shape, kind)
    if packed:
        whole = onnx.TensorProto(data_type=tensor.data_type, dims=tensor.dims)
        whole.raw_data = np.memmap(path, np.uint8, "r", offset, (size,)).tobytes()
        return numpy_helper.to_array(whole)
    return np.memmap(path, kind, "r", offset, (count,)).reshape(shape)


def _little_endian(tensor: onnx.TensorProto) -> np.dtype:
    """The dtype of a tensor's elements as files hold them."""
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    return kind if kind.itemsize == 1 else kind.newbyteorder("<")
