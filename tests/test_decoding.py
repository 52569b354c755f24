"""Which values are predictions being decoded: arithmetic behind the last products, and what is connected with it."""

from __future__ import annotations

from small_graphs import Graph, feeds_of, passed

from qcompiler.frontends.onnx_import import import_graph
from qcompiler.ir.pointwise import Pointwise, op_name
from qcompiler.ir.values import body
from qcompiler.passes.decoding import decoding_values


def producers(g: Graph, *outputs: str) -> list[str]:
    """Names of the ops whose results are being decoded, in order."""
    proto = g.proto(*outputs)
    model = passed(import_graph(proto), "canonicalize", feeds_of(proto))
    values = decoding_values(model.module, model.store, Pointwise.of(model.module, model.store))
    return [op_name(op) for op in body(model.module).ops if any(r in values for r in op.results)]


def head(g: Graph, x: str = "x") -> str:
    return g("Conv", x, g.weight(4, 3, 1, 1))


def test_boxes_from_offsets_and_anchors() -> None:
    g = Graph(x=(1, 3, 8, 8))
    boxes = g("Reshape", head(g), g.ints(1, 4, 64))
    centre = g("Add", g("Mul", boxes, g.weight(1, 4, 64)), g.weight(1, 4, 64))
    assert producers(g, centre) == ["Conv", "Reshape", "Mul", "Add"]


def test_movements_and_tables_alone_are_no_decoding() -> None:
    g = Graph(x=(1, 3, 8, 8))
    assert producers(g, g("Sigmoid", g("Reshape", head(g), g.ints(1, 4, 64)))) == []


def test_a_bias_is_no_decoding() -> None:
    g = Graph(x=(4, 16))
    assert producers(g, g("Add", g("MatMul", "x", g.weight(16, 4)), g.weight(4))) == []


def test_what_a_later_convolution_reads_is_no_prediction() -> None:
    g = Graph(x=(1, 3, 8, 8))
    inner = g("Mul", head(g), g.weight(1, 4, 1, 1))
    assert producers(g, g("Conv", inner, g.weight(2, 4, 1, 1))) == []


def test_arithmetic_before_any_product_is_no_decoding() -> None:
    g = Graph(x=(1, 3, 8, 8))
    assert producers(g, g("Mul", "x", g.weight(1, 3, 1, 1))) == []


def test_a_score_beside_the_boxes_is_left_alone() -> None:
    g = Graph(x=(1, 3, 8, 8))
    scores = g("Sigmoid", head(g))
    boxes = g("Mul", head(g), g.weight(1, 4, 8, 8))
    assert producers(g, scores, boxes) == ["Conv", "Mul"]
