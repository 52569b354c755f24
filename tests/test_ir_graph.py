"""Graph questions: scale classes, the border between integer and float, live ranges, pointwise regions."""

from __future__ import annotations

import numpy as np
from ir_text import checked, invented
from small_graphs import GRAPHS, Graph
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue

from qcompiler.frontends.onnx_import import import_graph
from qcompiler.ir.graph import border, classes, dataflow, is_activation, live_ranges
from qcompiler.ir.pointwise import Pointwise, clamp_bounds, evaluate, fused_clamp
from qcompiler.ir.values import body, location_names

CHAIN = """\
func.func @main(%x: tensor<10xf32>) -> tensor<10xf32> {
  %a = "onnx.Abs"(%x) : (tensor<10xf32>) -> tensor<10xf32> loc("a")
  %b = "onnx.Abs"(%a) : (tensor<10xf32>) -> tensor<10xf32> loc("b")
  %c = "onnx.Abs"(%b) : (tensor<10xf32>) -> tensor<10xf32> loc("c")
  func.return %c : tensor<10xf32>
}
"""
"""Each value costs 10 to cross."""

DIAMOND = """\
func.func @main(%x: tensor<4xf32>) -> (tensor<4xf32>, tensor<4xf32>) {
  %w = "q.constant"() {value = dense_resource<w> : tensor<4xf32>} : () -> tensor<4xf32> loc("w")
  %a = "onnx.Add"(%x, %w) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32> loc("a")
  %b = "onnx.Abs"(%a) : (tensor<4xf32>) -> tensor<4xf32> loc("b")
  %c = "onnx.Neg"(%a) : (tensor<4xf32>) -> tensor<4xf32> loc("c")
  %d = "onnx.Mul"(%b, %c) : (tensor<4xf32>, tensor<4xf32>) -> tensor<4xf32> loc("d")
  func.return %d, %b : tensor<4xf32>, tensor<4xf32>
}
"""


def by_name(module: ModuleOp) -> dict[str, Operation]:
    return {location_names(op)[-1]: op for op in body(module).ops if location_names(op)}


def integer(module: ModuleOp, gains: dict[str, float], inner: tuple[SSAValue, ...] = ()) -> tuple[float, set[str]]:
    ops = by_name(module)
    cost, found = border(module, {ops[name]: gain for name, gain in gains.items()}, inner)
    return cost, {location_names(op)[-1] for op in found}


def test_border_takes_what_pays() -> None:
    module = checked(CHAIN)
    # x and the result cross whatever is integer: 20 for all three together
    assert integer(module, {"a": 5, "b": 5, "c": 5}) == (15, set())
    assert integer(module, {"a": 9, "b": 9, "c": 9}) == (20, {"a", "b", "c"})
    assert integer(module, {"a": 1, "b": 50, "c": 1}) == (20, {"a", "b", "c"})


def test_border_around_a_float_op() -> None:
    module = checked(CHAIN)
    # b has no integer form: each of the others crosses twice
    assert integer(module, {"a": 25, "c": 5}) == (25, {"a"})
    assert integer(module, {"a": 25, "c": 25}) == (40, {"a", "c"})
    assert integer(module, {}) == (0, set())


def test_border_with_equal_cost_is_in_integers() -> None:
    module = checked(CHAIN)
    assert integer(module, {"a": 20, "b": 0, "c": 0}) == (20, {"a", "b", "c"})


def test_border_counts_a_value_once_for_all_its_readers() -> None:
    module = checked(DIAMOND)
    # only a is integer: x in, its result out to two readers: 4 + 4
    assert integer(module, {"a": 9}) == (8, {"a"})
    # constants cross for nothing
    assert integer(module, {"a": 7}) == (7, set())
    # b and c read one quantized value and are left through two: 4 + 4 + 4 (b's readers: d and the function's result)
    assert integer(module, {"b": 7, "c": 7}) == (12, {"b", "c"})


def test_border_does_not_run_through_inner_values() -> None:
    module = checked(CHAIN)
    a = by_name(module)["a"].results[0]
    assert integer(module, {"a": 25}, (a,)) == (25, set())  # its reader is float, so it is
    assert integer(module, {"a": 25, "b": 0}, (a,)) == (20, {"a", "b"})


def test_classes() -> None:
    values = list(body(checked(DIAMOND)).args) + [r for op in body(checked(DIAMOND)).ops for r in op.results]
    a, b, c, d, e = values[:5]
    found = classes([(a, b), (c, c), (b, d), (e, e)])
    assert sorted(map(len, found)) == [1, 1, 3]
    assert {a, b, d} in found


def test_dataflow() -> None:
    module = checked(DIAMOND)
    graph = dataflow(module)
    ops = by_name(module)
    assert sum(isinstance(node, Block) for node in graph) == 1
    assert {(u, data["index"]) for _, u, data in graph.out_edges(ops["b"], data=True)} >= {(ops["d"], 0)}
    assert graph.in_degree(ops["a"]) == 2
    assert not is_activation(ops["w"].results[0])
    assert is_activation(ops["a"].results[0])


def test_live_ranges() -> None:
    module = checked(DIAMOND)
    block, ops = body(module), by_name(module)
    order = {op: i for i, op in enumerate(block.ops)}
    ranges = live_ranges(module)
    assert ranges[block.args[0]] == (-1, order[ops["a"]])
    assert ranges[ops["a"].results[0]] == (order[ops["a"]], order[ops["c"]])
    assert ranges[ops["b"].results[0]] == (order[ops["b"]], len(order) - 1)  # returned
    assert ops["w"].results[0] not in ranges


def test_an_unused_argument_is_live_nowhere() -> None:
    signature = "func.func @main(%x: tensor<1xf32>, %y: tensor<1xf32>) -> tensor<1xf32>"
    text = f"{signature} {{\n  func.return %y : tensor<1xf32>\n}}\n"
    module = checked(text)
    x, y = body(module).args
    assert live_ranges(module) == {x: (-1, -1), y: (-1, 0)}


# ---------------------------------------------------------------------------------------------- pointwise regions


def region(make: Graph, *results: str) -> tuple[ModuleOp, Pointwise, dict[str, SSAValue]]:
    model = import_graph(make.proto(*results))
    values = {
        location_names(op)[-1].removesuffix(".node"): op.results[0]
        for op in body(model.module).ops
        if op.results and location_names(op)
    }
    values["x"] = body(model.module).args[0]
    return model.module, Pointwise.of(model.module, model.store), values


def test_a_region_of_one_tensor() -> None:
    g = Graph(x=(2, 3))
    gate = g("Sigmoid", "x")
    silu = g("Mul", "x", gate)
    _, pointwise, values = region(g, silu)
    assert pointwise.roots[values[silu]] is values["x"]
    assert pointwise.inner(values[gate])
    assert not pointwise.inner(values[silu])  # it is returned
    x = np.linspace(-4, 4, 9)
    found = evaluate(values[silu], values["x"], x, pointwise.store)
    np.testing.assert_allclose(found, x / (1 + np.exp(-x)), rtol=1e-15)


def test_two_tensors_are_no_region() -> None:
    g = Graph(x=(2, 3), y=(2, 3))
    product = g("Mul", g("Sigmoid", "x"), "y")
    _, pointwise, values = region(g, product)
    assert values[product] not in pointwise.roots


def test_a_value_read_outside_is_stored() -> None:
    g = Graph(x=(2, 3))
    gate = g("Sigmoid", "x")
    silu = g("Mul", "x", gate)
    _, pointwise, values = region(g, silu, g("Softmax", gate))
    assert not pointwise.inner(values[gate])


def test_a_constant_of_more_dimensions_is_no_region() -> None:
    g = Graph(x=(3,))
    _, pointwise, values = region(g, total := g("Add", "x", g.constant([[1.0]])))
    assert values[total] not in pointwise.roots


def test_hard_swish_with_its_clip_is_one_region() -> None:
    g = Graph(x=(2, 3))
    moved = g("Add", "x", g.constant(3.0))
    clipped = g("Clip", moved, g.constant(0.0), g.constant(6.0))
    y = g("Div", g("Mul", "x", clipped), g.constant(6.0))
    _, pointwise, values = region(g, y)
    assert pointwise.roots[values[y]] is values["x"]
    assert pointwise.inner(values[moved])
    assert pointwise.inner(values[clipped])


def test_clamps_and_what_takes_them_in() -> None:
    g = Graph(x=(1, 2, 3, 3))
    y = g("Conv", "x", g.weight(2, 2, 1, 1))
    relu = g("Relu", y)
    clip = g("Clip", relu, "", g.constant(1.5))
    module, pointwise, values = region(g, clip)
    store = pointwise.store
    ops = by_name(module)
    assert fused_clamp(values[y], store) is ops[f"{relu}.node"]
    assert fused_clamp(values[relu], store) is None  # a Relu takes in no Clip
    assert clamp_bounds(ops[f"{relu}.node"], store) == (0.0, np.inf)
    assert clamp_bounds(ops[f"{clip}.node"], store) == (-np.inf, 1.5)
    assert clamp_bounds(ops[f"{y}.node"], store) is None
    assert values[relu] not in pointwise.roots
    assert pointwise.roots[values[clip]] is values[relu]


def test_regions_of_a_network() -> None:
    model = import_graph(GRAPHS["gelu"]())
    pointwise = Pointwise.of(model.module, model.store)
    conv = body(model.module).ops
    ends = [v for v in pointwise.roots if not pointwise.inner(v)]
    assert len(ends) == 1  # the whole of GELU is one table
    assert any(pointwise.roots[ends[0]].owner is op for op in conv)


def test_invented_constants_are_the_same_each_time() -> None:
    module = checked(DIAMOND)
    assert np.array_equal(invented(module)["w"], invented(checked(DIAMOND))["w"])
