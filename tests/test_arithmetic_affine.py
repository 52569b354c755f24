"""The affine map: choice of scale and zero point, quantize, dequantize."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator

from qcompiler.arithmetic.affine import (
    choose_affine,
    choose_affine_per_channel,
    choose_symmetric,
    choose_symmetric_per_channel,
    dequantize,
    quantize,
    storage_dtype,
    storage_range,
)

STORAGES = ["u8", "i8", "u16", "i16", "i4", "u4", "i2"]
ONNX_TYPES = {
    "u8": onnx.TensorProto.UINT8,
    "i8": onnx.TensorProto.INT8,
    "u16": onnx.TensorProto.UINT16,
    "i16": onnx.TensorProto.INT16,
}
ends = st.floats(-1e30, 1e30, allow_nan=False)


def test_storage():
    assert storage_range("u8") == (0, 255) and storage_range("i8") == (-128, 127)
    assert storage_range("i2") == (-2, 1) and storage_range("u16") == (0, 65535)
    assert storage_range("i32") == (-(2**31), 2**31 - 1)
    assert storage_dtype("u8") == np.uint8 and storage_dtype("i4") == np.int8
    assert storage_dtype("i16") == np.int16 and storage_dtype("i32") == np.int32
    for bad in ("x8", "u1", "i64", "8", "i-8", ""):
        with pytest.raises(ValueError, match="unknown storage"):
            storage_range(bad)


@given(ends, ends, st.sampled_from(STORAGES))
def test_affine_follows_the_formula(a, b, storage):
    lo, hi = min(a, b), max(a, b)
    qmin, qmax = storage_range(storage)
    scale, zero_point = choose_affine(lo, hi, qmin, qmax)
    assert isinstance(scale, np.float32) and isinstance(zero_point, int)
    assert np.isfinite(scale) and scale >= np.finfo(np.float32).tiny and qmin <= zero_point <= qmax
    lo, hi = min(lo, 0.0), max(hi, 0.0)
    width = (hi - lo) / (qmax - qmin)
    if width < np.finfo(np.float32).tiny:
        assert (scale, zero_point) == (1, 0)
    else:
        assert scale == np.float32(width)
        exact = qmin - Fraction(lo) / Fraction(float(scale))
        assert abs(zero_point - min(max(exact, qmin), qmax)) <= Fraction(1, 2) + Fraction(1, 10**9)
        # Zero is exact, and both ends are within a step of a stored integer.
        assert quantize(np.zeros(1), scale, zero_point, qmin, qmax, np.int32)[0] == zero_point
        for end in (lo, hi):
            q = int(quantize(np.asarray([end]), scale, zero_point, qmin, qmax, np.int32)[0])
            assert abs(float(scale) * (q - zero_point) - end) <= 0.51 * float(scale) + 1e-6 * abs(end)


@given(ends, ends, st.sampled_from(STORAGES))
def test_symmetric_fits_both_ends(a, b, storage):
    lo, hi = min(a, b), max(a, b)
    qmin, qmax = storage_range(storage)
    scale, zero_point = choose_symmetric(lo, hi, qmin, qmax)
    middle = 0 if qmin < 0 else (qmax + 1) // 2
    assert zero_point == middle
    width = max(-min(lo, 0.0), max(hi, 0.0)) / (qmax - middle)
    assert scale == (np.float32(width) if width >= np.finfo(np.float32).tiny else 1)


def test_symmetric_midpoint_and_signedness():
    assert choose_symmetric(-1, 1, 0, 255)[1] == 128
    assert choose_symmetric(-3, 2, 0, 255)[0] == choose_symmetric(-3, 2, -128, 127)[0] == np.float32(3 / 127)


@pytest.mark.parametrize("lo, hi", [(0, 0), (1e-40, 1e-39), (-1e-45, 0), (5, -5), (np.inf, -np.inf)])
def test_degenerate_ranges(lo, hi):
    assert choose_affine(lo, hi, 0, 255) == (1, 0)
    assert choose_affine(lo, hi, -128, 127) == (1, 0)
    assert choose_symmetric(lo, hi, -128, 127) == (1, 0)
    assert choose_symmetric(lo, hi, 0, 255) == (1, 128)


@pytest.mark.parametrize("lo, hi", [(np.nan, 1), (0, np.inf), (-np.inf, np.inf), (0, 1e300)])
def test_ranges_that_are_refused(lo, hi):
    with pytest.raises(ValueError):
        choose_affine(lo, hi, 0, 255)


def test_zero_point_is_clamped_for_one_sided_ranges():
    assert choose_affine(3, 9, 0, 255)[1] == 0
    assert choose_affine(-9, -3, 0, 255)[1] == 255
    assert choose_affine(-9, -3, -128, 127)[1] == 127


def test_per_channel_is_the_scalar_choice_for_each():
    rng = np.random.default_rng(1)
    lo, hi = np.sort(rng.normal(size=(2, 50)) * 10.0 ** rng.integers(-44, 20, 50), axis=0)
    for many, one in (
        (choose_affine_per_channel, choose_affine),
        (choose_symmetric_per_channel, choose_symmetric),
    ):
        scales, zero_points = many(lo, hi, -128, 127)
        assert scales.dtype == np.float32 and zero_points.dtype == np.int32
        assert [one(a, b, -128, 127) for a, b in zip(lo, hi, strict=True)] == list(
            zip(scales, zero_points.tolist(), strict=True)
        )


def _quantize_model(storage, per_axis):
    proto = onnx.TensorProto
    shape = [4] if per_axis else []
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], axis=0)],
        "quantize",
        [
            onnx.helper.make_tensor_value_info("x", proto.FLOAT, [4, None]),
            onnx.helper.make_tensor_value_info("s", proto.FLOAT, shape),
            onnx.helper.make_tensor_value_info("z", ONNX_TYPES[storage], shape),
        ],
        [onnx.helper.make_tensor_value_info("y", ONNX_TYPES[storage], [4, None])],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


@pytest.mark.parametrize("per_axis", [False, True])
@pytest.mark.parametrize("storage", list(ONNX_TYPES))
def test_quantize_equals_onnx(storage, per_axis):
    rng = np.random.default_rng(7)
    qmin, qmax = storage_range(storage)
    dtype = storage_dtype(storage)
    scale = np.asarray([0.25, 0.1, 3.7e-3, 1e-30], np.float32)
    zero_point = rng.integers(qmin, qmax + 1, 4).astype(dtype)
    if not per_axis:
        scale, zero_point = np.array(scale[0]), np.array(zero_point[0])
    ties = (np.arange(-700, 700) + 0.5)[None] * np.reshape(scale, (-1, 1))
    x = np.broadcast_to(ties, (4, 1400)).astype(np.float32)
    extremes = np.asarray([0, -0.0, 1e-45, 3e38, -3e38], np.float32)
    wide = rng.normal(size=(4, 3000)) * (qmax - qmin) * np.reshape(scale, (-1, 1)) / 2
    x = np.concatenate([x, np.broadcast_to(extremes, (4, 5)), wide.astype(np.float32)], 1)
    x = np.concatenate([x, np.full((4, 1), np.inf, np.float32), np.full((4, 1), -np.inf, np.float32)], 1)
    axis = 0 if per_axis else None
    mine = quantize(x, scale, zero_point, qmin, qmax, dtype, axis)
    model = _quantize_model(storage, per_axis)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"x": x, "s": scale, "z": zero_point}
    assert np.array_equal(mine, session.run(None, feeds)[0])
    # The reference evaluator converts to int32 before it saturates: compare where that does not overflow.
    small = np.abs(x.astype(np.float64) / np.reshape(scale, (-1, 1))) < 2**30
    reference = ReferenceEvaluator(model).run(None, {**feeds, "x": np.where(small, x, 0).astype(np.float32)})[0]
    assert np.array_equal(mine[small], reference[small])


@pytest.mark.parametrize("storage", STORAGES)
def test_quantize_of_nan_and_infinity(storage):
    qmin, qmax = storage_range(storage)
    x = np.asarray([np.nan, -np.nan, np.inf, -np.inf, 3e38, -3e38], np.float32)
    q = quantize(x, np.float32(1e-3), 1, qmin, qmax, storage_dtype(storage))
    assert q.dtype == storage_dtype(storage)
    assert q.tolist() == [qmin, qmin, qmax, qmin, qmax, qmin]


@pytest.mark.parametrize("storage", ["u8", "i8", "u16", "i16"])
def test_dequantize_is_exact_and_quantize_inverts_it(storage):
    qmin, qmax = storage_range(storage)
    q = np.arange(qmin, qmax + 1).astype(storage_dtype(storage))
    for scale, zero_point in ((np.float32(0.1), 3), (np.float32(7.3e-9), qmax), (np.float32(2.0), qmin)):
        r = dequantize(q, scale, zero_point)
        assert r.dtype == np.float32
        # The float64 product of a float32 and a 17-bit integer is exact.
        assert np.array_equal(r, (np.float64(scale) * (q.astype(np.int64) - zero_point)).astype(np.float32))
        assert np.array_equal(quantize(r, scale, zero_point, qmin, qmax, q.dtype), q)


def test_axis():
    q = np.arange(24, dtype=np.int8).reshape(2, 3, 4)
    scale, zero_point = np.asarray([1, 2, 4], np.float32), np.asarray([0, 1, 2])
    expected = np.stack([(q[:, c] - c) * np.float32(2**c) for c in range(3)], 1)
    assert np.array_equal(dequantize(q, scale, zero_point, axis=1), expected)
    assert np.array_equal(dequantize(q, scale, zero_point, axis=-2), expected)
    assert np.array_equal(quantize(expected, scale, zero_point, -128, 127, np.int8, axis=1), q)
    with pytest.raises(ValueError, match="vector"):
        dequantize(q, scale[None], zero_point, axis=1)


def test_quantize_refuses_wide_storage():
    with pytest.raises(ValueError, match="16 bits"):
        quantize(np.zeros(1), 1, 0, -(2**31), 2**31 - 1, np.int32)
