"""Small graphs before and after every pass: float passes keep the function, integer passes every integer."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from small_graphs import GRAPHS, Feeds, assert_equal, onnxruntime_outputs, outputs, passed, sqnr, stages
from xdsl.ir import Operation

from qcompiler.exporters.onnx_export import export_onnx
from qcompiler.interpreter import Interpreter
from qcompiler.ir.onnx_dialect import OnnxOp
from qcompiler.ir.q_elementwise import QuantizeOp
from qcompiler.ir.q_movement import TransposeOp
from qcompiler.ir.values import body, describe, is_quantized, location_names, value_names
from qcompiler.pipeline import Stage, stage

EXACT = (
    "cse,dce",
    "legalize{storage=u8}",
    "legalize{storage=i8}",
    "legalize{storage=i8},fold-zero-point",
    "fold-zero-point,legalize{storage=i8},fold-zero-point",
    "plan-layout",
    "legalize{storage=i8},fold-zero-point,plan-layout,cse,dce",
    "legalize{storage=u8},fold-zero-point,plan-layout,cse,dce",
)
"""Pipelines behind integerize that may not change one integer."""

LEFT_IN_FLOAT = {"attention": {"onnx.LayerNormalization"}}
"""Float ops that remain; none in all other graphs."""


@cache
def integers(name: str) -> list[Feeds]:
    return outputs(stages(name).integer, stages(name).feeds)


@pytest.mark.parametrize("name", GRAPHS)
def test_float_graph_agrees_with_onnxruntime(name: str) -> None:
    graph = stages(name)
    for model in (graph.imported, passed(graph.imported, "canonicalize,fold-batch-norm,canonicalize")):
        for expected, found in zip(graph.reference, outputs(model, graph.feeds), strict=True):
            assert expected.keys() == found.keys()
            for output, array in expected.items():
                largest = float(np.abs(array).max())
                np.testing.assert_allclose(found[output], array, rtol=0, atol=2e-5 * max(largest, 1.0))


@pytest.mark.parametrize("name", GRAPHS)
def test_everything_becomes_integer(name: str) -> None:
    floats = {op.name for op in body(stages(name).integer.module).ops if isinstance(op, OnnxOp)}
    assert floats == LEFT_IN_FLOAT.get(name, set())


@pytest.mark.parametrize("name", GRAPHS)
def test_quantized_output_is_close_to_float(name: str) -> None:
    graph = stages(name)
    for output in graph.reference[0]:
        assert sqnr(graph.reference, integers(name), output) > 30, output


@pytest.mark.parametrize("name", GRAPHS)
def test_exact_passes_keep_every_integer(name: str) -> None:
    graph = stages(name)
    for pipeline in EXACT:
        assert_equal(integers(name), outputs(passed(graph.integer, pipeline), graph.feeds))


@pytest.mark.parametrize("rounding", ["fixed", "fp32"])
@pytest.mark.parametrize("name", ["conv", "matmul-bias-rank-3", "mul-broadcast", "average-pool", "residual-block"])
def test_folding_and_layout_are_exact_in_other_roundings(name: str, rounding: str) -> None:
    graph = stages(name)
    before = passed(graph.integer, f"legalize{{rounding={rounding}}}")
    assert_equal(
        outputs(before, graph.feeds),
        outputs(passed(before, "fold-zero-point,plan-layout,cse,dce"), graph.feeds),
    )


@pytest.mark.parametrize("name", GRAPHS)
def test_each_integer_op_is_within_one_unit_of_onnxruntime(name: str) -> None:
    """The QDQ form in onnxruntime computes in float, so an element next to a tie may fall to the other side.

    Every op gets the integers that onnxruntime has at that place, so that such units do not add up.
    """
    graph = stages(name)
    names = value_names(graph.qdq.module)
    stored = {
        location_names(op)[-1]: names[op.y]
        for op in body(graph.qdq.module).ops
        if isinstance(op, QuantizeOp) and is_quantized(op.y)
    }
    proto = export_onnx(graph.qdq.module, graph.qdq.store)
    proto.graph.output.extend(type(proto.graph.output[0])(name=value) for value in stored.values())
    last = {
        location_names(op)[-1]: op
        for op in body(graph.integer.module).ops
        if len(op.results) == 1 and is_quantized(op.results[0])
    }
    interpreter = Interpreter(graph.integer)
    for feeds in graph.feeds[:2]:
        expected = onnxruntime_outputs(proto, feeds)
        compared = 0

        def compare(
            op: Operation, results: tuple[np.ndarray, ...], expected: Feeds = expected
        ) -> tuple[np.ndarray, ...] | None:
            nonlocal compared
            place = location_names(op)[-1] if location_names(op) else ""
            if last.get(place) is not op or place not in stored:
                return None
            theirs = expected[stored[place]]
            difference = np.abs(results[0].astype(int) - theirs)
            assert difference.max(initial=0) <= 1, describe(op)
            # Fixed-point factors differ from float ones by a fraction of a unit, of which 16 bits have small ones.
            assert difference.mean() <= 0.02 or results[0].dtype.itemsize > 1, describe(op)
            compared += 1
            return (theirs,)

        interpreter.run(feeds, compare)
        assert compared >= 1


def test_stages_are_recorded() -> None:
    graph = stages("conv")
    assert stage(graph.qdq.module) is Stage.QDQ
    assert stage(graph.integer.module) is Stage.INTEGER
    assert stage(passed(graph.integer, "legalize").module) is Stage.LEGAL
    assert stage(passed(graph.integer, "legalize,plan-layout").module) is Stage.LAID_OUT


def test_shuffled_channels_stay_channels_last() -> None:
    """One transposition does the shuffle; the others are at the borders of the graph."""
    laid_out = passed(stages("shuffle-channels").integer, "legalize,fold-zero-point,plan-layout")
    perms = [tuple(op.perm.get_values()) for op in body(laid_out.module).ops if isinstance(op, TransposeOp)]
    assert perms == [(0, 2, 3, 1), (0, 1, 2, 4, 3), (0, 3, 1, 2)]
