"""Text tests of passes and of the verifier: each file is run as its first lines say, and its output is checked.

    // RUN: qcompiler opt %s -p 'canonicalize'
    // CONSTANT: pads = 0 0 1 1 0 0 1 1

`filecheck/PASS.mlir` and `filecheck/PASS.*.mlir` are those of a pass, `filecheck/invalid/*.mlir` have modules that do
not verify, one file for each rule. Arrays that no CONSTANT line gives are random numbers, the same for the same text;
so are the inputs that calibrate sees. Parts separated by `// -----` are modules of their own. An error is printed as
`error: ...` in the module's place.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import shlex
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from filecheck.finput import FInput
from filecheck.matcher import Matcher
from filecheck.options import Options
from filecheck.parser import Parser, pattern_for_opts
from ir_text import invented
from xdsl.dialects.builtin import ModuleOp
from xdsl.utils.exceptions import ParseError, VerifyException

import qcompiler.ir
from qcompiler.errors import IRError, QCompilerError
from qcompiler.ir.q_dialect import Q_OPS
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.rewriting import verify_module
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.text import parse_module
from qcompiler.ir.values import body, dtype_of, input_names, shape
from qcompiler.model import Model
from qcompiler.pipeline import CompilerContext, PassManager, parse, registry
from qcompiler.targets.spec import TargetSpec, resolve_target

FOLDER = Path(__file__).parent / "filecheck"
FILES = sorted(FOLDER.glob("*.mlir"))
INVALID = sorted((FOLDER / "invalid").glob("*.mlir"))
IR = Path(qcompiler.ir.__file__).parent
RULES = ("q_*.py", "onnx_dialect.py", "quant_types.py", "rewriting.py")
"""The modules of `qcompiler.ir` that refuse modules."""
OUTSIDE_Q = ("onnx_dialect.py", "rewriting.py")
"""Those that raise errors of their own; the types' errors of this kind come from Python, not from text."""


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


@pytest.mark.parametrize("path", [*FILES, *INVALID], ids=lambda path: path.stem)
def test_file(path: Path) -> None:
    text = path.read_text()
    commands = re.findall(r"^// RUN: qcompiler opt %s (.*)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        options = argparse.ArgumentParser()
        options.add_argument("-p", default="")
        options.add_argument("--target")
        options.add_argument("--verify-only", action="store_true")
        given = options.parse_args(shlex.split(command))
        spec = resolve_target(given.target) if given.target else None
        outputs = [_run(part, path.name, given.p, spec) for part in text.split("// -----\n")]
        assert not given.verify_only or all(output.startswith("error: ") for output in outputs)
        _check(path, "// -----\n".join(outputs))


def _check(path: Path, output: str) -> None:
    options = Options(match_filename=str(path))
    with path.open() as file:
        parser = Parser(options, file, *pattern_for_opts(options))
        matcher = Matcher(options, FInput(str(path), output), parser)
        matcher.stderr = io.StringIO()
        assert matcher.run() == 0, f"{matcher.stderr.getvalue()}\n{output}"


def test_every_pass_has_two_files() -> None:
    counts = Counter(path.name.partition(".")[0] for path in FILES)
    assert {name: count for name, count in counts.items() if count < 2} == {}
    assert counts.keys() >= registry().keys()


def test_every_rule_of_the_verifier_has_a_file() -> None:
    """The place in the source where each module is refused; every such place is met, and every operation refused."""
    met, messages = set(), ""
    for path in INVALID:
        for part in path.read_text().split("// -----\n"):
            with pytest.raises(IRError) as caught:
                verify_module(parse_module(part, path.name))
            met.add(_place(caught.value))
            messages += f"{caught.value}\n"
    assert _places() - met == set()
    assert {op.name for op in Q_OPS} <= set(re.findall(r"(q\.\w+) does not verify", messages))


def _place(error: BaseException) -> tuple[str, int] | None:
    """File and line in `qcompiler.ir` of the rule that was broken, None if it is one of xDSL's."""
    while error.__context__ is not None:
        error = error.__context__
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.name != "fail" and f.lineno]
        own = [f for f in frames if Path(f.filename).parent == IR]
        if isinstance(error, VerifyException | ParseError) and own:
            return Path(own[-1].filename).name, own[-1].lineno or 0
    return None


def _places() -> set[tuple[str, int]]:
    """File and line of every rule that text can break."""
    found = set()
    for path in (file for pattern in RULES for file in IR.glob(pattern)):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Attribute(attr="fail" | "raise_error")):
                    found.add((path.name, node.lineno))
                case ast.Raise(exc=ast.Call(func=ast.Name(id="VerifyException"))) if path.name in OUTSIDE_Q:
                    found.add((path.name, node.lineno))
    return found
