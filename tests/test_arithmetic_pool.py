"""Pooling and means."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qcompiler.arithmetic.pool import (
    average_multiplier,
    average_pool,
    max_pool,
    mean,
    pool_counts,
    pool_geometry,
    pool_sums,
)
from qcompiler.arithmetic.requantize import requantize


def onnx_pool(op_name, x, **attributes):
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op_name, ["x"], ["y"], **attributes)],
        "pool",
        [onnx.helper.make_tensor_value_info("x", onnx.helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.helper.np_dtype_to_tensor_dtype(x.dtype), None)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 22)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@st.composite
def geometries(draw):
    rank = draw(st.integers(1, 2))
    kernel = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    strides = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    dilations = draw(st.lists(st.integers(1, 2), min_size=rank, max_size=rank))
    pads = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    spatial = [draw(st.integers((k - 1) * d + 1, 9)) for k, d in zip(kernel, dilations, strict=True)]
    return spatial, (kernel, strides, pads, dilations, draw(st.booleans()))


def naive_windows(spatial, kernel, strides, pads, dilations, ceil_mode):
    """Output position and the positions its window reaches, padding included."""
    out, _ = pool_geometry(spatial, kernel, strides, pads, dilations, ceil_mode)
    for position in itertools.product(*map(range, out)):
        axes = [
            [p * s - pad + k * d for k in range(size)]
            for p, s, pad, size, d in zip(position, strides, pads, kernel, dilations, strict=False)
        ]
        yield position, list(itertools.product(*axes))


@settings(deadline=None)
@given(geometries(), st.sampled_from(["u1", "i1", "i2"]), st.integers(0, 2**32), st.integers(-40, 200))
def test_pools_equal_the_definition(geometry, dtype, seed, zero_point):
    spatial, arguments = geometry
    pads, rank = arguments[2], len(spatial)
    info = np.iinfo(dtype)
    assume(zero_point >= info.min)
    q = np.random.default_rng(seed).integers(info.min, info.max + 1, (2, 3, *spatial)).astype(dtype)
    largest, sums = max_pool(q, *arguments), pool_sums(q, zero_point, *arguments)
    counts = {padded: pool_counts(spatial, *arguments, padded) for padded in (False, True)}
    assert largest.dtype == q.dtype and sums.dtype == np.int32 and largest.shape[2:] == counts[True].shape
    for position, window in naive_windows(spatial, *arguments):
        inside = [p for p in window if all(0 <= a < size for a, size in zip(p, spatial, strict=True))]
        padded = [p for p in window if all(-pads[i] <= p[i] < spatial[i] + pads[rank + i] for i in range(rank))]
        values = np.stack([q[(..., *p)].astype(int) for p in inside]) if inside else np.full((1, 2, 3), info.min)
        assert np.array_equal(largest[(..., *position)], values.max(0))
        assert np.array_equal(sums[(..., *position)], (values - zero_point).sum(0) if inside else np.zeros((2, 3)))
        assert counts[False][position] == max(len(inside), 1) and counts[True][position] == max(len(padded), 1)
    last = np.ascontiguousarray(np.moveaxis(q, 1, -1))
    assert np.array_equal(max_pool(last, *arguments, "NHWC"), np.moveaxis(largest, 1, -1))
    assert np.array_equal(pool_sums(last, zero_point, *arguments, "NHWC"), np.moveaxis(sums, 1, -1))


@settings(deadline=None, max_examples=60)
@given(geometries(), st.integers(0, 2**32))
def test_max_pool_equals_onnxruntime(geometry, seed):
    spatial, (kernel, strides, pads, dilations, ceil_mode) = geometry
    q = np.random.default_rng(seed).integers(0, 256, (1, 2, *spatial)).astype(np.uint8)
    expected = onnx_pool(
        "MaxPool",
        q,
        kernel_shape=kernel,
        strides=strides,
        pads=pads,
        dilations=dilations,
        ceil_mode=int(ceil_mode),
    )
    assert np.array_equal(max_pool(q, kernel, strides, pads, dilations, ceil_mode), expected)


@settings(deadline=None, max_examples=60)
@given(geometries(), st.booleans(), st.integers(0, 2**32))
def test_average_pool_is_near_onnxruntime(drawn, count_include_pad, seed):
    spatial, (kernel, strides, pads, dilations, ceil_mode) = drawn
    q = np.random.default_rng(seed).integers(0, 256, (1, 2, *spatial)).astype(np.uint8)
    attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations}
    x = (q.astype(np.float32) - 100) * np.float32(0.5)
    attributes |= {"ceil_mode": int(ceil_mode), "count_include_pad": int(count_include_pad)}
    expected = onnx_pool("AveragePool", x, **attributes)
    counts = pool_counts(spatial, kernel, strides, pads, dilations, ceil_mode, count_include_pad)
    assume((counts > 0).all() and np.isfinite(expected).all())
    for rounding, layout in itertools.product(("fp32", "fixed"), ("NCHW", "NHWC")):
        image = q if layout == "NCHW" else np.moveaxis(q, 1, -1)
        geometry = (kernel, strides, pads, dilations, ceil_mode, count_include_pad)
        y = average_pool(image, 100, 0.5, 0.75, 60, *geometry, 0, 255, np.uint8, rounding, layout)
        y = y if layout == "NCHW" else np.moveaxis(y, -1, 1)
        assert y.shape == expected.shape
        assert np.abs(y - np.clip(expected / 0.75 + 60, 0, 255)).max() <= 0.5 + 1e-4


@pytest.mark.parametrize("rounding", ["fp32", "fixed", "fixed2"])
def test_mean(rounding):
    q = np.random.default_rng(3).integers(-128, 128, (2, 5, 7, 7)).astype(np.int8)
    y = mean(q, -5, 0.1, 0.11, 20, (2, 3), True, -128, 127, np.int8, rounding)
    sums = (q.astype(np.int32) + 5).sum((2, 3), keepdims=True).astype(np.int32)
    assert y.shape == (2, 5, 1, 1)
    m = average_multiplier(0.1, 0.11, 49)
    assert m == float(np.float32(0.1)) / (float(np.float32(0.11)) * 49)
    assert np.array_equal(y, requantize(sums, m, 20, -128, 127, np.int8, rounding))
    flat = mean(q, -5, 0.1, 0.11, 20, (-1, -2), False, -128, 127, np.int8, rounding)
    assert np.array_equal(flat, y[:, :, 0, 0])
    everything = mean(q, -5, 0.1, 0.11, 20, (0, 1, 2, 3), False, -128, 127, np.int8, rounding)
    assert everything.shape == () and abs(everything - ((q.mean() + 5) / 1.1 + 20)) <= 0.5 + 1e-5


def test_padding_never_wins():
    q = np.full((1, 1, 3, 3), -128, np.int8)
    assert (max_pool(q, [3, 3], [1, 1], [1] * 4, [1, 1]) == -128).all()


def test_sums_that_could_overflow():
    q = np.zeros((1, 1, 300, 300), np.uint16)
    with pytest.raises(ValueError, match="leave int32"):
        mean(q, 0, 1, 1, 0, (2, 3), False, 0, 255, np.uint8, "fp32")
    with pytest.raises(ValueError, match="leave int32"):
        pool_sums(q, 0, [200, 200], [1, 1], [0] * 4, [1, 1])
