"""Simulation of quantization in onnxruntime: it agrees with the interpreter, and every site switches alone."""

from __future__ import annotations

from functools import cache
from unittest import mock

import numpy as np
import onnx
import pytest
from small_graphs import GRAPHS, TO_QDQ, Feeds, Graph, feeds_of, outputs, passed, sqnr, stages

from qcompiler.arithmetic.affine import dequantize, quantize
from qcompiler.calibration.simulate import Simulator, Tap, rounded
from qcompiler.errors import CalibrationError
from qcompiler.frontends.onnx_import import import_graph
from qcompiler.ir.quant_types import UniformType
from qcompiler.model import Model
from qcompiler.passes import choose_scheme
from qcompiler.passes.sites import Level, Simulation, find_sites

TO_CHOSEN = TO_QDQ.removesuffix(",insert-qdq")


def chosen(proto: onnx.ModelProto, feeds: list[Feeds]) -> Model:
    """The module in stage CHOSEN, all of it that can be made integer."""
    with mock.patch.object(choose_scheme, "border", lambda module, gains, inner: (0.0, set(gains))):
        return passed(import_graph(proto), TO_CHOSEN, feeds)


@cache
def simulation(name: str) -> Simulation:
    found = stages(name)
    model = chosen(found.proto, found.feeds)
    return Simulation(model.module, model.store)


@pytest.mark.parametrize("name", GRAPHS)
def test_agrees_with_the_interpreter_within_rounding(name: str) -> None:
    """Sums in another order flip the rounding of few elements, by one unit of what is stored."""
    found, simulated = stages(name), simulation(name)
    unit = max(float(site.type.scales.max()) for site in simulated.sites if site.op is None)
    for feed, wanted in zip(found.feeds, outputs(found.qdq, found.feeds), strict=True):
        for output, array in simulated.run(feed, {}).items():
            difference = np.abs(array - wanted[output])
            assert difference.max() <= 1.2 * unit
            assert (difference > 1e-5 * unit).mean() <= 0.1


@pytest.mark.parametrize("name", GRAPHS)
def test_all_in_float_is_the_float_model(name: str) -> None:
    found, simulated = stages(name), simulation(name)
    results = [simulated.run(feed, {}, Level.FLOAT) for feed in found.feeds]
    for output in results[0]:
        assert sqnr(found.reference, results, output) > 100


def test_each_site_switches_alone() -> None:
    g = Graph(x=(1, 3, 8, 8))
    y = g("Relu", g("Conv", "x", g.weight(4, 3, 1, 1)))
    y = g("Sigmoid", g("Add", y, g("Conv", y, g.weight(4, 4, 1, 1))))
    proto = g.proto(g("Mul", y, g.weight(1, 4, 1, 1)))
    feed = feeds_of(proto)[0]
    model = chosen(proto, feeds_of(proto))
    simulated = Simulation(model.module, model.store)
    assert [site.kind for site in simulated.sites].count("constant") == 1
    exact, everything = (simulated.run(feed, {}, level) for level in (Level.FLOAT, Level.CHOSEN))
    for site in simulated.sites:
        alone = simulated.run(feed, {site: Level.CHOSEN}, Level.FLOAT)
        others = simulated.run(feed, {site: Level.FLOAT})
        for output, array in exact.items():
            assert not np.array_equal(alone[output], array), site.name
            assert not np.array_equal(others[output], everything[output]), site.name
    again = simulated.run(feed, {}, Level.FLOAT)
    assert all(np.array_equal(again[output], exact[output]) for output in exact)


def test_sixteen_bits_are_far_closer_than_eight() -> None:
    found, simulated = stages("residual-block"), simulation("residual-block")
    wide = [site for site in simulated.sites if site.wide is not None and not site.obstacle]
    assert wide
    for site in wide:
        errors = []
        for level in (Level.CHOSEN, Level.WIDE):
            runs = [simulated.run(feed, {site: level}, Level.FLOAT) for feed in found.feeds]
            errors.append(sqnr(found.reference, runs, next(iter(runs[0]))))
        assert errors[1] > errors[0] + 30


def test_members_of_a_class_are_one_site() -> None:
    found = stages("shuffle-channels")
    model = chosen(found.proto, found.feeds)
    sites = [site for site in find_sites(model.module, model.store) if len(site.values) > 1]
    assert [len({value.owner for value in site.values}) for site in sites] == [4]


def test_biases_are_replaced_and_prefixes_observed() -> None:
    g = Graph(x=(1, 3, 6, 6))
    y = g("Relu", g("Conv", "x", g.weight(4, 3, 3, 3), g.weight(4)))
    proto = g.proto(g("Conv", y, g.weight(2, 4, 3, 3), g.weight(2)))
    feeds = feeds_of(proto)
    model = chosen(proto, feeds)
    convolutions = [s.op for s in find_sites(model.module, model.store) if s.kind == "weight"]
    values = [op.results[0] for op in convolutions if op is not None]
    simulated = Simulation(model.module, model.store, values)
    before = simulated.observe(feeds[0], values, {}, Level.FLOAT)
    shift = {convolutions[1]: simulated.bias(convolutions[1]) + np.float32(1)}
    after = simulated.observe(feeds[0], values, {}, Level.FLOAT, shift)
    assert np.array_equal(before[0], after[0])
    np.testing.assert_allclose(after[1], before[1] + 1, atol=1e-5)


def test_an_activation_with_one_scale_a_channel() -> None:
    g = Graph(x=(1, 3, 4, 4))
    proto = g.proto(g("Relu", "x"))
    kind = UniformType.make("u8", [0.1, 0.02, 0.5], 10, axis=1)
    feed = feeds_of(proto)[0]
    (found,) = Simulator(proto, [Tap("relu0", 4)]).run(feed, {"relu0": kind}, {}).values()
    assert np.array_equal(found, rounded(np.maximum(feed["x"], 0), kind))


def test_a_failing_run_says_so() -> None:
    simulated = simulation("residual-block")
    with pytest.raises(CalibrationError, match="does not run on a calibration sample"):
        simulated.run({}, {})


@pytest.mark.parametrize(
    "kind",
    [
        UniformType.make("u8", 0.05, 100),
        UniformType.make("i8", [0.01, 0.02, 0.3, 0.1], axis=0),
    ],
)
def test_rounded_is_quantize_and_dequantize(kind: UniformType) -> None:
    array = np.random.default_rng(0).normal(0, 3, (4, 6)).astype(np.float32)
    stored = quantize(array, kind.scales, kind.zero_points, kind.qmin, kind.qmax, kind.dtype, kind.axis)
    assert np.array_equal(rounded(array, kind), dequantize(stored, kind.scales, kind.zero_points, kind.axis))


def test_rounded_by_groups() -> None:
    array = np.random.default_rng(0).normal(0, 1, (6, 2)).astype(np.float32)
    scales = np.array([[0.1, 0.2], [0.3, 0.4]], np.float32)
    found = rounded(array, UniformType.make("i4", scales, blocks={0: 4, 1: 1}))
    for row in range(6):
        for column in range(2):
            scale = scales[row // 4, column]
            assert found[row, column] == scale * np.clip(np.rint(array[row, column] / scale), -8, 7)
