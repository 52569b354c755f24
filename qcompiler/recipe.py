"""Recipes: which layers are stored how, as a TOML file that people read, edit, diff and replay.

[[layer]]
match = "Conv_3"          # name of a node or input, or a pattern with * and ?
precision = "int16"
reason = "activation 'Conv_3' alone leaves 12.4 dB at the outputs"
sqnr = 12.4
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from qcompiler.errors import PipelineError

_CHOICES = {
    "precision": ("int8", "int16", "float16", "float32"),
    "scheme": ("auto", "symmetric", "affine"),
}


@dataclass(frozen=True)
class LayerRule:
    """What a recipe says of the layers whose name it matches; None leaves a question to the compiler."""

    match: str
    precision: str | None = None
    """int8, int16, float16 or float32."""
    scheme: str | None = None
    """auto, symmetric or affine."""
    method: str | None = None
    """How the range is taken from calibration, as the methods of calibrate."""
    range: tuple[float, float] | None = None
    weights: str | None = None
    """per-tensor, per-channel or per-group:N."""
    reason: str | None = None
    sqnr: float | None = None
    """SQNR in dB of the outputs that gave the reason."""

    def __post_init__(self) -> None:
        for key, choices in _CHOICES.items():
            if (value := getattr(self, key)) is not None and value not in choices:
                raise PipelineError(
                    f"recipe: layer '{self.match}': {key} is '{value}', expected one of {', '.join(choices)}"
                )


@dataclass(frozen=True)
class Recipe:
    """Rules in order; where several match a layer, the later one wins."""

    layers: tuple[LayerRule, ...] = ()

    def text(self) -> str:
        """The recipe as TOML."""
        return "\n".join(_rule_text(rule) for rule in self.layers)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file whole or not at all."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(self.text(), "utf-8")
        os.replace(temporary, path)

    @staticmethod
    def parse(text: str, source: str = "recipe") -> Recipe:
        """Reads TOML.

        Raises:
            PipelineError: it does not parse, or has keys or values a recipe has not.
        """
        try:
            content = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise PipelineError(f"{source}: not a TOML file: {error}") from None
        if unknown := content.keys() - {"layer"}:
            raise PipelineError(f"{source}: unknown table '{min(unknown)}'; a recipe has tables [[layer]]")
        return Recipe(tuple(_rule(entry, source) for entry in content.get("layer", [])))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Recipe:
        """Reads a file of `save`, or an edited one. Raises PipelineError as `parse` does."""
        return Recipe.parse(Path(path).read_text("utf-8"), str(path))


def _rule(entry: Mapping[str, Any], source: str) -> LayerRule:
    known = [field.name for field in fields(LayerRule)]
    if unknown := entry.keys() - set(known):
        raise PipelineError(f"{source}: unknown key '{min(unknown)}' in [[layer]]; known: {', '.join(known)}")
    if "match" not in entry:
        raise PipelineError(f"{source}: a [[layer]] has no match, the name or pattern of layers it speaks of")
    limits = entry.get("range")
    return LayerRule(**{**entry, **({} if limits is None else {"range": (float(limits[0]), float(limits[1]))})})


def _rule_text(rule: LayerRule) -> str:
    values = {field.name: getattr(rule, field.name) for field in fields(rule)}
    lines = [f"{key} = {_value_text(value)}" for key, value in values.items() if value is not None]
    return "\n".join(["[[layer]]", *lines, ""])


def _value_text(value: object) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_value_text, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
