"""The examples inside TVM, as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def output_of(name: str) -> str:
    run = subprocess.run([sys.executable, EXAMPLES / name], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
def test_a_quantized_model_through_tvms_importer() -> None:
    lines = output_of("tvm_qdq.py").splitlines()
    assert lines[0] == "1 outputs equal the interpreter's, bit for bit"
    assert "integer kernels" in lines[1]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torch") is None, reason="needs PyTorch: pip install 'qcompiler[pytorch]'")
def test_a_network_in_pytorch() -> None:
    assert output_of("tvm_pytorch.py").endswith("every output equals the interpreter's, bit for bit\n")
