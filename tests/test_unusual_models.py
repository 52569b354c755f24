"""Unusual but valid models compile, and compute what onnxruntime computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from bad_input import F32, Fails, bare_from, compiling
from onnx import TensorProto, helper, numpy_helper
from small_graphs import Graph, onnxruntime_outputs

import qcompiler
from qcompiler.cli import main


def _identity() -> onnx.ModelProto:
    g = Graph(x=(1, 4))
    return g.proto(g("Identity", "x"))


def _input_is_output() -> onnx.ModelProto:
    return Graph(x=(1, 4)).proto("x")


def _twice() -> onnx.ModelProto:
    """One value under two output names, and an input handed on."""
    g = Graph(x=(1, 4))
    y = g("Relu", "x")
    return g.proto(y, g("Identity", y), "x")


def _no_quantizable_op() -> onnx.ModelProto:
    g = Graph(x=(2, 8))
    return g.proto(g("LayerNormalization", "x", g.weight(8), g.weight(8)))


def _constant_output() -> onnx.ModelProto:
    g = Graph(x=(1, 4))
    return g.proto(g("Relu", "x"), g("Add", g.weight(3), g.weight(3)))


def _constant_zero_times_input() -> onnx.ModelProto:
    g = Graph(x=(1, 4))
    return g.proto(g("Gemm", g("Mul", "x", g.constant(0.0)), g.weight(4, 3), g.weight(3)))


def _scalar() -> onnx.ModelProto:
    g = Graph(x=())
    return g.proto(g("Add", g("Mul", "x", g.constant(3.0)), g.constant(0.5)))


def _scalar_from_image() -> onnx.ModelProto:
    g = Graph(x=(1, 3, 8, 8))
    y = g("Conv", "x", g.weight(4, 3, 3, 3), g.weight(4))
    return g.proto(g("ReduceMean", y, keepdims=0))


def _unused_input() -> onnx.ModelProto:
    g = Graph(x=(1, 4), z=(7,))
    return g.proto(g("Gemm", "x", g.weight(4, 3), g.weight(3)))


def _empty_dimension() -> onnx.ModelProto:
    g = Graph(x=(1, 4))
    return g.proto(g("Relu", "x"), g("Slice", "x", g.ints(0), g.ints(0), g.ints(1)))


def _zero_weights() -> onnx.ModelProto:
    g = Graph(x=(1, 3, 6, 6))
    zero = g.constant(np.zeros((4, 3, 3, 3), F32))
    return g.proto(g("Conv", "x", zero, g.weight(4)))


def _integers() -> onnx.ModelProto:
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "x"], ["y"], "sum"), helper.make_node("Neg", ["y"], ["z"], "minus")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.INT32, (1, 4))],
        [helper.make_tensor_value_info("z", TensorProto.INT32, (1, 4))],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _odd_names() -> onnx.ModelProto:
    """Names that are no identifiers, that only differ in such characters, and that look like xDSL's own."""
    g = Graph(x=(1, 4))
    names = ["a/b:c d", "a/b:c_d", '"%0', "ü", "1_2"]
    y = "x"
    for name in names:
        g.nodes.append(helper.make_node("Gemm", [y, g.weight(4, 4), g.weight(4)], [name], name=name))
        y = name
    model = bare_from(g)
    return onnx.shape_inference.infer_shapes(model)


UNUSUAL: dict[str, Callable[[], onnx.ModelProto]] = {
    "identity": _identity,
    "input is output": _input_is_output,
    "one value twice": _twice,
    "no quantizable op": _no_quantizable_op,
    "constant output": _constant_output,
    "nothing left of the input": _constant_zero_times_input,
    "scalar": _scalar,
    "scalar from an image": _scalar_from_image,
    "unused input": _unused_input,
    "zero weights": _zero_weights,
    "integers": _integers,
    "odd names": _odd_names,
}


@pytest.mark.parametrize("case", UNUSUAL)
def test_unusual_model(case: str, here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    proto = UNUSUAL[case]()
    onnx.save(proto, "model.onnx")
    rng = np.random.default_rng(0)
    feeds = []
    for _ in range(4):
        feeds.append({})
        for value in proto.graph.input:
            kind = value.type.tensor_type
            shape = [d.dim_value for d in kind.shape.dim]
            dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
            feeds[-1][value.name] = np.asarray(rng.normal(0, 3, shape)).astype(dtype)
    np.savez("data.npz", **{name: np.stack([f[name] for f in feeds]) for name in feeds[0]})
    assert main(compiling()) == 0, capfd.readouterr().err
    bundle = qcompiler.load_bundle("new")
    for feed in feeds:
        expected = onnxruntime_outputs(proto, feed)
        found = bundle.run(feed)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
            largest = float(np.abs(array).max(initial=0.0))
            assert np.abs(found[name] - array).max(initial=0.0) <= 0.06 * max(largest, 0.2)
    assert main(["run", "new", "--input", "data.npz", "--output", "y.npz"]) == 0
    assert main(["inspect", "new"]) == 0


def test_empty_result(fails: Fails) -> None:
    onnx.save(_empty_dimension(), "model.onnx")
    np.savez("data.npz", x=np.ones((1, 3, 8, 8), F32))
    message = fails(*compiling())
    assert "slice1.node" in message
    assert "empty" in message


def test_graph_without_nodes_or_inputs(fails: Fails) -> None:
    """An output that nothing computes is an error; one that is a constant makes a bundle of constants."""
    graph = helper.make_graph([], "graph", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), "model.onnx")
    assert "'y'" in fails(*compiling())
    graph.initializer.append(numpy_helper.from_array(np.ones(3, F32), "y"))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), "model.onnx")
    assert main(compiling()) == 0
    assert (qcompiler.load_bundle("new").run({})["y"] == np.ones(3, F32)).all()
