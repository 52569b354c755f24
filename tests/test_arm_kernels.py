"""Kernels of ARM CPUs, under the emulator: the cases of the host's tests and odd shapes, all equal bit for bit."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from emulated import ARM
from products import check_emulated
from test_grouped import kernel_cases
from test_host_conv import DENSE, DEPTHWISE, OTHER
from test_host_conv import Case as Conv
from test_host_matmul import CONSTANT, GENERIC, PACKED

from qcompiler.targets.spec import TargetSpec

pytestmark = pytest.mark.slow
every_set = pytest.mark.parametrize("spec", ARM)

CHANNELS = (1, 3, 5, 17)
WINDOWS = [((1, 1), (0, 0, 0, 0)), ((3, 3), (1, 1, 1, 1)), ((5, 5), (2, 2, 2, 2)), ((7, 1), (3, 0, 3, 0))]
HEIGHT = 9


def odd(depthwise: bool, x_dtype: str) -> list[Conv]:
    """Every odd number of channels with every window, the strides, dilations and batches in turn."""
    cases = []
    for i, (channels, (kernel, pads)) in enumerate(product(CHANNELS, WINDOWS)):
        strides = [(1, 1), (2, 2), (1, 2)][i % 3]
        dilations = (2, 1) if i % 4 == 3 and HEIGHT + 2 * pads[0] > 2 * (kernel[0] - 1) else (1, 1)
        outputs = channels if depthwise else CHANNELS[::-1][i % 4]
        y_dtype = ["uint8", "int8", "int16"][i % 3]
        cases.append(
            Conv(
                ([1, 4][i % 2], HEIGHT, HEIGHT + 1, channels),
                outputs,
                kernel,
                strides,
                dilations,
                pads,
                group=channels if depthwise else 1,
                x_dtype=x_dtype,
                y_dtype=y_dtype,
            )
        )
    return cases


@every_set
def test_convolutions(spec: TargetSpec) -> None:
    check_emulated([case.build().expectation(spec) for case in (*DENSE.values(), *DEPTHWISE.values())], spec)


@every_set
@pytest.mark.parametrize("y_dtype", ["uint8", "int8", "int16"])
def test_rounding_twice(spec: TargetSpec, y_dtype: str) -> None:
    """`sqrdmulh` and `srshl`, with multipliers above one too, and where a zero point of 16 bits forbids them."""
    plain = Conv((1, 6, 7, 16), 24, (3, 3), rounding="fixed2", x_dtype="int8", y_dtype=y_dtype)
    cases = [plain, replace(plain, gain=3.0), replace(plain, y_zero_point=0, clamp=(0, 100))]
    built = [case.build(seed=i) for i, case in enumerate(cases)]
    large = replace(built[0].workload.requantize, multiplier=np.linspace(0.4, 9.0, 24))
    built.append(replace(built[0], workload=replace(built[0].workload, requantize=large)))
    check_emulated([problem.expectation(spec) for problem in built], spec)


@every_set
def test_what_only_the_generic_rule_takes(spec: TargetSpec) -> None:
    rules = check_emulated([case.build().expectation(spec) for case in OTHER.values()], spec)
    assert set(rules) == {"generic-conv"}


@every_set
@pytest.mark.parametrize("x_dtype", ["int8", "uint8"])
def test_odd_convolutions(spec: TargetSpec, x_dtype: str) -> None:
    cases = [*odd(False, x_dtype), *odd(True, x_dtype)]
    check_emulated([case.build(seed=i).expectation(spec) for i, case in enumerate(cases)], spec)


@every_set
def test_groups(spec: TargetSpec) -> None:
    shapes = [((1, 6, 7, 12), 8, 4), ((4, 5, 5, 6), 12, 2), ((1, 6, 6, 34), 17, 17), ((1, 4, 4, 64), 64, 2)]
    cases = [Conv(shape, oc, (3, 3), group=group, x_dtype="int8") for shape, oc, group in shapes]
    check_emulated([case.build().expectation(spec) for case in cases], spec)


@every_set
def test_matrix_products(spec: TargetSpec) -> None:
    cases = [case.expectation(spec) for case in (*CONSTANT.values(), *PACKED.values(), *GENERIC.values())]
    check_emulated(cases, spec)


@every_set
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_weights_in_groups(spec: TargetSpec, dtype: str) -> None:
    check_emulated(list(kernel_cases(spec, dtype)), spec)
