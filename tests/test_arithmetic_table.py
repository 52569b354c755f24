"""Tables of unary functions."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from qcompiler.arithmetic.affine import dequantize, quantize, storage_dtype, storage_range
from qcompiler.arithmetic.table import FUNCTIONS, apply_table, build_table, function

ATTRIBUTES = {"Clip": {"min": -1.0, "max": 2.5}, "Pow": {"exponent": 3.0}}
NOT_IN_ONNX = {"Silu"}


@pytest.mark.parametrize("storage_y", ["u8", "i8", "i16"])
@pytest.mark.parametrize("storage_x", ["u8", "i8", "u4", "i16"])
def test_table_is_the_definition(storage_x, storage_y):
    """Every entry against Python floats, one at a time."""
    (qmin, qmax), (lo, hi) = storage_range(storage_x), storage_range(storage_y)
    scale_x = np.float32(8 / (qmax - qmin))
    scale_y = np.float32(1.9 / (hi - lo))
    z_x, z_y = (qmin + qmax) // 2 + 1, (lo + hi) // 2
    table = build_table(function("Tanh"), scale_x, z_x, storage_x, scale_y, z_y, lo, hi, storage_y)
    assert len(table) == qmax - qmin + 1 and table.dtype == storage_dtype(storage_y)
    for q in range(qmin, qmax + 1, max(1, (qmax - qmin) // 1000)):
        expected = round(math.tanh(float(scale_x) * (q - z_x)) / float(scale_y)) + z_y
        assert table[q - qmin] == min(max(expected, lo), hi)
    q = np.arange(qmin, qmax + 1).astype(storage_dtype(storage_x))[::-1].reshape(2, -1)
    assert np.array_equal(apply_table(q, table, qmin), table[::-1].reshape(2, -1))
    assert np.array_equal(apply_table(q.T, table, qmin), table[::-1].reshape(2, -1).T)
    assert apply_table(q[:, :0], table, qmin).shape == (2, 0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_table_a_channel(axis):
    scales = np.array([0.01, 0.02, 0.005], np.float32)
    tables = build_table(function("Silu"), 0.05, 3, "i8", scales, 9, 0, 255, "u8")
    assert tables.shape == (3, 256) and tables.dtype == np.uint8
    q = np.random.default_rng(0).integers(-128, 128, (3, 3, 3)).astype(np.int8)
    y = apply_table(q, tables, -128, axis)
    for channel, scale in enumerate(scales):
        one = build_table(function("Silu"), 0.05, 3, "i8", scale, 9, 0, 255, "u8")
        assert np.array_equal(tables[channel], one)
        assert np.array_equal(y.take(channel, axis), apply_table(q.take(channel, axis), one, -128))


def test_applied_table_can_be_written():
    table = np.arange(256, dtype=np.uint8)
    y = apply_table(np.zeros(3, np.uint8), table, 0)
    y[0] = 1
    assert y.tolist() == [1, 0, 0]


@pytest.mark.parametrize("op_name", sorted(set(FUNCTIONS) - NOT_IN_ONNX))
def test_functions_are_those_of_onnx(op_name):
    """Agreement with the float operator between dequantize and quantize; one unit apart in a few ties."""
    proto = onnx.TensorProto
    inputs, attributes = ["x"], ATTRIBUTES.get(op_name, {})
    initializers = [onnx.numpy_helper.from_array(np.float32(v), k) for k, v in attributes.items()]
    inputs += [i.name for i in initializers]
    opset = 24 if op_name == "Swish" else 22
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op_name, inputs, ["y"])],
        "unary",
        [onnx.helper.make_tensor_value_info("x", proto.FLOAT, [256])],
        [onnx.helper.make_tensor_value_info("y", proto.FLOAT, [256])],
        initializers,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10)
    q = np.arange(-128, 128).astype(np.int8)
    x = dequantize(q, np.float32(0.0625), 10)
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        expected = session.run(None, {"x": x})[0]
    except Exception:  # Not every operator has a kernel in every version.
        expected = ReferenceEvaluator(model).run(None, {"x": x})[0]
    finite = np.isfinite(expected)
    largest = np.abs(expected[finite]).max()
    scale = np.float32(largest / 97.31)
    table = build_table(function(op_name, **attributes), np.float32(0.0625), 10, "i8", scale, 3, -128, 127, "i8")
    difference = table.astype(int) - quantize(expected, scale, 3, -128, 127, np.int8).astype(int)
    assert np.abs(difference).max() <= 1 and np.count_nonzero(difference) <= 3


@pytest.mark.parametrize("op_name, attributes, x, expected", [
    ("LeakyRelu", {"alpha": 0.25}, -2.0, -0.5),
    ("Elu", {"alpha": 2.0}, -1.0, 2 * math.expm1(-1)),
    ("Celu", {"alpha": 2.0}, -1.0, 2 * math.expm1(-0.5)),
    ("Selu", {"alpha": 2.0, "gamma": 3.0}, -1.0, 6 * math.expm1(-1)),
    ("HardSigmoid", {"alpha": 0.5, "beta": 0.25}, 1.0, 0.75),
    ("Gelu", {"approximate": "tanh"}, 1.0, 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * 1.044715))),
    ("Gelu", {}, 1.0, 0.5 * (1 + math.erf(math.sqrt(0.5)))),
    ("Swish", {"alpha": 2.0}, 1.0, 1 / (1 + math.exp(-2))),
    ("Silu", {}, 1.0, 1 / (1 + math.exp(-1))),
    ("Clip", {"max": 1.0}, 5.0, 1.0),
    ("Pow", {"exponent": -0.5}, 4.0, 0.5),
])  # fmt: skip
def test_attributes(op_name, attributes, x, expected):
    assert function(op_name, **attributes)(np.asarray([x]))[0] == pytest.approx(expected, rel=1e-14)


def test_infinities_saturate_and_nan_gives_lo():
    reciprocal = build_table(function("Reciprocal"), 1, 0, "i8", 0.01, 0, -100, 90, "i8")
    assert reciprocal[128] == 90 and reciprocal[129] == 90 and reciprocal[127] == -100
    logarithm = build_table(function("Log"), 1, 0, "i8", 0.1, 0, -128, 127, "i8")
    assert logarithm[127] == -128 and logarithm[128] == -128 and logarithm[129] == 0
    sigmoid = build_table(function("Sigmoid"), 1e30, 128, "u8", 1 / 256, 0, 0, 255, "u8")
    assert sigmoid[0] == 0 and sigmoid[128] == 128 and sigmoid[255] == 255


def test_identity_table_requantizes():
    table = build_table(function("Identity"), 0.5, 3, "u8", 0.5, 3, 0, 255, "u8")
    assert np.array_equal(table, np.arange(256))
    flip = build_table(function("Identity"), 0.5, 130, "u8", 0.5, 2, -128, 127, "i8")
    assert np.array_equal(flip, np.arange(-128, 128))


def test_unknown_functions():
    with pytest.raises(ValueError, match="no table function for 'Conv'"):
        function("Conv")
    with pytest.raises(ValueError, match="tanh"):
        function("Gelu", approximate="fast")
    with pytest.raises(TypeError):
        function("Relu", alpha=1)
