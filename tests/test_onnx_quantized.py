"""Quantized models: the operator form, integer products, small element types."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import complete, constant, model_of, node, ops, run, weights

import qcompiler
from qcompiler.bundle import Bundle
from qcompiler.cli import main
from qcompiler.frontends.onnx_load import normalize
from qcompiler.ir.values import body

MS = "com.microsoft"


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


# ---- parameters that are values of the program, and integer products


def compiled(model: onnx.ModelProto, tmp_path: Path) -> tuple[qcompiler.api.Quantized, Bundle]:
    path = tmp_path / "m.onnx"
    onnx.save_model(model, str(path))
    quantized_model = qcompiler.quantize(qcompiler.import_onnx(path), None)
    return quantized_model, qcompiler.compile(quantized_model, output=tmp_path / "bundle")


KIN: dict[str, tuple[onnx.NodeProto, TensorProto.DataType, dict[str, Any]]] = {
    "where": (
        quantized("QLinearWhere", "c,x,xs,xz,b,bs,bz,ys,yz", MS),
        TensorProto.UINT8,
        {"c": np.array([[True], [False]]), "b": u8(RNG, 6)},
    ),
    "matmul-integer": (
        quantized("MatMulInteger", "x,w,xz,wz"),
        TensorProto.UINT8,
        {"w": RNG.integers(-128, 128, (6, 4), dtype=np.int8), "wz": np.array([1, -2, 3, 0], np.int8)},
    ),
    "matmul-integer-to-float": (
        quantized("MatMulIntegerToFloat", "x,w,xs,ws,xz,wz,f", MS),
        TensorProto.UINT8,
        {
            "w": RNG.integers(-128, 128, (6, 4), dtype=np.int8),
            "ws": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
            "wz": np.array([1, -2, 3, 0], np.int8),
            "f": np.array([1, 2, 3, 4], np.float32),
        },
    ),
    "dynamic-quantize-matmul": (
        quantized("DynamicQuantizeMatMul", "x,w,bs,wz", MS),
        TensorProto.FLOAT,
        {"w": RNG.integers(-128, 128, (6, 4), dtype=np.int8), "wz": np.int8(3)},
    ),
    "dynamic-quantize": (
        helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "scale", "zero"], "q"),
        TensorProto.FLOAT,
        {},
    ),
}


@pytest.mark.parametrize("name", KIN)
def test_further_operators_agree_with_onnxruntime(name: str, tmp_path: Path) -> None:
    operator, element, own = KIN[name]
    constants = {k: np.asarray(v) for k, v in {**SCALES, **own}.items() if k in operator.input}
    outputs = list(operator.output)
    model = model_of([operator], {"x": (2, 6)}, outputs, constants, 13, element, domains=[MS])
    rng = np.random.default_rng(3)
    x = u8(rng, 2, 6) if element == TensorProto.UINT8 else rng.standard_normal((2, 6)).astype(np.float32)
    expected = dict(zip(outputs, run(model, {"x": x}), strict=True))
    program, bundle = compiled(model, tmp_path)
    own_results, results = qcompiler.interpret(program, {"x": x}), bundle.run({"x": x})
    for output in outputs:
        assert results[output].dtype == expected[output].dtype
        assert np.array_equal(results[output], own_results[output])
        if expected[output].dtype.kind == "f":
            np.testing.assert_allclose(results[output], expected[output], rtol=1e-5)
        else:
            assert np.array_equal(results[output], expected[output])


@pytest.mark.parametrize("name", OPERATORS)
def test_quantized_operators_run_in_integers(name: str, tmp_path: Path) -> None:
    """Between a quantization of a float input and the dequantization of the result nothing stays float."""
    operator, shape, own, _ = OPERATORS[name]
    constants = {k: np.asarray(v) for k, v in {**SCALES, **own}.items() if k in operator.input or k in ("xs", "xz")}
    scalars = {"s": constants["xs"].reshape(()), "z": constants["xz"].reshape(())}
    inner = onnx.NodeProto()
    inner.CopyFrom(operator)
    for index, value in enumerate(inner.input):
        inner.input[index] = "xq" if value == "x" else value
    nodes = [
        node("QuantizeLinear", "r,s,z", "xq", "first"),
        inner,
        node("DequantizeLinear", "y,ys,yz", "real", "last"),
    ]
    constants |= scalars
    model = model_of(nodes, {"r": shape}, ["real"], {**SCALES, **constants}, 13, domains=[MS])
    path = tmp_path / "m.onnx"
    onnx.save_model(model, str(path))
    program = qcompiler.quantize(qcompiler.import_onnx(path), None)
    left = [op.name for op in body(program.model.module).ops if op.name.startswith("onnx.")]
    assert not left
    x = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    expected, found = run(model, {"r": x})[0], qcompiler.interpret(program, {"r": x})["real"]
    assert np.abs(found - expected).max() <= 1.001 * float(constants.get("ys", SCALES["ys"]))


@pytest.mark.parametrize("width", ["int4", "uint4", "int2"])
def test_weights_of_few_bits_run_in_integers(width: str, tmp_path: Path) -> None:
    kind = np.dtype(getattr(ml_dtypes, width))
    info = ml_dtypes.iinfo(kind)
    stored = np.random.default_rng(1).integers(int(info.min), int(info.max) + 1, (4, 3, 1, 1)).astype(np.int8)
    constants = {
        "s": np.float32(0.02),
        "z": np.uint8(120),
        "w": stored.astype(kind),
        "ws": np.array([0.1, 0.2, 0.3, 0.4], np.float32),
        "t": np.float32(0.05),
    }
    nodes = [
        node("QuantizeLinear", "x,s,z", "xq", "q"),
        node("DequantizeLinear", "xq,s,z", "xd", "d"),
        node("DequantizeLinear", "w,ws", "wd", "weights", axis=0),
        node("Conv", "xd,wd", "c", "conv"),
        node("QuantizeLinear", "c,t,z", "cq", "cq"),
        node("DequantizeLinear", "cq,t,z", "y", "cd"),
    ]
    model = model_of(nodes, {"x": [1, 3, 4, 4]}, ["y"], constants, 25)
    program, bundle = compiled(model, tmp_path)
    assert not [op.name for op in body(program.model.module).ops if op.name.startswith("onnx.")]
    x = np.random.default_rng(2).standard_normal((1, 3, 4, 4)).astype(np.float32)
    real = 0.02 * (np.clip(np.rint(x / np.float32(0.02)) + 120, 0, 255) - 120)
    sums = np.einsum("nchw,oc->nohw", real, stored[..., 0, 0] * constants["ws"][:, None])
    expected = 0.05 * (np.clip(np.rint(sums / 0.05) + 120, 0, 255) - 120)
    assert np.abs(bundle.run({"x": x})["y"] - expected).max() <= 0.0501
    assert np.array_equal(bundle.run({"x": x})["y"], qcompiler.interpret(program, {"x": x})["y"])


@pytest.mark.parametrize("biased", [False, True])
def test_batch_normalization_behind_quantized_weights(biased: bool, tmp_path: Path) -> None:
    """Of quantization-aware training: the convolution still runs in integers."""
    constants = {
        "s": np.float32(0.02),
        "z": np.uint8(120),
        "w": np.random.default_rng(1).integers(-127, 128, (3, 2, 3, 3)).astype(np.int8),
        "ws": np.float32([0.01, 0.02, 0.03]),
        "b": np.int32([100, -200, 300]),
        "bs": np.float32([0.0002, 0.0004, 0.0006]),
        "gamma": np.float32([1.5, -0.5, 2.0]),
        "beta": np.float32([0.1, 0.2, -0.3]),
        "mean": np.float32([0.5, -0.5, 0.25]),
        "variance": np.float32([1.0, 2.0, 0.5]),
        "t": np.float32(0.1),
    }
    nodes = [
        node("QuantizeLinear", "x,s,z", "xq", "q"),
        node("DequantizeLinear", "xq,s,z", "xd", "d"),
        node("DequantizeLinear", "w,ws", "wd", "weights", axis=0),
        *([node("DequantizeLinear", "b,bs", "bd", "bias", axis=0)] if biased else []),
        node("Conv", "xd,wd,bd" if biased else "xd,wd", "c", "conv"),
        node("BatchNormalization", "c,gamma,beta,mean,variance", "n", "norm"),
        node("Relu", "n", "r", "relu"),
        node("QuantizeLinear", "r,t,z", "cq", "cq"),
        node("DequantizeLinear", "cq,t,z", "y", "cd"),
    ]
    model = model_of(nodes, {"x": [1, 2, 6, 6]}, ["y"], constants)
    program, bundle = compiled(model, tmp_path)
    assert not [op.name for op in body(program.model.module).ops if op.name.startswith("onnx.")]
    x = np.random.default_rng(2).standard_normal((1, 2, 6, 6)).astype(np.float32)
    expected, found = run(model, {"x": x})[0], bundle.run({"x": x})["y"]
    assert np.abs(found - expected).max() <= 0.1001
    assert np.mean(found != expected) < 0.05


def test_quantized_weights_of_float_operations_are_dequantized(tmp_path: Path) -> None:
    stored, scales = np.arange(-12, 12, dtype=np.int8).reshape(6, 4), np.float32([0.1, 0.2, 0.3, 0.4])
    nodes = [node("DequantizeLinear", "w,s", "wd", "weights", axis=1), node("MatMul", "x,wd")]
    _, bundle = compiled(model_of(nodes, {"x": [2, 6]}, ["y"], {"w": stored, "s": scales}), tmp_path)
    x = weights(2, 6)
    np.testing.assert_allclose(bundle.run({"x": x})["y"], x @ (stored * scales), rtol=1e-5, atol=1e-5)


def test_blocked_weights_are_dequantized(tmp_path: Path) -> None:
    stored, scales = u8(np.random.default_rng(1), 6, 4), np.float32([[0.1] * 4, [0.2] * 4, [0.3] * 4])
    nodes = [node("DequantizeLinear", "w,s", "wd", "weights", axis=0, block_size=2), node("MatMul", "x,wd")]
    _, bundle = compiled(model_of(nodes, {"x": [2, 6]}, ["y"], {"w": stored, "s": scales}), tmp_path)
    x = weights(2, 6)
    expected = x @ (stored * np.repeat(scales, 2, axis=0))
    np.testing.assert_allclose(bundle.run({"x": x})["y"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "inputs", "constants", "message"),
    [
        (
            [quantized("MatMulInteger", "x,w")],
            [6],
            {"w": np.ones((6, 4), np.uint8)},
            r"onnx.MatMulInteger 'q' cannot be imported: .*expected \[..., M, K\]",
        ),
        (
            [quantized("QLinearSigmoid", "x,xs,xz,ys,yz", MS), node("Identity", "y", "z")],
            [2, 6],
            {"ys": np.float32(0.0), **{k: SCALES[k] for k in ("xs", "xz", "yz")}},
            "'q': expected scales that are finite and positive, found 0",
        ),
        (
            [quantized("QGemm", "x,xs,xz,w,bs,bz,b,ys,yz", MS, alpha=2.0)],
            [2, 6],
            {**SCALES, "w": np.ones((6, 4), np.uint8), "b": np.zeros(4, np.int32)},
            r"node 'q' \(QGemm\): alpha must be 1 where there is a bias",
        ),
    ],
)
def test_what_cannot_be_imported_is_refused_by_node(
    nodes: list[onnx.NodeProto],
    inputs: list[int],
    constants: dict[str, Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arrays = {k: np.asarray(v) for k, v in constants.items()}
    model = model_of(nodes, {"x": inputs}, ["y"], arrays, 13, TensorProto.UINT8, domains=[MS])
    path = tmp_path / "m.onnx"
    onnx.save_model(model, str(path))
    assert main(["compile", str(path), "-o", str(tmp_path / "out")]) == 2
    assert re.search(message, capsys.readouterr().err)
