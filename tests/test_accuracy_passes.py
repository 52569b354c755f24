"""Passes equalize, smooth and round-weights: the float function stays, errors of quantization fall."""

from __future__ import annotations

from unittest import mock

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graphs import TO_QDQ, Graph, assert_equal, feeds_of, onnxruntime_outputs, outputs, passed, run_passes, sqnr

from qcompiler.errors import CalibrationError, PipelineError
from qcompiler.frontends.onnx_import import import_graph
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.values import body
from qcompiler.model import Model
from qcompiler.passes import choose_scheme
from qcompiler.passes.canonicalize import constant_array
from qcompiler.passes.originals import original
from qcompiler.passes.round_weights import second_order


def uneven(middle: str = "Relu", seed: int = 0) -> onnx.ModelProto:
    """Conv, depthwise and grouped Conv whose channels differ by orders of magnitude."""
    g = Graph(seed, x=(1, 3, 8, 8))
    spread = np.exp(g.rng.normal(0, 3, (8, 1, 1, 1))).astype(np.float32)
    w = g.rng.normal(0, 0.3, (8, 3, 3, 3)).astype(np.float32) * spread
    y = g("Conv", "x", g.constant(w), g.weight(8))
    y = g(middle, y, *((g.constant(0.0), g.constant(6.0)) if middle == "Clip" else ()))
    back = (g.rng.normal(0, 0.3, (8, 1, 3, 3)) / spread).astype(np.float32)
    y = g("Relu", g("Conv", y, g.constant(back), g.weight(8), group=8))
    y = g("LeakyRelu", g("Conv", y, g.weight(6, 4, 1, 1), g.weight(6), group=2), alpha=0.25)
    return g.proto(g("Conv", y, g.weight(4, 6, 1, 1)))


def everything(proto: onnx.ModelProto, pipeline: str, feeds: list) -> Model:  # type: ignore[type-arg]
    with mock.patch.object(choose_scheme, "border", lambda module, gains, inner: (0.0, set(gains))):
        return passed(import_graph(proto), pipeline, feeds)


def weights(model: Model) -> list[np.ndarray]:
    ops = [op for op in body(model.module).ops if op_name(op) in ("Conv", "MatMul")]
    return [w for op in ops if (w := constant_array(op.operands[1], model.store)) is not None]


def test_equalize_is_exact_and_gains_with_one_scale_a_weight() -> None:
    proto = uneven()
    feeds, model = feeds_of(proto), import_graph(proto)
    before, after = passed(model, "canonicalize"), passed(model, "canonicalize,equalize")
    assert_equal(outputs(before, feeds), outputs(after, feeds))
    assert np.ptp(np.log(np.abs(weights(after)[0]).max(axis=(1, 2, 3)))) < 0.6 * np.ptp(
        np.log(np.abs(weights(before)[0]).max(axis=(1, 2, 3)))
    )
    reference = [onnxruntime_outputs(proto, f) for f in feeds]
    per_tensor = TO_QDQ.replace("choose-scheme", "choose-scheme{per-channel=false}")
    found = [
        sqnr(reference, outputs(everything(proto, p, feeds), feeds), model.outputs[0])
        for p in (per_tensor, per_tensor.replace("calibrate", "equalize,calibrate"))
    ]
    assert found[1] > found[0] + 3


def test_equalize_leaves_clamps_branches_and_dead_channels() -> None:
    clipped = passed(import_graph(uneven("Clip")), "canonicalize")
    assert np.array_equal(weights(clipped)[0], weights(passed(clipped, "equalize"))[0])
    g = Graph(x=(1, 3, 8, 8))
    y = g("Conv", "x", g.weight(4, 3, 1, 1, scale=100.0))
    branch = import_graph(g.proto(g("Conv", y, g.weight(4, 4, 1, 1)), y))
    assert passed(branch, "equalize").text() == branch.text()
    w = g.rng.normal(0, 100, (4, 3, 1, 1)).astype(np.float32)
    w[1] = 0
    g = Graph(x=(1, 3, 8, 8))
    dead = import_graph(g.proto(g("Conv", g("Conv", "x", g.constant(w)), g.weight(4, 4, 1, 1))))
    feeds = [{"x": np.ones((1, 3, 8, 8), np.float32)}]
    assert_equal(outputs(dead, feeds), outputs(passed(dead, "equalize"), feeds))


@pytest.mark.parametrize("form", ["layer-norm", "rms", "affine"])
def test_smooth_is_exact_and_evens_out_channels(form: str) -> None:
    g = Graph(x=(1, 16, 32))
    gamma = np.exp(g.rng.normal(0, 2, 32)).astype(np.float32)
    if form == "layer-norm":
        y = g("LayerNormalization", "x", g.constant(gamma), g.weight(32), axis=-1)
    else:
        y = g("Mul", g("Tanh", "x"), g.constant(gamma))
        y = g("Add", y, g.weight(32)) if form == "affine" else y
    proto = g.proto(g("MatMul", y, g.weight(32, 8)), g("MatMul", y, g.weight(32, 4)))
    feeds, model = feeds_of(proto), import_graph(proto)
    smooth = passed(model, "calibrate,smooth", feeds)
    assert_equal(outputs(model, feeds), outputs(smooth, feeds))
    assert not np.array_equal(weights(model)[0], weights(smooth)[0])
    reference = [onnxruntime_outputs(proto, f) for f in feeds]
    found = [
        sqnr(reference, outputs(everything(proto, p, feeds), feeds), model.outputs[0])
        for p in (TO_QDQ, TO_QDQ.replace("calibrate", "calibrate,smooth,calibrate"))
    ]
    assert found[1] > found[0]


def test_smooth_refuses_a_wrong_alpha_and_needs_every_reader_to_be_a_product() -> None:
    g = Graph(x=(1, 16, 32))
    y = g("Mul", "x", g.weight(32))
    proto = g.proto(g("MatMul", y, g.weight(32, 8)), g("Relu", y))
    feeds = feeds_of(proto)
    model = passed(import_graph(proto), "calibrate", feeds)
    assert np.array_equal(weights(passed(model, "smooth"))[0], weights(model)[0])
    with pytest.raises(PipelineError, match=r"alpha must lie in 0\.\.1"):
        passed(model, "smooth{alpha=2.0}")


def correlated() -> onnx.ModelProto:
    g = Graph(x=(1, 4, 12, 12))
    y = g("Relu", g("Conv", "x", g.weight(12, 4, 3, 3), g.weight(12), pads=[1, 1, 1, 1], strides=[2, 2]))
    y = g("Relu", g("Conv", y, g.weight(12, 1, 3, 3), group=12, dilations=[2, 2], pads=[2, 2, 2, 2]))
    y = g("Relu", g("Conv", y, g.weight(16, 6, 1, 1), group=2))
    return g.proto(g("MatMul", g("Reshape", y, g.ints(1, 16, 36)), g.weight(36, 5)))


def test_round_weights_gains_and_keeps_the_originals() -> None:
    proto = correlated()
    feeds = feeds_of(proto, count=16)
    reference = [onnxruntime_outputs(proto, f) for f in feeds]
    coarse = TO_QDQ.replace("choose-scheme", "choose-scheme{per-channel=false}")
    name = import_graph(proto).outputs[0]
    found = [
        sqnr(reference, outputs(everything(proto, p, feeds), feeds), name)
        for p in (coarse, coarse.replace("insert-qdq", "round-weights,insert-qdq"))
    ]
    assert found[1] > found[0]
    model = everything(proto, TO_QDQ.replace("insert-qdq", "round-weights,correct-bias"), feeds)
    plain = weights(everything(proto, TO_QDQ.replace(",insert-qdq", ""), feeds))
    ops = [op for op in body(model.module).ops if "q.weight" in op.attributes]
    for op, weight in zip(ops, plain, strict=True):
        np.testing.assert_array_equal(original(op, 1, model.store), weight)
    with pytest.raises(CalibrationError, match="round-weights needs calibration data"):
        passed(model, "round-weights")


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 200))
def test_second_order_rounding_is_in_limits_and_nearest_without_correlation(
    seed: int, groups: int, inputs: int
) -> None:
    rng = np.random.default_rng(seed)
    w = rng.normal(0, 1, (groups, 4, inputs))
    scale = np.abs(w).max(axis=2) / 7
    nearest = np.clip(np.rint(w / scale[:, :, None]), -7, 7)
    diagonal = np.eye(inputs) * rng.uniform(0.5, 2, (groups, 1, inputs))
    np.testing.assert_array_equal(second_order(w, scale, diagonal, (-7, 7)), nearest)
    x = rng.normal(0, 1, (groups, 50, inputs)) @ rng.normal(0, 1, (groups, inputs, inputs))
    found = second_order(w, scale, x.transpose(0, 2, 1) @ x, (-7, 7))
    assert np.abs(found).max() <= 7 and np.array_equal(found, np.rint(found))


def test_biases_stay_in_int32_after_the_passes() -> None:
    g = Graph(x=(1, 3, 6, 6))
    w = g.rng.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32)
    w[1], w[2] = 0, w[2] * 1e-9
    y = g("Relu", g("Conv", "x", g.constant(w), g.constant([0.0, 1.0, 5.0, 0.0])))
    proto = g.proto(g("Conv", y, g.weight(2, 4, 1, 1)))
    feeds, model = feeds_of(proto), import_graph(proto)
    pipeline = TO_QDQ.replace("calibrate", "equalize,calibrate").replace("insert-qdq", "round-weights,insert-qdq")
    with mock.patch.object(choose_scheme, "border", lambda module, gains, inner: (0.0, set(gains))):
        run_passes(model, f"{pipeline},integerize,legalize", feeds)
    assert sqnr([onnxruntime_outputs(proto, f) for f in feeds], outputs(model, feeds), model.outputs[0]) > 25
