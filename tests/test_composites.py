"""Composite operators written in parts are found whole; what only looks like one is left alone."""

from __future__ import annotations

import pytest
from small_graphs import Graph, feeds_of, passed
from test_scheme import chosen

from qcompiler.frontends.onnx_import import import_graph
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.values import body, string
from qcompiler.model import Model
from qcompiler.passes.composites import composites


def found(g: Graph, output: str) -> dict[str, list[str]]:
    """Names of the ops inside each kind of composite operator, in order."""
    proto = g.proto(output)
    model = passed(import_graph(proto), "canonicalize", feeds_of(proto))
    kinds = composites(model.module, model.store)
    return {
        kind: [op_name(op) for op in body(model.module).ops if kinds.get(op) == kind]
        for kind in dict.fromkeys(kinds.values())
    }


def mean(g: Graph, x: str) -> str:
    return g("ReduceMean", x, g.ints(-1))


def norm(g: Graph, x: str, centred: bool, form: str) -> str:
    """A LayerNorm or RMSNorm over the last axis, in one of the ways exporters write it."""
    if centred:
        x = g("Sub", x, mean(g, x))
    square = g("Mul", x, x) if form == "product" else g("Pow", x, g.constant(2.0))
    variance = g("Add", mean(g, square), g.constant(1e-5))
    match form:
        case "division":
            y = g("Div", x, g("Sqrt", variance))
        case "reciprocal":
            y = g("Mul", x, g("Reciprocal", g("Sqrt", variance)))
        case "inverse":
            y = g("Mul", x, g("Div", g.constant(1.0), g("Sqrt", variance)))
        case _:
            y = g("Mul", x, g("Pow", variance, g.constant(-0.5)))
    return g("Mul", y, g.weight(16))


@pytest.mark.parametrize("centred", [True, False], ids=["layer", "rms"])
@pytest.mark.parametrize("form", ["division", "reciprocal", "inverse", "product"])
def test_normalizations(form: str, centred: bool) -> None:
    g = Graph(x=(1, 4, 16))
    y = norm(g, g("MatMul", "x", g.weight(16, 16)), centred, form)
    if centred:
        y = g("Add", y, g.weight(16))
    kinds = found(g, g("MatMul", y, g.weight(16, 8)))
    (kind, names), *others = kinds.items()
    assert kind == "a normalization" and not others
    assert names[-2 if centred else -1] == "Mul"
    assert "MatMul" not in names
    assert names.count("ReduceMean") == (2 if centred else 1)


def test_a_variance_that_scales_nothing_is_no_normalization() -> None:
    g = Graph(x=(1, 4, 16))
    variance = mean(g, g("Mul", "x", "x"))
    assert found(g, g("Sqrt", g("Add", variance, g.constant(1e-5)))) == {}


def test_the_mean_of_another_value_is_no_normalization() -> None:
    g = Graph(x=(1, 4, 16), z=(1, 4, 16))
    root = g("Sqrt", g("Add", mean(g, g("Mul", "z", "z")), g.constant(1e-5)))
    assert found(g, g("Div", "x", root)) == {}


def rotary(g: Graph, size: int) -> str:
    left, right = g("MatMul", "x", g.weight(16, 16)), g("MatMul", "x", g.weight(16, 16))
    shape = (4, 16) if size > 1 else ()
    return g("Add", g("Mul", left, g.weight(*shape)), g("Mul", right, g.weight(*shape)))


def test_a_rotary_embedding() -> None:
    g = Graph(x=(1, 4, 16))
    assert found(g, rotary(g, 16)) == {"a rotary embedding": ["Mul", "Mul", "Add"]}


def test_a_sum_of_scaled_values_is_no_rotary_embedding() -> None:
    g = Graph(x=(1, 4, 16))
    assert found(g, rotary(g, 1)) == {}


def attention(g: Graph, mask: str | None) -> str:
    scores = g("Div", g("MatMul", "x", "y"), g.constant(4.0))
    return g("Softmax", scores if mask is None else g("Add", scores, mask), axis=-1)


def test_a_masked_softmax_takes_its_scaling_along() -> None:
    g = Graph(x=(1, 4, 16), y=(1, 16, 4), mask=(1, 1, 4))
    assert found(g, attention(g, "mask")) == {"a masked softmax": ["Div", "Add", "Softmax"]}


def test_a_softmax_without_a_mask_is_one_op() -> None:
    g = Graph(x=(1, 4, 16), y=(1, 16, 4))
    assert found(g, attention(g, None)) == {}


def test_the_bias_of_a_classifier_is_no_mask() -> None:
    g = Graph(x=(1, 16))
    logits = g("Add", g("MatMul", "x", g.weight(16, 4)), g.weight(4))
    assert found(g, g("Softmax", logits, axis=-1)) == {}


def reason(model: Model, name: str) -> str:
    op = next(op for op in body(model.module).ops if op_name(op) == name)
    return string(op.attributes["q.float"])


def test_choose_scheme_keeps_them_in_float_and_says_why() -> None:
    g = Graph(x=(1, 128, 16))
    y = norm(g, g("MatMul", "x", g.weight(16, 16)), True, "division")
    model = chosen(g.proto(g("MatMul", y, g.weight(16, 64))))
    assert "a normalization" in reason(model, "Sqrt")
    last = [op for op in body(model.module).ops if op_name(op) == "MatMul"][-1]
    assert "q.integer" in last.attributes
