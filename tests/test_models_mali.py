"""Real models compile for Mali, in few registers, and on PoCL the driver gives the interpreter's integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mali_driver import needs_gcc, needs_opencl
from real_models import CALIBRATION, NAMES, exact_on, real_inputs

import qcompiler
from qcompiler.bundle.emulate import DeviceBundle
from qcompiler.lowering.lower import lower
from qcompiler.lowering.opencl import build_device_program
from qcompiler.lowering.opencl_cost import MOST_REGISTERS
from qcompiler.targets.spec import resolve_target
from qcompiler.verify import integer_program

SAMPLES = 4
DOTS = {"dot": ("-DQCOMPILER_EMULATE_DOT",), "plain": ("-DQCOMPILER_NO_DOT",)}
"""Options of the OpenCL compiler: the path of the dot product's extension, and products without it."""

pytestmark = [pytest.mark.models, pytest.mark.slow]


@pytest.fixture(scope="module", params=NAMES)
def bundle(request: pytest.FixtureRequest, catalogue: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model, and its bundle."""
    model = catalogue.MODELS[request.param]
    output = tmp_path_factory.mktemp(request.param) / "out"
    qcompiler.compile(model.path(), output=output, target="mali", calibration=model.calibration(limit=CALIBRATION))
    return model, qcompiler.load_bundle(output, emulate=True)


@needs_gcc
@needs_opencl
@pytest.mark.parametrize("dots", DOTS)
def test_real_model_is_exact(bundle: tuple[Any, DeviceBundle], dots: str) -> None:
    model, compiled = bundle
    compiled.build_options = DOTS[dots]
    assert compiled.manifest.arena_bytes <= 1.25 * compiled.manifest.arena_lower_bound
    exact_on(compiled, real_inputs(model, SAMPLES), SAMPLES)


@pytest.mark.parametrize("target", ["mali", "mali:g71"])
def test_every_kernel_fits_the_registers(bundle: tuple[Any, DeviceBundle], target: str) -> None:
    """By the estimate, with products of four int8 in one instruction and without; nothing runs."""
    spec = resolve_target(target)
    device = build_device_program(lower(integer_program(bundle[1]), spec).program, spec)
    needs = {launch.kernel: cost.registers for launch, cost in zip(device.launches, device.costs, strict=True)}
    assert {kernel: n for kernel, n in needs.items() if not 0 < n < MOST_REGISTERS} == {}


def test_the_bundle_has_no_code_of_a_host(bundle: tuple[Any, DeviceBundle]) -> None:
    """All steps are launches."""
    manifest = bundle[1].manifest
    assert {launch.step for launch in manifest.launches} == set(range(len(manifest.steps)))
    assert not list(Path(bundle[1].path).glob("*.so"))
