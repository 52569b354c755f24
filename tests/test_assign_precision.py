"""Pass assign-precision: what 8 bits would spoil gets 16, or stays float; the rest is left alone."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_graphs import Graph, feeds_of, onnxruntime_outputs, outputs, passed, run_passes, sqnr
from test_simulate import chosen
from xdsl.ir import Operation

from qcompiler.arithmetic.noise import decibel, noise_of
from qcompiler.errors import CalibrationError, PipelineError
from qcompiler.frontends.onnx_import import import_graph
from qcompiler.ir.text import parse_module, print_module
from qcompiler.ir.values import body, string
from qcompiler.model import Model
from qcompiler.passes.measure import Noise, spread_samples
from qcompiler.passes.sites import value_type
from qcompiler.pipeline import parse, text_of


def outlier(readers: str) -> onnx.ModelProto:
    """A convolution with one channel hundreds of times larger than the others, which later weights bring back."""
    g = Graph(x=(1, 3, 8, 8))
    large = np.ones((8, 1, 1, 1), np.float32)
    large[5] = 400
    small = (1 / large).reshape(1, 8, 1, 1)
    y = g("Conv", "x", g.constant(g.rng.normal(0, 1, (8, 3, 3, 3)).astype(np.float32) * large))
    if readers == "Mul":
        y = g("Mul", g("Relu", y), g.constant(small))
        return g.proto(g("Conv", y, g.weight(4, 8, 1, 1)))
    y = g("Conv", y, g.constant(g.rng.normal(0, 1, (16, 8, 1, 1)).astype(np.float32) * small))
    return g.proto(g("Conv", g("Relu", y), g.weight(16, 16, 3, 3)))


def op_named(model: Model, place: str):  # type: ignore[no-untyped-def]
    return next(op for op in body(model.module).ops if f"{place}.node" in str(op.location))


def assigned(readers: str, options: str = "") -> Model:
    proto = outlier(readers)
    return passed(chosen(proto, feeds_of(proto)), f"assign-precision{options}", feeds_of(proto))


def test_an_activation_no_product_reads_gets_16_bits() -> None:
    relu = op_named(assigned("Mul"), "relu1")
    kind = value_type(relu.results[0])
    assert kind is not None and kind.storage == "i16" and kind.zero_point == 0
    assert string(relu.attributes["q.why"]).startswith("16 bits: alone in 8 bits it leaves")
    assert relu.attributes["q.numbers"].data["sensitivity"].value.data < 25  # type: ignore[attr-defined]


def test_the_outputs_get_closer_in_the_integer_program() -> None:
    proto = outlier("Mul")
    feeds = feeds_of(proto)
    reference = [onnxruntime_outputs(proto, feed) for feed in feeds]
    errors = []
    for model in (chosen(proto, feeds), assigned("Mul")):
        run_passes(model, "insert-qdq,integerize")
        found = outputs(model, feeds)
        errors.append(sqnr(reference, found, next(iter(found[0]))))
    assert errors[1] > errors[0] + 10


def test_layers_in_the_way_stay_float_if_they_are_few() -> None:
    model = assigned("Conv")
    reader = op_named(model, "conv1")
    assert "q.integer" not in reader.attributes and "q.weight" not in reader.attributes
    assert "reads or writes 'conv0.node': alone in 8 bits" in string(reader.attributes["q.float"])
    kind = value_type(op_named(model, "conv0").results[0])
    assert kind is not None and kind.storage == "i16"
    run_passes(model, "insert-qdq,integerize")


def test_layers_in_the_way_stay_integer_if_they_are_many() -> None:
    model = assigned("Conv", "{float-share=0.0 severe-share=0.0 float-macs=0}")
    assert "q.integer" in op_named(model, "conv1").attributes
    kind = value_type(op_named(model, "conv0").results[0])
    assert kind is not None and kind.storage == "u8"


def test_what_a_recipe_decides_is_left() -> None:
    proto = outlier("Mul")
    model = chosen(proto, feeds_of(proto))
    relu = op_named(model, "relu1")
    marked = print_module(model.module).replace("q.integer", 'q.integer, q.recipe = {precision = "int8"}')
    model = Model(parse_module(marked), model.store)
    run_passes(model, "assign-precision", feeds_of(proto))
    assert value_type(op_named(model, "relu1").results[0]) == value_type(relu.results[0])


def _but_numbers(op: Operation) -> dict[str, object]:
    return {key: value for key, value in op.attributes.items() if key != "q.numbers"}


def test_a_model_without_outliers_is_not_changed() -> None:
    g = Graph(x=(1, 3, 8, 8))
    y = g("Relu", g("Conv", "x", g.weight(4, 3, 3, 3)))
    proto = g.proto(g("Conv", y, g.weight(4, 4, 3, 3)))
    before = chosen(proto, feeds_of(proto))
    after = passed(before, "assign-precision{free-threshold=0.0}", feeds_of(proto))
    for old, new in zip(body(before.module).ops, body(after.module).ops, strict=True):
        assert _but_numbers(old) == _but_numbers(new)


def test_16_bits_that_cost_nothing_are_taken_early() -> None:
    g = Graph(x=(1, 3, 8, 8))
    y = g("Relu", g("Conv", "x", g.weight(4, 3, 3, 3)))
    proto = g.proto(g("Conv", y, g.weight(4, 4, 3, 3)))
    module = passed(chosen(proto, feeds_of(proto)), "assign-precision{free-threshold=80.0}", feeds_of(proto)).module
    kinds = [value_type(v).storage for op in body(module).ops for v in op.results if value_type(v) is not None]
    assert kinds == ["u8", "i16"]  # the first is the operand of a convolution, the second nobody's


def test_mixed_leaves_the_layers_of_bad_weights_in_float() -> None:
    g = Graph(x=(1, 3, 8, 8))
    weight = g.rng.normal(0, 1, (8, 3, 1, 1)).astype(np.float32)
    weight[:, 0] *= 1000
    y = g("Conv", g("Mul", "x", g.constant([[[[0]], [[1]], [[1]]]])), g.constant(weight))
    proto = g.proto(g("Conv", y, g.weight(16, 8, 3, 3)))
    model = passed(chosen(proto, feeds_of(proto)), "assign-precision{policy=mixed severe-share=0.1}", feeds_of(proto))
    assert "its weights: alone in 8 bits" in string(op_named(model, "conv1").attributes["q.float"])


def test_needs_calibration_data_and_a_known_policy() -> None:
    proto = outlier("Mul")
    model = chosen(proto, feeds_of(proto))
    with pytest.raises(CalibrationError, match="assign-precision needs calibration data"):
        run_passes(model, "assign-precision")
    with pytest.raises(PipelineError, match="unknown policy 'best'"):
        run_passes(model, "assign-precision{policy=best}", feeds_of(proto))
    with pytest.raises(PipelineError, match="requires a module of stage chosen"):
        run_passes(import_graph(proto), "assign-precision", feeds_of(proto))


def test_options_and_results_round_trip() -> None:
    text = "assign-precision{policy=mixed samples=2 threshold=20.0}"
    assert parse(text_of(parse(text))) == parse(text)
    printed = print_module(assigned("Mul").module)
    assert print_module(parse_module(printed)) == printed


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("total", "count"), [(1, 4), (4, 4), (17, 4), (64, 5)])
def test_samples_are_spread(total: int, count: int, known: bool) -> None:
    feeds = [{"x": np.array(i)} for i in range(total)]
    found = [int(feed["x"]) for feed in spread_samples(feeds if known else iter(feeds), count)]
    assert len(found) == min(total, count)
    assert found == sorted(set(found))
    assert total < 2 * count or found[-1] >= total // 2


def test_no_samples() -> None:
    with pytest.raises(CalibrationError, match="empty"):
        spread_samples(iter(()), 4)


def test_every_output_counts_alike() -> None:
    reference = [{"a": np.ones(4, np.float32), "b": np.full(1000, 100, np.float32)}]
    measure = Noise(reference)
    worse = [{"a": reference[0]["a"] * 1.1, "b": reference[0]["b"]}]
    assert measure(worse) == pytest.approx(0.005, rel=1e-4)
    assert measure(reference) == 0
    assert measure([{**reference[0], "a": np.full(4, np.nan, np.float32)}]) == np.inf
    assert noise_of(decibel(0.005)) == pytest.approx(0.005)
