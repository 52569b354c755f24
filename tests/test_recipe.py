"""Recipes in use: what reaches which layer, what is refused, and that a bundle's recipe gives the same integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import Graph, feeds_of, onnxruntime_outputs

import qcompiler
from qcompiler.errors import ModelError, PipelineError
from qcompiler.frontends.onnx_import import import_graph
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.values import body, location_names, string
from qcompiler.model import Model
from qcompiler.options import QuantizeOptions
from qcompiler.passes.apply_recipe import ApplyRecipe, layer_names, unique_names
from qcompiler.pipeline import CompilerContext, PassManager, parse
from qcompiler.recipe import LayerRule, Recipe
from qcompiler.verify import verify


def network() -> onnx.ModelProto:
    """conv0, relu1, conv2, relu3, flatten5, gemm6, matmul8."""
    g = Graph(x=(1, 8, 12, 12))
    y = g("Relu", g("Conv", "x", g.weight(16, 8, 3, 3), g.weight(16)))
    y = g("Relu", g("Conv", y, g.weight(16, 16, 3, 3), g.weight(16)))
    y = g("Flatten", g("GlobalAveragePool", y))
    y = g("Relu", g("Gemm", y, g.weight(16, 64), g.weight(64)))
    return g.proto(g("MatMul", y, g.weight(64, 48)))


PROTO = network()
FEEDS = feeds_of(PROTO, 8)


def quantized(*rules: LayerRule, **options: object) -> qcompiler.Quantized:
    recipe = Recipe(tuple(rules)) if rules else None
    return qcompiler.quantize(import_graph(PROTO), FEEDS, recipe=recipe, **options)


def applied(*rules: LayerRule) -> dict[str, str]:
    """`q.recipe` of every op that has one, by the op's name."""
    model = import_graph(PROTO)
    context = CompilerContext(recipe=Recipe(rules), source="net.onnx")
    PassManager((*parse("canonicalize"), ApplyRecipe())).run(model, context)
    marked = [op for op in body(model.module).ops if "q.recipe" in op.attributes]
    return {location_names(op)[-1]: str(op.attributes["q.recipe"]) for op in marked}


def assert_same(a: qcompiler.Quantized, b: qcompiler.Quantized) -> None:
    """The same program, constants included; how the statistics were come by may differ."""
    for model in (a.model, b.model):
        model.module.attributes.pop("q.calibration")
    assert a.model.text() == b.model.text()
    for name in {op.resource for op in body(a.model.module).ops if isinstance(op, ConstantOp)}:
        assert np.array_equal(a.model.store[name], b.model.store[name]), name


# --------------------------------------------------------------------------------------------------- apply-recipe


def test_later_rules_win_key_by_key() -> None:
    found = applied(
        LayerRule("*", method="mse"),
        LayerRule("conv?.node", precision="int8", method="entropy"),
        LayerRule("conv2.node", precision="float32"),
    )
    assert found["relu1.node"] == '{method = "mse"}'
    assert found["conv0.node"] == '{method = "entropy", precision = "int8"}'
    assert found["conv2.node"] == '{method = "entropy", precision = "float32"}'


def test_brackets_and_dots_are_no_pattern() -> None:
    assert LayerRule("a[0].b").matches("a[0].b") and not LayerRule("a[0].b*").matches("a0xb")
    assert LayerRule("a.*").matches("a.b") and not LayerRule("a.*").matches("ab")


def test_ranges_and_inputs() -> None:
    model = import_graph(PROTO)
    recipe = Recipe((LayerRule("x", range=(-1, 2.5)),))
    PassManager((ApplyRecipe(),)).run(model, CompilerContext(recipe=recipe))
    again = Model(model.module, model.store)
    assert "q.recipe = [{range = [-1.000000e+00 : f64, 2.500000e+00 : f64]}]" in again.text()


def test_a_node_that_became_several_ops() -> None:
    g = Graph(x=(1, 4))
    model = import_graph(g.proto(g("Softplus", g("Softplus", "x"))))
    first, second = (op for op in body(model.module).ops if op.results)
    second.location = first.location
    names = unique_names(model.module)
    assert names[first] == "softplus0.node#1" and names[second] != names[first]
    assert "softplus0.node" in layer_names(model.module)[second]
    recipe = Recipe((LayerRule("softplus0.node#1", precision="float32"),))
    PassManager((ApplyRecipe(),)).run(model, CompilerContext(recipe=recipe))
    assert "q.recipe" in first.attributes and "q.recipe" not in second.attributes


@pytest.mark.parametrize(
    ("match", "message"),
    [
        ("conv3.node", "net.onnx: the recipe has a rule for 'conv3.node', but no node or input is called so; did you"),
        ("cnv*", "no node or input fits this pattern"),
        ("zzzz", "inspect lists the names of a model"),
    ],
)
def test_a_rule_that_matches_nothing(match: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message.replace("*", r"\*")):
        applied(LayerRule(match, precision="int8"))


def test_no_recipe_to_apply() -> None:
    with pytest.raises(PipelineError, match="apply-recipe needs a recipe; give it with"):
        PassManager((ApplyRecipe(),)).run(import_graph(PROTO), CompilerContext())


# ------------------------------------------------------------------------------------------------------- quantize


def test_settings_come_from_keywords_then_the_recipe_then_the_defaults() -> None:
    recipe = Recipe(defaults={"policy": "affine", "weights": "per-group:16", "smooth": 0.5})
    options = QuantizeOptions.of(recipe=recipe, policy="mixed", method=None)
    assert (options.policy, options.weight_group, options.smooth, options.method) == ("mixed", 16, 0.5, "mse")
    assert QuantizeOptions.of(recipe=Recipe(defaults=options.settings)) == QuantizeOptions.of(
        recipe=Recipe(defaults=options.settings), policy="mixed", weight_group=16, smooth=0.5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"polcy": "auto"}, "unknown option 'polcy'; did you mean 'policy'"),
        ({"policy": "afine"}, "option policy is 'afine', expected one of .*; did you mean 'affine'"),
        ({"weight_rounding": "ada"}, "option weight_rounding is 'ada', expected one of nearest, gptq"),
        ({"smooth": 1.5}, "option smooth is 1.5, expected a number from 0 to 1"),
        ({"min_sqnr": 20.0, "accuracy_drop": 0.1}, "two goals of a search"),
    ],
)
def test_options_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        quantized(**options)


def test_keep_float_is_a_rule() -> None:
    result = quantized(keep_float=["gemm6.node"])
    rule = result.recipe.layers[-1]
    assert (rule.match, rule.precision, rule.reason) == ("gemm6.node", "float32", "kept in float by option")
    floats = [op for op in body(result.model.module).ops if op.name == "onnx.Gemm"]
    assert [string(op.attributes["q.float"]) for op in floats] == ["kept in float by the recipe (float32)"]


def test_a_recipe_against_a_profile() -> None:
    with pytest.raises(ModelError, match=r"layer 'relu1\.node': profile 'tensorrt' takes no activations of 16 bits"):
        quantized(LayerRule("relu1.node", precision="int16"), profile="tensorrt")


def test_a_quantized_model_takes_no_rules(tmp_path: Path) -> None:
    onnx.save(qcompiler.export(quantized()), tmp_path / "q.onnx")
    with pytest.raises(PipelineError, match="is quantized already; a recipe cannot change its types"):
        qcompiler.quantize(qcompiler.import_onnx(tmp_path / "q.onnx"), None, keep_float=["conv0.node"])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"policy": "affine", "method": "mse", "per_channel": False, "assign_precision": False, "limit": 5},
        {"equalize": True, "weight_rounding": "gptq", "bias_correction": "empirical", "keep_float": ["conv2.node"]},
        {"bias_correction": "none", "weight_group": 16, "weight_bits": 4, "smooth": 0.4, "rounding": "fixed2"},
    ],
    ids=["defaults", "settings", "methods", "groups"],
)
def test_the_recipe_in_effect_gives_the_same_integers(options: dict[str, object]) -> None:
    first = quantized(**options)
    again = qcompiler.quantize(import_graph(PROTO), FEEDS, recipe=Recipe.parse(first.recipe.text()))
    assert_same(first, again)
    assert again.recipe == first.recipe


def test_a_bundle_holds_the_recipe_it_was_compiled_with(tmp_path: Path) -> None:
    rules = Recipe((LayerRule("relu1.node", scheme="symmetric"), LayerRule("gemm*", precision="float32")))
    rules.save(tmp_path / "r.toml")
    first = qcompiler.compile(
        import_graph(PROTO),
        calibration=FEEDS,
        output=tmp_path / "a",
        recipe=tmp_path / "r.toml",
        write_recipe=tmp_path / "w.toml",
    )
    recipe = first.path / "recipe.toml"
    assert Recipe.load(recipe).layers == rules.layers
    assert (tmp_path / "w.toml").read_bytes() == recipe.read_bytes()
    second = qcompiler.compile(import_graph(PROTO), calibration=FEEDS, output=tmp_path / "b", recipe=recipe)
    for name in ("weights.bin", "recipe.toml"):
        assert (first.path / name).read_bytes() == (second.path / name).read_bytes()
    for feed in FEEDS[:2]:
        a, b = first.trace(feed), second.trace(feed)
        assert a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_a_goal_is_searched_for_and_ends_in_the_recipe(tmp_path: Path) -> None:
    plain = quantized(policy="affine", assign_precision=False)
    path = tmp_path / "found.toml"
    result = quantized(policy="affine", assign_precision=False, min_sqnr=48.0, write_recipe=path)
    assert result.recipe.layers and not plain.recipe.layers
    assert any("the search names" in note for note in result.notes)
    assert Recipe.load(path) == result.recipe
    again = qcompiler.quantize(import_graph(PROTO), FEEDS, recipe=path)
    assert_same(result, again)


# -------------------------------------------------------------------------------------------------------- float16


def test_float16_halves_the_weights_and_computes_in_float32(tmp_path: Path) -> None:
    sizes = {}
    for precision in ("float32", "float16"):
        recipe = Recipe((LayerRule("*", precision=precision),))
        bundle = qcompiler.compile(import_graph(PROTO), calibration=FEEDS, output=tmp_path / precision, recipe=recipe)
        assert verify(bundle, FEEDS[:2]).float_error < 1e-6
        sizes[precision] = (bundle.path / "weights.bin").stat().st_size
        expected, found = onnxruntime_outputs(PROTO, FEEDS[0]), bundle.run(FEEDS[0])
        for name, array in expected.items():
            assert np.abs(found[name] - array).max() <= 2e-3 * np.abs(array).max()
    assert sizes["float16"] < 0.55 * sizes["float32"]


def test_float16_weights_lie_in_the_qdq_model_too() -> None:
    result = quantized(LayerRule("gemm6.node", precision="float16"))
    casts = [op for op in body(result.qdq.module).ops if op.name == "onnx.Cast"]
    assert [string(op.attributes["q.float"]) for op in casts] == ["the weight is stored in float16, as the recipe asks"]
    for feed in FEEDS[:2]:
        a = qcompiler.interpret(result.qdq, feed)
        b = onnxruntime_outputs(qcompiler.export(result), feed)
        for name, array in b.items():
            assert np.abs(a[name] - array).max() <= 1e-2 * np.abs(array).max()


def test_a_weight_too_large_for_float16() -> None:
    g = Graph(x=(1, 4))
    proto = g.proto(g("MatMul", "x", g.constant(np.full((4, 4), 1e5, np.float32))))
    recipe = Recipe((LayerRule("matmul0.node", precision="float16"),))
    with pytest.raises(PipelineError, match="a weight of 100000 does not fit float16"):
        qcompiler.quantize(import_graph(proto), feeds_of(proto), recipe=recipe)
