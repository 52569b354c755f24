"""One rounding form for all targets: then one model gives the same bytes on each of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from emulated import missing_tools

import qcompiler

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits"
TARGETS = ("host:portable", "arm-cpu", "hexagon", "mali")
SAMPLES = 2


def logits(target: str, rounding: str, folder: Path) -> bytes:
    """The outputs of the digit classifier, compiled for a target, on the same images."""
    options = {"limit": 8, "target": target, "rounding": rounding}
    bundle = qcompiler.compile(
        DIGITS / "digits.onnx", calibration=DIGITS / "calibration.npz", output=folder / target, **options
    )
    if not target.startswith("host"):
        bundle = qcompiler.load_bundle(folder / target, emulate=True)
    images = np.random.default_rng(0).random((SAMPLES, 1, 1, 8, 8), np.float32)
    return b"".join(bundle.run({"image": image})["logits"].tobytes() for image in images)


@pytest.mark.slow
@pytest.mark.parametrize("rounding", ["fp32", "fixed", "fixed2"])
def test_one_rounding_form_gives_the_same_bytes_everywhere(rounding: str, tmp_path: Path) -> None:
    present = [target for target in TARGETS if not missing_tools(target)]
    if len(present) < 2:
        pytest.skip(missing_tools(TARGETS[1]))
    found = {target: logits(target, rounding, tmp_path) for target in present}
    assert len(set(found.values())) == 1, {target: data[:16].hex() for target, data in found.items()}
