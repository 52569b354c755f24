"""What choose-scheme decides where the right choice is known: ranges behind tables, scales of channels, recipes."""

from __future__ import annotations

import numpy as np
import pytest
from small_graphs import Graph, feeds_of, onnxruntime_outputs, outputs, passed, sqnr
from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FloatAttr, StringAttr, f64
from xdsl.ir import Attribute

from qcompiler.calibration.expected import Expected
from qcompiler.calibration.statistics import TensorStatistics
from qcompiler.errors import PipelineError
from qcompiler.frontends.onnx_import import import_graph
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.text import parse_module, print_module
from qcompiler.ir.values import body, string
from qcompiler.model import Model
from qcompiler.passes.scheme import choose_weight
from qcompiler.passes.sites import value_type
from qcompiler.pipeline import Stage, stage

BEFORE = "canonicalize,fold-batch-norm,canonicalize,calibrate"


def statistics(x: np.ndarray) -> TensorStatistics:
    found = TensorStatistics.empty()
    found.update(x.astype(np.float32))
    return found


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def test_a_range_behind_a_table_leaves_out_the_flat_side() -> None:
    x = np.random.default_rng(0).uniform(-100, 10, 20000)
    seen = Expected(statistics(x), [silu])
    lo, hi = seen.range("minmax", 0, 255, False)
    assert -15 < lo < -2
    assert hi > 9.5
    assert Expected(statistics(x)).range("minmax", 0, 255, False) == (np.float32(x.min()), np.float32(x.max()))


def test_noise_is_that_of_the_function() -> None:
    x = np.random.default_rng(0).normal(0, 2, 20000).astype(np.float32)
    found = Expected(statistics(x), [silu]).noise(0.05, 128, 0, 255)
    rounded = 0.05 * np.clip(np.rint(x / 0.05), -128, 127)
    true = np.mean(np.square(silu(rounded) - silu(x))) / np.mean(np.square(silu(x)))
    assert found == pytest.approx(true, rel=0.05)


def depthwise(spread: float) -> Graph:
    """A convolution with ReLU whose channels differ by `spread` in size, a depthwise one behind it."""
    g = Graph(x=(1, 3, 8, 8))
    w = g.rng.normal(0, 0.3, (4, 3, 3, 3)) * spread ** -np.arange(4.0)[:, None, None, None]
    y = g("Relu", g("Conv", "x", g.constant(w.astype(np.float32)), pads=[1, 1, 1, 1]))
    d = g.rng.normal(0, 0.3, (4, 1, 3, 3)) * spread ** np.arange(4.0)[:, None, None, None]
    return g, g("Relu", g("Conv", y, g.constant(d.astype(np.float32)), group=4))  # type: ignore[return-value]


@pytest.mark.parametrize(("spread", "axis"), [(6.0, 1), (1.0, None)])
def test_channels_of_unlike_size_get_scales_of_their_own(spread: float, axis: int | None) -> None:
    g, y = depthwise(spread)  # type: ignore[misc]
    proto = g.proto(g("Conv", y, g.weight(2, 4, 1, 1)))
    feeds = feeds_of(proto)
    model = chosen(proto)
    first = next(op for op in body(model.module).ops if op_name(op) == "Relu")
    kind = value_type(first.results[0])
    assert kind is not None
    assert kind.axis == axis
    assert len(set(kind.zero_points.ravel().tolist())) == 1
    found = outputs(passed(model, "insert-qdq,integerize,legalize,fold-zero-point,plan-layout,cse,dce"), feeds)
    assert sqnr([onnxruntime_outputs(proto, f) for f in feeds], found, proto.graph.output[0].name) > 25


def chosen(proto: object, marks: dict[str, dict[str, Attribute]] | None = None) -> Model:
    """A module in stage CHOSEN, with recipes on the first op of a name."""
    model = passed(import_graph(proto), BEFORE, feeds_of(proto))  # type: ignore[arg-type]
    for name, recipe in (marks or {}).items():
        op = next(op for op in body(model.module).ops if op_name(op) == name)
        op.attributes["q.recipe"] = DictionaryAttr(recipe)
    return passed(model, "choose-scheme")


def sum_of_convs() -> object:
    g = Graph(x=(1, 3, 8, 8))
    a, b = (g("Conv", "x", g.weight(4, 3, 3, 3)) for _ in range(2))
    y = g("Sigmoid", g("Add", a, b))
    return g.proto(g("Conv", y, g.weight(4, 4, 1, 1)))


def type_of(model: Model, name: str):  # type: ignore[no-untyped-def]
    return value_type(next(op for op in body(model.module).ops if op_name(op) == name).results[0])


def test_a_recipe_is_obeyed() -> None:
    pair = ArrayAttr([FloatAttr(-3.0, f64), FloatAttr(1.0, f64)])
    assert type_of(chosen(sum_of_convs(), {"Add": {"precision": StringAttr("int16")}}), "Add").storage == "i16"
    assert type_of(chosen(sum_of_convs(), {"Add": {"scheme": StringAttr("symmetric")}}), "Add").zero_point == 128
    kind = type_of(chosen(sum_of_convs(), {"Add": {"range": pair, "scheme": StringAttr("affine")}}), "Add")
    assert float(kind.scale) == pytest.approx(4 / 255)
    model = chosen(sum_of_convs(), {"Add": {"precision": StringAttr("float32")}})
    add = next(op for op in body(model.module).ops if op_name(op) == "Add")
    assert "recipe" in string(add.attributes["q.float"])
    conv = chosen(sum_of_convs(), {"Conv": {"weights": StringAttr("per-tensor")}})
    first = next(op for op in body(conv.module).ops if op_name(op) == "Conv")
    assert first.attributes["q.weight"].axis is None  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "recipe", "message"),
    [
        (
            "Sigmoid",
            {"precision": "int16"},
            "the recipe asks for int16, but onnx.Conv 'conv4.node' takes operands of 8",
        ),
        ("Add", {"precision": "int7"}, "expected precision int8, int16, float16, float32; the recipe says 'int7'"),
        ("Add", {"method": "max"}, "unknown calibration method 'max'"),
        ("Add", {"weights": "per-row"}, "expected weights per-tensor, per-channel or per-group:N"),
        ("Add", {"colour": "red"}, "'colour = \"red\"' is not understood"),
    ],
)
def test_impossible_wishes_are_refused(name: str, recipe: dict[str, str], message: str) -> None:
    with pytest.raises(PipelineError) as error:
        chosen(sum_of_convs(), {name: {key: StringAttr(value) for key, value in recipe.items()}})
    assert message in str(error.value)


def test_figures_are_recorded_and_survive_as_text() -> None:
    model = chosen(sum_of_convs())
    add = next(op for op in body(model.module).ops if op_name(op) == "Add")
    conv = next(op for op in body(model.module).ops if op_name(op) == "Conv")
    assert {"lo", "hi", "db", "symmetric_db", "affine_db"} <= add.attributes["q.numbers"].data.keys()  # type: ignore[attr-defined]
    assert {"weight_db", "weight_affine_db"} <= conv.attributes["q.numbers"].data.keys()  # type: ignore[attr-defined]
    text = print_module(model.module)
    assert print_module(parse_module(text)) == text
    assert stage(model.module) is Stage.CHOSEN


@pytest.mark.parametrize("narrow", [False, True])
def test_affine_weights_keep_out_of_the_most_negative_value_where_the_target_says_so(narrow: bool) -> None:
    one_sided = np.random.default_rng(0).uniform(0, 1, (16, 8)).astype(np.float32)
    one_sided[0] = 0
    choice, widened = choose_weight(one_sided, 1, True, np.ones(1), np.ones(1), None, 1.0, narrow)
    assert choice.type.qmin == (-127 if narrow else -128) and choice.type.qmax == 127
    assert choice.why.startswith("affine per channel") and not widened
    stored = np.rint(one_sided / choice.type.scales) + choice.type.zero_points
    assert stored.min() == choice.type.qmin
