"""Convolutions on Hexagon equal a plain numpy convolution, bit for bit, under the emulator."""

from __future__ import annotations

from dataclasses import replace

import pytest
from emulated import HEXAGON, emulated
from products import check_emulated
from test_host_conv import DENSE, DEPTHWISE, ONE, Case

from qcompiler.targets.hexagon.conv import conv_kernel
from qcompiler.targets.spec import TargetSpec

QUICK = pytest.mark.parametrize("spec", [emulated("hexagon")])


@QUICK
def test_one_convolution(spec: TargetSpec) -> None:
    case = Case((1, 6, 7, 8), 40, (3, 3), pads=ONE, rounding="fixed2")
    check_emulated([case.build().expectation(spec, conv_kernel)], spec)


@pytest.mark.slow
@pytest.mark.parametrize("spec", HEXAGON)
@pytest.mark.parametrize("rounding", ["fixed2", "fixed", "fp32"])
def test_cases_of_the_host(spec: TargetSpec, rounding: str) -> None:
    cases = [replace(case, rounding=rounding) for case in (*DENSE.values(), *DEPTHWISE.values())]
    check_emulated([case.build().expectation(spec, conv_kernel) for case in cases], spec)
