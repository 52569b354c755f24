"""Ops outside the ONNX standard become standard ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import complete, model_of, node, run, weights

from qcompiler.frontends.onnx_load import normalize


def contrib(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(","), outputs.split(","), "c", domain="com.microsoft", **attributes)


CONTRIBUTED: dict[str, tuple[onnx.NodeProto, tuple[int, ...], dict[str, np.ndarray]]] = {
    "gelu": (contrib("Gelu", "x"), (2, 6), {}),
    "bias-gelu": (contrib("BiasGelu", "x,b"), (2, 6), {"b": weights(6)}),
    "fast-gelu": (contrib("FastGelu", "x,b"), (2, 6), {"b": weights(6)}),
    "quick-gelu": (contrib("QuickGelu", "x", alpha=1.5), (2, 6), {}),
    "fused-matmul": (contrib("FusedMatMul", "x,b", transB=1, alpha=0.5), (2, 6), {"b": weights(4, 6)}),
    "fused-conv": (
        contrib("FusedConv", "x,b", activation="LeakyRelu", activation_params=[0.1], pads=[1, 1, 1, 1]),
        (1, 3, 5, 5),
        {"b": weights(4, 3, 3, 3)},
    ),
    "skip-layer-normalization": (
        contrib("SkipLayerNormalization", "x,b,g,h", epsilon=1e-5),
        (1, 2, 6),
        {"b": weights(1, 2, 6), "g": weights(6), "h": weights(6)},
    ),
}


@pytest.mark.parametrize("name", CONTRIBUTED)
def test_contributed_ops_become_standard_ones(name: str) -> None:
    operator, shape, constants = CONTRIBUTED[name]
    nodes = [node("Relu", "x", "r"), operator]
    operator.input[0] = "r"
    model = model_of(nodes, {"x": shape}, ["y"], constants, 13, domains=["com.microsoft"])
    normalized = normalize(model)
    assert not any(n.domain for n in normalized.proto.graph.node)
    x = weights(*shape)
    np.testing.assert_allclose(run(complete(normalized), {"x": x})[0], run(model, {"x": x})[0], rtol=1e-5, atol=1e-6)
