"""Pass `decompose-recurrent`: every variant of LSTM and GRU gives what onnxruntime gives; what is left, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import Graph, assert_equal, feeds_of, onnxruntime_outputs, outputs, passed, run_passes, sqnr
from xdsl.ir import Operation

import qcompiler
from qcompiler.frontends.onnx_import import import_graph
from qcompiler.ir.text import parse_module, print_module
from qcompiler.ir.values import body, location_names
from qcompiler.model import Model

DIRECTIONS = {"forward": 1, "reverse": 1, "bidirectional": 2}
GATES = {"LSTM": 4, "GRU": 3}


@dataclass(frozen=True)
class Layer:
    """A recurrent layer; `optional` names the inputs it has besides X, W and R."""

    kind: str
    optional: str = "B"
    direction: str = "forward"
    steps: int = 3
    batch: int = 2
    inputs: int = 5
    hidden: int = 4
    lengths: tuple[int, ...] = ()
    scale: float = 0.6
    outputs: str = "YHC"
    attributes: dict[str, object] = field(default_factory=dict)

    def proto(self, **replaced: object) -> onnx.ModelProto:
        directions, gates = DIRECTIONS[self.direction], GATES[self.kind] * self.hidden
        batch_first = bool(self.attributes.get("layout"))
        x = (self.batch, self.steps, self.inputs) if batch_first else (self.steps, self.batch, self.inputs)
        state = (self.batch, directions, self.hidden) if batch_first else (directions, self.batch, self.hidden)
        given = {"x": x} | {name: state for name in self.optional if name in "hc"}
        g = Graph(seed=7, **given)
        operands = {
            "W": g.weight(directions, gates, self.inputs, scale=self.scale),
            "R": g.weight(directions, gates, self.hidden, scale=self.scale),
            "B": g.weight(directions, 2 * gates, scale=self.scale) if "B" in self.optional else "",
            "lengths": g.constant(self.lengths, np.int32) if self.lengths else "",
            "h": "h" if "h" in self.optional else "",
        }
        if self.kind == "LSTM":
            operands["c"] = "c" if "c" in self.optional else ""
            operands["P"] = g.weight(directions, 3 * self.hidden) if "P" in self.optional else ""
        results = ["Y", "H", "C"][: 3 if self.kind == "LSTM" else 2]
        made = [name if name in self.outputs else "" for name in results]
        attributes = {"hidden_size": self.hidden, "direction": self.direction} | self.attributes | replaced
        g.nodes.append(onnx.helper.make_node(self.kind, ["x", *operands.values()], made, name="layer", **attributes))
        return g.proto(*filter(None, made))


def left(model: Model) -> set[str]:
    return {op.name.removeprefix("onnx.") for op in body(model.module).ops} & {"LSTM", "GRU"}


ALL = "Bhc"
VARIANTS = {
    f"{kind}, {direction}, {optional or 'bare'}": Layer(kind, optional, direction)
    for kind in GATES
    for direction in DIRECTIONS
    for optional in ("", "B", ALL)
} | {
    "peepholes": Layer("LSTM", "BhcP"),
    "peepholes, no states": Layer("LSTM", "P", "bidirectional"),
    "linear before reset": Layer("GRU", ALL, attributes={"linear_before_reset": 1}),
    "linear before reset, no states": Layer("GRU", "B", "bidirectional", attributes={"linear_before_reset": 1}),
    "clip": Layer("LSTM", "BhcP", scale=2.0, attributes={"clip": 0.4}),
    "clip, GRU": Layer("GRU", ALL, "bidirectional", scale=2.0, attributes={"clip": 0.4}),
    "clip, linear before reset": Layer("GRU", ALL, scale=2.0, attributes={"clip": 0.4, "linear_before_reset": 1}),
    "input forget": Layer("LSTM", ALL, attributes={"input_forget": 1}),
    "one step": Layer("LSTM", ALL, steps=1, batch=1),
    "one step, reverse, GRU": Layer("GRU", "", "reverse", steps=1),
    "one output": Layer("LSTM", ALL, outputs="H"),
    "sequence only": Layer("GRU", ALL, outputs="Y"),
    "full lengths": Layer("LSTM", ALL, "bidirectional", lengths=(3, 3)),
    "lengths": Layer("LSTM", ALL, "bidirectional", lengths=(1, 3)),
    "lengths, all short": Layer("LSTM", "", "reverse", lengths=(2, 1)),
    "lengths, GRU": Layer("GRU", "B", "bidirectional", lengths=(3, 2)),
    "activations": Layer("LSTM", ALL, attributes={"activations": ["HardSigmoid", "Softsign", "Relu"]}),
    "activations with parameters": Layer(
        "LSTM",
        ALL,
        "bidirectional",
        attributes={
            "activations": ["HardSigmoid", "LeakyRelu", "ScaledTanh", "Sigmoid", "Affine", "Elu"],
            "activation_alpha": [0.3, 0.2, 1.2, 0.5, 0.7],
            "activation_beta": [0.4, 0.9, 0.1],
        },
    ),
    "activations, GRU": Layer(
        "GRU", ALL, attributes={"activations": ["Sigmoid", "ThresholdedRelu"], "activation_alpha": [0.2]}
    ),
    "softplus, GRU": Layer("GRU", ALL, attributes={"activations": ["HardSigmoid", "Softplus"]}),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_equals_onnxruntime(name: str) -> None:
    proto = VARIANTS[name].proto()
    feeds = feeds_of(proto)
    model = passed(import_graph(proto), "decompose-recurrent,canonicalize")
    assert not left(model)
    for f, found in zip(feeds, outputs(model, feeds), strict=True):
        for output, expected in onnxruntime_outputs(proto, f).items():
            np.testing.assert_allclose(found[output], expected, rtol=1e-5, atol=2e-6)


def test_operations_carry_the_name_of_the_layer() -> None:
    model = passed(import_graph(Layer("GRU").proto()), "decompose-recurrent")
    named = [location_names(op) for op in body(model.module).ops if op.name == "onnx.MatMul"]
    assert named[0] == ("layer", "layer/forward.inputs") and named[1] == ("layer", "layer/forward.1")


def test_products_read_only_the_input_and_the_hidden_state() -> None:
    """Sums in front of the gates and the cell state meet no matrix product, so they may be wide."""
    model = passed(import_graph(Layer("LSTM", "Bhc", "bidirectional").proto()), "decompose-recurrent,canonicalize")
    products = [op for op in body(model.module).ops if op.name in ("onnx.MatMul", "onnx.Gemm")]
    assert len(products) == 2 * (1 + 3)
    assert {op.operands[0].owner.name for op in products if isinstance(op.operands[0].owner, Operation)} == {
        "onnx.Mul",
        "onnx.Reshape",
    }


def test_text_round_trip() -> None:
    model = passed(import_graph(Layer("LSTM", "BhcP").proto()), "decompose-recurrent{steps=3}")
    text = print_module(model.module)
    assert print_module(parse_module(text)) == text


KEPT = {
    "unknown activation": (Layer("LSTM", attributes={"activations": ["Sigmoid", "Sine", "Tanh"]}), "", "'Sine'"),
    "missing parameter": (
        Layer("GRU", attributes={"activations": ["Affine", "Tanh"], "activation_alpha": [0.5]}),
        "",
        "no activation_beta for its activation 'Affine'",
    ),
    "too many steps": (Layer("LSTM", steps=5), "{steps=4}", "5 steps are more than the 4"),
}


@pytest.mark.parametrize("name", KEPT)
def test_stays_float(name: str) -> None:
    layer, options, reason = KEPT[name]
    model = import_graph(layer.proto())
    context = run_passes(model, f"decompose-recurrent{options}")
    assert left(model) == {layer.kind}
    assert len(context.notes) == 1 and reason in context.notes[0] and "'layer' stays float" in context.notes[0]


def test_weights_that_are_no_constants_stay_float() -> None:
    g = Graph(x=(2, 1, 3), w=(1, 8, 3))
    g.nodes.append(onnx.helper.make_node("LSTM", ["x", "w", g.weight(1, 8, 2)], ["y"], name="layer", hidden_size=2))
    model = import_graph(g.proto("y"))
    assert "its input W is no constant" in run_passes(model, "decompose-recurrent").notes[0]
    assert left(model) == {"LSTM"}


@pytest.mark.parametrize("kind", ["LSTM", pytest.param("GRU", marks=pytest.mark.slow)])
def test_runs_in_integers(kind: str, tmp_path: Path) -> None:
    """Compiled for the host: all arithmetic in integers, those of the interpreter, and near the float layer."""
    proto = Layer(kind, ALL, steps=4, inputs=8, hidden=16, scale=0.3).proto()
    feeds = feeds_of(proto, 16)
    made = qcompiler.quantize(import_graph(proto), feeds)
    floats = {op.name for op in body(made.model.module).ops if op.name.startswith("onnx.")}
    assert floats <= {"onnx.Concat", "onnx.Reshape"}
    expected = [onnxruntime_outputs(proto, f) for f in feeds]
    found = outputs(made.model, feeds)
    for name in expected[0]:
        assert sqnr(expected, found, name) > 25
    bundle = qcompiler.compile(made, output=tmp_path / "out")
    assert_equal(found[:2], [bundle.run(f) for f in feeds[:2]])
