"""Shapes of inputs are set and reach every value; what is not static is refused."""

from __future__ import annotations

import onnx
import pytest
from onnx_models import model_of, node, shape_of, weights

from qcompiler.errors import ModelError
from qcompiler.frontends.onnx_load import normalize


def add_model(*dims: int | str | None, other: tuple[int | str, ...] | None = None) -> onnx.ModelProto:
    inputs = {"a": dims} if other is None else {"a": dims, "b": other}
    return model_of([node("Add", "a,b" if other else "a,a")], inputs, ["y"])


def test_symbolic_dimensions_are_set_and_reach_every_value() -> None:
    model = normalize(add_model("N", 3, other=("N", 3)), {"a": (5, 3)})
    assert [shape_of(v) for v in model.proto.graph.input] == [[5, 3], [5, 3]]
    assert shape_of(model.proto.graph.output[0]) == [5, 3]


@pytest.mark.parametrize(
    ("model", "shapes", "message"),
    [
        (add_model("N", 3), {}, r"input 'a': dimension 0 is symbolic \('N'\); set it with --shape a=1x3"),
        (add_model(None, 3), {}, "input 'a': dimension 0 is of unknown size"),
        (add_model(2, 0), {}, "input 'a': dimension 1 is of size 0; set it with --shape a=2x1"),
        (add_model(2, 3), {"a": (2, 4)}, "--shape a=2x4 contradicts the model, whose input 'a' is 2x3"),
        (add_model(2, 3), {"a": (2, 3, 1)}, "contradicts the model"),
        (add_model("N", 3), {"a": (0, 3)}, "every size must be 1 or more"),
        (
            add_model("N", 3),
            {"q": (1, 3)},
            "names the input 'q', which the model does not have; its inputs are: a",
        ),
        (
            add_model("N", 3, other=("N", 3)),
            {"a": (2, 3), "b": (4, 3)},
            "dimension 'N' is 2 in input 'a' but 4 in input 'b'",
        ),
        (model_of([node("Relu", "a")], {"a": None}, ["y"]), {}, "input 'a' has no shape"),
    ],
)
def test_unset_and_contradicting_shapes_are_refused(
    model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        normalize(model, shapes)


def test_an_input_without_a_shape_can_be_given_one() -> None:
    model = normalize(model_of([node("Relu", "a")], {"a": None}, ["y"]), {"a": (2, 3)})
    assert shape_of(model.proto.graph.output[0]) == [2, 3]


def test_initializers_are_no_inputs() -> None:
    model = model_of([node("Add", "x,w")], {"x": [2], "w": [2]}, ["y"], {"w": weights(2)})
    assert [value.name for value in normalize(model).proto.graph.input] == ["x"]


def test_a_shape_that_depends_on_data_is_refused_by_node() -> None:
    model = model_of([node("NonZero", "x", name="find")], {"x": [4]}, ["y"])
    with pytest.raises(ModelError, match=r"node 'find' \(NonZero\): the shape of its result 'y' is not static"):
        normalize(model)


def test_a_contradiction_of_shapes_is_refused_with_the_reason() -> None:
    model = model_of([node("MatMul", "x,w", name="product")], {"x": [2, 3]}, ["y"], {"w": weights(4, 5)})
    with pytest.raises(ModelError, match=r"node 'product' \(MatMul\).*[Ii]ncompatible dimensions"):
        normalize(model)
