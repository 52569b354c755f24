"""Text tests of passes: each `tests/filecheck/*.mlir` is run as its first lines say, and its output is checked.

    // RUN: qcompiler opt %s -p 'canonicalize'
    // CONSTANT: pads = 0 0 1 1 0 0 1 1

Arrays that no CONSTANT line gives are random numbers, the same for the same text; so are the inputs that calibrate
sees. Parts separated by `// -----` are modules of their own. An error is printed as `error: ...` in the module's place.
"""

from __future__ import annotations

import io
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import Options
from filecheck.parser import Parser, pattern_for_opts
from ir_text import invented
from xdsl.dialects.builtin import ModuleOp

from qcompiler.errors import QCompilerError
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.text import parse_module
from qcompiler.ir.values import body, dtype_of, input_names, shape
from qcompiler.model import Model
from qcompiler.pipeline import CompilerContext, PassManager, parse, registry
from qcompiler.targets.spec import TargetSpec, resolve_target

FILES = sorted((Path(__file__).parent / "filecheck").glob("*.mlir"))


def _store(module: ModuleOp, text: str) -> ConstantStore:
    arrays = dict(invented(module))
    given = dict(re.findall(r"^// CONSTANT: (\S+) = (.*)$", text, re.MULTILINE))
    for op in module.walk():
        if isinstance(op, ConstantOp) and op.resource in given:
            numbers = [float(number) for number in given[op.resource].split()]
            arrays[op.resource] = np.array(numbers, dtype_of(op.y)).reshape(shape(op.y))
    return ConstantStore(arrays)


def _run(text: str, source: str, pipeline: str, target: TargetSpec | None) -> str:
    try:
        module = parse_module(text, source)
        model = Model(module, _store(module, text), source)
        rng = np.random.default_rng(0)
        feeds = [
            {
                n: rng.normal(0, 1, shape(a)).astype(np.float32)
                for n, a in zip(input_names(module), body(module).args, strict=True)
            }
            for _ in range(4)
        ]
        context = CompilerContext(model.store, calibration=feeds, target=target, source=source)
        PassManager(parse(pipeline)).run(model, context)
    except QCompilerError as error:
        return f"error: {error}\n"
    notes = "".join(f"// note: {note}\n" for note in context.notes)
    return notes + model.text()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file(path: Path) -> None:
    text = path.read_text()
    commands = re.findall(r"^// RUN: qcompiler opt %s (.*)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        *target, option, pipeline = shlex.split(command)
        assert option == "-p" and target[:-1] in ([], ["--target"])
        spec = resolve_target(target[-1]) if target else None
        output = "// -----\n".join(_run(part, path.name, pipeline, spec) for part in text.split("// -----\n"))
        options = Options(match_filename=str(path))
        with path.open() as file:
            parser = Parser(options, file, *pattern_for_opts(options))
            matcher = Matcher(options, FInput(str(path), output), parser)
            matcher.stderr = io.StringIO()
            assert matcher.run() == 0, f"{matcher.stderr.getvalue()}\n{output}"


def test_every_pass_has_a_file() -> None:
    assert {path.stem for path in FILES} >= registry().keys()
