"""Float islands on Mali, operator by operator: the graphs of `test_float_island`, their kernels executed by PoCL."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import test_float_island as islands
from float_graphs import graph, node, rand, reference
from opencl_device import missing, run_program
from test_float_resize import RESIZES, resize_of

from qcompiler.lowering.float_island import lower_float
from qcompiler.lowering.float_loops import SINGLE
from qcompiler.lowering.opencl import build_device_program
from qcompiler.lowering.opencl_cost import MOST_REGISTERS
from qcompiler.lowering.program import SLACK
from qcompiler.report.placement import placement_notes
from qcompiler.targets.spec import resolve_target

SPEC = resolve_target("mali")
pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


def check(model: onnx.ModelProto, feeds: dict[str, np.ndarray], *_: object, tolerance: float = 2e-5) -> None:
    """As `float_graphs.check`, on an OpenCL device: integers exactly, floats relative to an output's largest value."""
    program = lower_float(model, SINGLE)
    device = build_device_program(program, SPEC)
    assert max(cost.registers for cost in device.costs) < MOST_REGISTERS
    outputs = [program.buffers[name] for name in program.outputs]
    found = [np.full(buffer.shape, 99).astype(buffer.dtype) for buffer in outputs]
    run_program(device, [feeds[name] for name in program.inputs], found, slack=SLACK)
    expected = reference(model, feeds)
    for name, value in zip(program.outputs, found, strict=True):
        if value.dtype.kind != "f":
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
            continue
        finite = expected[name][np.isfinite(expected[name])]
        limit = tolerance * max(float(np.abs(finite).max(initial=0)), 1e-3)
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=limit, err_msg=name)


OPERATORS: dict[str, Callable[[], None]] = {
    "convolutions": lambda: islands.test_convolutions(64, 1),
    "matrix products": lambda: islands.test_matrix_products(64),
    "reductions and normalizations": islands.test_reductions_and_normalizations,
    "element-wise and movement": islands.test_elementwise_and_movement,
    "recurrent layers": islands.test_recurrent_layers,
    "outputs that no kernel writes": islands.test_outputs_that_no_kernel_writes,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_operators(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(islands, "check", check)
    OPERATORS[name]()


def test_functions_of_the_library() -> None:
    """OpenCL's own, none of which TVM's generator or a schedule replaces; large, exact and undefined arguments too."""
    inputs = {
        "x": rand(3, 40),
        "y": rand(3, 40, seed=4),
        "unit": np.concatenate([np.linspace(-1, 1, 81, dtype=np.float32), np.float32([-2, 2])]),
        "large": 1 + np.abs(rand(3, 40)) * 3,
        "far": rand(3, 40) * 1000,
        "halves": np.arange(-10, 11, dtype=np.float32) / 2,
        "i": np.array([-7, 7, -8, 8, 5, -1], np.int32),
        "j": np.array([2, -2, 3, -3, 4, 5], np.int32),
    }
    unary = {
        "x": ("Tan", "Asinh", "Sinh", "Cosh", "Softsign", "ThresholdedRelu", "Shrink"),
        "unit": ("Asin", "Acos", "Atanh", "Sqrt"),
        "large": ("Acosh", "Log"),
        "far": ("Sin", "Cos", "Tan", "Atan", "Asinh", "Exp", "Sigmoid", "Tanh", "Softplus"),
        "halves": ("Round", "Floor", "Ceil", "Sign"),
    }
    nodes = [node(op, name, f"{op}_{name}") for name, ops in unary.items() for op in ops]
    nodes += [node("Mod", "x,y", "mod", fmod=1), node("Pow", "large,x", "power")]
    nodes += [node("Div", "i,j", "quotient"), node("Mod", "i,j", "rest"), node("Mod", "i,j", "remainder", fmod=1)]
    nodes += [node("Cast", "halves", f"cast{to}", to=to) for to in (6, 7, 9)]
    check(graph(nodes, inputs, [n.output[0] for n in nodes]), inputs)


def test_steps_that_need_the_one_before_are_said_to_suit_a_cpu() -> None:
    inputs = {"x": rand(40)}
    model = graph([node("CumSum", "x,axis", "y")], inputs, ["y"], {"axis": np.array(0)})
    program = lower_float(model, SINGLE)
    (note,) = placement_notes(program, build_device_program(program, SPEC))
    assert "the_CumSum" in note
    assert note.endswith("a single work-item does all of it, as each of its steps needs the one before")


@pytest.mark.slow
def test_resize() -> None:
    check(*resize_of(RESIZES))
