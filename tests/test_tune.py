"""Tuning: every choice of a rule is exact, the fastest is kept in TVM's database, and a database needs no measuring."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from products import HOSTS, SPECS
from small_graphs import Graph, feeds_of
from test_host_conv import ONE, Case
from tvm.ir.utils import derived_object
from tvm.relax.frontend.onnx import from_onnx
from tvm.s_tir.meta_schedule.builder import BuilderInput, BuilderResult, PyBuilder
from tvm.s_tir.meta_schedule.database import JSONDatabase, MemoryDatabase
from tvm.s_tir.meta_schedule.runner import (
    EvaluatorConfig,
    PyRunner,
    PyRunnerFuture,
    RPCConfig,
    RPCRunner,
    RunnerInput,
    RunnerResult,
)
from tvm_ffi import structural_equal

import qcompiler
import qcompiler.tvm as qtvm
from qcompiler.cli import main
from qcompiler.errors import PipelineError, TargetError
from qcompiler.lowering.program import Buffer, Kernel, Program, Step
from qcompiler.lowering.space import schedule_of
from qcompiler.lowering.tune import _allot, open_database, tune
from qcompiler.targets.cpu.conv import conv_kernel

CONV = Case((1, 9, 10, 16), 40, (3, 3), pads=ONE, x_halo=ONE)
DEPTHWISE = Case((1, 9, 10, 72), 72, (3, 3), pads=ONE, group=72, x_halo=ONE)


def kernel_of(case: Case) -> Kernel:
    problem = case.build()
    return conv_kernel(problem.workload, problem.weights, problem.bias, SPECS[0])


def program_of(*kernels: Kernel) -> Program:
    """A step for each kernel, with macs 1, 2, 3..."""
    return Program(steps=[Step(kernel, (), (), f"node{i}", i + 1) for i, kernel in enumerate(kernels)])


@derived_object
class Prepared(PyBuilder):
    """Builds nothing: the file of the n-th kernel since the beginning is called n."""

    def __init__(self, folder: Path, fails: Sequence[int] = ()) -> None:
        super().__init__()
        self.folder, self.fails, self.count = folder, fails, 0

    def build(self, build_inputs: list[BuilderInput]) -> list[BuilderResult]:
        results = []
        for _ in build_inputs:
            number, self.count = self.count, self.count + 1
            if number in self.fails:
                results.append(BuilderResult(None, "no such instruction"))
                continue
            path = self.folder / f"{number}" / f"{number}"
            path.parent.mkdir()
            path.touch()
            results.append(BuilderResult(str(path), None))
        return results


@derived_object
class Known(PyRunnerFuture):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def done(self) -> bool:
        return True

    def result(self) -> RunnerResult:
        return RunnerResult([self.seconds], None) if self.seconds else RunnerResult(None, "it crashed")


@derived_object
class Timed(PyRunner):
    """Gives each kernel of `Prepared` the time that is said to be its; 0: it crashes."""

    def __init__(self, seconds: Sequence[float]) -> None:
        super().__init__()
        self.seconds = seconds

    def run(self, runner_inputs: list[RunnerInput]) -> list[Known]:
        return [Known(self.seconds[int(Path(str(each.artifact_path)).name)]) for each in runner_inputs]


@pytest.mark.slow
@pytest.mark.parametrize("case", [CONV, DEPTHWISE], ids=["dense", "depthwise"])
@pytest.mark.parametrize("spec", HOSTS)
def test_every_choice_gives_the_same_integers(case: Case, spec) -> None:
    problem = case.build()

    def choice(number: int) -> Callable[..., Kernel]:
        def rule(*arguments: object) -> Kernel:
            space = conv_kernel(*arguments).space
            return space.make(space.choices[number])

        return rule

    count = len(conv_kernel(problem.workload, problem.weights, problem.bias, spec).space.choices)
    assert count > 4
    for number in range(0, count, max(1, count // 6)):
        problem.check(spec, choice(number))


def test_choices_differ_in_their_decisions() -> None:
    for case in (CONV, DEPTHWISE):
        choices = kernel_of(case).space.choices
        assert len({tuple(choice.decisions.items()) for choice in choices}) == len(choices)


def test_a_choice_is_a_trace_that_a_database_keeps(tmp_path: Path) -> None:
    default = kernel_of(CONV)
    assert not default.is_tuned
    wanted = default.space.choices[7]
    trace = str(schedule_of(default.space, wanted).trace)
    assert "sample_categorical" in trace and 'ann_key="qcompiler.columns"' in trace
    database = open_database(tmp_path / "database", create=True)
    seconds = [1.0] * 7 + [0.5] + [1.0]
    (tuned,) = tune(program_of(default), 8, database, builder=Prepared(tmp_path), runner=Timed(seconds))
    assert (tuned.trials, tuned.default, tuned.gain) == (8, default.rule, 2.0)
    with JSONDatabase(work_dir=str(tmp_path / "database")):
        kernel = kernel_of(CONV)
        other_scale = kernel_of(replace(CONV, gain=0.5, y_zero_point=3))
        other_shape = kernel_of(replace(CONV, oc=41))
        other_result = kernel_of(replace(CONV, y_dtype="int8"))
    assert kernel.is_tuned and structural_equal(kernel.func, default.space.make(wanted).func)
    assert kernel.rule == tuned.rule
    assert other_scale.is_tuned and other_scale.rule == kernel.rule
    assert not other_shape.is_tuned and not other_result.is_tuned
    assert [p.name for p in tmp_path.iterdir()] == ["database"]  # what was built is removed


def test_the_default_stays_where_nothing_is_clearly_faster(tmp_path: Path) -> None:
    default, database = kernel_of(CONV), MemoryDatabase()
    (tuned,) = tune(program_of(default), 2, database, builder=Prepared(tmp_path), runner=Timed([1.0, 0.99, 1.2]))
    assert (tuned.rule, tuned.gain) == (default.rule, 1.0)
    with database:
        assert kernel_of(CONV).rule == default.rule


def test_choices_that_fail_are_left_out_but_the_default_may_not(tmp_path: Path) -> None:
    program = program_of(kernel_of(CONV))
    runner = Timed([1.0, 1.0, 0, 0.8])
    (tuned,) = tune(program, 3, MemoryDatabase(), builder=Prepared(tmp_path, fails=[1]), runner=runner)
    assert tuned.gain == 1.25
    with pytest.raises(TargetError, match="node0: its kernel cannot be built for measuring: no such instruction"):
        tune(program, 3, MemoryDatabase(), builder=Prepared(tmp_path, fails=[0]), runner=runner)
    with pytest.raises(TargetError, match="node0: its kernel cannot be measured: it crashed"):
        tune(program, 3, MemoryDatabase(), builder=Prepared(tmp_path), runner=Timed([0, 1, 1, 1]))
    assert list(tmp_path.iterdir()) == []


def test_what_a_database_has_is_not_measured(tmp_path: Path) -> None:
    database = MemoryDatabase()
    program = program_of(kernel_of(CONV), kernel_of(DEPTHWISE), kernel_of(CONV))
    first = tune(program, 4, database, builder=Prepared(tmp_path), runner=Timed([1.0] * 9))
    assert sorted(each.locations for each in first) == [("node0", "node2"), ("node1",)]
    assert tune(program, 4, database, builder=Prepared(tmp_path, fails=range(99)), runner=Timed([])) == []


def test_trials_go_where_the_work_is() -> None:
    assert _allot([900, 100, 0], [50, 50, 50], 10) == [9, 1, 0]
    assert _allot([900, 100], [3, 50], 10) == [3, 7]
    assert _allot([1, 1], [1, 1], 10) == [1, 1]


def small() -> onnx.ModelProto:
    g = Graph(x=(1, 8, 12, 12))
    y = g("Relu", g("Conv", "x", g.weight(40, 8, 3, 3), g.weight(40), pads=[1, 1, 1, 1]))
    return g.proto(g("Conv", y, g.weight(40, 40, 3, 3), g.weight(40), pads=[1, 1, 1, 1]))


@pytest.fixture
def model(tmp_path: Path) -> list[str]:
    """Arguments of compile."""
    onnx.save(small(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([feeds["x"] for feeds in feeds_of(small())]))
    return [str(tmp_path / "model.onnx"), "--calibration", str(tmp_path / "data.npz"), "-o", str(tmp_path / "out")]


@pytest.mark.slow
def test_compile_tunes_once(model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    """Measured on this machine; a second compile measures nothing and gives the same library."""
    database = tmp_path / "database"
    assert main(["compile", *model, "--tune", "6", "--tuning-database", str(database)]) == 0
    printed = capsys.readouterr()
    assert "tuning measured 6 choices of 2 kernels" in printed.out and printed.err == ""
    assert main(["verify", str(tmp_path / "out"), "--data", str(tmp_path / "data.npz")]) == 0
    before = (tmp_path / "out" / "libmodel.so").read_bytes()
    monkeypatch.setattr("qcompiler.lowering.tune.LocalBuilder", None)
    monkeypatch.setattr("qcompiler.lowering.tune.LocalRunner", None)
    for more in ([], ["--tune", "6"]):
        assert main(["compile", *model, "--tuning-database", str(database), *more]) == 0
        assert (tmp_path / "out" / "libmodel.so").read_bytes() == before
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "out"), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["tuned"]) == 2


@pytest.mark.slow
def test_measured_through_rpc(tmp_path: Path) -> None:
    """TVM's tracker and server, here on this machine, measure what a builder of this machine made."""
    from tvm.rpc.server import Server
    from tvm.rpc.tracker import Tracker

    tracker = Tracker("127.0.0.1", silent=True)
    server = Server("127.0.0.1", tracker_addr=("127.0.0.1", tracker.port), key="phone", silent=True)
    try:
        config = RPCConfig("127.0.0.1", tracker.port, "phone", session_timeout_sec=60)
        runner = RPCRunner(config, EvaluatorConfig(1, 1, 5), max_workers=1)
        quantized = qcompiler.quantize(qcompiler.import_onnx(saved(tmp_path)), feeds_of(small()))
        database = open_database(tmp_path / "database", create=True)
        tuned = qtvm.tune(quantized, 2, database, runner=runner)
    finally:
        server.terminate()
        tracker.terminate()
    assert sum(each.trials for each in tuned) == 2 and all(each.gain >= 1 for each in tuned)
    bundle = qcompiler.compile(quantized, output=tmp_path / "out", tuning_database=tmp_path / "database")
    assert sum(step.tuned for step in bundle.manifest.steps) == len(tuned)


def saved(folder: Path) -> Path:
    onnx.save(small(), folder / "model.onnx")
    return folder / "model.onnx"


def test_inside_tvm_a_database_in_effect_is_used(tmp_path: Path) -> None:
    feeds = feeds_of(small())
    module = qtvm.Quantize(feeds)(from_onnx(small(), keep_params_in_input=False))
    database = MemoryDatabase()
    default = qtvm.Lower()(module)
    seconds = [1.0, 0.5, 0.7] * 3
    assert qtvm.tune(module, 4, database, builder=Prepared(tmp_path), runner=Timed(seconds))
    with database:
        around = qtvm.Lower()(module)
    given = qtvm.Lower(database=database)(module)
    assert structural_equal(around, given)
    assert not structural_equal(given, default)
    built = tvm.relax.build(module, qtvm.target(), relax_pipeline=qtvm.pipeline(database=database))
    machine = tvm.relax.VirtualMachine(built, tvm.cpu())
    (region,) = qtvm.regions(module)
    for each in feeds[:2]:
        (expected,) = qcompiler.interpret(qtvm.region_model(module, region), each).values()
        assert np.array_equal(machine["main"](tvm.runtime.tensor(each["x"])).numpy(), expected)


def test_packages_that_tvm_needs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qcompiler.lowering.tune.find_spec", lambda name: None if name == "psutil" else name)
    with pytest.raises(TargetError, match=r"tuning needs the packages psutil: pip install 'qcompiler\[tune\]'"):
        tune(program_of(kernel_of(CONV)), 3, MemoryDatabase())


def test_programs_without_choices() -> None:
    program = Program({"x": Buffer("x", (4,), "float32")}, ["x"])
    assert tune(program, 5, MemoryDatabase()) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tuning_database": "none"}, PipelineError, "none holds no tuning database; tuning .* writes one"),
        ({"tune": -1}, PipelineError, "expected a number of trials"),
        (
            {"tune": 3, "target": "arm-cpu"},
            TargetError,
            "tuning for arm-cpu measures its kernels here, and this machine",
        ),
        ({"tune": 3, "target": "mali"}, PipelineError, "kernels for mali are not tuned"),
        ({"tuning_database": "damaged"}, PipelineError, "damaged: the tuning database cannot be opened"),
    ],
)
def test_what_cannot_be_tuned(
    options: dict[str, object], error: type, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "database_workload.json").write_text("[1, 2")
    (tmp_path / "damaged" / "database_tuning_record.json").write_text("")
    with pytest.raises(error, match=message):
        qcompiler.compile(saved(tmp_path), output=tmp_path / "out", calibration=feeds_of(small()), **options)
    assert not (tmp_path / "out").exists()
