"""The real models: text, passes and interpreter; each is quantized with random calibration data."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from small_graphs import Feeds, assert_equal, outputs, passed

from qcompiler import import_onnx
from qcompiler.ir.rewriting import verify_module
from qcompiler.ir.text import parse_module, print_module
from qcompiler.ir.values import body, dtype_of, shape
from qcompiler.model import Model

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "models"
FILES = sorted(FOLDER.glob("*.onnx"))
SIZES = {"silero_vad_16k": {"input": (1, 576), "state": (2, 1, 128)}}
MLIR_OPT = shutil.which("mlir-opt") or shutil.which("mlir-opt-16")

pytestmark = [
    pytest.mark.models,
    pytest.mark.skipif(not FILES, reason="the pretrained models are not beside the repository"),
]


def feeds_of(model: Model, count: int) -> list[Feeds]:
    rng = np.random.default_rng(0)

    def value(extents: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        return rng.normal(0, 1, extents).astype(dtype) if dtype.kind == "f" else np.ones(extents, dtype)

    arguments = list(zip(model.inputs, body(model.module).args, strict=True))
    return [{name: value(shape(a), dtype_of(a)) for name, a in arguments} for _ in range(count)]


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_passes_and_text(path: Path) -> None:
    model = import_onnx(path, SIZES.get(path.stem))
    feeds = feeds_of(model, 2)
    qdq = passed(
        model, "canonicalize,fold-batch-norm,canonicalize,calibrate,choose-scheme,correct-bias,insert-qdq", feeds
    )
    integer = passed(qdq, "integerize")
    lowered = passed(integer, "legalize{storage=i8},fold-zero-point,plan-layout,cse,dce")
    assert_equal(outputs(integer, feeds[:1]), outputs(lowered, feeds[:1]))
    for stage in (model, qdq, integer, lowered):
        text = stage.text()
        again = parse_module(text, path.name)
        verify_module(again)
        assert print_module(again) == text
        if MLIR_OPT is not None:
            command = [MLIR_OPT, "--allow-unregistered-dialect", "-o", "/dev/null"]
            subprocess.run(command, input=text, text=True, check=True, timeout=120)
