"""Register tiles of ARM: the forms taken, the instructions of their loops, and results at the limits of the proofs."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from emulated import ARM
from products import assembly, check_emulated, innermost_loops, lines_in_loops
from test_host_conv import ONE, Case, Problem
from test_host_matmul import Case as Product

from qcompiler.lowering.program import Kernel
from qcompiler.targets.arm_cpu import isa
from qcompiler.targets.arm_cpu.spec import names
from qcompiler.targets.cpu.conv import conv_kernel
from qcompiler.targets.cpu.epilogue import Epilogue, start_of
from qcompiler.targets.cpu.matmul import matmul_kernel
from qcompiler.targets.spec import TargetSpec, resolve_target

DOTPROD, MIXED, NEON = (resolve_target(f"arm-cpu:{core}") for core in ("cortex-a76", "neoverse-n2", "cortex-a53"))
LARGE = Case((1, 14, 14, 256), 64, (3, 3), pads=ONE, x_dtype="int8", y_dtype="int8")
SPILL = r"^\t(?:str|stp|stur|ldr|ldp|ldur)\t[qds]\d.*\[sp"
"""A register of vectors on the stack."""
PRODUCTS = "sdot|udot|usdot|sudot|smmla|usmmla|smull2?|smlal2?|sadalp"


def text_of(problem: Problem, spec: TargetSpec) -> str:
    return assembly(conv_kernel(problem.workload, problem.weights, problem.bias, spec), spec)


def instructions(text: str) -> list[str]:
    """Mnemonics, in order."""
    return re.findall(r"^\t([a-z]\w*(?:\.\w+)?)(?:\t|$)", text, flags=re.M)


def rule_of(case: Case, spec: TargetSpec) -> str:
    problem = case.build()
    return conv_kernel(problem.workload, problem.weights, problem.bias, spec).rule


def lonely_minimum(problem: Problem) -> Problem:
    """The same with one weight of -128."""
    weights = problem.weights.copy()
    weights.flat[5] = -128
    return replace(problem, weights=weights)


# ------------------------------------------------------------------------------------------------- assembly


@pytest.mark.parametrize(
    ("spec", "x_dtype", "share"),
    [
        (DOTPROD, "int8", 0.75),
        (DOTPROD, "uint8", 0.7),
        (MIXED, "int8", 0.6),
        (MIXED, "uint8", 0.6),
        (NEON, "int8", 0.7),
    ],
    ids=lambda value: getattr(value, "instruction_set", str(value)),
)
def test_inner_loop_of_a_large_convolution(spec: TargetSpec, x_dtype: str, share: float) -> None:
    """Mostly products; nothing on the stack, no calls."""
    text = text_of(replace(LARGE, x_dtype=x_dtype).build(), spec)
    assert "Workspace" not in text
    loops = [body for body in innermost_loops(text) if re.search(PRODUCTS, body)]
    assert loops
    for body in loops:
        found = instructions(body)
        products = [name for name in found if re.fullmatch(PRODUCTS, name)]
        assert len(products) >= share * len(found), body
        assert "[sp" not in body, body
        assert not {"bl", "blr"} & set(found), body


def assert_nothing_on_the_stack(kernel: Kernel, spec: TargetSpec) -> None:
    lines = lines_in_loops(assembly(kernel, spec))
    assert any(re.search(rf"\t(?:{PRODUCTS})\t", line) for line in lines), kernel.rule
    assert not [line for line in lines if re.match(SPILL, line)], kernel.rule


@pytest.mark.parametrize("spec", [DOTPROD, MIXED, NEON], ids=lambda spec: spec.instruction_set)
@pytest.mark.parametrize(
    "case",
    [
        Case((1, 14, 14, 32), 192, (1, 1)),
        Case((1, 32, 32, 3), 32, (3, 3), (2, 2), pads=ONE),
        *(
            pytest.param(case, marks=pytest.mark.slow)
            for case in (
                *(Case((1, 14, 14, k), 6 * k, (1, 1)) for k in (8, 16, 24, 40, 48, 64)),
                Case((1, 14, 14, 16), 20, (1, 1)),
                Case((1, 14, 14, 32), 13, (1, 1)),
                Case((1, 5, 5, 24), 20, (1, 1)),
                Case((1, 14, 14, 64), 20, (1, 1), y_dtype="int16"),
                Case((1, 14, 14, 32), 72, (1, 1), gain=2000),
                Case((1, 32, 32, 3), 16, (3, 3), pads=ONE),
                Case((1, 15, 17, 3), 20, (3, 3), pads=ONE),
                Case((1, 32, 32, 1), 24, (5, 5), pads=(2, 2, 2, 2)),
                Case((1, 28, 28, 3), 64, (7, 7), (2, 2), pads=(3, 3, 3, 3)),
                Case((1, 14, 14, 8), 24, (3, 3), dilations=(2, 2), pads=(2, 2, 2, 2)),
                Case((1, 14, 14, 32), 64, (3, 3), pads=ONE),
                LARGE,
            )
        ),
    ],
    ids=lambda case: f"{case.shape[3]}-{case.oc}-{case.kernel[0]}-{case.strides[0]}",
)
def test_convolutions_keep_off_the_stack(spec: TargetSpec, case: Case) -> None:
    """In no loop, for results of any form, and with activations that `sdot` takes as they are or shifted."""
    y_dtype = "int8" if case.y_dtype == "uint8" else case.y_dtype
    problem = replace(case, x_dtype="int8", y_dtype=y_dtype).build()
    shifted = replace(case, x_dtype="uint8").build()
    problems = [problem, shifted, *([lonely_minimum(problem)] if spec is NEON else [])]
    for p in problems:
        assert_nothing_on_the_stack(conv_kernel(p.workload, p.weights, p.bias, spec), spec)


@pytest.mark.parametrize("spec", [DOTPROD, MIXED, NEON], ids=lambda spec: spec.instruction_set)
@pytest.mark.parametrize(
    "mkn",
    [(5, 16, 72), *(pytest.param(mkn, marks=pytest.mark.slow) for mkn in ((12, 64, 32), (1, 24, 72), (64, 32, 32)))],
)
def test_packed_products_keep_off_the_stack(spec: TargetSpec, mkn: tuple[int, int, int]) -> None:
    """In no loop, those that pack the right-hand side included."""
    for types in (("int8", "int8", "int8"), ("uint8", "uint8", "int8")):
        workload, _, _, bias = Product((2,), (2,), mkn, types, (3, 2)).build()
        assert_nothing_on_the_stack(matmul_kernel(workload, None, bias, spec), spec)


def depthwise(kernel: int, stride: int, channels: int = 37, x_dtype: str = "int8", rounding: str = "fp32") -> Case:
    return Case(
        (1, 14, 15, channels),
        channels,
        (kernel, kernel),
        (stride, stride),
        pads=(kernel // 2,) * 4,
        group=channels,
        x_dtype=x_dtype,
        y_dtype=x_dtype,
        rounding=rounding,
    )


def check_no_spills(case: Case, spec: TargetSpec) -> None:
    p = case.build()
    kernel = conv_kernel(p.workload, p.weights, p.bias, spec)
    assert "-depthwise-" in kernel.rule
    assert_nothing_on_the_stack(kernel, spec)


@pytest.mark.parametrize("spec", [DOTPROD, MIXED, NEON], ids=lambda spec: spec.instruction_set)
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_depthwise_tiles_keep_off_the_stack(spec: TargetSpec, kernel: int, stride: int) -> None:
    check_no_spills(depthwise(kernel, stride), spec)


@pytest.mark.parametrize("spec", [DOTPROD, MIXED, NEON], ids=lambda spec: spec.instruction_set)
def test_depthwise_weights_of_one_group_are_not_kept_on_the_stack(spec: TargetSpec) -> None:
    """All tiles take the same weights."""
    check_no_spills(depthwise(3, 1, channels=16), spec)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [DOTPROD, MIXED, NEON], ids=lambda spec: spec.instruction_set)
def test_other_depthwise_tiles_keep_off_the_stack(spec: TargetSpec) -> None:
    for kernel, stride, (channels, x_dtype, rounding) in product(
        (2, 3, 4, 5, 7),
        (1, 2),
        (
            (64, "int8", "fp32"),
            (17, "uint8", "fp32"),
            (16, "int8", "fixed2"),
            (8, "uint8", "fp32"),
        ),
    ):
        check_no_spills(depthwise(kernel, stride, channels, x_dtype, rounding), spec)
    for kernel, stride in product((3, 5, 7), (1, 2)):
        check_no_spills(depthwise(kernel, stride, 960), spec)
    tall = depthwise(3, 2)
    for window in ((1, 9), (9, 1), (1, 3), (3, 1)):
        check_no_spills(replace(tall, kernel=window, pads=(window[0] // 2, window[1] // 2) * 2), spec)
    check_no_spills(replace(depthwise(3, 1), dilations=(2, 2), pads=(2, 2, 2, 2)), spec)


def test_products_by_element_without_shifted_activations() -> None:
    def loop(spec: TargetSpec, case: Case) -> str:
        return next(body for body in innermost_loops(text_of(case.build(), spec)) if re.search(PRODUCTS, body))

    row = Case((1, 1, 1, 256), 64, (1, 1), x_dtype="uint8")
    assert re.search(r"\tsdot\tv\d+\.4s, v\d+\.16b, v\d+\.4b\[3\]", loop(DOTPROD, LARGE))
    assert re.search(r"\tsudot\tv\d+\.4s, v\d+\.16b, v\d+\.4b\[3\]", loop(MIXED, row))
    assert re.search(r"\tsmmla\t", loop(MIXED, LARGE))
    assert re.search(r"\tusmmla\t", loop(MIXED, replace(LARGE, x_dtype="uint8")))
    assert "eor" not in loop(MIXED, row) + loop(MIXED, replace(LARGE, x_dtype="uint8"))
    assert re.search(r"\tsmlal\t.*\n(?:.*\n)*.*\tsadalp\t", loop(NEON, LARGE))


@pytest.mark.parametrize("spec", [DOTPROD, MIXED, NEON], ids=lambda spec: spec.instruction_set)
@pytest.mark.parametrize("y_dtype", ["int8", "uint8"])
def test_epilogue(spec: TargetSpec, y_dtype: str) -> None:
    """Narrowing saturates; rounding is an addition where the bound allows, a conversion where not; nothing is fused."""
    small = Case((1, 8, 8, 16), 64, (1, 1), x_dtype="int8", y_dtype=y_dtype, gain=1 / 4).build()
    large = Case((1, 8, 8, 16), 64, (1, 1), x_dtype="int8", y_dtype=y_dtype, gain=2000).build()
    conversions = {"scvtf", "fcvtns"}
    for problem, expected in ((small, set()), (large, {"fcvtns"}), (LARGE.build(), {"scvtf"})):
        found = set(instructions(text_of(problem, spec)))
        assert {"sqxtn", "sqxtun"} & found
        assert not {"smax", "smin", "tbl", "fmla", "fmaxnm", "fminnm", "frintn"} & found
        assert found & conversions == expected


# ------------------------------------------------------------------------------------------------ forms taken


def test_forms() -> None:
    """i8mm multiplies pairs of pixels where there are some; ARMv8.0 adds pairs in int16 unless -128 forbids it."""
    assert rule_of(LARGE, DOTPROD).startswith("dotprod-dense-")
    assert rule_of(LARGE, MIXED).startswith("i8mm-mmla-dense-")
    assert rule_of(replace(LARGE, shape=(1, 1, 1, 256), kernel=(1, 1), pads=(0, 0, 0, 0)), MIXED).startswith(
        "i8mm-dense-1x"
    )
    assert rule_of(LARGE, NEON).startswith("neon-dense-")
    problem = lonely_minimum(LARGE.build())
    kernel = conv_kernel(problem.workload, problem.weights, problem.bias, NEON)
    assert kernel.rule.startswith("neon-long-dense-")
    workload, _, _, bias = Product((2,), (2,), (12, 64, 32), ("int8", "int8", "int8"), (0, 0)).build()
    assert matmul_kernel(workload, None, bias, NEON).rule.startswith("neon-long-packed-")
    assert matmul_kernel(workload, None, bias, MIXED).rule.startswith("i8mm-mmla-packed-")


def test_every_core_resolves() -> None:
    sets = {name: resolve_target(name).instruction_set for name in names()}
    assert set(sets.values()) == set(isa.ISAS) == set(isa.PRODUCT_ISAS) == {"dotprod", "i8mm", "neon"}
    assert [name for name in names() if resolve_target(name).narrow_weights] == ["arm-cpu:cortex-a53"]


@pytest.mark.parametrize("name", names())
def test_llvm_knows_the_core(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    text_of(Case((1, 1, 1, 4), 4, (1, 1), x_dtype="int8", y_dtype="int8").build(), resolve_target(name))
    assert "not a recognized" not in capfd.readouterr().err


# ---------------------------------------------------------------------------------- results at the limits


def requantized(problem: Problem, multiplier: float, zero_point: int, bound: int | None = None) -> Problem:
    made = problem.workload.requantize
    made = replace(made, multiplier=np.full(problem.workload.oc, multiplier), zero_point=zero_point)
    changed = replace(problem.workload, requantize=made)
    return replace(problem, workload=changed if bound is None else replace(changed, acc_bound=bound))


def ends(problem: Problem, spec: TargetSpec) -> tuple[bool, bool]:
    """Whether accumulators start at 1.5 * 2^23, and whether rounding adds it."""
    c = problem.workload
    form = isa.ISAS[spec.instruction_set][0]
    return start_of(form, c.requantize, c.acc_bound) > 0, Epilogue(form, c.requantize, [], c.acc_bound).halves


@pytest.mark.slow
@pytest.mark.parametrize("spec", ARM)
def test_results_at_the_limits(spec: TargetSpec) -> None:
    """Every accumulator next to the bound that allows a form, ties, even and odd zero points, largest operands."""
    limit = 1 << 22
    cases = []
    for zero_point in (-128, -3, 0, 2, 127):
        for y_dtype in ("int8", "uint8", "int16"):
            base = Case((1, 4, 9, 16), 20, (1, 1), x_dtype="int8", y_dtype=y_dtype).build(seed=zero_point + 128)
            stored = zero_point if y_dtype != "uint8" else zero_point + 128
            # Multiples of 1/2 and of 1/128: many results are ties.
            cases += [requantized(base, scale, stored) for scale in (2.0**-1, 2.0**-7, 2.0**-12, 3 * 2.0**-9)]
    # Accumulators of up to 2^22 - 1 in magnitude, and the same with a bound just too large for the cheap conversion.
    base = Case((1, 3, 4, 8), 16, (1, 1), x_dtype="int8", y_dtype="int8").build()
    sign = np.where(np.arange(16) % 2, 1, -1).astype(np.int32)
    weights = base.weights // 64
    room = (np.abs(weights.astype(np.int64)).sum((1, 2, 3)) * 128).astype(np.int32)
    at_limit = replace(base, weights=weights, bias=sign * (limit - 1 - room))
    for bound in (limit - 1, limit):
        cases += [requantized(at_limit, scale, -5, bound) for scale in (2.0**-15, 1.3e-5, 2.0**-7 * 0.9999, 0.5)]
    assert {ends(case, spec) for case in cases} == {(True, True), (True, False), (False, True), (False, False)}
    # Largest operands, where sums of two products or int16 would overflow.
    for x_dtype in ("int8", "uint8"):
        extreme = Case((1, 4, 5, 64), 16, (3, 3), x_dtype=x_dtype, y_dtype="int8", gain=1 / 8).build()
        limits = np.iinfo(x_dtype)
        for weight in (-127, -128, 127):
            full = np.full_like(extreme.weights, weight)
            for value in (limits.min, limits.max):
                cases.append(replace(extreme, weights=full, x=np.full_like(extreme.x, value)))
    cases.append(lonely_minimum(Case((1, 7, 5, 33), 21, (3, 3), pads=ONE, x_dtype="uint8").build()))
    check_emulated([case.expectation(spec) for case in cases], spec)
