"""The pass manager: pipelines as text, stages, verification between passes, dumps, timing, outside passes."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import pytest
from small_graphs import passed, run_passes, stages
from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp
from xdsl.passes import ModulePass

from qcompiler import pipeline
from qcompiler.errors import CalibrationError, IRError, PipelineError, QCompilerError
from qcompiler.ir.text import print_module
from qcompiler.ir.values import body
from qcompiler.model import Model
from qcompiler.pipeline import (
    CompilerContext,
    PassManager,
    Progress,
    QuantPass,
    Stage,
    describe_passes,
    parse,
    registry,
    set_stage,
    stage,
    text_of,
    timing_json,
    timing_table,
)

WHOLE = "integerize,legalize{storage=i8},fold-zero-point,plan-layout,cse,dce"


@dataclass(frozen=True)
class Breaking(QuantPass):
    """Leaves a value that is used before it is defined. Never run this."""

    name: ClassVar[str] = "breaking"

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        first = body(module).first_op
        last = body(module).last_op
        assert first is not None and last is not None
        first.detach()
        body(module).insert_op_before(first, last)


@dataclass(frozen=True)
class Outside(ModulePass):
    """A pass of another package."""

    name = "outside"
    amount: int = 3

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        assert isinstance(ctx, CompilerContext)
        ctx.notes.append(f"amount {self.amount}")


@pytest.fixture
def outside(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [
        EntryPoint("outside", "test_pipeline:Outside", pipeline.ENTRY_POINTS),
        EntryPoint("canonicalize", "test_pipeline:Outside", pipeline.ENTRY_POINTS),
    ]
    monkeypatch.setattr(pipeline, "entry_points", lambda group: points if group == pipeline.ENTRY_POINTS else [])


# ------------------------------------------------------------------------------------------------- text of pipelines


@pytest.mark.parametrize(
    "text",
    [
        "canonicalize",
        "canonicalize,fold-batch-norm,cse,dce",
        'calibrate{method="mse" limit=64},choose-scheme{policy="mixed" per-channel=false}',
        'legalize{storage="i8" rounding="fixed2"},fold-zero-point',
        'apply-recipe{keep-float="/features/0/Conv","b c"}',
    ],
)
def test_text_of_a_pipeline_reads_back(text: str) -> None:
    passes = parse(text)
    assert parse(text_of(passes)) == passes
    assert parse(text) == passes


def test_options_take_their_types() -> None:
    from qcompiler.passes.apply_recipe import ApplyRecipe
    from qcompiler.passes.calibrate import Calibrate
    from qcompiler.passes.choose_scheme import ChooseScheme

    assert parse("calibrate{method=entropy limit=8}") == (Calibrate(method="entropy", limit=8),)
    assert parse("apply-recipe{keep-float=a,b},choose-scheme{policy=affine per-channel=false}") == (
        ApplyRecipe(keep_float=("a", "b")),
        ChooseScheme(policy="affine", per_channel=False),
    )
    assert parse("") == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("canonicalise", "unknown pass 'canonicalise'; known: .*canonicalize, "),
        ("calibrate{methd=mse}", "pass 'calibrate': .*methd"),
        ("calibrate{limit=many}", "pass 'calibrate': "),
        ("calibrate{method=mse", "does not parse"),
        ("canonicalize,,dce", "does not parse"),
        ("canonicalize}{", "does not parse"),
        ("legalize{storage=i8,u8}", "pass 'legalize': "),
    ],
)
def test_pipelines_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("legalize{storage=u4}", "storage must be u8 or i8, got 'u4'"),
        ("legalize{rounding=up}", "rounding must be one of fp32, fixed, fixed2, got 'up'"),
    ],
)
def test_options_that_make_no_sense(text: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        passed(stages("conv").integer, text)


def test_calibrate_and_choose_scheme_refuse_unknown_names() -> None:
    graph = stages("conv")
    with pytest.raises(QCompilerError, match="unknown calibration method 'max': expected one of minmax"):
        passed(graph.imported, "calibrate{method=max}", graph.feeds)
    with pytest.raises(CalibrationError, match="calibrate needs calibration data"):
        passed(graph.imported, "calibrate")
    with pytest.raises(PipelineError, match="unknown policy 'best'; known: auto"):
        passed(graph.imported, "calibrate,choose-scheme{policy=best}", graph.feeds)


# ------------------------------------------------------------------------------------------------------- the registry


def test_every_pass_has_one_sentence() -> None:
    described = describe_passes()
    assert list(described) == sorted(registry())
    for name, text in described.items():
        assert re.fullmatch(r"[A-Z`](?:[^.]|\.(?! ))*[^. ]\.", text), name
        assert "\n" not in text
        assert len(text) < 140, name


def test_every_pass_is_named_as_it_is_registered() -> None:
    for name, load in registry().items():
        assert load().name == name


@pytest.mark.usefixtures("outside")
def test_entry_points_add_passes_and_do_not_replace_ours() -> None:
    assert registry()["outside"]() is Outside
    assert registry()["canonicalize"]() is not Outside
    assert describe_passes()["outside"] == "A pass of another package."
    model = stages("conv").imported.clone()
    context = run_passes(model, "outside{amount=7},canonicalize,outside")
    assert context.notes == ["amount 7", "amount 3"]


# ------------------------------------------------------------------------------------------------- stages and checks


def test_stages() -> None:
    module = stages("conv").imported.module.clone()
    assert stage(module) is Stage.FLOAT
    set_stage(module, Stage.QDQ)
    assert 'q.stage = "qdq"' in print_module(module)
    assert stage(module) is Stage.QDQ


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "canonicalize,integerize",
            "pass integerize requires a module of stage qdq; it is float. Passes so far: canonicalize",
        ),
        ("choose-scheme", "pass choose-scheme requires a module of stage calibrated; it is float. Passes so far: none"),
        ("dce,fold-zero-point", "requires a module of stage integer, legal; it is float. Passes so far: dce"),
    ],
)
def test_passes_require_stages(text: str, message: str) -> None:
    with pytest.raises(PipelineError, match=re.escape(message)):
        passed(stages("conv").imported, text)


def test_a_pass_that_breaks_the_module_is_named() -> None:
    model = stages("conv").integer.clone()
    model.source = "net.onnx"
    passes = (*parse("cse"), Breaking())
    with pytest.raises(IRError) as error:
        PassManager(passes).run(model, CompilerContext(source="net.onnx"))
    message = str(error.value)
    assert message.startswith("net.onnx: pass breaking left a broken module: ")
    assert "uses a value before its definition" in message
    assert "\n> " in message  # the line at fault, marked


def test_a_broken_module_is_found_before_the_first_pass() -> None:
    model = stages("conv").integer.clone()
    Breaking().run(CompilerContext(), model.module)
    with pytest.raises(IRError, match="the module is broken"):
        PassManager(parse("dce")).run(model, CompilerContext())


# ---------------------------------------------------------------------------------------------- records and progress


def test_records() -> None:
    model = stages("residual-block").qdq.clone()
    manager = PassManager(parse(WHOLE))
    manager.run(model, CompilerContext(model.store))
    assert [r.name for r in manager.records] == ["import", *(p.name for p in manager.passes)]
    assert manager.records[-1].ops == sum(1 for _ in body(model.module).ops)
    assert all(r.seconds >= 0 for r in manager.records)
    table = timing_table(manager.records).splitlines()
    assert len(table) == len(manager.records)
    assert all(re.fullmatch(r"[\w-]+ +[\d.]+ ms +\d+ ops", line) for line in table)
    document = json.loads(timing_json(manager.records))
    assert [entry["name"] for entry in document] == [r.name for r in manager.records]


def test_an_empty_pipeline_verifies_and_records() -> None:
    model = stages("conv").imported.clone()
    manager = PassManager(())
    manager.run(model, CompilerContext())
    assert [r.name for r in manager.records] == ["import"]


def test_progress_hears_of_every_pass() -> None:
    heard: list[str] = []

    class Listening(Progress):
        def step(self, title: str) -> None:
            heard.append(title)

        def track(self, items: Any, title: str, total: int | None = None) -> Any:
            heard.append(f"{title} {total}")
            return super().track(items, title, total)

    graph = stages("conv")
    model = graph.imported.clone()
    context = CompilerContext(calibration=graph.feeds, progress=Listening())
    PassManager(parse("canonicalize,calibrate{limit=2}")).run(model, context)
    assert heard == ["canonicalize", "calibrate", "calibrating 2"]


def test_called_back_after_a_pass() -> None:
    model = stages("conv").qdq.clone()
    seen: list[Stage] = []
    manager = PassManager(parse("integerize,legalize"), after={1: lambda: seen.append(stage(model.module))})
    manager.run(model, CompilerContext())
    assert seen == [Stage.INTEGER]


# ------------------------------------------------------------------------------------------------------------- dumps


def test_each_dump_continues_to_the_same_end(tmp_path: Path) -> None:
    graph = stages("residual-block")
    model = graph.imported.clone()
    text = f"canonicalize,fold-batch-norm,canonicalize,calibrate,choose-scheme,insert-qdq,{WHOLE}"
    passes = parse(text)
    PassManager(passes, tmp_path).run(model, CompilerContext(calibration=graph.feeds))
    files = sorted(tmp_path.glob("*.mlir"))
    names = ["import", *(p.name for p in passes)]
    assert [f.name for f in files] == [f"{i:03}_{name}.mlir" for i, name in enumerate(names)]
    assert not list(tmp_path.glob(".*"))
    final = print_module(model.module)
    assert print_module(Model.load(files[-1]).module) == final
    assert "continue" not in files[-1].read_text()
    for file in files[:-1]:
        header = [line for line in file.read_text().splitlines() if line.startswith("// ")]
        command = re.fullmatch(r"// continue: qcompiler opt (\S+) -p '(.*)'", header[-1])
        assert command is not None
        assert command[1] == file.name
        again = Model.load(file)
        PassManager(parse(command[2])).run(again, CompilerContext(again.store, calibration=graph.feeds))
        assert print_module(again.module) == final, file.name


def test_dumps_hold_constants_once(tmp_path: Path) -> None:
    model = stages("conv").qdq.clone()
    PassManager(parse("dce,integerize,cse"), tmp_path).run(model, CompilerContext())
    sidecars = sorted(f.name for f in tmp_path.glob("*.safetensors"))
    assert sidecars == ["000_import.safetensors", "002_integerize.safetensors"]
    assert (tmp_path / "001_dce.mlir").read_text().splitlines()[1] == "// constants: 000_import.safetensors"


def test_dumps_replace_those_of_an_earlier_run(tmp_path: Path) -> None:
    (tmp_path / "007_old.mlir").write_text("old")
    (tmp_path / "notes.txt").write_text("mine")
    PassManager(parse("dce"), tmp_path).run(stages("conv").imported.clone(), CompilerContext())
    assert not (tmp_path / "007_old.mlir").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_dumps_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(QCompilerError, match="cannot write the dumps"):
        PassManager(parse("dce"), tmp_path / "file").run(stages("conv").imported.clone(), CompilerContext())
