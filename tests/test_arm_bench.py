"""Instructions counted in the emulator, cycles estimated from them, and what is said where a tool is missing."""

from __future__ import annotations

import json
import os
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
from qcompiler.report.instructions import Block, InstructionCounts, basic_blocks, count_instructions, instructions_of
from qcompiler.targets.arm_cpu import instructions
from qcompiler.targets.arm_cpu.instructions import CLASSES, CORES, classify, spills

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
        estimates = estimate_cycles(counts, instructions_of(bundle), "dotprod")
    except TargetError as error:
        pytest.skip(str(error))
    assert [estimate.core for estimate in estimates] == [core.name for core in CORES["dotprod"]]
    small, middle, large = (estimate.cycles for estimate in estimates)
    assert large < middle < small < 3 * counts.total
    assert counts.classes["dot"] / 2 < middle < counts.total
    assert all(0 < loop.share_of_peak <= 1.001 for estimate in estimates for loop in estimate.loops)


@pytest.mark.parametrize(
    ("instruction_set", "operation"), [("dotprod", "sdot"), ("i8mm", "sdot"), ("i8mm", "smmla"), ("i8mm", "usmmla")]
)
def test_peaks_of_cores_are_those_of_their_models(instruction_set: str, operation: str) -> None:
    independent = tuple((operation, f"v{i}.4s, v28.16b, v29.16b") for i in range(28))
    counts = InstructionCounts(28, {}, (), 0, (Block("kernel", independent, 1),))
    try:
        estimates = estimate_cycles(counts, instructions, instruction_set)
    except TargetError as error:
        pytest.skip(str(error))
    assert [estimate.core for estimate in estimates] == [core.name for core in CORES[instruction_set]]
    assert all(0.98 < estimate.loops[0].share_of_peak <= 1 for estimate in estimates)


def test_blocks_are_those_of_the_code() -> None:
    """The emulator's blocks end at a page and overlap where a loop is entered; those of the code do neither."""
    code = {
        0x0FF8: ("f", "mov", "x0, #0x3"),
        0x0FFC: ("f", "sdot", "v0.4s, v1.16b, v2.16b"),
        0x1000: ("f", "subs", "x0, x0, #0x1"),
        0x1004: ("f", "b.ne", "ffc <f+0x4>"),
        0x1008: ("f", "ret", ""),
        0x100C: ("g", "ret", ""),
    }
    executions = {0x0FF8: 1, 0x0FFC: 3, 0x1000: 3, 0x1004: 3, 0x1008: 1, 0x100C: 1, 0x2000: 1}
    found = [(b.kernel, len(b.instructions), b.executions) for b in basic_blocks(executions, code, instructions)]
    assert found == [("f", 1, 1), ("f", 3, 3), ("f", 1, 1), ("g", 1, 1), ("", 1, 1)]
    once = [(b.kernel, len(b.instructions)) for b in basic_blocks(dict.fromkeys(executions, 1), code, instructions)]
    assert once == [("f", 1), ("f", 3), ("f", 1), ("g", 1), ("", 1)]


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
        ("mov", "x8, sp", "scalar"),
        ("umov", "w16, v28.b[7]", "vector integer"),
        ("nop", "", "other"),
        ("mrs", "x0, tpidr_el0", "other"),
        ("", "", "other"),
        (".inst", "0x00000000 ; undefined", "other"),
    ],
)
def test_classes(name: str, operands: str, expected: str) -> None:
    assert classify(name, operands) == expected


@pytest.mark.parametrize(
    ("name", "operands", "expected"),
    [
        ("ldr", "q15, [sp, #144]", True),
        ("stp", "q5, q3, [sp, #96]", True),
        ("ldp", "x29, x30, [sp], #16", False),
        ("ldr", "q15, [x1, #144]", False),
        ("add", "x0, sp, #0x10", False),
    ],
)
def test_vector_registers_on_the_stack(name: str, operands: str, expected: bool) -> None:
    assert spills(name, operands) is expected


@pytest.fixture
def few_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worse estimates in less time."""
    monkeypatch.setattr(cycles, "_ITERATIONS", 10)


@pytest.mark.usefixtures("few_iterations")
def test_the_command_prints_json(bundle: EmulatedBundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(bundle.path), "--emulate", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["instructions"] == sum(document["classes"].values())
    inside = sum(step["instructions"] for step in document["steps"])
    assert document["instructions"] == inside + document["outside_kernels"]
    expected = {"location", "rule", "kernel", "macs", "instructions", "classes", "dots", "least", "spilled"}
    assert all(expected <= set(step) for step in document["steps"])
    assert {step["rule"].split("-")[1] for step in document["steps"] if step["dots"]} == {"dense", "depthwise"}


@pytest.mark.usefixtures("few_iterations")
def test_the_command_prints_tables(bundle: EmulatedBundle, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(bundle.path), "--emulate"]) == 0
    out = capsys.readouterr().out
    assert "instructions of one inference, counted" in out and "dots / least" in out and "outside the kernels" in out
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


def test_an_emulator_that_takes_no_plug_in(
    bundle: EmulatedBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator = tmp_path / "qemu-aarch64"
    emulator.write_text("#!/bin/sh\necho plugin requires another version >&2\nexit 1\n", encoding="ascii")
    emulator.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert main(["bench", str(bundle.path), "--emulate"]) == 2
    error = capsys.readouterr().err
    assert "takes plug-ins of QEMU 6 to 8" in error and "plugin requires another version" in error


@pytest.mark.parametrize(("option", "value"), [("--reference", "model.onnx"), ("--threads", "2")])
def test_what_counting_has_no_use_for(
    bundle: EmulatedBundle, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", str(bundle.path), "--emulate", option, value]) == 2
    assert f"leave out {option}" in capsys.readouterr().err


def test_a_bundle_of_this_machine_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    g = Graph(x=(1, 4))
    proto = g.proto(g("MatMul", "x", g.weight(4, 4)))
    qcompiler.compile(import_graph(proto), calibration=[{"x": np.ones((1, 4), np.float32)}], output=tmp_path / "out")
    assert main(["bench", str(tmp_path / "out"), "--emulate"]) == 2
    assert "which has no emulator" in capsys.readouterr().err
