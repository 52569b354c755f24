"""Kernels of Mali: odd shapes against numpy on PoCL in both forms of the products, and what their source is made of."""

from __future__ import annotations

import math
import re

import pytest
from opencl_device import missing
from products import check_emulated
from test_arm_vector import kernels_without_products
from test_arm_vector import test_odd_channels as check_odd_channels
from test_host_conv import ONE, TWO, Case
from test_host_matmul import CONSTANT, GENERIC, PACKED

from qcompiler.lowering.opencl import build_device_program
from qcompiler.lowering.opencl_cost import MOST_REGISTERS
from qcompiler.lowering.program import Buffer, Kernel, Program, Step
from qcompiler.targets.mali.conv import conv_generic, conv_kernel
from qcompiler.targets.mali.matmul import matmul_kernel
from qcompiler.targets.spec import TargetSpec, resolve_target

SPEC = resolve_target("mali")
WITHOUT_DOT = resolve_target("mali:g71")
needs_device = pytest.mark.skipif(bool(missing()), reason=missing())
INT8 = {"x_dtype": "int8", "y_dtype": "int8"}

QUICK = [
    Case((1, 7, 6, 3), 5, (3, 3), (2, 2), pads=ONE, y_halo=ONE, **INT8),
    Case((2, 5, 5, 17), 17, (1, 1), **INT8),
    Case((1, 6, 7, 20), 20, (3, 3), pads=ONE, group=20, **INT8),
    Case((1, 8, 8, 12), 6, (3, 3), (1, 2), pads=ONE, group=3, **INT8),
]
ODD = [
    *(Case((1, 6, 5, c), o, (k, k), pads=(k // 2,) * 4, **INT8) for c in (1, 3, 5, 17) for o in (1, 5) for k in (1, 3)),
    *(Case((4, 9, 8, c), 17, (5, 5), (2, 2), pads=TWO, **INT8) for c in (1, 5)),
    *(Case((1, 9, 3, c), 3, (7, 1), pads=(3, 0, 3, 0), **INT8) for c in (3, 17)),
    Case((1, 12, 11, 5), 7, (3, 3), (1, 1), (2, 3), pads=(2, 3, 2, 3), **INT8),
    *(Case((4, 7, 6, c), c, (3, 3), (2, 2), pads=ONE, group=c, **INT8) for c in (1, 3, 5, 17, 64)),
    Case((1, 9, 9, 6), 6, (5, 5), (1, 1), (2, 1), pads=(4, 2, 4, 2), group=6, **INT8),
    Case((1, 6, 6, 8), 16, (3, 3), pads=ONE, group=8, **INT8),
    *(Case((1, 6, 6, 12), 8, (3, 3), pads=ONE, group=g, **INT8) for g in (2, 4)),
    *(Case((1, 5, 5, 9), 6, (3, 3), pads=ONE, rounding=form, **INT8) for form in ("fixed", "fixed2")),
    *(Case((1, 5, 5, 8), 8, (3, 3), group=8, rounding=form, **INT8) for form in ("fixed", "fixed2")),
    Case((1, 5, 5, 9), 6, (3, 3), x_dtype="int8", y_dtype="int16"),
    Case((1, 5, 5, 9), 6, (3, 3), x_dtype="uint8", y_dtype="uint8"),
    Case((1, 5, 5, 6), 5, (3, 3), weight_dtype="int16", **INT8),
]


def program_of_kernels(kernels: dict[str, Kernel]) -> Program:
    """A program that calls each kernel on inputs and outputs of its own."""
    program = Program()
    for name, kernel in kernels.items():
        parameters = list(kernel.func.params)
        first = len(parameters) - len(kernel.scratch) - 1
        reads = [f"{name}.in{i}" for i in range(first - len(kernel.constants))]
        for label, buffer in zip([*reads, f"{name}.out"], [*parameters[: len(reads)], parameters[first]], strict=True):
            shape = tuple(int(extent) for extent in buffer.shape)
            program.buffers[label] = Buffer(label, shape, str(buffer.dtype))
        program.inputs += reads
        program.outputs.append(f"{name}.out")
        program.steps.append(Step(kernel, tuple(reads), (f"{name}.out",), name))
    return program


def conv_of(case: Case, spec: TargetSpec = SPEC) -> Kernel:
    problem = case.build()
    return conv_kernel(problem.workload, problem.weights, problem.bias, spec)


@needs_device
def test_products() -> None:
    rules = check_emulated([case.build().expectation(SPEC, conv_kernel) for case in QUICK], SPEC)
    assert [rule.partition(".")[0] for rule in rules] == ["mali-conv", "mali-conv", "mali-depthwise", "mali-conv"]


@pytest.mark.slow
@needs_device
def test_odd_convolutions() -> None:
    check_emulated([case.build().expectation(SPEC, conv_kernel) for case in ODD], SPEC)


@pytest.mark.slow
@needs_device
def test_matrix_products() -> None:
    cases = [*CONSTANT.values(), *PACKED.values(), *GENERIC.values()]
    rules = check_emulated([case.expectation(SPEC, matmul_kernel) for case in cases], SPEC)
    assert {rule.partition(".")[0] for rule in rules} == {"mali-matmul", "mali-products", "generic-matmul"}


@pytest.mark.slow
@needs_device
def test_the_last_rule_takes_everything() -> None:
    check_emulated([case.build().expectation(SPEC, conv_generic) for case in (*QUICK, *ODD[-4:])], SPEC)


@pytest.mark.slow
@needs_device
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_odd_channels(dtype: str) -> None:
    check_odd_channels(SPEC, dtype)


@pytest.mark.parametrize("spec", [SPEC, WITHOUT_DOT], ids=lambda spec: spec.name)
def test_source(spec: TargetSpec) -> None:
    """No local memory, vectors by vloadN and vstoreN alone, and registers for all work-items."""
    convolutions = {f"conv {i}": conv_of(case, spec) for i, case in enumerate([*QUICK, *ODD])}
    device = build_device_program(program_of_kernels(kernels_without_products(spec) | convolutions), spec)
    text = device.source.partition("// Function")[2]
    assert not re.search(r"__local|barrier|0x000000ff|\([a-z]+\d+ ?\*\)", text)
    for launch, cost in zip(device.launches, device.costs, strict=True):
        assert 0 < cost.registers < MOST_REGISTERS, (launch.kernel, cost)
        assert cost.occupancy != "spills"
        assert cost.bytes_written > 0


def test_products_without_an_instruction_take_smaller_tiles() -> None:
    """They need registers for both operands in 32 bits, and the estimate has them."""
    case = Case((1, 16, 16, 64), 64, (3, 3), pads=ONE, **INT8)
    kernels = {spec.name: conv_of(case, spec) for spec in (SPEC, WITHOUT_DOT)}
    tiles = [math.prod(map(int, kernel.rule.partition(".")[2].split("x")[:2])) for kernel in kernels.values()]
    assert tiles[0] > tiles[1]
    program = program_of_kernels({"conv": kernels["mali"]})
    dot, plain = (build_device_program(program, spec).costs[0] for spec in (SPEC, WITHOUT_DOT))
    assert dot.registers < plain.registers < MOST_REGISTERS
    assert plain.operations > 8 * dot.operations


def test_work_groups_follow_memory() -> None:
    """Neighbouring work-items compute neighbouring channels, so that a warp stores whole cache lines."""
    kernel = conv_of(Case((1, 16, 16, 64), 64, (1, 1), **INT8))
    (launch,) = build_device_program(program_of_kernels({"conv": kernel}), SPEC).launches
    x, y, z = launch.local_size
    assert x > 1
    assert x * y * z <= 64
