"""Real models compile for Hexagon, and under the emulator every integer of every step is the interpreter's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from emulated import missing_tools
from real_models import CALIBRATION, NAMES, exact_on, real_inputs

import qcompiler
from qcompiler.api import Quantized
from qcompiler.bundle import load_emulated

SMALL = ("mnist", "resnet8", "resnet8_wide", "kws", "vww", "silero_vad")
TARGETS = ("hexagon", "hexagon:v68", "hexagon:v73")
"""v66, and the integer code of later versions, which the emulator of v67 runs."""

pytestmark = [
    pytest.mark.models,
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_tools("hexagon")), reason=missing_tools("hexagon") or "-"),
]


@pytest.fixture(scope="module", params=NAMES)
def quantized(request: pytest.FixtureRequest, catalogue: Any) -> tuple[str, Any, Quantized]:
    """Name, catalogue entry and integer program, which is the same for all versions."""
    model = catalogue.MODELS[request.param]
    imported = qcompiler.import_onnx(model.path())
    return request.param, model, qcompiler.quantize(imported, model.calibration(limit=CALIBRATION), target="hexagon")


@pytest.mark.parametrize("target", TARGETS)
def test_real_model_is_exact(quantized: tuple[str, Any, Quantized], target: str, tmp_path: Path) -> None:
    name, model, program = quantized
    qcompiler.compile(replace(program, target=target), output=tmp_path / "out", target=target)
    bundle = load_emulated(tmp_path / "out")
    assert bundle.manifest.arena_bytes <= 1.2 * bundle.manifest.arena_lower_bound
    samples = 8 if name in SMALL else 2
    exact_on(bundle, real_inputs(model, samples), samples)
