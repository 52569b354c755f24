"""The options of quantization on the command line, as compile, sensitivity and export take them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

_NAMES = (
    "recipe",
    "policy",
    "method",
    "limit",
    "calibration_cache",
    "equalize",
    "smooth",
    "weight_rounding",
    "bias_correction",
    "assign_precision",
    "weight_group",
    "weight_bits",
    "profile",
    "rounding",
)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got '{text}'")
    return int(text)


def _decibel(text: str) -> float:
    return _number(text.lower().removesuffix("db"), text, "a number of dB such as 20dB")


def _share(text: str) -> float:
    percent = text.endswith("%")
    number = _number(text.removesuffix("%"), text, "a share such as 0.5% or 0.005")
    return number / 100 if percent else number


def _number(text: str, given: str, expected: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if number - number != 0:
        raise argparse.ArgumentTypeError(f"expected {expected}, got '{given}'")
    return number


def add_quantization(parser: argparse.ArgumentParser) -> None:
    """Options that are fields of QuantizeOptions; what is not given stands at None."""
    add = parser.add_argument
    add("--recipe", type=Path, metavar="FILE", help="rules for layers and settings; options given besides win")
    add("--policy", help="symmetric or affine types: auto (default: by expected error), symmetric, affine, mixed")
    add(
        "--method",
        help="how ranges are taken from the calibration: minmax (default), auto, moving-average, percentile[:99.99], "
        "entropy, mse, outlier",
    )
    add("--limit", type=positive, metavar="N", help="use at most N calibration samples")
    add("--calibration-cache", type=Path, metavar="FILE", help="keep the statistics here for next time")
    add("--keep-float", action="append", default=[], metavar="NODE", help="leave this node float (may be repeated)")
    add("--per-tensor", action="store_true", help="one scale a weight instead of one a channel")
    add("--weight-group", type=positive, metavar="N", help="one scale for N rows of a matrix product's weight")
    add("--weight-bits", type=positive, metavar="8|4", help="bits of weights in groups (default: 8)")
    add("--equalize", action=argparse.BooleanOptionalAction, help="even out weight ranges from layer to layer")
    add(
        "--smooth",
        type=float,
        nargs="?",
        const=0.5,
        metavar="ALPHA",
        help="move outliers in front of matrix products into their weights (default ALPHA: 0.5)",
    )
    add("--weight-rounding", metavar="nearest|gptq", help="how weights are rounded (default: gptq)")
    add("--bias-correction", metavar="none|analytic|empirical", help="default: analytic")
    add(
        "--assign-precision",
        action=argparse.BooleanOptionalAction,
        help="give 16 bits or float to what 8 bits would spoil, as measured (default)",
    )
    add("--profile", help="keep to what a runtime takes: onnxruntime, tensorrt, qnn, coreml, xnnpack")
    add("--rounding", help="form of requantization: fp32, fixed, fixed2 (default: the target's)")


def add_search(parser: argparse.ArgumentParser) -> None:
    """Options that search for a recipe, and the file for it."""
    goal = parser.add_mutually_exclusive_group()
    goal.add_argument(
        "--min-sqnr",
        type=_decibel,
        metavar="20dB",
        help="search the fewest layers in 16 bits or float that reach this SQNR at the outputs",
    )
    goal.add_argument(
        "--accuracy-drop",
        type=_share,
        metavar="0.5%",
        help="search the fewest layers in 16 bits or float that lose no more than this of the accuracy",
    )
    parser.add_argument(
        "--write-recipe",
        type=Path,
        metavar="FILE",
        help="write the recipe in effect here too; a search writes each improvement",
    )


def quantization(options: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments for QuantizeOptions.of, of a parser with `add_quantization`."""
    found = {name: getattr(options, name) for name in _NAMES}
    found["keep_float"] = tuple(options.keep_float) or None
    found["per_channel"] = False if options.per_tensor else None
    return found
