"""The passes inside TVM: regions in place, instruments and levels, the same integers as interpreter and bundle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
import tvm
from small_graphs import GRAPHS, Graph, feeds_of, onnxruntime_outputs
from tvm import relax
from tvm.ir.instrument import DumpIR, PassTimingInstrument, pass_instrument
from tvm.relax.frontend.onnx import from_onnx
from tvm.s_tir import dlight
from tvm.s_tir.dlight.base import ScheduleRule
from tvm_ffi import structural_equal

import qcompiler
import qcompiler.tvm as qtvm
from qcompiler.errors import CalibrationError, ModelError, PipelineError, TargetError
from qcompiler.frontends.relax import import_relax
from qcompiler.passes import choose_scheme
from qcompiler.pipeline import Stage, stage

Feeds = Mapping[str, np.ndarray]


def run(module: tvm.IRModule, feeds: Feeds, **options: object) -> list[np.ndarray]:
    """Outputs of a module whose regions become kernels, by TVM's virtual machine."""
    machine = relax.VirtualMachine(
        relax.build(module, qtvm.target(), relax_pipeline=qtvm.pipeline(), **options), tvm.cpu()
    )
    results = machine["main"](*(tvm.runtime.tensor(feeds[p.name]) for p in module["main"].params))
    return [r.numpy() for r in ([results] if isinstance(results, tvm.runtime.Tensor) else results)]


def relax_module(proto: onnx.ModelProto) -> tvm.IRModule:
    return from_onnx(proto, keep_params_in_input=False)


def everything_in_integers() -> mock._patch:
    """Such small graphs are not worth the traffic at their border."""
    return mock.patch.object(choose_scheme, "border", lambda module, gains, inner: (0.0, set(gains)))


def classifier() -> onnx.ModelProto:
    return GRAPHS["residual-block"]()


def small() -> onnx.ModelProto:
    return GRAPHS["conv-relu"]()


@pytest.fixture(scope="module")
def quantized() -> tvm.IRModule:
    return qtvm.Quantize(feeds_of(classifier()))(relax_module(classifier()))


def test_kernels_give_the_integers_of_interpreter_and_bundle(quantized: tvm.IRModule, tmp_path: Path) -> None:
    (region,) = qtvm.regions(quantized)
    model = qtvm.region_model(quantized, region)
    same = qcompiler.quantize(import_relax(relax_module(classifier())), feeds_of(classifier()))
    bundle = qcompiler.compile(same, output=tmp_path / "out")
    for feeds in feeds_of(classifier(), seed=2):
        (found,) = run(quantized, feeds)
        (expected,) = qcompiler.interpret(model, feeds).values()
        assert found.tobytes() == expected.tobytes()
        assert found.tobytes() == next(iter(bundle.run(feeds).values())).tobytes()


@pytest.mark.parametrize("name", ["sum-of-three", "inputs-and-outputs", "matmul-bias-rank-3"])
def test_small_graphs(name: str) -> None:
    proto = GRAPHS[name]()
    module = relax_module(proto)
    samples = feeds_of(proto)
    with everything_in_integers():
        module = qtvm.Quantize(samples)(module)
        expected = qcompiler.interpret(qcompiler.quantize(import_relax(relax_module(proto)), samples), samples[0])
    for a, b in zip(run(module, samples[0]), expected.values(), strict=True):
        assert a.tobytes() == b.tobytes()


def test_the_module_computes_the_float_function_until_it_is_lowered(quantized: tvm.IRModule) -> None:
    """The body of a region stays the reference."""
    feeds = feeds_of(classifier())[0]
    plain = relax.transform.DecomposeOpsForInference()(quantized)
    machine = relax.VirtualMachine(relax.build(plain, "llvm"), tvm.cpu())
    found = machine["main"](tvm.runtime.tensor(feeds["x"])).numpy()
    np.testing.assert_allclose(found, onnxruntime_outputs(classifier(), feeds).popitem()[1], rtol=1e-5, atol=1e-6)


def test_lowering_leaves_kernels_and_no_regions(quantized: tvm.IRModule) -> None:
    lowered = qtvm.Lower("host:portable")(quantized)
    assert not qtvm.regions(lowered)
    assert qtvm.regions(quantized), "the pass must not change its argument"
    functions = {v.name_hint: f for v, f in lowered.functions_items() if v.name_hint != "main"}
    assert len(functions) > 5
    assert all(f.attrs["tirx.is_scheduled"] for f in functions.values())
    relax.analysis.well_formed(lowered)
    unchanged = tvm.s_tir.dlight.ApplyDefaultSchedule(tvm.s_tir.dlight.cpu.GEMV())
    with qtvm.target():
        tvm.ir.assert_structural_equal(unchanged(lowered), lowered)


# -------------------------------------------------------------------------------------------------------- partition


def padded_by_edges() -> onnx.ModelProto:
    """A convolution, padding that TVM's converter writes as a function of its own, a convolution."""
    return GRAPHS["pad-edge"]()


def test_what_is_not_understood_stays_in_place() -> None:
    module = qtvm.Partition()(relax_module(padded_by_edges()))
    (block,) = module["main"].body.blocks
    called = [b.value.op for b in block.bindings]
    assert [getattr(op, "name_hint", None) or op.name for op in called] == ["main_q0", "relax.call_tir", "main_q1"]
    relax.analysis.well_formed(module)
    tvm.ir.assert_structural_equal(qtvm.Partition()(module), module)


def test_regions_behind_foreign_calls_are_calibrated_on_what_reaches_them() -> None:
    samples = feeds_of(padded_by_edges())
    with everything_in_integers():
        module = qtvm.Quantize(samples)(relax_module(padded_by_edges()))
    first, second = (qtvm.region_model(module, name) for name in ("main_q0", "main_q1"))
    (found,) = run(module, samples[0])
    (middle,) = qcompiler.interpret(first, samples[0]).values()
    padded = np.pad(middle, [(0, 0), (0, 1), (1, 2), (2, 0)], mode="edge")
    (expected,) = qcompiler.interpret(second, {second.inputs[0]: padded}).values()
    assert found.tobytes() == expected.tobytes()


def test_regions_never_wait_for_themselves() -> None:
    """y reads a foreign call that reads x, and z reads both x and y: z cannot be where x is."""
    g = Graph(a=(1, 3, 6, 6))
    x = g("Conv", "a", g.weight(3, 3, 1, 1))
    y = g("Pad", x, g.ints(0, 0, 0, 0, 0, 0, 0, 1), mode="edge")
    y = g("Conv", y, g.weight(3, 3, 1, 2))
    proto = g.proto(g("Add", x, g("Conv", y, g.weight(3, 3, 1, 1))), x)
    module = qtvm.Partition()(relax_module(proto))
    assert list(qtvm.regions(module)) == ["main_q0", "main_q1"]
    relax.analysis.well_formed(module)
    feeds = feeds_of(proto)[0]
    machine = relax.VirtualMachine(relax.build(module, "llvm"), tvm.cpu())
    results = machine["main"](tvm.runtime.tensor(feeds["a"]))
    for found, expected in zip(results, onnxruntime_outputs(proto, feeds).values(), strict=True):
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------ instruments, levels


def test_instruments_see_every_pass(tmp_path: Path) -> None:
    timing, seen = PassTimingInstrument(), []

    @pass_instrument
    class Recorder:
        def run_after_pass(self, module: tvm.IRModule, info: object) -> None:
            seen.append(info.name)

    with tvm.transform.PassContext(instruments=[DumpIR(tmp_path), Recorder(), timing]):
        tvm.transform.Sequential([relax.transform.CanonicalizeBindings(), qtvm.Quantize(feeds_of(small()))])(
            relax_module(small())
        )
        profile = timing.render()
    ours = [name for name in seen if name.startswith("qcompiler.")]
    assert ours[0] == "qcompiler.partition"
    assert ours[-1] == "qcompiler.quantize"
    assert ours.index("qcompiler.calibrate") < ours.index("qcompiler.insert-qdq") < ours.index("qcompiler.integerize")
    assert "qcompiler.plan-layout" in profile
    (dump,) = tmp_path.glob("*_qcompiler.integerize.py")
    assert "q.conv" in dump.read_text()


def test_levels_and_names_choose_passes() -> None:
    samples = feeds_of(small())

    def names(**settings: object) -> set[str]:
        seen = set()

        @pass_instrument
        class Recorder:
            def run_after_pass(self, module: tvm.IRModule, info: object) -> None:
                seen.add(info.name)

        with tvm.transform.PassContext(instruments=[Recorder()], **settings):
            qtvm.Quantize(samples)(relax_module(small()))
        return seen

    assert {"qcompiler.round-weights", "qcompiler.cse"} <= names()
    assert not {"qcompiler.round-weights", "qcompiler.correct-bias", "qcompiler.cse"} & names(opt_level=0)
    assert "qcompiler.dce" not in names(disabled_pass=["qcompiler.dce"])


def test_single_passes() -> None:
    module = qtvm.Partition()(relax_module(small()))
    front = qtvm.passes(
        "canonicalize,calibrate{method=minmax},choose-scheme{policy=affine},insert-qdq",
        calibration=feeds_of(small()),
        target="host",
    )
    module = front(module)
    assert stage(qtvm.region_model(module, "main_q0").module) is Stage.QDQ
    module = qtvm.passes("integerize,legalize,fold-zero-point,plan-layout", target="host")(module)
    assert stage(qtvm.region_model(module, "main_q0").module) is Stage.LAID_OUT
    assert run(module, feeds_of(small())[0])[0].shape == (2, 4, 7, 6)


def test_modules_are_saved_with_their_regions(quantized: tvm.IRModule) -> None:
    loaded = tvm.ir.load_json(tvm.ir.save_json(quantized))
    feeds = feeds_of(classifier())[1]
    assert run(loaded, feeds)[0].tobytes() == run(quantized, feeds)[0].tobytes()


# ------------------------------------------------------------------------------------------------------------- errors


def test_errors_name_what_is_wrong(quantized: tvm.IRModule) -> None:
    module = relax_module(classifier())
    with pytest.raises(ModelError, match="no Relax function 'f'; it has main"):
        qtvm.Partition("f")(module)
    with pytest.raises(ModelError, match="needs calibration data"):
        qtvm.Quantize()(module)
    with pytest.raises(CalibrationError, match="'x'"):
        qtvm.Quantize([{"x": np.zeros((1, 3, 4, 4), np.float32)}])(module)
    with pytest.raises(TargetError, match="unknown target 'hots'"):
        qtvm.pipeline("hots")
    with pytest.raises(PipelineError, match="unknown option 'polcy'"):
        qtvm.Quantize([], polcy="affine")
    with pytest.raises(PipelineError, match="laid_out"):
        qtvm.Lower()(qtvm.Partition()(module))
    with pytest.raises(ModelError, match="no region 'q9'; it has main_q0"):
        qtvm.region_model(quantized, "q9")


def test_loops_can_be_scheduled_by_dlight(quantized: tvm.IRModule) -> None:
    """Ours among other rules: each takes what it knows, and kernels are those that Lower schedules itself."""
    plain = qtvm.Lower(schedule=False)(quantized)
    waiting = [v.name_hint for v, f in plain.functions_items() if is_waiting(f)]
    assert waiting
    seen: list[str] = []

    @ScheduleRule.from_callable("others")
    def others(func: tvm.tirx.PrimFunc, target: tvm.target.Target, tunable: bool) -> None:
        seen.append(str(func))

    with qtvm.target():
        done = tvm.transform.Sequential(
            [
                relax.transform.LegalizeOps(),
                dlight.ApplyDefaultSchedule(*qtvm.schedule_rules(), others, dlight.cpu.GEMV()),
            ]
        )(plain)
    assert not any(is_waiting(done[name]) for name in waiting)
    assert not any("qcompiler.loops" in text for text in seen)
    expected = qtvm.Lower()(quantized)
    for name in waiting:
        assert structural_equal(done[name].body, expected[name].body, map_free_vars=True)
    for feeds in feeds_of(classifier(), seed=2)[:2]:
        assert run(done, feeds)[0].tobytes() == run(quantized, feeds)[0].tobytes()


def is_waiting(function: tvm.ir.BaseFunc) -> bool:
    return isinstance(function, tvm.tirx.PrimFunc) and not function.attrs.get("tirx.is_scheduled")


def test_rules_of_dlight_leave_other_functions_alone() -> None:
    module = relax.transform.LegalizeOps()(relax_module(small()))
    (rule,) = qtvm.schedule_rules()
    functions = [f for f in module.functions.values() if isinstance(f, tvm.tirx.PrimFunc)]
    assert functions and all(rule.apply(f, qtvm.target(), False) is None for f in functions)
