"""Recipe files: written, read back, and refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcompiler.errors import PipelineError
from qcompiler.recipe import LayerRule, Recipe

FULL = LayerRule(
    match="stem/*",
    precision="int16",
    scheme="symmetric",
    method="mse",
    range=(-1.5, 2.0),
    weights="per-group:32",
    reason='alone leaves 3.1 dB, "stem"',
    sqnr=3.1,
)


def test_written_and_read_back(tmp_path: Path) -> None:
    recipe = Recipe((FULL, LayerRule("conv1", precision="float32")))
    recipe.save(tmp_path / "r.toml")
    assert Recipe.load(tmp_path / "r.toml") == recipe
    assert [path.name for path in tmp_path.iterdir()] == ["r.toml"]
    assert Recipe.parse("") == Recipe()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[layer]", "my.toml: not a TOML file"),
        ("[[layers]]", "unknown key 'layers'; did you mean 'layer'"),
        ('[[layer]]\nmatch = "a"\nbits = 8', "[[]{2}layer\\]\\]: unknown key 'bits'; known: match, precision"),
        ('[[layer]]\nprecision = "int8"', "has no match"),
        ('[[layer]]\nmatch = "a"\nprecision = "int4"', "layer 'a': precision is 'int4', expected one of int8, int16"),
        ('[[layer]]\nmatch = "a"\nscheme = "best"', "scheme is 'best'"),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        Recipe.parse(text, "my.toml")
