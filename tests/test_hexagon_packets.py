"""How close kernels on Hexagon come to the least packets, counted in the emulator: the same numbers each time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from emulated import missing_tools
from onnx import TensorProto, helper, numpy_helper

import qcompiler
from qcompiler.bundle import load_emulated
from qcompiler.report.packets import LoopPackets, StepPackets, count_packets

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_tools("hexagon")), reason=missing_tools("hexagon") or "-"),
]

LAYERS = {
    # name: output channels, kernel, stride, depthwise
    "first": (16, 3, 1, False),
    "few": (16, 3, 1, False),
    "shallow": (64, 1, 1, False),
    "depthwise": (64, 3, 1, True),
    "strided": (64, 3, 2, True),
    "pointwise": (128, 1, 1, False),
    "wide": (96, 3, 1, False),
    "odd": (40, 3, 2, False),
}
"""Convolutions one after the other, from 3 channels."""

RESULTS = {
    "first": 32 * 32 * 16,
    "few": 32 * 32 * 16,
    "shallow": 32 * 32 * 64,
    "pointwise": 16 * 16 * 128,
    "wide": 16 * 16 * 96,
    "odd": 8 * 8 * 40,
}
"""Results of each dense layer."""

Counts = dict[str, tuple[StepPackets, LoopPackets]]


def network(path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes, constants, channels, last = [], [], 3, "image"
    for name, (outputs, kernel, stride, depthwise) in LAYERS.items():
        weights = rng.normal(0, 0.2, (outputs, 1 if depthwise else channels, kernel, kernel)).astype(np.float32)
        constants += [
            numpy_helper.from_array(weights, f"{name}.weights"),
            numpy_helper.from_array(rng.normal(0, 1, outputs).astype(np.float32), f"{name}.bias"),
        ]
        pads = [kernel // 2] * 4
        group = channels if depthwise else 1
        inputs = [last, f"{name}.weights", f"{name}.bias"]
        nodes.append(helper.make_node("Conv", inputs, [name], name=name, pads=pads, strides=[stride] * 2, group=group))
        channels, last = outputs, name
    shape = [1, 3, 32, 32]
    graph = helper.make_graph(
        nodes,
        "layers",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Counts:
    folder = tmp_path_factory.mktemp("packets")
    network(folder / "layers.onnx")
    image = np.random.default_rng(1).normal(0, 1, (1, 3, 32, 32)).astype(np.float32)
    np.savez(folder / "data.npz", image=image)
    qcompiler.compile(folder / "layers.onnx", calibration=folder / "data.npz", output=folder / "OUT", target="hexagon")
    found = count_packets(load_emulated(folder / "OUT"))
    loops = {loop.kernel: loop for loop in found.loops}
    return {step.location: (step, loops[step.kernel]) for step in found.steps if step.location in LAYERS and step.macs}


DENSE = [name for name, (_, _, _, depthwise) in LAYERS.items() if not depthwise]


@pytest.mark.parametrize("name", DENSE)
def test_inner_loops_are_products(counts: Counts, name: str) -> None:
    step, loop = counts[name]
    assert "dense" in step.rule
    assert loop.vrmpy >= 0.6 * loop.packets


@pytest.mark.parametrize("name", DENSE)
def test_requantize_is_a_small_part(counts: Counts, name: str) -> None:
    """128 results take a packet for each of four multiplications, four shifts and three packings, some together."""
    step, _ = counts[name]
    results = RESULTS[name]
    assert step.requantize <= (15 if name == "odd" else 10) * results / 128  # "odd" has results of 16 bits
    if step.macs >= 64 * results:
        assert step.requantize < 0.15 * step.packets


def test_lanes_are_filled(counts: Counts) -> None:
    """A row of three taps takes four; the pair of pixels of 16 channels sees four columns, each pixel three of them."""
    assert counts["few"][0].vrmpy * 3 == counts["few"][0].least * 4
    for name in ("depthwise", "strided"):
        assert counts[name][0].vrmpy <= 1.4 * counts[name][0].least
    assert all(counts[name][0].spilled < 0.16 * counts[name][0].packets for name in DENSE)
