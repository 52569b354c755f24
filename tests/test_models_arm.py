"""Real models compile for ARM CPUs, and under the emulator every integer of every step is the interpreter's."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from real_models import CALIBRATION, NAMES, exact_on, real_inputs

import qcompiler
from qcompiler.api import Quantized
from qcompiler.bundle import load_emulated
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.values import body, is_quantized
from qcompiler.ir.values import quantized as quantized_type
from qcompiler.targets.spec import TargetSpec, resolve_target, target_names
from qcompiler.targets.toolchain import AARCH64_LINUX

SAMPLES = 8
TARGETS = [name for name in ("arm-cpu", "arm-cpu:cortex-a53", "arm-cpu:neoverse-n2") if name in target_names()]
"""One of each instruction set: the dot product, plain NEON, products of 8-bit matrices."""

TOOLS = (AARCH64_LINUX.compilers[0][0], *AARCH64_LINUX.emulator[:1])
LOWERING = {"name", "kernels", "instruction_set", "vector_bytes", "toolchain"}
"""What a spec says to the lowering alone."""

pytestmark = [
    pytest.mark.models,
    pytest.mark.slow,
    pytest.mark.skipif(None in map(shutil.which, TOOLS), reason=f"needs {AARCH64_LINUX.install}"),
]


def same_program(quantized: Quantized, target: str) -> bool:
    """Whether another target has the same integer program: its spec asks for the same, or for what weights are."""
    old, new = resolve_target(quantized.target), resolve_target(target)
    differs = {f.name for f in fields(TargetSpec) if getattr(old, f.name) != getattr(new, f.name)} - LOWERING
    return not differs or (differs == {"narrow_weights"} and is_narrow(quantized))


def is_narrow(quantized: Quantized) -> bool:
    """Whether no weight leaves the range that targets with narrow weights ask for."""
    constants = [op.results[0] for op in body(quantized.qdq.module).ops if isinstance(op, ConstantOp)]
    kinds = [quantized_type(value) for value in constants if is_quantized(value)]
    return all(kind.qmin > -128 for kind in kinds if kind.storage == "i8")


@pytest.fixture(scope="module", params=NAMES)
def quantized(request: pytest.FixtureRequest, catalogue: Any) -> tuple[Any, list[Quantized]]:
    """A model, and its integer programs so far: the tests add theirs."""
    return catalogue.MODELS[request.param], []


def program(quantized: tuple[Any, list[Quantized]], target: str) -> Quantized:
    """The model's integer program for a target, made once for all targets that have the same."""
    model, found = quantized
    for other in found:
        if same_program(other, target):
            return replace(other, target=target)
    imported = qcompiler.import_onnx(model.path())
    found.append(qcompiler.quantize(imported, model.calibration(limit=CALIBRATION), target=target))
    return found[-1]


@pytest.mark.parametrize("target", TARGETS)
def test_real_model_is_exact(quantized: tuple[Any, list[Quantized]], target: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    qcompiler.compile(program(quantized, target), output=output, target=target)
    bundle = load_emulated(output)
    assert bundle.manifest.arena_bytes <= 1.2 * bundle.manifest.arena_lower_bound
    listed = subprocess.run(
        ["aarch64-linux-gnu-readelf", "-dW", output / "libmodel.so"], capture_output=True, text=True, check=True
    )
    assert set(re.findall(r"NEEDED.*\[(.*)\]", listed.stdout)) <= {"libm.so.6", "libc.so.6"}
    exact_on(bundle, real_inputs(quantized[0], SAMPLES), SAMPLES)
