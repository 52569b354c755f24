"""Convolutions and matrix products on Hexagon, under the emulator: all equal to plain numpy, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from emulated import HEXAGON, emulated
from products import check_emulated
from test_host_conv import DENSE, DEPTHWISE, ONE, Case
from test_host_matmul import CONSTANT, GENERIC, PACKED
from test_host_matmul import Case as Product

from qcompiler.targets.hexagon.conv import conv_kernel
from qcompiler.targets.hexagon.matmul import matmul_kernel
from qcompiler.targets.spec import TargetSpec

QUICK = pytest.mark.parametrize("spec", [emulated("hexagon")])
CHANNELS = (1, 3, 5, 17)
KERNELS = ((1, 1), (3, 3), (5, 5), (7, 1))


def check(cases: list[Case], spec: TargetSpec) -> list[str]:
    made = [replace(case, rounding="fixed2") for case in cases]
    return check_emulated([case.build().expectation(spec, conv_kernel) for case in made], spec)


def check_products(cases: list[Product], spec: TargetSpec) -> list[str]:
    return check_emulated([case.expectation(spec, matmul_kernel) for case in cases], spec)


@QUICK
def test_dense_and_depthwise(spec: TargetSpec) -> None:
    cases = [Case((1, 6, 7, 8), 40, (3, 3), pads=ONE), Case((1, 6, 7, 8), 8, (3, 3), pads=ONE, group=8)]
    rules = check([*cases, *(replace(case, short=True) for case in cases)], spec)
    assert [rule.split("-")[1] for rule in rules] == ["dense", "depthwise"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("spec", HEXAGON)
@pytest.mark.parametrize("rounding", ["fixed2", "fixed", "fp32"])
def test_convolutions_of_the_host(spec: TargetSpec, rounding: str) -> None:
    cases = [replace(case, rounding=rounding) for case in (*DENSE.values(), *DEPTHWISE.values())]
    check_emulated([case.build().expectation(spec, conv_kernel) for case in cases], spec)


@pytest.mark.slow
@pytest.mark.parametrize("spec", HEXAGON)
@pytest.mark.parametrize("gain", [1, 300], ids=["fractions", "above one"])
def test_short_multipliers(spec: TargetSpec, gain: float) -> None:
    cases = [case for case in (*DENSE.values(), *DEPTHWISE.values()) if case.y_dtype in ("uint8", "int8")]
    check([replace(case, short=True, gain=case.gain * gain) for case in cases], spec)


@pytest.mark.slow
@pytest.mark.parametrize("spec", HEXAGON)
@pytest.mark.parametrize("kernel", KERNELS)
def test_odd_channels_and_kernels(spec: TargetSpec, kernel: tuple[int, int]) -> None:
    """Channels 1, 3, 5, 17, strides, dilation, groups, batch 1 and 4."""
    vertical, horizontal = kernel[0] // 2, kernel[1] // 2
    pads = (vertical, horizontal, vertical, horizontal)
    cases = [
        Case((batch, 9, 8, ic), oc, kernel, pads=pads, strides=strides)
        for (ic, oc), batch, strides in zip(
            product(CHANNELS, CHANNELS), (1, 4) * 8, ((1, 1), (2, 2), (1, 2)) * 6, strict=False
        )
    ]
    cases += [Case((1, 9, 8, c), c, kernel, pads=pads, group=c) for c in CHANNELS]
    wide = tuple(2 * pad for pad in pads)
    cases += [Case((1, 15, 9, c), 2 * c, kernel, pads=wide, dilations=(2, 2)) for c in CHANNELS]  # type: ignore[arg-type]
    cases += [
        Case((4, 9, 8, 4 * c), 2 * c, kernel, pads=pads, group=2, x_dtype="int8", y_dtype="int8") for c in CHANNELS
    ]
    check(cases, spec)


@pytest.mark.slow
@pytest.mark.parametrize("spec", HEXAGON)
@pytest.mark.parametrize("channels", [32, 64, 96, 128, 144, 200])
def test_channels_around_a_vector(spec: TargetSpec, channels: int) -> None:
    whole = Case((2, 5, 9, channels), channels, (3, 3), pads=ONE, y_halo=ONE, clamp=(3, 200))
    check([whole, replace(whole, group=channels), replace(whole, kernel=(1, 1), pads=(0, 0, 0, 0), x_halo=ONE)], spec)


@pytest.mark.slow
@pytest.mark.parametrize("spec", HEXAGON)
def test_results_of_16_bits(spec: TargetSpec) -> None:
    cases = [DENSE["first layer"], DENSE["classifier"], DEPTHWISE["3x3"], Case((1, 5, 5, 24), 64, (1, 1))]
    wide = [replace(case, y_dtype="int16", y_zero_point=0) for case in cases]
    wide.append(replace(wide[-1], clamp=(-900, 20000)))
    assert not [rule for rule in check(wide, spec) if "generic" in rule]


@pytest.mark.slow
@pytest.mark.parametrize("spec", HEXAGON)
@pytest.mark.parametrize("rounding", ["fixed2", "fp32"])
def test_matrix_products_of_the_host(spec: TargetSpec, rounding: str) -> None:
    cases = [replace(case, rounding=rounding) for case in (*CONSTANT.values(), *PACKED.values(), *GENERIC.values())]
    check_products(cases, spec)


@QUICK
def test_two_activations(spec: TargetSpec) -> None:
    (rule,) = check_products([replace(PACKED["attention values"], rounding="fixed2")], spec)
    assert rule.startswith("v66-packed-")


@pytest.mark.slow
@pytest.mark.parametrize("spec", HEXAGON)
def test_two_activations_are_packed(spec: TargetSpec) -> None:
    """Those of the host, and columns around a vector, rows that fill no dot product, extreme zero points."""
    cases = [case for case in PACKED.values() if not case.constant and case.dtypes[2] != "int16"]
    sizes = ((1, 1, 1), (1, 64, 128), (8, 32, 129), (9, 35, 31), (5, 6, 64), (3, 130, 200), (2, 3, 300))
    points = ((0, 0), (255, 255), (0, 255), (117, 128))
    cases += [Product((2,), (2,), size, zero_points=zeros) for size, zeros in product(sizes, points)]
    for a, b in (("int8", "int8"), ("int8", "uint8"), ("uint8", "int8")):
        low = [int(np.iinfo(dtype).min) for dtype in (a, b)]
        for zeros in ((low[0], low[1]), (low[0] + 255, low[1] + 255), (0, low[1]), (5, 0)):
            cases.append(Product((), (2,), (7, 37, 97), (a, b, "int8"), zeros, has_bias=False))
    cases.append(Product((2,), (2,), (5, 17, 70), ("uint8", "int8", "int16"), (117, -3), y_zero_point=0))
    rules = check_products([replace(case, rounding="fixed2") for case in cases], spec)
    assert all(rule.startswith("v66-packed-") for rule in rules)
