"""Graphs are folded, cleaned and sorted; functions and constant conditions are inlined."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import complete, constant, i64, model_of, node, ops, run, shape_of, weights

from qcompiler.errors import ModelError
from qcompiler.frontends.onnx_load import normalize


def test_shape_chains_fold_away() -> None:
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape,zero", "batch"),
        node("Mul", "batch,two", "double"),
        node("Unsqueeze", "double,axes", "double1"),
        node("Concat", "double1,rest", "target", axis=0),
        node("Cast", "target", "as32", to=TensorProto.INT32),
        node("Cast", "as32", "target64", to=TensorProto.INT64),
        node("Reshape", "x,target64"),
    ]
    constants = {"zero": np.array(0), "two": np.array(2), "axes": i64(0), "rest": i64(-1)}
    model = normalize(model_of(nodes, {"x": ["N", 4]}, ["y"], constants), {"x": (3, 4)})
    assert ops(model) == ["Reshape"]
    assert np.array_equal(constant(model, "target64"), [6, -1])
    assert shape_of(model.proto.graph.output[0]) == [6, 2]


def test_half_precision_storage_folds_to_float32_weights() -> None:
    stored = weights(40, 50).astype(np.float16)
    nodes = [node("Cast", "w16", "w", to=TensorProto.FLOAT), node("MatMul", "x,w")]
    model = normalize(model_of(nodes, {"x": [2, 40]}, ["y"], {"w16": stored}))
    assert ops(model) == ["MatMul"] and list(model.arrays) == ["w"]
    assert np.array_equal(model.arrays["w"], stored.astype(np.float32))
    assert not model.arrays["w"].flags.writeable and not model.notes


def test_a_large_constant_of_shape_takes_no_memory() -> None:
    value = numpy_helper.from_array(np.array([0.5], np.float32))
    nodes = [node("ConstantOfShape", "shape", "w", value=value), node("MatMul", "x,w")]
    model = normalize(model_of(nodes, {"x": [1, 30000]}, ["y"], {"shape": i64(30000, 20000)}))
    assert ops(model) == ["MatMul"]
    assert model.arrays["w"].shape == (30000, 20000) and model.arrays["w"].strides == (0, 0)


def test_folding_does_not_blow_up_weights() -> None:
    nodes = [node("Expand", "row,shape", "w"), node("MatMul", "x,w")]
    constants = {"row": weights(1, 2000), "shape": i64(3000, 2000)}
    assert ops(normalize(model_of(nodes, {"x": [1, 3000]}, ["y"], constants))) == ["Expand", "MatMul"]
    constants["shape"] = i64(1000, 2000)
    assert ops(normalize(model_of(nodes, {"x": [1, 1000]}, ["y"], constants))) == ["MatMul"]


NO_OPS: dict[str, tuple[onnx.NodeProto, dict[str, Any]]] = {
    "identity": (node("Identity", "r", "z"), {}),
    "dropout": (node("Dropout", "r,ratio", "z"), {"ratio": np.float32(0.5)}),
    "cast": (node("Cast", "r", "z", to=TensorProto.FLOAT), {}),
    "reshape": (node("Reshape", "r,c", "z"), {"c": i64(1, -1, 4)}),
    "transpose": (node("Transpose", "r", "z", perm=[0, 1, 2]), {}),
    "transpose-of-ones": (node("Reshape", "r,c", "z"), {"c": i64(1, 3, 4)}),
    "slice": (node("Slice", "r,c,e", "z"), {"c": i64(0), "e": i64(9)}),
    "pad": (node("Pad", "r,c", "z"), {"c": i64(0, 0, 0, 0, 0, 0)}),
    "concat": (node("Concat", "r", "z", axis=0), {}),
    "sum": (node("Sum", "r", "z"), {}),
    "expand": (node("Expand", "r,c", "z"), {"c": i64(1, 1, 4)}),
    "tile": (node("Tile", "r,c", "z"), {"c": i64(1, 1, 1)}),
}


@pytest.mark.parametrize("name", NO_OPS)
def test_no_ops_are_removed(name: str) -> None:
    middle, constants = NO_OPS[name]
    model = model_of([node("Relu", "x", "r"), middle, node("Exp", "z")], {"x": [1, 3, 4]}, ["y"], constants)
    assert ops(normalize(model)) == ["Relu", "Exp"]


@pytest.mark.parametrize(
    ("middle", "constants"),
    [
        (node("Transpose", "r", "z", perm=[1, 0]), {}),
        (node("Slice", "r,c,e,a,s", "z"), {"c": i64(-1), "e": i64(-9), "a": i64(1), "s": i64(-1)}),
        (node("Pad", "r,c", "z"), {"c": i64(1, 0, -1, 0)}),
        (node("Dropout", "r,ratio,training", "z"), {"ratio": np.float32(0.5), "training": np.array(True)}),
    ],
)
def test_what_only_looks_like_a_no_op_stays(middle: onnx.NodeProto, constants: dict[str, np.ndarray]) -> None:
    model = model_of([node("Relu", "x", "r"), middle, node("Exp", "z")], {"x": [4, 4]}, ["y"], constants)
    assert ops(normalize(model)) == ["Relu", middle.op_type, "Exp"]


def test_outputs_keep_their_names_when_no_ops_go() -> None:
    nodes = [
        node("Relu", "x", "r", "relu"),
        node("Identity", "r", "first", "1"),
        node("Identity", "r", "second", "2"),
        node("Identity", "x", "through", "3"),
        node("Identity", "c", "fixed", "4"),
        node("Identity", "first", "again", "5"),
        node("Exp", "r", "e", "exp"),
    ]
    outputs = ["first", "second", "through", "fixed", "again", "e"]
    model = normalize(model_of(nodes, {"x": [3]}, outputs, {"c": weights(3)}))
    assert [value.name for value in model.proto.graph.output] == outputs
    assert ops(model).count("Identity") == 4
    x = weights(3)
    expected = run(model_of(nodes, {"x": [3]}, outputs, {"c": weights(3)}), {"x": x})
    for left, right in zip(run(complete(model), {"x": x}), expected, strict=True):
        assert np.array_equal(left, right)


def test_an_output_that_is_an_initializer_comes_through_identity() -> None:
    model = normalize(model_of([node("Relu", "x")], {"x": [2]}, ["y", "c"], {"c": weights(2)}))
    assert ops(model) == ["Relu", "Identity"]
    assert np.array_equal(run(complete(model), {"x": weights(2)})[1], weights(2))


def test_dead_nodes_unused_initializers_and_unused_outputs_go() -> None:
    nodes = [
        node("Exp", "x", "dead"),
        node("MaxPool", "x", "y,indices", kernel_shape=[2]),
    ]
    model = normalize(model_of(nodes, {"x": [1, 1, 4]}, ["y"], {"unused": weights(2000)}))
    assert ops(model) == ["MaxPool"] and not model.arrays
    assert list(model.proto.graph.node[0].output) == ["y"]


def test_nodes_are_sorted_and_named_uniquely() -> None:
    nodes = [
        node("Exp", "b", name="same"),
        node("Relu", "x", "a", name="same"),
        node("Neg", "a", "b", name=""),
    ]
    model = normalize(model_of(nodes, {"x": [2]}, ["y"]))
    assert [(n.op_type, n.name) for n in model.proto.graph.node] == [
        ("Relu", "same"),
        ("Neg", "b"),
        ("Exp", "same_1"),
    ]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Relu", "q")], r"node 'n' \(Relu\): its input 'q' is not defined"),
        ([node("Add", "x,z", "y"), node("Relu", "y", "z")], "a cycle"),
        ([node("Relu", "x"), node("Exp", "x")], "'y' is already defined"),
        ([node("Relu", "x", "z")], "output 'y' is not defined"),
        ([node("Relu", "x", slope=1.0)], r"node 'n' \(Relu\).*Unrecognized attribute: slope"),
        ([node("Add", "x")], r"node 'n' \(Add\): it does not fit the definition"),
        ([node("Rleu", "x", name="typo")], r"node 'typo' \(Rleu\): ONNX has no such op"),
    ],
)
def test_inconsistent_graphs_are_refused(nodes: list[onnx.NodeProto], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        normalize(model_of(nodes, {"x": [2]}, ["y"]))


def test_local_functions_are_inlined() -> None:
    body = [helper.make_node("Mul", ["a", "a"], ["s"]), helper.make_node("Add", ["s", "b"], ["o"])]
    function = helper.make_function("own", "SquareAdd", ["a", "b"], ["o"], body, [helper.make_opsetid("", 17)])
    calls = [
        helper.make_node("SquareAdd", ["x", "w"], ["t"], "first", domain="own"),
        helper.make_node("SquareAdd", ["t", "w"], ["y"], "second", domain="own"),
    ]
    model = model_of(calls, {"x": [2000]}, ["y"], {"w": weights(2000)}, 17, domains=["own"])
    model.functions.append(function)
    normalized = normalize(model)
    assert ops(normalized) == ["Mul", "Add", "Mul", "Add"] and list(normalized.arrays) == ["w"]
    x = weights(2000)
    assert np.array_equal(run(complete(normalized), {"x": x})[0], run(model, {"x": x})[0])


def test_foreign_ops_are_listed_with_their_nodes() -> None:
    nodes = [
        helper.make_node("Trick", ["x"], ["a"], "one", domain="com.example"),
        helper.make_node("Trick", ["a"], ["b"], "two", domain="com.example"),
        helper.make_node("Scaler", ["b"], ["y"], "three", domain="ai.onnx.ml"),
    ]
    message = r"ai\.onnx\.ml::Scaler \(three\); com\.example::Trick \(one, two\)"
    with pytest.raises(ModelError, match=message):
        normalize(model_of(nodes, {"x": [2]}, ["y"], domains=["com.example", "ai.onnx.ml"]))


def branch(name: str, op: str, constants: dict[str, np.ndarray]) -> onnx.GraphProto:
    tensors = [numpy_helper.from_array(array, key) for key, array in constants.items()]
    nodes = [helper.make_node(op, ["r", "k"], ["t"], op), helper.make_node("Relu", ["t"], [name], "relu")]
    return helper.make_graph(nodes, name, [], [onnx.ValueInfoProto(name=name)], tensors)


@pytest.mark.parametrize(("rank", "taken"), [(2, "Add"), (1, "Mul")])
def test_an_if_whose_condition_folds_is_replaced_by_its_branch(rank: int, taken: str) -> None:
    nodes = [
        node("Relu", "x", "r", "relu"),
        node("Shape", "r", "shape", "shape"),
        node("Size", "shape", "rank", "rank"),
        node("Equal", "rank,two", "is2", "equal"),
        node(
            "If",
            "is2",
            name="choose",
            then_branch=branch("yes", "Add", {"k": np.float32(2)}),
            else_branch=branch("no", "Mul", {"k": np.float32(3)}),
        ),
        node("Exp", "y", "t"),
    ]
    model = model_of(nodes, {"x": [4] * rank}, ["t"], {"two": np.array(2)})
    normalized = normalize(model)
    assert ops(normalized) == ["Relu", taken, "Relu", "Exp"]
    assert f"choose/{taken}" in [n.name for n in normalized.proto.graph.node]
    x = weights(*[4] * rank)
    assert np.array_equal(run(complete(normalized), {"x": x})[0], run(model, {"x": x})[0])
