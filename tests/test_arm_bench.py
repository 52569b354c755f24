"""Instructions counted in the emulator, cycles estimated from them, and what is said where a tool is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from emulated import missing_tools
from small_graphs import Graph, feeds_of

import qcompiler
from qcompiler.bundle.emulate import EmulatedBundle, load_emulated
from qcompiler.cli import main
from qcompiler.errors import TargetError
from qcompiler.frontends.onnx_import import import_graph
from qcompiler.report import cycles
from qcompiler.report.cycles import estimate_cycles
from qcompiler.report.instructions import InstructionCounts, count_instructions, instructions_of
from qcompiler.targets.arm_cpu.instructions import CLASSES, classify

pytestmark = pytest.mark.skipif(bool(missing_tools("arm-cpu")), reason=missing_tools("arm-cpu") or "complete")

CHANNELS, SIZE = 64, 8


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> EmulatedBundle:
    """A 1x1 convolution, a depthwise one, and another 1x1."""
    g = Graph(x=(1, CHANNELS, SIZE, SIZE))
    y = g("Conv", "x", g.weight(CHANNELS, CHANNELS, 1, 1))
    y = g("Conv", y, g.weight(CHANNELS, 1, 3, 3), group=CHANNELS, pads=[1, 1, 1, 1])
    proto = g.proto(g("Conv", y, g.weight(CHANNELS, CHANNELS, 1, 1)))
    path = tmp_path_factory.mktemp("bench") / "out"
    qcompiler.compile(import_graph(proto), calibration=feeds_of(proto), target="arm-cpu", output=path)
    return load_emulated(path)


@pytest.fixture(scope="module")
def counts(bundle: EmulatedBundle) -> InstructionCounts:
    return count_instructions(bundle)


def test_dots_of_a_product_are_those_of_its_tiles(counts: InstructionCounts) -> None:
    dense = [step for step in counts.steps if "-dense-" in step.rule]
    assert [step.macs for step in dense] == [CHANNELS * CHANNELS * SIZE * SIZE] * 2
    for step in dense:
        pixels, vectors = map(int, step.rule.rpartition("-")[2].split("x"))
        tiles = -(-SIZE * SIZE // pixels) * -(-CHANNELS // (4 * vectors))
        assert step.least == step.macs // 16
        assert step.dots == tiles * pixels * vectors * (CHANNELS // 4)
    assert any(step.dots == step.least for step in dense)


def test_steps_classes_and_the_rest_add_up(counts: InstructionCounts) -> None:
    assert counts.total == sum(counts.classes.values())
    assert counts.total == counts.outside + sum(step.instructions for step in counts.steps)
    assert 0 < counts.outside < 1000
    assert all(step.instructions == sum(step.classes.values()) > 0 for step in counts.steps)
    assert set(counts.classes) <= set(CLASSES)


def test_the_count_is_the_same_each_time(bundle: EmulatedBundle, counts: InstructionCounts) -> None:
    again = count_instructions(bundle)
    assert again.steps == counts.steps and again.total == counts.total


def test_estimates(bundle: EmulatedBundle, counts: InstructionCounts) -> None:
    try:
        small, large = estimate_cycles(counts, instructions_of(bundle), "dotprod")
    except TargetError as error:
        pytest.skip(str(error))
    assert (small.core, large.core) == ("cortex-a55", "cortex-a76")
    assert large.cycles < small.cycles < 3 * counts.total
    assert counts.classes["dot"] / 2 < large.cycles < counts.total
    assert all(0 < loop.share_of_peak <= 1.001 for loop in (*small.loops, *large.loops))


@pytest.mark.parametrize(
    ("name", "operands", "expected"),
    [
        ("sdot", "v16.4s, v4.16b, v0.4b[2]", "dot"),
        ("smmla", "v1.4s, v2.16b, v3.16b", "dot"),
        ("ldp", "q0, q1, [x8]", "load"),
        ("ld1r", "{v0.4s}, [x1]", "load"),
        ("str", "q0, [x8], #16", "store"),
        ("st1", "{v0.s}[1], [x1]", "store"),
        ("b.ne", "400b10 <model_kernel0+0x10>", "branch"),
        ("cbz", "x0, 400b10 <x>", "branch"),
        ("bic", "w0, w0, #0x3", "scalar"),
        ("bsl", "v0.16b, v1.16b, v2.16b", "vector integer"),
        ("fmul", "v0.4s, v1.4s, v2.4s", "vector float"),
        ("scvtf", "v0.4s, v0.4s", "vector float"),
        ("sqxtn", "v0.4h, v0.4s", "vector integer"),
        ("movi", "v0.2d, #0x0", "vector integer"),
        ("tbl", "v0.16b, {v1.16b-v4.16b}, v2.16b", "vector integer"),
        ("add", "x0, x0, #0x10", "scalar"),
    ],
)
def test_classes(name: str, operands: str, expected: str) -> None:
    assert classify(name, operands) == expected


def test_the_command_prints_json(bundle: EmulatedBundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(bundle.path), "--emulate", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["instructions"] == sum(document["classes"].values())
    assert {step["rule"].split("-")[1] for step in document["steps"] if step["dots"]} == {"dense", "depthwise"}


def test_the_command_prints_tables(bundle: EmulatedBundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(bundle.path), "--emulate"]) == 0
    out = capsys.readouterr().out
    assert "instructions of one inference, counted" in out and "dots / least" in out
    assert "Estimate for cortex-a55 (llvm-mca" in out or "No estimate of cycles" in out


@pytest.fixture
def no_analyser(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cycles, "ANALYSERS", (("llvm-mca-of-nowhere",),))
    yield


@pytest.mark.usefixtures("no_analyser")
def test_without_the_analyser_the_counts_still_show(bundle: EmulatedBundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(bundle.path), "--emulate"]) == 0
    out = capsys.readouterr().out
    assert "By class" in out
    assert "No estimate of cycles: no analyser of machine code found (looked for llvm-mca-of-nowhere" in out
    assert "apt-get install llvm-19" in out


def test_a_bundle_of_this_machine_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    g = Graph(x=(1, 4))
    proto = g.proto(g("MatMul", "x", g.weight(4, 4)))
    qcompiler.compile(import_graph(proto), calibration=[{"x": np.ones((1, 4), np.float32)}], output=tmp_path / "out")
    assert main(["bench", str(tmp_path / "out"), "--emulate"]) == 2
    assert "which has no emulator" in capsys.readouterr().err
