"""DenseNet-121 keeps its accuracy with the defaults: its long chains of concatenations share one scale."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import qcompiler

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.mark.slow
def test_integers_stay_within_20_db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    from models import Images, model_path

    path = model_path("densenet121", tmp_path)
    model = qcompiler.import_onnx(path)
    program = qcompiler.quantize(model, Images(path, 16))
    feed = next(iter(Images(path, 1, seed=7)))
    wanted, found = qcompiler.interpret(model, feed), qcompiler.interpret(program, feed)
    for name, exact in wanted.items():
        noise = np.square(found[name] - exact).sum() / np.square(exact).sum()
        assert -10 * np.log10(noise) >= 20
