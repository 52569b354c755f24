"""Quantized models become QDQ form; contributed ops become standard ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import complete, constant, model_of, node, ops, run

from qcompiler.frontends.onnx_load import normalize


def test_qdq_passes_unchanged() -> None:
    nodes = [
        node("QuantizeLinear", "x,s,z", "xq", name="q"),
        node("DequantizeLinear", "xq,s,z", "xd", name="d"),
        node("DequantizeLinear", "wq,ws", "wd", name="dw", axis=0),
        node("Conv", "xd,wd", name="conv"),
    ]
    constants = {
        "s": np.float32(0.1),
        "z": np.uint8(3),
        "wq": np.arange(54, dtype=np.int8).reshape(2, 3, 3, 3),
        "ws": np.array([0.1, 0.2], np.float32),
    }
    model = normalize(model_of(nodes, {"x": [1, 3, 5, 5]}, ["y"], constants, 13))
    # the weights do not wait for the input, so their node may stand anywhere before the convolution
    assert sorted(n.name for n in model.proto.graph.node) == ["conv", "d", "dw", "q"]
    assert constant(model, "wq").dtype == np.int8
    assert np.array_equal(constant(model, "wq"), constants["wq"])


def u8(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape, dtype=np.uint8)


def quantized(op: str, inputs: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(","), ["y"], "q", domain=domain, **attributes)


RNG = np.random.default_rng(7)
SCALES: dict[str, Any] = {
    "xs": np.float32(0.02),
    "xz": np.uint8(120),
    "ys": np.float32(0.05),
    "yz": np.uint8(131),
    "bs": np.float32(0.03),
    "bz": np.uint8(100),
}
OPERATORS: dict[str, tuple[onnx.NodeProto, tuple[int, ...], dict[str, Any], list[str]]] = {
    "conv": (
        quantized("QLinearConv", "x,xs,xz,w,ws,wz,ys,yz,b", pads=[1, 0, 0, 1]),
        (1, 3, 6, 5),
        {
            "w": RNG.integers(-127, 128, (4, 3, 2, 2), dtype=np.int8),
            "ws": np.array([0.01, 0.02, 0.03, 0.004], np.float32),
            "wz": np.zeros(4, np.int8),
            "b": np.array([100, -200, 30, 1000], np.int32),
            "xs": np.array([0.02], np.float32),
            "xz": np.array([120], np.uint8),
        },
        ["DequantizeLinear"] * 3 + ["Conv", "QuantizeLinear"],
    ),
    "matmul": (
        quantized("QLinearMatMul", "x,xs,xz,w,ws,wz,ys,yz"),
        (2, 6),
        {
            "w": RNG.integers(-127, 128, (6, 4), dtype=np.int8),
            "ws": np.array([0.01, 0.02, 0.03, 0.004], np.float32),
            "wz": np.zeros(4, np.int8),
        },
        ["DequantizeLinear", "DequantizeLinear", "MatMul", "QuantizeLinear"],
    ),
    "gemm": (
        quantized("QGemm", "x,xs,xz,w,bs,wz,b,ys,yz", "com.microsoft", transB=1),
        (2, 6),
        {
            "w": RNG.integers(-127, 128, (4, 6), dtype=np.int8),
            "wz": np.int8(0),
            "b": np.array([100, -200, 30, 1000], np.int32),
        },
        ["DequantizeLinear"] * 3 + ["Gemm", "QuantizeLinear"],
    ),
    "add": (
        quantized("QLinearAdd", "x,xs,xz,b,bs,bz,ys,yz", "com.microsoft"),
        (2, 6),
        {"b": u8(RNG, 2, 6)},
        ["DequantizeLinear", "DequantizeLinear", "Add", "QuantizeLinear"],
    ),
    "mul": (
        quantized("QLinearMul", "x,xs,xz,b,bs,bz,ys,yz", "com.microsoft"),
        (2, 6),
        {"b": u8(RNG, 6)},
        ["DequantizeLinear", "DequantizeLinear", "Mul", "QuantizeLinear"],
    ),
    "sigmoid": (
        quantized("QLinearSigmoid", "x,xs,xz,ys,yz", "com.microsoft"),
        (2, 6),
        {},
        ["DequantizeLinear", "Sigmoid", "QuantizeLinear"],
    ),
    "leaky-relu": (
        quantized("QLinearLeakyRelu", "x,xs,xz,ys,yz", "com.microsoft", alpha=0.2),
        (2, 6),
        {},
        ["DequantizeLinear", "LeakyRelu", "QuantizeLinear"],
    ),
    "average-pool": (
        quantized("QLinearAveragePool", "x,xs,xz,ys,yz", "com.microsoft", kernel_shape=[2, 2]),
        (1, 2, 4, 4),
        {},
        ["DequantizeLinear", "AveragePool", "QuantizeLinear"],
    ),
    "global-average-pool": (
        quantized("QLinearGlobalAveragePool", "x,xs,xz,ys,yz", "com.microsoft", channels_last=0),
        (2, 9, 4, 4),
        {"ys": np.float32(0.01)},
        ["DequantizeLinear", "GlobalAveragePool", "QuantizeLinear"],
    ),
    "softmax": (
        quantized("QLinearSoftmax", "x,xs,xz,ys,yz", "com.microsoft", axis=-1, opset=13),
        (2, 6),
        {"ys": np.float32(1 / 256), "yz": np.uint8(0)},
        ["DequantizeLinear", "Softmax", "QuantizeLinear"],
    ),
    "concat": (
        quantized("QLinearConcat", "ys,yz,x,xs,xz,b,bs,bz", "com.microsoft", axis=1),
        (2, 6),
        {"b": u8(RNG, 2, 3)},
        ["DequantizeLinear", "DequantizeLinear", "Concat", "QuantizeLinear"],
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_quantized_operators_become_qdq(name: str) -> None:
    """The runtime's integer kernels round differently by at most one step."""
    operator, shape, own, expected_ops = OPERATORS[name]
    constants = {k: np.asarray(v) for k, v in {**SCALES, **own}.items() if k in operator.input}
    model = model_of([operator], {"x": shape}, ["y"], constants, 13, TensorProto.UINT8, domains=["com.microsoft"])
    normalized = normalize(model)
    assert sorted(ops(normalized)) == sorted(expected_ops)
    x = u8(np.random.default_rng(8), *shape)
    expected, found = run(model, {"x": x})[0], run(complete(normalized), {"x": x})[0]
    assert found.dtype == expected.dtype == np.uint8
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    assert np.unique(found).size > 3
