"""Whole models as one float island, against onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from float_graphs import FULL, check, rand
from onnx import helper, numpy_helper
from real_models import SHARED

from qcompiler.frontends.onnx_load import normalize

WHOLE_MODELS = [
    "kws_dscnn", "minilm_l6_s64_f16store", "mnist", "mobilenetv1_075_224", "mobilenetv2_100_224", "resnet8_cifar10",
    "silero_vad_16k", "squeezenet1.1", "stories260K_s128", "ultraface_rfb320", "vww_mobilenetv1_025_96",
    "yolox_nano_416",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.models
@pytest.mark.parametrize("name", WHOLE_MODELS)
def test_whole_models(name):
    """Each real model as one island."""
    path = SHARED / "models" / f"{name}.onnx"
    if not path.exists():
        pytest.skip(f"{path} is missing")
    check(*_normalized(onnx.load(path)), tolerance=3e-4, target=FULL)


LIGHT_MODELS = [
    "bvlc_alexnet",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "zfnet512",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", LIGHT_MODELS)
def test_light_models(name):
    """Real topologies from the onnx package, weights drawn so that activations keep their size."""
    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"
    model = onnx.load(path)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    kept = []
    for n in model.graph.node:
        if n.op_type == "ConstantOfShape":
            shape = shapes[n.input[0]]
            values = np.full(shape, 0.01, np.float32)
            if len(shape) > 1:
                values = rand(*shape) * np.float32(np.sqrt(2 / np.prod(shape[1:])))
            model.graph.initializer.append(numpy_helper.from_array(values, n.output[0]))
        else:
            kept.append(n)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    check(*_normalized(model), tolerance=3e-4, target=FULL)


def _normalized(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model at the compiler's opset, folded, and a random input."""
    result = normalize(model)
    for name, values in result.arrays.items():
        result.proto.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    rng, feeds = np.random.default_rng(0), {}
    for info in result.proto.graph.input:
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        feeds[info.name] = (rng.integers(0, 2, shape) if dtype.kind == "i" else rng.random(shape)).astype(dtype)
    return result.proto, feeds
