"""Recipes: how a model is quantized as a whole and layer by layer, as a TOML file that people read, edit and replay.

version = 1
model = "yolox_nano_416.onnx"

[defaults]                # every setting of qcompiler.options that the model was compiled with
policy = "auto"
bias_correction = "analytic"

[[layer]]
match = "Conv_3"          # name of a node or input, or a pattern with * and ?
precision = "int16"
reason = "activation 'Conv_3' alone leaves 12.4 dB at the outputs"
sqnr = 12.4
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from qcompiler.calibration.ranges import parse_method
from qcompiler.errors import PipelineError

VERSION = 1
"""Of the format; a file without a version is read as the present one."""

Setting = str | bool | int | float

_CHOICES: dict[str, tuple[str, ...]] = {
    "precision": ("int8", "int16", "float16", "float32"),
    "scheme": ("auto", "symmetric", "affine"),
    "policy": ("auto", "symmetric", "affine", "mixed"),
    "weight_rounding": ("nearest", "gptq"),
    "bias_correction": ("none", "analytic", "empirical"),
}
_DEFAULTS: dict[str, tuple[type, ...]] = {
    "policy": (str,),
    "method": (str,),
    "weights": (str,),
    "weight_bits": (int,),
    "equalize": (bool,),
    "smooth": (float, int),
    "weight_rounding": (str,),
    "bias_correction": (str,),
    "assign_precision": (bool,),
    "profile": (str,),
    "rounding": (str,),
    "limit": (int,),
}
"""The settings that [defaults] may hold, with their types in TOML."""

_LAYER_TYPES: dict[str, tuple[type, ...]] = {"range": (list, tuple), "sqnr": (float, int)}
_PLAIN: dict[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    list: "an array",
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
        for item in fields(self):
            if (value := getattr(self, item.name)) is not None:
                _check(item.name, value, _LAYER_TYPES.get(item.name, (str,)), f"recipe: layer '{self.match}':")

        if self.method == "outlier":
            raise PipelineError(
                f"recipe: layer '{self.match}': method outlier needs statistics of its own; set it in [defaults]"
            )

    def matches(self, name: str) -> bool:
        """Whether this is the name, or fits the pattern: * stands for any characters, ? for one."""
        return name_matches(self.match, name)

    @property
    def is_pattern(self) -> bool:
        return "*" in self.match or "?" in self.match

    @property
    def wishes(self) -> dict[str, Any]:
        """What the rule asks for, without the reasons given."""
        keys = ("precision", "scheme", "method", "range", "weights")
        return {key: value for key in keys if (value := getattr(self, key)) is not None}


@dataclass(frozen=True)
class Recipe:
    """Rules in order; where several match a layer, what the later one asks for wins. `defaults` hold for all layers."""

    layers: tuple[LayerRule, ...] = ()
    defaults: Mapping[str, Setting] = field(default_factory=dict)
    model: str = ""
    """File name of the model that the recipe was written for."""

    def __post_init__(self) -> None:
        check_settings(self.defaults, "recipe: [defaults]")

    def wishes(self, names: Iterable[str]) -> dict[str, Any]:
        """What all rules together ask of a layer that goes by these names."""
        found: dict[str, Any] = {}
        for rule in self.layers:
            if any(rule.matches(name) for name in names):
                found |= rule.wishes
        return found

    def check_names(self, names: Iterable[str], source: str) -> None:
        """Checks that every rule matches one of the names of a model's nodes and inputs.

        Raises:
            PipelineError: it does not; the message names similar ones.
        """
        present = list(dict.fromkeys(names))
        for rule in self.layers:
            if any(rule.matches(name) for name in present):
                continue
            plain = rule.match.replace("*", "").replace("?", "")
            near = difflib.get_close_matches(plain, [name for name in present if "#" not in name], 3)
            hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "inspect lists the names of a model"
            what = "fits this pattern" if rule.is_pattern else "is called so"
            raise PipelineError(
                f"{source}: the recipe has a rule for '{rule.match}', but no node or input {what}; {hint}"
            )

    def extended(self, rules: Iterable[LayerRule]) -> Recipe:
        """This recipe with further rules, which win over those it has."""
        return replace(self, layers=(*self.layers, *rules))

    def text(self) -> str:
        """The recipe as TOML."""
        head = [f"version = {VERSION}", *([f"model = {_value_text(self.model)}"] if self.model else []), ""]
        defaults = [f"{key} = {_value_text(self.defaults[key])}" for key in _DEFAULTS if key in self.defaults]
        if defaults:
            head += ["[defaults]", *defaults, ""]
        return "\n".join([*head, *(_rule_text(rule) for rule in self.layers)])

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
        for key in content:
            _known(key, ("version", "model", "defaults", "layer"), source)
        version, layers, defaults = (
            content.get("version", VERSION),
            content.get("layer", []),
            content.get("defaults", {}),
        )
        if version != VERSION:
            raise PipelineError(f"{source}: a recipe of version {version}, expected {VERSION}; write it anew")
        if not isinstance(layers, list) or not all(isinstance(entry, dict) for entry in layers):
            raise PipelineError(f"{source}: 'layer' must be tables, each under [[layer]]")
        if not isinstance(defaults, dict) or not isinstance(content.get("model", ""), str):
            raise PipelineError(f"{source}: 'defaults' must be a table and 'model' a string")
        try:
            return Recipe(tuple(_rule(entry) for entry in layers), defaults, content.get("model", ""))
        except PipelineError as error:
            raise PipelineError(f"{source}: {str(error).removeprefix('recipe: ')}") from None

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Recipe:
        """Reads a file of `save`, or an edited one. Raises PipelineError as `parse` does."""
        try:
            return Recipe.parse(Path(path).read_text("utf-8"), str(path))
        except UnicodeDecodeError:
            raise PipelineError(f"{path}: not a TOML file: it is not text") from None


@dataclass(frozen=True)
class Difference:
    """A setting in which two recipes differ: `where` is a layer's name or pattern, or "defaults"; None: not set."""

    where: str
    key: str
    old: Any
    new: Any


def check_settings(settings: Mapping[str, Setting], where: str) -> None:
    """Checks names and values of settings that hold for a whole model.

    Raises:
        PipelineError: one cannot be; the message begins with `where`.
    """
    for key, value in settings.items():
        _known(key, _DEFAULTS, where)
        _check(key, value, _DEFAULTS[key], where)


def name_matches(pattern: str, name: str) -> bool:
    """Whether this is the name, or fits the pattern: * stands for any characters, ? for one."""
    return (
        pattern == name or re.fullmatch(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), name) is not None
    )


def diff(old: Recipe, new: Recipe) -> tuple[Difference, ...]:
    """What the second recipe asks for otherwise than the first; reasons and order do not count."""
    return tuple(_differences(old, new))


def _differences(old: Recipe, new: Recipe) -> Iterator[Difference]:
    sides = [{"defaults": dict(r.defaults)} for r in (old, new)]
    for side, recipe in zip(sides, (old, new), strict=True):
        for rule in recipe.layers:
            side[rule.match] = {**side.get(rule.match, {}), **rule.wishes}
    for where in dict.fromkeys([*sides[0], *sides[1]]):
        a, b = (side.get(where, {}) for side in sides)
        for key in dict.fromkeys([*a, *b]):
            if a.get(key) != b.get(key):
                yield Difference(where, key, a.get(key), b.get(key))


def _rule(entry: Mapping[str, Any]) -> LayerRule:
    for key in entry:
        _known(key, [item.name for item in fields(LayerRule)], "recipe: [[layer]]")
    if "match" not in entry:
        raise PipelineError("recipe: a [[layer]] has no match, the name or pattern of layers it speaks of")
    limits = entry.get("range")
    return LayerRule(**{**entry, **({"range": tuple(limits)} if isinstance(limits, list) else {})})


def _known(key: str, known: Iterable[str], where: str) -> None:
    known = list(known)
    if key not in known:
        near = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean '{near[0]}'? Known" if near else "known"
        raise PipelineError(f"{where}: unknown key '{key}'; {hint}: {', '.join(known)}")


def _check(key: str, value: Any, types: tuple[type, ...], where: str) -> None:
    """Checks one value of a rule or of [defaults]; `where` begins the message."""
    if not _has_type(value, types):
        raise PipelineError(f"{where} {key} is {_value_text(value)}, expected {_PLAIN[types[0]]}")
    choices = _CHOICES.get(key)
    if choices is not None and value not in choices:
        near = difflib.get_close_matches(value, choices, 1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise PipelineError(f"{where} {key} is '{value}', expected one of {', '.join(choices)}{hint}")
    problem = None
    if key == "method":
        try:
            parse_method(value)
        except ValueError as error:
            problem = str(error)
    elif key == "weights" and not re.fullmatch(r"per-tensor|per-channel|per-group:[1-9]\d*", value):
        problem = f"weights is '{value}', expected per-tensor, per-channel or per-group:N"
    elif key == "range" and not (len(value) == 2 and all(map(_is_number, value)) and value[0] < value[1]):
        problem = f"range is {_value_text(value)}, expected [low, high] with low < high"
    elif key == "smooth" and not 0 <= value <= 1:
        problem = f"smooth is {value}, expected a number from 0 to 1"
    elif key == "weight_bits" and value not in (4, 8):
        problem = f"weight_bits is {value}, expected 8 or 4"
    elif key == "limit" and value < 1:
        problem = f"limit is {value}, expected at least 1"
    if problem is not None:
        raise PipelineError(f"{where} {problem}")


def _has_type(value: object, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _rule_text(rule: LayerRule) -> str:
    values = {item.name: getattr(rule, item.name) for item in fields(rule)}
    lines = [f"{key} = {_value_text(value)}" for key, value in values.items() if value is not None]
    return "\n".join(["[[layer]]", *lines, ""])


def _value_text(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_value_text, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
