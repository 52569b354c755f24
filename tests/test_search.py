"""Search for the smallest set of tensors in 16 bits or float: goals, order, what is kept when it is interrupted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from small_graphs import Graph, feeds_of
from test_assign_precision import outlier

from qcompiler.errors import PipelineError
from qcompiler.frontends.onnx_import import import_graph
from qcompiler.passes import assign_precision
from qcompiler.precision_search import Run, SearchResult, search
from qcompiler.recipe import Recipe


@pytest.fixture(autouse=True)
def nothing_assigned_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The search has work to do only where the default pass has done none."""
    monkeypatch.setattr(assign_precision.AssignPrecision, "run", lambda self, ctx, module: None)


def searched(readers: str = "Mul", **options: object) -> SearchResult:
    proto = outlier(readers)
    return search(import_graph(proto), feeds_of(proto, 8), samples=2, **options)  # type: ignore[arg-type]


def test_one_tensor_in_16_bits_and_one_layer_in_float_are_enough() -> None:
    result = searched(min_sqnr=25.0)
    assert result.met and result.value >= 25
    precisions = {rule.match: rule.precision for rule in result.recipe.layers}
    assert precisions == {"relu1.node": "int16", "mul2.node": "float32"}
    assert "alone leaves" in str(result.recipe.layers[0].reason)
    assert result.confirmed == pytest.approx(result.value, abs=3)
    assert result.history[0].upgrades == 0


def test_layers_in_the_way_go_to_float() -> None:
    result = searched("Conv", min_sqnr=25.0)
    assert result.met and result.confirmed > 22
    precisions = {rule.match: rule.precision for rule in result.recipe.layers}
    assert precisions["conv0.node"] == "int16" and precisions["conv1.node"] == "float32"


def test_what_16_bits_cannot_hold_goes_to_float() -> None:
    """Squares of values that differ by four orders of magnitude, of which the root is taken."""
    g = Graph(x=(1, 3, 16, 16))
    sizes = (10.0 ** -np.linspace(0, 4, 8)).astype(np.float32).reshape(1, 8, 1, 1)
    scaled = g("Mul", g("Conv", "x", g.weight(8, 3, 3, 3)), g.constant(sizes))
    square = g("Mul", scaled, scaled)
    root = g("Sqrt", g("Add", square, g("Mul", square, square)))
    proto = g.proto(g("Conv", g("Mul", root, g.constant(1 / sizes)), g.weight(8, 8, 3, 3)))
    result = search(import_graph(proto), feeds_of(proto, 8), samples=2, min_sqnr=20.0)
    assert result.met and result.confirmed == pytest.approx(result.value, abs=3)
    precisions = {rule.match: rule.precision for rule in result.recipe.layers}
    assert precisions["mul1.node"] == "int16" and precisions["add4.node"] == "float32"


def test_nothing_to_do() -> None:
    result = searched(min_sqnr=-50.0)
    assert result.met and result.recipe == Recipe() and len(result.history) == 1


def test_a_goal_out_of_reach_gives_the_best_there_is() -> None:
    result = searched(min_sqnr=400.0)
    assert not result.met
    assert result.value == max(step.value for step in result.history)
    assert result.recipe.layers


def test_accuracy_is_the_power_of_the_outputs_without_a_metric() -> None:
    result = searched(accuracy_drop=0.005)
    assert result.met and result.wanted == 0.995 and result.value >= 0.995


def test_a_metric_of_the_user() -> None:
    proto = outlier("Mul")
    samples = feeds_of(proto, 4)
    exact: list[Mapping[str, np.ndarray]] = []

    def closeness(run: Run) -> float:
        outputs = [run(feed) for feed in samples]
        if not exact:
            exact.extend(outputs)
        pairs = zip(exact, outputs, strict=True)
        return -float(np.mean([np.abs(a[name] - b[name]).mean() for a, b in pairs for name in a]))

    result = search(import_graph(proto), samples, accuracy_drop=0.5, metric=closeness, evaluation=samples, samples=2)
    assert result.met and result.wanted == -0.5 and result.recipe.layers


def test_each_improvement_is_written_and_survives_an_interrupt(tmp_path: Path) -> None:
    path = tmp_path / "best.toml"
    calls = 0

    def metric(run: Run) -> float:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return [1.0, 0.0, 1.0][calls - 1]

    result = searched(accuracy_drop=0.1, metric=metric, output=path)
    assert result.met and np.isnan(result.confirmed)
    assert Recipe.load(path) == result.recipe and result.recipe.layers


@pytest.mark.parametrize("goal", [{}, {"min_sqnr": 20.0, "accuracy_drop": 0.1}])
def test_one_goal(goal: dict[str, float]) -> None:
    with pytest.raises(PipelineError, match="a search needs one goal"):
        searched(**goal)
