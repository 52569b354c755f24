"""The interpreter against onnxruntime, its interface, and what it refuses."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from ir_text import checked, invented
from small_graphs import Graph, feeds_of, onnxruntime_outputs, outputs, passed, stages
from xdsl.ir import Operation

from qcompiler.errors import ModelError
from qcompiler.exporters.onnx_export import export_onnx
from qcompiler.frontends.onnx_import import import_graph
from qcompiler.interpreter import Interpreter, interpret
from qcompiler.ir.rewriting import verify_module
from qcompiler.ir.values import value_names
from qcompiler.model import Model


def _float_graph() -> onnx.ModelProto:
    """Ops with several results, absent inputs, integer and boolean values, repeated operands."""
    g = Graph(x=(2, 6, 4))
    half = g("Split", "x", g.ints(2, 4), axis=1, results=2)
    squared = g("Mul", half.replace(".0", ".1"), half.replace(".0", ".1"))
    clipped = g("Clip", squared, "", g.constant(1.5))
    best = g("TopK", clipped, g.ints(2), axis=-1, results=2)
    index = g("Cast", best.replace(".0", ".1"), to=onnx.TensorProto.FLOAT)
    chosen = g("Where", g("Greater", best, g.constant(0.5)), best, index)
    return g.proto(chosen, g("LayerNormalization", "x", g.weight(4), axis=-1), half)


def test_float_graph_equals_onnxruntime() -> None:
    proto = _float_graph()
    feeds = feeds_of(proto)
    found = outputs(import_graph(proto), feeds)
    for expected, results in zip([onnxruntime_outputs(proto, f) for f in feeds], found, strict=True):
        assert expected.keys() == results.keys()
        for name, array in expected.items():
            np.testing.assert_allclose(results[name], array, rtol=1e-6, atol=1e-6)


def test_export_is_the_inverse_of_import() -> None:
    proto = _float_graph()
    feeds = feeds_of(proto)[0]
    model = import_graph(proto)
    exported = export_onnx(model.module, model.store)
    onnx.checker.check_model(exported, full_check=True)
    expected, found = onnxruntime_outputs(proto, feeds), onnxruntime_outputs(exported, feeds)
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    again = import_graph(onnx.shape_inference.infer_shapes(exported))
    verify_module(again.module)
    ops = [[op.name for op in m.module.walk() if op.name != "onnx.Identity"] for m in (model, again)]
    assert sorted(ops[0]) == sorted(ops[1])


def test_qdq_export_keeps_types_and_scales() -> None:
    qdq = stages("conv-relu").qdq
    exported = export_onnx(qdq.module, qdq.store)
    onnx.checker.check_model(exported, full_check=True)
    imported = passed(import_graph(onnx.shape_inference.infer_shapes(exported)), "import-qdq")
    assert outputs(imported, stages("conv-relu").feeds)[0].keys() == {"conv2"}
    kinds = [
        {str(r.type) for op in m.module.walk() if op.name == "q.quantize" for r in op.results} for m in (qdq, imported)
    ]
    assert kinds[0] == kinds[1]


def test_integer_ops_have_no_onnx_form() -> None:
    model = stages("conv").integer
    with pytest.raises(ModelError, match=r"q.conv 'conv0.node' cannot be written as ONNX; .* before integerize"):
        export_onnx(model.module, model.store)


def test_names_that_collide_are_kept_apart() -> None:
    """ONNX has one namespace for nodes and one for tensors; the exported model names tensors after nodes."""
    g = Graph(x=(1, 2))
    g.weights["w"] = np.ones((1, 2), np.float32)
    g.nodes = [
        onnx.helper.make_node("Add", ["x", "w"], ["inner"], name="w"),
        onnx.helper.make_node("Abs", ["inner"], ["inner2"], name="y"),
        onnx.helper.make_node("Neg", ["inner2"], ["inner3"], name="x"),
        onnx.helper.make_node("Neg", ["inner3"], ["y"], name="last"),
    ]
    proto = g.proto("y")
    model = import_graph(proto)
    names = list(value_names(model.module).values())
    assert len(names) == len(set(names))
    exported = export_onnx(model.module, model.store)
    onnx.checker.check_model(exported, full_check=True)
    feeds = feeds_of(proto)[0]
    assert np.array_equal(onnxruntime_outputs(exported, feeds)["y"], np.abs(feeds["x"] + 1))
    assert np.array_equal(interpret(model, feeds)["y"], np.abs(feeds["x"] + 1))


def test_watch_sees_and_replaces() -> None:
    graph = stages("conv-relu")
    seen: list[str] = []

    def watch(op: Operation, results: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...] | None:
        seen.append(op.name)
        return tuple(np.zeros_like(r) for r in results) if op.name == "q.dequantize" else None

    found = Interpreter(graph.integer).run(graph.feeds[0], watch)
    assert seen == ["q.quantize", "q.conv", "q.conv", "q.dequantize"]
    assert not found["conv2"].any()


def test_run_all_gives_every_activation() -> None:
    graph = stages("residual-block")
    interpreter = Interpreter(graph.integer)
    found = interpreter.run_all(graph.feeds[0])
    names = {interpreter.names[r] for op in interpreter.block.ops for r in op.results if r not in interpreter.constants}
    assert found.keys() == names | {"softmax14"}
    assert np.array_equal(found["softmax14"], interpreter.run(graph.feeds[0])["softmax14"])


def test_an_interpreter_runs_again_with_the_same_result() -> None:
    graph = stages("conv-groups")
    interpreter = Interpreter(graph.integer)
    first, other, again = (interpreter.run(graph.feeds[i])["conv0"] for i in (0, 1, 0))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({}, "input 'x' is missing; given: none"),
        ({"z": np.zeros((2, 3, 7, 6))}, "input 'x' is missing; given: z"),
        ({"x": np.zeros((2, 3, 7, 7), np.float32)}, r"expected shape \[2, 3, 7, 6\], got \[2, 3, 7, 7\]"),
        ({"x": np.zeros((2, 3, 7, 6), complex)}, "input 'x': expected float32, got complex128"),
        ({"x": np.full((2, 3, 7, 6), "a")}, "input 'x': expected float32, got <U1"),
    ],
)
def test_wrong_inputs(feeds: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        interpret(stages("conv").integer, feeds)


def test_doubles_and_integers_are_taken_as_float32() -> None:
    model = stages("conv").integer
    whole = np.arange(2 * 3 * 7 * 6).reshape(2, 3, 7, 6)
    results = [interpret(model, {"x": whole.astype(kind)})["conv0"] for kind in (np.float32, np.float64, np.int64)]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_what_onnxruntime_refuses_is_named() -> None:
    text = (
        "func.func @main(%x: tensor<2x3xf32>) -> tensor<2x3xf32> {\n"
        '  %0 = "onnx.MatMul"(%x, %x) : (tensor<2x3xf32>, tensor<2x3xf32>) -> tensor<2x3xf32> loc("product")\n'
        "  func.return %0 : tensor<2x3xf32>\n}\n"
    )
    module = checked(text)
    with pytest.raises(ModelError, match=r"onnxruntime does not take onnx.MatMul 'product'"):
        interpret(Model(module, invented(module)), {"input0": np.zeros((2, 3), np.float32)})
