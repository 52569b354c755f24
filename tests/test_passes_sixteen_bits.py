"""Values of 16 bits through the passes: which may be stored so."""

from __future__ import annotations

from small_graphs import Graph

from qcompiler.frontends.onnx_import import import_graph
from qcompiler.ir.values import body, location_names
from qcompiler.passes.integer_rules import sixteen_bit_obstacle


def obstacles(g: Graph, *outputs: str) -> dict[str, str | None]:
    model = import_graph(g.proto(*outputs))
    block = body(model.module)
    values = dict(zip(g.inputs, block.args, strict=True))
    values |= {location_names(op)[-1]: r for op in block.ops if location_names(op) for r in op.results}
    return {name: sixteen_bit_obstacle(value, model.store) for name, value in values.items()}


def test_operands_of_products_and_softmax_have_8_bits() -> None:
    g = Graph(x=(1, 4, 8, 8), y=(1, 4, 8, 8), large=(1, 4, 256, 257))
    conv = g("Conv", "x", g.weight(4, 4, 1, 1))
    total = g("Add", conv, "y")
    soft = g("Softmax", total)
    pooled = g("AveragePool", "large", kernel_shape=[255, 257])
    mean = g("GlobalAveragePool", "large")
    found = obstacles(g, soft, pooled, mean)
    assert found["x"] == "onnx.Conv 'conv0.node' takes operands of 8 bits"
    assert found["y"] is None and found["conv0.node"] is None
    assert found["add1.node"] == "onnx.Softmax 'softmax2.node' takes operands of 8 bits"
    assert found["softmax2.node"] == "Softmax writes 8 bits"
    assert (
        found["large"]
        == "onnx.GlobalAveragePool 'globalaveragepool4.node' sums 65792 elements, of 16 bits too many for int32"
    )


def test_readers_that_stay_float_do_not_hinder() -> None:
    g = Graph(x=(4, 8), v=(8,))
    assert obstacles(g, g("MatMul", "x", "v"))["x"] is None
