"""The examples inside TVM, as a user runs them."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from real_models import SHARED

import qcompiler

EXAMPLES = Path(__file__).parents[1] / "examples"
MOBILENET = SHARED / "models" / "mobilenetv2_100_224.onnx"


def output_of(name: str, *arguments: Path) -> str:
    run = subprocess.run([sys.executable, EXAMPLES / name, *arguments], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
def test_a_quantized_model_through_tvms_importer() -> None:
    lines = output_of("tvm_qdq.py").splitlines()
    assert lines[0] == "1 outputs equal the interpreter's, bit for bit"
    assert "integer kernels" in lines[1]


@pytest.mark.models
@pytest.mark.skipif(not MOBILENET.exists(), reason="the pretrained models are not beside the repository")
def test_mobilenetv2_is_twenty_times_as_fast_as_by_tvm_alone(tmp_path: Path) -> None:
    model = qcompiler.import_onnx(MOBILENET)
    rng = np.random.default_rng(0)
    feeds = [{name: rng.random((1, 3, 224, 224), np.float32) for name in model.inputs} for _ in range(2)]
    quantized = qcompiler.quantize(model, feeds, weight_rounding="nearest", assign_precision=False)
    onnx.save(qcompiler.export(quantized), tmp_path / "model.qdq.onnx")
    exact, speed = output_of("tvm_qdq.py", tmp_path / "model.qdq.onnx").splitlines()
    assert exact == "1 outputs equal the interpreter's, bit for bit"
    assert int(re.search(r"(\d+) times as fast", speed)[1]) >= 20


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch") is None, reason="needs PyTorch: pip install 'qcompiler[pytorch]'")
def test_a_network_in_pytorch() -> None:
    assert output_of("tvm_pytorch.py").endswith("every output equals the interpreter's, bit for bit\n")
