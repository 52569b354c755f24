"""Convolution and matrix-product accumulators against int64 and onnxruntime; their bound; folding."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.arithmetic.conv import acc_bound, conv_acc, matmul_acc, prepare_conv, prepare_matmul


def naive_conv(x, w, x_zero_point, w_zero_point, pad_value, strides, pads, dilations, group, bias):
    """NCHW, one output position at a time, in int64."""
    rank = x.ndim - 2
    x = np.pad(
        x.astype(np.int64),
        [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)],
        constant_values=pad_value,
    )
    x -= x_zero_point
    w = w.astype(np.int64) - np.reshape(w_zero_point, (-1, *[1] * (rank + 1)))
    out = [(x.shape[2 + i] - (w.shape[2 + i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(rank)]
    y = np.zeros((x.shape[0], w.shape[0], *out), np.int64)
    per_group = w.shape[0] // group
    for c in range(w.shape[0]):
        channels = slice(c // per_group * w.shape[1], (c // per_group + 1) * w.shape[1])
        for position in itertools.product(*map(range, out)):
            window = tuple(
                slice(p * s, p * s + (k - 1) * d + 1, d)
                for p, s, k, d in zip(position, strides, w.shape[2:], dilations, strict=True)
            )
            y[(slice(None), c, *position)] = (x[(slice(None), channels, *window)] * w[c]).reshape(x.shape[0], -1).sum(1)
    return y + np.reshape(0 if bias is None else bias, (-1, *[1] * rank))


@st.composite
def convolutions(draw):
    rank = draw(st.integers(1, 3))
    group, ic, oc = draw(st.sampled_from([(1, 3, 4), (1, 1, 2), (2, 2, 3), (4, 1, 1), (3, 1, 2), (5, 1, 1)]))
    kernel = draw(st.lists(st.integers(1, 3), min_size=rank, max_size=rank))
    strides = draw(st.lists(st.integers(1, 2), min_size=rank, max_size=rank))
    dilations = draw(st.lists(st.integers(1, 2), min_size=rank, max_size=rank))
    pads = draw(st.lists(st.integers(0, 2), min_size=2 * rank, max_size=2 * rank))
    spatial = [draw(st.integers((k - 1) * d + 1, 7)) for k, d in zip(kernel, dilations, strict=True)]
    x_dtype, w_dtype = (
        draw(st.sampled_from(["u1", "i1", "u2", "i2"])),
        draw(st.sampled_from(["i1", "u1", "i2"])),
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    x_range, w_range = np.iinfo(x_dtype), np.iinfo(w_dtype)
    x = rng.integers(x_range.min, x_range.max + 1, (draw(st.integers(1, 2)), group * ic, *spatial)).astype(x_dtype)
    # 16-bit operands on both sides take small weights, so that the sum stays in int32.
    limit = 50 if x.itemsize == 2 else w_range.max
    w = rng.integers(max(-limit, w_range.min), limit + 1, (group * oc, ic, *kernel)).astype(w_dtype)
    x_zero_point = draw(st.sampled_from([0, int(x_range.min), int(x_range.max), 17]))
    w_zero_point = rng.integers(-5, 6, len(w)) if draw(st.booleans()) else draw(st.integers(-3, 3))
    bias = rng.integers(-(2**20), 2**20, len(w)).astype(np.int32) if draw(st.booleans()) else None
    pad_value = draw(st.sampled_from([x_zero_point, int(x_range.min), 1]))
    return x, w, x_zero_point, w_zero_point, pad_value, strides, pads, dilations, group, bias


@settings(max_examples=250, deadline=None)
@given(convolutions())
def test_conv_equals_the_definition(arguments):
    *head, group, bias = arguments
    x, w, x_zero_point, w_zero_point, *geometry = head
    expected = naive_conv(*arguments)
    y = conv_acc(*head, group, "NCHW", bias)
    assert y.dtype == np.int32 and np.array_equal(y, expected)
    last = np.ascontiguousarray(np.moveaxis(x, 1, -1))
    y = conv_acc(last, w, x_zero_point, w_zero_point, *geometry, group, "NHWC", bias)
    assert y.dtype == np.int32 and np.array_equal(y, np.moveaxis(expected, 1, -1))
    info = np.iinfo(x.dtype)
    if geometry[0] == x_zero_point:
        bound = acc_bound(w, info.min, info.max, x_zero_point, w_zero_point, bias)
        assert (np.abs(np.moveaxis(expected, 1, 0).reshape(len(w), -1)).max(1) <= bound).all()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("x_dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("terms", [512, 1040, 2080, 4100, 33_000])
def test_extremes_stay_exact(layout, x_dtype, terms):
    """All operands at the ends of their range, in one piece, in several, and beyond what float32 can hold."""
    info = np.iinfo(x_dtype)
    x = np.full((1, terms, 1, 2), info.max, x_dtype)
    x[..., 1] = info.min
    x[0, ::3, 0, 0] = info.max - 1
    w = np.full((3, terms, 1, 1), -127, np.int8)
    w[1] = 127
    w[2, ::2] = 126
    zero_point = int(info.min)
    pieces = prepare_conv(w, 0, x_dtype).plan
    assert (pieces.matrix.dtype == np.float32) == (terms <= 4100)
    assert all(127 * 128 * (b - a) <= 2**24 for a, b in itertools.pairwise((0, *pieces.cuts))) or terms == 33_000
    expected = naive_conv(x, w, zero_point, 0, 0, [1, 1], [0] * 4, [1, 1], 1, None)
    if layout == "NHWC":
        x, expected = np.moveaxis(x, 1, -1), np.moveaxis(expected, 1, -1)
    y = conv_acc(x, w, zero_point, 0, 0, [1, 1], [0] * 4, [1, 1], 1, layout)
    assert np.array_equal(y, expected)


def test_depthwise_beyond_float32():
    rng = np.random.default_rng(8)
    x = rng.choice([-32768, 32767], (1, 3, 8, 8)).astype(np.int16)
    w = rng.choice([-127, 127], (3, 1, 5, 5)).astype(np.int8)
    rest = (9, 0, 9, [1, 1], [2, 2, 2, 2], [1, 1], 3)
    assert np.array_equal(conv_acc(x, w, *rest, "NCHW"), naive_conv(x, w, *rest, None))


def test_prepared_weights_give_the_same():
    rng = np.random.default_rng(2)
    for group, layout in itertools.product((1, 2, 8), ("NCHW", "NHWC")):
        x = rng.integers(0, 256, (1, 8, 6, 5)).astype(np.uint8)
        w = rng.integers(-127, 128, (8, 8 // group, 3, 3)).astype(np.int8)
        x = np.ascontiguousarray(np.moveaxis(x, 1, -1)) if layout == "NHWC" else x
        rest = (31, [1, 1], [1, 1, 1, 1], [1, 1], group, layout)
        prepared = prepare_conv(w, 3, np.uint8, group, layout)
        assert prepared.tapwise == (group == 8)
        y = conv_acc(x, prepared, 31, 3, *rest)
        assert y.flags.c_contiguous and np.array_equal(y, conv_acc(x, w, 31, 3, *rest))


def _conv_integer(x, w, x_zero_point, strides, pads, dilations, group):
    proto = onnx.TensorProto
    x_type = proto.UINT8 if x.dtype == np.uint8 else proto.INT8
    node = onnx.helper.make_node(
        "ConvInteger", ["x", "w", "z"], ["y"], strides=strides, pads=pads, dilations=dilations, group=group
    )
    graph = onnx.helper.make_graph(
        [node],
        "conv",
        [
            onnx.helper.make_tensor_value_info("x", x_type, x.shape),
            onnx.helper.make_tensor_value_info("w", proto.UINT8 if w.dtype == np.uint8 else proto.INT8, w.shape),
            onnx.helper.make_tensor_value_info("z", x_type, []),
        ],
        [onnx.helper.make_tensor_value_info("y", proto.INT32, [None] * x.ndim)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x, "w": w, "z": np.array(x_zero_point, x.dtype)})[0]


@pytest.mark.parametrize("group", [1, 2, 16])
@pytest.mark.parametrize("strides, pads, dilations", [
    ([1, 1], [0, 0, 0, 0], [1, 1]),
    ([2, 2], [0, 0, 1, 1], [1, 1]),
    ([1, 2], [2, 1, 0, 3], [2, 1]),
])  # fmt: skip
def test_conv_equals_onnxruntime(group, strides, pads, dilations):
    rng = np.random.default_rng(group)
    x = rng.integers(0, 256, (2, 16, 13, 11)).astype(np.uint8)
    # Weights of 6 bits: onnxruntime may saturate sums of two products to 16 bits on machines without VNNI.
    w = rng.integers(0, 64, (16, 16 // group, 3, 3)).astype(np.uint8)
    y = conv_acc(x, w, 77, 0, 77, strides, pads, dilations, group, "NCHW")
    assert np.array_equal(y, _conv_integer(x, w, 77, strides, pads, dilations, group))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["u1", "i1", "i2"]), st.sampled_from(["i1", "u1"]), st.booleans())
def test_matmul_equals_the_definition(seed, a_dtype, b_dtype, per_column):
    rng = np.random.default_rng(seed)
    a_shape, b_shape = [
        ((3, 7), (7, 4)),
        ((2, 5, 3, 7), (7, 4)),
        ((2, 5, 3, 7), (5, 7, 4)),
        ((3, 7), (2, 7, 4)),
        ((1, 900), (900, 2)),
    ][seed % 5]
    a = rng.integers(np.iinfo(a_dtype).min, np.iinfo(a_dtype).max + 1, a_shape).astype(a_dtype)
    b = rng.integers(np.iinfo(b_dtype).min, np.iinfo(b_dtype).max + 1, b_shape).astype(b_dtype)
    a_zero_point = int(rng.integers(np.iinfo(a_dtype).min, np.iinfo(a_dtype).max + 1))
    b_zero_point = rng.integers(-128, 128, b_shape[-1]) if per_column else int(rng.integers(-128, 128))
    bias = rng.integers(-(2**20), 2**20, b_shape[-1]).astype(np.int32)
    expected = (a.astype(np.int64) - a_zero_point) @ (b.astype(np.int64) - b_zero_point) + bias
    y = matmul_acc(a, b, a_zero_point, b_zero_point, bias)
    if np.abs(expected).max() < 2**31:
        assert y.dtype == np.int32 and np.array_equal(y, expected)
        assert np.array_equal(y, matmul_acc(a, prepare_matmul(b, b_zero_point, a.dtype), a_zero_point, 0, bias))
    assert np.array_equal(matmul_acc(a, b, a_zero_point, b_zero_point), (expected - bias).astype(np.int32))


@settings(max_examples=100, deadline=None)
@given(convolutions())
def test_zero_point_folding_is_exact(arguments):
    """Folding -z_x * sum(w) into the bias gives the same int32, borders included, as the padding is z_x."""
    x, w, x_zero_point, w_zero_point, _, strides, pads, dilations, group, bias = arguments
    rest = (x_zero_point, strides, pads, dilations, group, "NCHW")
    unfolded = conv_acc(x, w, x_zero_point, w_zero_point, *rest, bias)
    centred = w.astype(np.int64) - np.reshape(w_zero_point, (-1, *[1] * (w.ndim - 1)))
    folded_bias = -x_zero_point * centred.reshape(len(w), -1).sum(1) + (0 if bias is None else bias)
    assert np.array_equal(conv_acc(x, w, 0, w_zero_point, *rest, folded_bias.astype(np.int32)), unfolded)
    # The run-time term of an affine weight: -z_w times the sum of the window.
    ones = np.ones_like(w)
    row_sum = conv_acc(x, ones, x_zero_point, 0, *rest).astype(np.int64)
    symmetric = conv_acc(x, w, x_zero_point, 0, *rest, bias).astype(np.int64)
    w_zero_points = np.broadcast_to(w_zero_point, len(w)).reshape(-1, *[1] * (x.ndim - 2))
    assert np.array_equal(symmetric - w_zero_points * row_sum, unfolded)


def test_acc_bound_is_attained():
    rng = np.random.default_rng(4)
    for zero_point, bias in itertools.product((0, 128, 255, 40), (None, rng.integers(-(10**6), 10**6, 6))):
        w = rng.integers(-127, 128, (6, 5, 3)).astype(np.int8)
        bound = acc_bound(w, 0, 255, zero_point, 2, bias)
        assert bound.dtype == np.int64 and bound.shape == (6,)
        centred = w.astype(np.int64) - 2
        ends = [np.where((centred > 0) == up, 255, 0) - zero_point for up in (True, False)]
        sums = [(centred * x).reshape(6, -1).sum(1) + (0 if bias is None else bias) for x in ends]
        assert np.array_equal(bound, np.abs(sums).max(0))


def test_wrong_arguments():
    x, w = np.zeros((1, 4, 5, 5), np.uint8), np.zeros((6, 4, 3, 3), np.int8)
    rest = ([1, 1], [0] * 4, [1, 1])
    with pytest.raises(ValueError, match="do not fit"):
        conv_acc(x, w, 0, 0, 0, *rest, 2, "NCHW")
    with pytest.raises(ValueError, match="groups"):
        prepare_conv(w, 0, np.uint8, group=4)
    with pytest.raises(ValueError, match="pads"):
        conv_acc(x, w, 0, 0, 0, [1, 1], [0, 0], [1, 1], 1, "NCHW")
    with pytest.raises(ValueError, match="does not fit the padded"):
        conv_acc(x, w, 0, 0, 0, [1, 1], [0] * 4, [3, 3], 1, "NCHW")
    with pytest.raises(ValueError, match="prepared for uint8"):
        conv_acc(x.view(np.int8), prepare_conv(w, 0, np.uint8), 0, 0, 0, *rest, 1, "NCHW")
    with pytest.raises(ValueError, match="8- or 16-bit"):
        conv_acc(x.astype(np.int32), w, 0, 0, 0, *rest, 1, "NCHW")
    with pytest.raises(ValueError, match="prepared for uint8"):
        matmul_acc(np.zeros((2, 2), np.int8), prepare_matmul(np.zeros((2, 2), np.int8), 0, np.uint8), 0, 0)
