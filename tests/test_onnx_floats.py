"""Other float types are computed in float32; weights have to be finite."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto
from onnx_models import constant, model_of, node, ops, weights

from qcompiler.errors import ModelError
from qcompiler.frontends.onnx_load import normalize


@pytest.mark.parametrize(
    ("element", "dtype", "word"),
    [
        (TensorProto.FLOAT16, np.float16, "float16"),
        (TensorProto.DOUBLE, np.float64, "float64"),
        (TensorProto.BFLOAT16, ml_dtypes.bfloat16, "bfloat16"),
    ],
)
def test_other_float_types_are_computed_in_float32(element: int, dtype: Any, word: str) -> None:
    nodes = [
        node("MatMul", "x,w", "m"),
        node("Cast", "m", "m32", to=TensorProto.FLOAT),
        node("Relu", "m32", "r"),
        node("Cast", "r", to=element),
    ]
    w = weights(40, 50).astype(dtype)
    model = normalize(model_of(nodes, {"x": [2, 40]}, ["y"], {"w": w}, element=element))
    assert ops(model) == ["MatMul", "Relu"]
    assert model.arrays["w"].dtype == np.float32
    assert np.array_equal(model.arrays["w"], w.astype(np.float32))
    for value in (*model.proto.graph.input, *model.proto.graph.output, *model.proto.graph.value_info):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    assert model.notes == (f"values of type {word} are computed as float32, the inputs and outputs x, y too",)


def test_doubles_beyond_float32_become_its_largest() -> None:
    nodes = [node("Max", "x,c")]
    model = normalize(model_of(nodes, {"x": [2]}, ["y"], {"c": np.array([-1e300, 2.0])}, element=TensorProto.DOUBLE))
    assert constant(model, "c").tolist() == [np.finfo(np.float32).min, 2.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    w = weights(40, 50)
    w[3, 4] = bad
    message = "weights 'w' of node 'n' .MatMul. hold " + ("NaN" if np.isnan(bad) else "an infinite value")
    with pytest.raises(ModelError, match=message):
        normalize(model_of([node("MatMul", "x,w")], {"x": [2, 40]}, ["y"], {"w": w}))


def test_infinite_limits_and_masks_are_allowed() -> None:
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    nodes = [node("Add", "x,mask", "a"), node("Clip", "a,low,high")]
    constants = {"mask": mask, "low": np.float32(-1), "high": np.float32(np.inf)}
    assert ops(normalize(model_of(nodes, {"x": [4, 4]}, ["y"], constants))) == ["Add", "Clip"]
