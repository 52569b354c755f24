"""The pass manager: passes, pipelines as text, checks between passes, timing, dumps.

A pass is a frozen dataclass on xDSL's `ModulePass`; its fields are its options in Python, in a pipeline's text and on
the command line. A pipeline's text separates passes by commas and options by spaces:

    canonicalize,calibrate{method=entropy bins=2048},choose-scheme,insert-qdq,integerize
"""

from __future__ import annotations

import enum
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from xdsl.context import Context
from xdsl.dialects.builtin import ModuleOp, StringAttr
from xdsl.passes import ModulePass, PassPipeline
from xdsl.utils.arg_spec import parse_pipeline
from xdsl.utils.exceptions import ArgSpecParseError

import qcompiler
from qcompiler.errors import IRError, PipelineError, QCompilerError
from qcompiler.ir.rewriting import verify_module
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.text import load_dialects
from qcompiler.ir.values import body
from qcompiler.model import Model, constants_line

if TYPE_CHECKING:
    from qcompiler.recipe import Recipe
    from qcompiler.targets.spec import TargetSpec

ENTRY_POINTS = "qcompiler.passes"
_STAGE = "q.stage"


class Stage(enum.IntEnum):
    """How far a module has come. Recorded on the module as `q.stage`; passes require and ensure stages."""

    FLOAT = 0
    """Float ops of the `onnx` dialect."""
    CALIBRATED = 1
    """As FLOAT, with statistics of every float value in the store."""
    CHOSEN = 2
    """Every float value to be quantized carries its type."""
    QDQ = 3
    """Quantize and dequantize ops stand around the float ops."""
    INTEGER = 4
    """Ops between dequantize and quantize have become integer ops."""
    LEGAL = 5
    """Storage types and rounding are those of the target."""
    LAID_OUT = 6
    """Images are channels-last."""


def stage(module: ModuleOp) -> Stage:
    """The recorded stage of a module, FLOAT if none is.

    Raises:
        IRError: the record names no stage.
    """
    recorded = module.attributes.get(_STAGE)
    if recorded is None:
        return Stage.FLOAT
    if not isinstance(recorded, StringAttr) or recorded.data.upper() not in Stage.__members__:
        known = ", ".join(s.name.lower() for s in Stage)
        raise IRError(f"the module's {_STAGE} is {recorded}; expected one of {known}")
    return Stage[recorded.data.upper()]


def set_stage(module: ModuleOp, value: Stage) -> None:
    module.attributes[_STAGE] = StringAttr(value.name.lower())


class Progress:
    """Receives the progress of long work; this one stays silent."""

    def step(self, title: str) -> None:
        """A phase begins."""

    def track(self, items: Iterable[Any], title: str, total: int | None = None) -> Iterator[Any]:
        """Yields the items, showing how far it has come."""
        yield from items


class CompilerContext(Context):
    """What passes see besides the module: constants, calibration data, the target, a recipe, progress, notes."""

    def __init__(
        self,
        store: ConstantStore | None = None,
        *,
        calibration: Iterable[Mapping[str, Any]] | None = None,
        target: TargetSpec | None = None,
        recipe: Recipe | None = None,
        progress: Progress | None = None,
        source: str = "<model>",
    ) -> None:
        super().__init__()
        load_dialects(self)
        self.store = store if store is not None else ConstantStore()
        self.calibration = calibration
        self.target = target
        self.recipe = recipe
        self.progress = progress or Progress()
        self.source = source
        self.notes: list[str] = []
        """Sentences for the user: what a pass had to give up on, and why."""


@dataclass(frozen=True)
class QuantPass(ModulePass):
    """Base of the compiler's passes. The first sentence of the docstring is the pass's description.

    `requires` names the stages a module may be in before the pass, `ensures` the stage it is in afterwards (None: the
    same as before).
    """

    requires: ClassVar[tuple[Stage, ...]] = tuple(Stage)
    ensures: ClassVar[Stage | None] = None

    def apply(self, ctx: Context, op: ModuleOp) -> None:
        self.run(cast(CompilerContext, ctx), op)

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        """Changes the module in place."""
        raise TypeError(f"pass {self.name} has no run method")


def registry() -> dict[str, Callable[[], type[ModulePass]]]:
    """All passes by name: the project's own, xDSL's `cse` and `dce`, and those of outside packages (entry points)."""
    from qcompiler.passes import PASSES

    found: dict[str, Callable[[], type[ModulePass]]] = dict(PASSES)
    for point in entry_points(group=ENTRY_POINTS):
        found.setdefault(point.name, point.load)
    return found


def describe_passes() -> dict[str, str]:
    """Name and one-sentence description of every pass."""
    descriptions = {}
    for name, load in sorted(registry().items()):
        text = " ".join((load().__doc__ or "").split())
        descriptions[name] = text.split(". ")[0].rstrip(".") + "."
    return descriptions


def parse(text: str) -> tuple[ModulePass, ...]:
    """The passes of a pipeline's text.

    Raises:
        PipelineError: unknown pass or option, or a syntax error.
    """
    known = registry()
    try:
        specs = tuple(parse_pipeline(text))
    except ArgSpecParseError as error:
        raise PipelineError(f"pipeline '{text}' does not parse: {str(error).splitlines()[0]}") from None
    passes = []
    for spec in specs:
        if spec.name not in known:
            raise PipelineError(f"unknown pass '{spec.name}'; known: {', '.join(sorted(known))}")
        try:
            passes.append(known[spec.name]().from_pass_spec(spec))
        except Exception as error:  # xDSL raises bare exceptions for wrong options
            raise PipelineError(f"pass '{spec.name}': {error}") from None
    return tuple(passes)


def text_of(passes: Sequence[ModulePass]) -> str:
    """The pipeline's text that stands for these passes."""
    return ",".join(str(p.pipeline_pass_spec()) for p in passes)


@dataclass(frozen=True)
class PassRecord:
    """What happened in one step: the pass (or "import"), its wall time in seconds, the number of ops after it."""

    name: str
    seconds: float
    ops: int


@dataclass
class PassManager:
    """Runs passes on a model, checking stages and verifying the module between them.

    `dump` is a folder for the module's text after every pass: `000_import.mlir`, `001_canonicalize.mlir`... Each
    starts with the command that continues from it; constants that are new in a step lie in `NNN_name.safetensors`.
    """

    passes: tuple[ModulePass, ...]
    dump: Path | None = None
    records: list[PassRecord] = field(default_factory=list)
    after: dict[int, Callable[[], None]] = field(default_factory=dict)
    """Called once that many passes have run and the module has been verified."""

    def run(self, model: Model, context: CompilerContext) -> None:
        """Applies the passes to `model` in place.

        Raises:
            PipelineError: a pass requires another stage.
            IRError: a pass left a module that does not verify; the message names the pass.
        """
        context.store = model.store
        started = time.perf_counter()
        dumper = _Dumper(self.dump, self.passes) if self.dump else None

        def between(previous: ModulePass | None, module: ModuleOp, following: ModulePass | None) -> None:
            nonlocal started
            seconds = time.perf_counter() - started
            if isinstance(previous, QuantPass) and previous.ensures is not None:
                set_stage(module, previous.ensures)
            try:
                verify_module(module)
                reached = stage(module)
            except IRError as error:
                culprit = f"pass {previous.name} left a broken module" if previous else "the module is broken"
                raise IRError(f"{context.source}: {culprit}: {error}") from None
            name = previous.name if previous else "import"
            self.records.append(PassRecord(name, seconds, sum(1 for _ in body(module).ops)))
            if dumper:
                dumper.write(model, self.records[-1])
            if (hook := self.after.get(len(self.records) - 1)) is not None:
                hook()
            if isinstance(following, QuantPass) and reached not in following.requires:
                wanted = ", ".join(s.name.lower() for s in following.requires)
                raise PipelineError(
                    f"pass {following.name} requires a module of stage {wanted}; it is {reached.name.lower()}. "
                    f"Passes so far: {', '.join(r.name for r in self.records[1:]) or 'none'}"
                )
            if following:
                context.progress.step(following.name)
            started = time.perf_counter()

        PassPipeline(self.passes, between).apply(context, model.module)


class _Dumper:
    def __init__(self, folder: Path, passes: tuple[ModulePass, ...]) -> None:
        self.folder = folder
        self.passes = passes
        self.number = 0
        self.files: list[str] = []
        self.written: set[str] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for old in (
                *folder.glob("[0-9][0-9][0-9]_*.mlir"),
                *folder.glob("[0-9][0-9][0-9]_*.safetensors"),
            ):
                old.unlink()
        except OSError as error:
            raise QCompilerError(f"{folder}: cannot write the dumps: {error.strerror}") from None

    def write(self, model: Model, record: PassRecord) -> None:
        stem = f"{self.number:03}_{record.name}"
        fresh = set(model.store) - self.written
        header = [
            f"qcompiler {qcompiler.__version__}: after {record.name}, "
            f"{record.ops} operations, {record.seconds * 1e3:.0f} ms"
        ]
        try:
            if fresh:
                model.store.save(self.folder / f"{stem}.safetensors", fresh)
                self.files.append(f"{stem}.safetensors")
                self.written |= fresh
            header.append(constants_line(self.files))
            if rest := text_of(self.passes[self.number :]):
                header.append(f"continue: qcompiler opt {stem}.mlir -p '{rest}'")
            temporary = self.folder / f".{stem}.tmp"
            temporary.write_text(model.text(header))
            os.replace(temporary, self.folder / f"{stem}.mlir")
        except OSError as error:
            raise QCompilerError(f"{self.folder}: cannot write the dump of {record.name}: {error.strerror}") from None
        self.number += 1


def timing_table(records: Sequence[PassRecord]) -> str:
    """The records as text, one line a pass."""
    return "\n".join(f"{r.name:20}{r.seconds * 1e3:10.1f} ms{r.ops:8} ops" for r in records)


def timing_json(records: Sequence[PassRecord]) -> str:
    return json.dumps([r.__dict__ for r in records])
