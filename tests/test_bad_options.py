"""Options that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_input import Fails, compiling, tree

from qcompiler.cli import main


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--policy", "best"], ["best", "symmetric"]),
        (["--method", "guess"], ["guess", "entropy"]),
        (["--rounding", "up"], ["up", "fixed2"]),
        (["--target", "toaster"], ["toaster", "host"]),
        (["--target", "host:z80"], ["host:z80", "host:avx2"]),
        (["--keep-float", "no_such_node"], ["no_such_node"]),
    ],
)
def test_option(fails: Fails, more: list[str], expected: list[str]) -> None:
    message = fails(*compiling(*more))
    for words in expected:
        assert words in message


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["compile"],
        ["compile", "model.onnx"],
        compiling("--limit", "0"),
        compiling("--limit", "many"),
        compiling("--shape", "x=1x0"),
        compiling("--colour", "red"),
        ["bench", "out", "--repeats", "-1"],
    ],
)
def test_usage(here: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(here)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: qcompiler" in capsys.readouterr().err
    assert tree(here) == before
