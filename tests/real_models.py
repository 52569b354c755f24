"""What tests of the pretrained models share; they lie beside the repository, with data and a module that knows them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qcompiler.bundle import Bundle
from qcompiler.verify import verify

SHARED = Path(__file__).resolve().parents[2] / "shared"
NAMES = (
    "mnist",
    "resnet8",
    "resnet8_wide",
    "kws",
    "vww",
    "mobilenetv1",
    "mobilenetv2",
    "squeezenet1.1",
    "yolox_nano",
    "ultraface",
    "ultraface_simplified",
    "silero_vad",
    "minilm",
    "stories260k",
)
"""All models of the catalogue; `test_no_model_is_left_out` compares."""

CALIBRATION = 16
"""Samples that models are calibrated on."""


def exact_on(bundle: Bundle, feeds: Iterator[dict[str, np.ndarray]], samples: int) -> None:
    """All integer tensors of so many inputs equal the interpreter's."""
    result = verify(bundle, feeds)
    assert result.samples == samples
    assert result.differences == []
    assert result.tensors >= samples
    assert result.float_error < 1e-4


def real_inputs(model: Any, samples: int) -> Iterator[dict[str, np.ndarray]]:
    """So many inputs, from the other split too where calibration data are few."""
    feeds = list(model.calibration(limit=samples))
    if missing := samples - len(feeds):
        feeds += [model.feed(item) for item in model.items(SHARED, "open")[:missing]]
    return iter(feeds)
