"""The options of quantization, which Python, command line, sensitivity, search and recipes share."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from qcompiler.errors import PipelineError
from qcompiler.recipe import LayerRule, Recipe, Setting, check_settings

_PER_GROUP = "per-group:"


@dataclass(frozen=True)
class QuantizeOptions:
    """How a float model is quantized. `of` fills it from keyword arguments and a recipe's [defaults]."""

    policy: str = "auto"
    """auto, symmetric, affine or mixed."""
    method: str = "mse"
    """How ranges are taken from calibration: minmax, moving-average, percentile, entropy, mse, outlier."""
    per_channel: bool = True
    """One scale for each output channel of a weight, instead of one."""
    keep_float: Sequence[str] = ()
    """Names of nodes that stay float: short for rules of a recipe with precision float32."""
    limit: int | None = None
    """Number of calibration samples to use at most."""
    rounding: str | None = None
    """fp32, fixed or fixed2, in place of the target's own form."""
    profile: str | None = None
    """A runtime whose limits the types must keep, so that it can read an export: onnxruntime, tensorrt..."""
    weight_group: int = 0
    """Rows of a matrix product's constant that share a scale in each column; 0: all of a column."""
    weight_bits: int = 8
    """Bits of weights in groups, 8 or 4."""
    equalize: bool = False
    """Cross-layer equalization of weights."""
    smooth: float | None = None
    """Migration of outliers into weights in front of matrix products, with this exponent; None: none."""
    weight_rounding: str = "gptq"
    """nearest, or gptq: by second order, on the calibration data."""
    bias_correction: str = "analytic"
    """none, analytic, or empirical: analytic, then layer by layer on calibration samples."""
    assign_precision: bool = True
    """Whether tensors that 8 bits would spoil, as measured, get 16 bits or float without being asked for."""
    calibration_cache: str | os.PathLike[str] | None = None
    """A file for the statistics, used while model and data are the same, else made anew."""
    recipe: Recipe | None = None
    """Rules for single layers."""
    min_sqnr: float | None = None
    """Search for the recipe that reaches this SQNR in dB at the outputs."""
    accuracy_drop: float | None = None
    """Search for the recipe that loses no more than this share of accuracy, 0.005 for half a point."""

    def __post_init__(self) -> None:
        check_settings(self.settings, "option")
        if self.min_sqnr is not None and self.accuracy_drop is not None:
            raise PipelineError("min_sqnr and accuracy_drop are two goals of a search; give one")

    @staticmethod
    def of(**given: Any) -> QuantizeOptions:
        """Options from keyword arguments, then the recipe's [defaults], then those of this class. None is not given.

        `recipe` may be the path of a file.

        Raises:
            PipelineError: an unknown option, or a value that an option or the recipe cannot have.
        """
        known = [item.name for item in fields(QuantizeOptions)]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, 1)
                hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
                raise PipelineError(f"unknown option '{name}'; {hint}")
        given = {name: value for name, value in given.items() if value is not None}
        recipe = given.get("recipe")
        if isinstance(recipe, str | os.PathLike):
            recipe = given["recipe"] = Recipe.load(recipe)
        settings = dict(recipe.defaults) if recipe is not None else {}
        weights = settings.pop("weights", None)
        if isinstance(weights, str):
            settings["per_channel"] = weights != "per-tensor"
            settings["weight_group"] = int(weights.removeprefix(_PER_GROUP)) if weights.startswith(_PER_GROUP) else 0
        return QuantizeOptions(**{**settings, **given})

    @property
    def settings(self) -> dict[str, Setting]:
        """What [defaults] of a recipe says of these options."""
        weights = f"{_PER_GROUP}{self.weight_group}" if self.weight_group else None
        values = {
            "policy": self.policy,
            "method": self.method,
            "weights": weights or ("per-channel" if self.per_channel else "per-tensor"),
            "weight_bits": self.weight_bits,
            "equalize": self.equalize,
            "smooth": self.smooth,
            "weight_rounding": self.weight_rounding,
            "bias_correction": self.bias_correction,
            "assign_precision": self.assign_precision,
            "profile": self.profile,
            "rounding": self.rounding,
            "limit": self.limit,
        }
        return {key: value for key, value in values.items() if value is not None}

    @property
    def searches(self) -> bool:
        return self.min_sqnr is not None or self.accuracy_drop is not None

    def in_effect(self, source: str) -> Recipe:
        """The recipe that stands for all of these options, of a model read from `source`."""
        recipe = self.recipe or Recipe()
        kept = (LayerRule(name, precision="float32", reason="kept in float by option") for name in self.keep_float)
        return replace(recipe.extended(kept), defaults=self.settings, model=Path(source).name)

    def with_recipe(self, recipe: Recipe) -> QuantizeOptions:
        """The same with the rules of a recipe in place of those it has, and without a goal to search for."""
        return replace(self, recipe=recipe, keep_float=(), min_sqnr=None, accuracy_drop=None)
