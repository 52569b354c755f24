"""Altered bundles, feeds that do not fit, references to another model."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from bad_input import Fails, samples, write
from small_graphs import Graph

import qcompiler
from qcompiler.errors import QCompilerError


def _alter(name: str) -> Callable[[], None]:
    def change() -> None:
        content = bytearray(Path("out", name).read_bytes())
        content[len(content) // 2] ^= 1
        write(f"out/{name}", bytes(content))

    return change


def _manifest(change: Callable[[dict], object]) -> Callable[[], None]:
    def apply() -> None:
        content = json.loads(Path("out/manifest.json").read_text())
        change(content)
        Path("out/manifest.json").write_text(json.dumps(content))

    return apply


BUNDLES: dict[str, tuple[Callable[[], object], list[str]]] = {
    "missing": (lambda: shutil.rmtree("out"), ["out", "not a bundle"]),
    "a file": (lambda: (shutil.rmtree("out"), write("out", b"")), ["out", "not a bundle"]),
    "no manifest": (lambda: os.unlink("out/manifest.json"), ["manifest.json"]),
    "weights altered": (_alter("weights.bin"), ["weights.bin", "SHA-256"]),
    "library altered": (_alter("libmodel.so"), ["libmodel.so", "SHA-256"]),
    "dump altered": (_alter("ir/000_import.mlir"), ["000_import.mlir", "SHA-256"]),
    "weights missing": (lambda: os.unlink("out/weights.bin"), ["weights.bin"]),
    "manifest is no JSON": (lambda: write("out/manifest.json", b"{"), ["manifest.json"]),
    "manifest is a list": (lambda: write("out/manifest.json", b"[]"), ["manifest.json"]),
    "manifest is not text": (lambda: write("out/manifest.json", b"\xff\xfe\x00"), ["manifest.json"]),
    "format of the future": (_manifest(lambda m: m.update(format=99)), ["manifest.json", "99"]),
    "field missing": (_manifest(lambda m: m.pop("prefix")), ["manifest.json", "prefix"]),
    "hash missing": (_manifest(lambda m: m["files"].pop("weights.bin")), ["weights.bin"]),
    "file outside": (_manifest(lambda m: m["files"].update({"../data.npz": "0"})), ["data.npz"]),
    "features of another machine": (_manifest(lambda m: m.update(cpu_flags=["antigravity"])), ["antigravity"]),
}


@pytest.mark.parametrize("case", BUNDLES)
def test_bundle(case: str, here_bundle: Path, fails: Fails) -> None:
    make, expected = BUNDLES[case]
    make()
    commands = [["run", "out", "--input", "data.npz", "--output", "y.npz"], ["bench", "out"]]
    if case != "features of another machine":
        commands.append(["compare", "out", "--reference", "model.onnx", "--data", "data.npz"])
    for arguments in commands:
        message = fails(*arguments)
        for words in expected:
            assert words in message


def test_input_of_run_in_python(good: Path) -> None:
    bundle = qcompiler.load_bundle(good / "out")
    quantized = qcompiler.quantize(qcompiler.import_onnx(good / "model.onnx"), good / "data.npz")
    x = samples(1)
    cases: list[tuple[Mapping[str, np.ndarray], str]] = [
        ({}, "x"),
        ({"y": x}, "x"),
        ({"x": x[0]}, "expected"),
        ({"x": x.astype(np.float64)}, "float64"),
        ({"x": x.astype(np.uint8)}, "uint8"),
        ({"x": np.array("text")}, "expected"),
    ]
    for feeds, expected in cases:
        with pytest.raises(QCompilerError, match=expected):
            bundle.run(feeds)
        if "float64" not in expected and "uint8" not in expected:
            with pytest.raises(QCompilerError, match="x"):
                qcompiler.interpret(quantized, feeds)


def test_reference_of_another_model(here_bundle: Path, fails: Fails) -> None:
    g = Graph(z=(1, 3, 8, 8))
    onnx.save(g.proto(g("Relu", "z")), "other.onnx")
    assert "other.onnx" in fails("compare", "out", "--reference", "other.onnx", "--data", "data.npz")
    assert "other.onnx" in fails("bench", "out", "--reference", "other.onnx")
    write("other.onnx", b"noise")
    assert "other.onnx" in fails("compare", "out", "--reference", "other.onnx", "--data", "data.npz")
    assert "other.onnx" in fails("bench", "out", "--reference", "other.onnx")
