"""Bad pipelines, bad text of the IR, damaged constants."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_input import Fails

import qcompiler
from qcompiler.errors import QCompilerError

PIPELINES: dict[str, list[str]] = {
    "simplify": ["unknown pass 'simplify'", "canonicalize"],
    "canonicalize,,cse": ["does not parse"],
    "canonicalize cse": ["does not parse"],
    "calibrate{method=": ["does not parse"],
    "calibrate{method=magic}": ["magic", "entropy"],
    "calibrate{speed=3}": ["calibrate", "speed"],
    "calibrate{limit=many}": ["calibrate", "many"],
    "integerize": ["integerize", "requires", "qdq", "float"],
    "choose-scheme": ["choose-scheme", "requires", "calibrated"],
    "legalize{storage=u4}": ["legalize"],
}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_pipeline(fails: Fails, pipeline: str) -> None:
    message = fails("opt", "model.onnx", "-p", pipeline, "--calibration", "data.npz", "-o", "new.mlir")
    for words in PIPELINES[pipeline]:
        assert words in message


@pytest.mark.parametrize("case", ["legalize{storage=u4}", "legalize{rounding=up}", "legalize{target=x}"])
def test_pipeline_on_integers(here_bundle: Path, fails: Fails, case: str) -> None:
    (dump,) = (here_bundle / "out" / "ir").glob("*_integerize.mlir")
    message = fails("opt", str(dump), "-p", case)
    assert "legalize" in message


def _module(lines: str) -> str:
    return "builtin.module {\n  func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {\n" + lines + "\n  }\n}\n"


_RETURN = "    func.return %x : tensor<4xf32>"

TEXTS: dict[str, tuple[str, list[str]]] = {
    "empty": ("", ["bad.mlir"]),
    "prose": ("once upon a time\n", ["bad.mlir:1:"]),
    "open end": ("builtin.module {\n", ["bad.mlir:", "unexpected end"]),
    "unknown value": (_module("    func.return %z : tensor<4xf32>"), ["bad.mlir:3:17:", "z"]),
    "unknown op": (
        _module('    %0 = "q.teleport"(%x) : (tensor<4xf32>) -> tensor<4xf32>\n' + _RETURN),
        ["bad.mlir:3:", "teleport"],
    ),
    "unknown type": (
        _module('    %0 = "q.quantize"(%x) : (tensor<4xf32>) -> tensor<4x!quant.nine>\n' + _RETURN),
        ["bad.mlir:3:"],
    ),
    "bad scale": (
        _module('    %0 = "q.quantize"(%x) : (tensor<4xf32>) -> tensor<4x!quant.uniform<u8:f32, -1.0>>\n' + _RETURN),
        ["bad.mlir:3:", "positive scale"],
    ),
    "bad zero point": (
        _module('    %0 = "q.quantize"(%x) : (tensor<4xf32>) -> tensor<4x!quant.uniform<u8:f32, 1.0:300>>\n' + _RETURN),
        ["bad.mlir:3:", "0:255", "300"],
    ),
    "does not verify": (
        _module('    %0 = "q.quantize"(%x) : (tensor<4xf32>) -> tensor<5x!quant.uniform<u8:f32, 1.0>>\n' + _RETURN),
        ["bad.mlir", "q.quantize"],
    ),
    "types differ": (_module("    func.return %x : tensor<5xf32>"), ["bad.mlir:3:"]),
    "no function": ("builtin.module {\n}\n", ["bad.mlir", "function"]),
    "no constants": (
        _module(
            '    %0 = "q.constant"() {value = dense_resource<w> : tensor<4xf32>} : () -> tensor<4xf32>\n' + _RETURN
        ),
        ["bad.mlir", "'w'"],
    ),
    "constant file missing": ("// constants: gone.safetensors\n" + _module(_RETURN), ["gone.safetensors"]),
    "wrong stage": (
        _module(_RETURN).replace("module {", 'module attributes {q.stage = "perfect"} {', 1),
        ["perfect"],
    ),
    "not text": ("\x00\udcff\udcfe", ["bad.mlir"]),
}


@pytest.mark.parametrize("case", TEXTS)
def test_text(case: str, here: Path, fails: Fails) -> None:
    text, expected = TEXTS[case]
    Path("bad.mlir").write_bytes(text.encode(errors="surrogateescape"))
    for arguments in (["opt", "bad.mlir"], ["opt", "bad.mlir", "-o", "new.mlir"], ["inspect", "bad.mlir"]):
        message = fails(*arguments)
        for words in expected:
            assert words in message


def test_damaged_text(here_bundle: Path) -> None:
    """Any line of a dump left out, or cut off, parses or fails with a message that names the file."""
    for name in ("import", "insert-qdq", "dce"):
        (path,) = (here_bundle / "out" / "ir").glob(f"*_{name}.mlir")
        lines = path.read_text().splitlines(keepends=True)
        for number in range(2, len(lines)):
            for kept in ("", lines[number][: len(lines[number]) // 2] + "\n"):
                path.write_text("".join([*lines[:number], kept, *lines[number + 1 :]]))
                try:
                    qcompiler.model.Model.load(path)
                except QCompilerError as error:
                    assert str(path) in str(error)


def test_damaged_constants(here_bundle: Path, fails: Fails) -> None:
    with open("out/ir/000_import.safetensors", "r+b") as file:
        file.truncate(50)
    assert "000_import.safetensors" in fails("opt", "out/ir/000_import.mlir", "-p", "canonicalize")
