"""Convolutions on the host: every rule equals a plain numpy convolution, bit for bit."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
from products import HOSTS, SPECS, UNWRITTEN, Expectation, assembly, innermost_loops, random_stored, run

from qcompiler.arithmetic.requantize import requantize, short_multiplier
from qcompiler.errors import TargetError
from qcompiler.lowering.halo import pad_copy_kernel, with_border
from qcompiler.lowering.workload import ConvWorkload, Requantize
from qcompiler.targets.cpu.conv import conv_dense, conv_generic, conv_kernel, conv_rules
from qcompiler.targets.host.spec import names, runnable
from qcompiler.targets.spec import TargetSpec, resolve_target, target_names

NO_HALO = (0, 0, 0, 0)
ONE = (1, 1, 1, 1)
TWO = (2, 2, 2, 2)


@dataclass(frozen=True)
class Case:
    """One convolution: `n`, `h`, `w`, `ic`, `oc`, kernel, and what differs from the plainest one."""

    shape: tuple[int, int, int, int]
    oc: int
    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = NO_HALO
    group: int = 1
    x_dtype: str = "uint8"
    y_dtype: str = "uint8"
    rounding: str = "fp32"
    short: bool = False
    x_halo: tuple[int, int, int, int] | None = None
    y_halo: tuple[int, int, int, int] = NO_HALO
    clamp: tuple[int, int] | None = None
    gain: float = 1.0
    weight_dtype: str = "int8"
    y_zero_point: int | None = None

    def build(self, seed: int = 0) -> Problem:
        n, h, w, ic = self.shape
        rng = np.random.default_rng(seed)
        x = random_stored(rng, self.x_dtype, self.shape)
        limit = 127 if self.weight_dtype == "int8" else 255
        weights = rng.integers(-limit, limit, (self.oc, ic // self.group, *self.kernel), self.weight_dtype, True)
        x_zero_point = 117 if self.x_dtype == "uint8" else -3
        y_limits = np.iinfo(self.y_dtype)
        y_zero_point = (y_limits.min + y_limits.max) // 3 if self.y_zero_point is None else self.y_zero_point
        sums = weights.astype(np.int64).sum((1, 2, 3))
        bias = (rng.integers(-2000, 2000, self.oc) - x_zero_point * sums).astype(np.int32)
        spread = 128 * limit * np.sqrt(weights[0].size) / 3
        multiplier = rng.uniform(0.5, 2, self.oc) * (y_limits.max - y_limits.min) / 6 / spread * self.gain
        multiplier = short_multiplier(multiplier) if self.short else multiplier
        made = Requantize(
            self.rounding,
            multiplier,
            y_zero_point,
            self.clamp or (y_limits.min, y_limits.max),
            self.y_dtype,
        )
        bound = int((np.abs(weights.astype(np.int64)).sum((1, 2, 3)) * 255 + np.abs(bias)).max())
        workload = ConvWorkload(
            n=n,
            h=h,
            w=w,
            ic=ic,
            oc=self.oc,
            kh=self.kernel[0],
            kw=self.kernel[1],
            strides=self.strides,
            dilations=self.dilations,
            pads=self.pads,
            group=self.group,
            x_dtype=self.x_dtype,
            x_halo=self.pads if self.x_halo is None else self.x_halo,
            y_halo=self.y_halo,
            pad_value=x_zero_point,
            requantize=made,
            acc_bound=bound,
        )
        return Problem(workload, x, weights, bias)


@dataclass(frozen=True)
class Problem:
    workload: ConvWorkload
    x: np.ndarray
    weights: np.ndarray
    bias: np.ndarray

    @property
    def stored(self) -> np.ndarray:
        """The activation in its buffer."""
        top, left, bottom, right = self.workload.x_halo
        widths = ((0, 0), (top, bottom), (left, right), (0, 0))
        return np.pad(self.x, widths, constant_values=self.workload.pad_value).reshape(self.workload.x_shape)

    def expected(self) -> np.ndarray:
        """`[n, oh, ow, oc]`, tap by tap in int64."""
        c = self.workload
        top, left, bottom, right = c.pads
        x = np.pad(self.x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=c.pad_value).astype(np.int64)
        acc = np.zeros((c.n, c.oh, c.ow, c.group, c.oc // c.group), np.int64)
        weights = self.weights.astype(np.int64).reshape(c.group, c.oc // c.group, -1, c.kh, c.kw)
        for i in range(c.kh):
            for j in range(c.kw):
                rows = slice(i * c.dilations[0], i * c.dilations[0] + (c.oh - 1) * c.strides[0] + 1, c.strides[0])
                columns = slice(j * c.dilations[1], j * c.dilations[1] + (c.ow - 1) * c.strides[1] + 1, c.strides[1])
                seen = x[:, rows, columns].reshape(c.n, c.oh, c.ow, c.group, -1)
                acc += np.einsum("nhwgk,gok->nhwgo", seen, weights[..., i, j])
        acc = acc.reshape(c.n, c.oh, c.ow, c.oc) + self.bias
        made = c.requantize
        return requantize(acc, made.multiplier, made.zero_point, *made.clamp, made.out_dtype, made.rounding, 3)

    def expectation(self, spec: TargetSpec, rule=conv_kernel) -> Expectation:
        c = self.workload
        kernel = rule(c, self.weights, self.bias, spec)
        top, left, bottom, right = c.y_halo
        widths = ((0, 0), (top, bottom), (left, right), (0, 0))
        expected = np.pad(self.expected(), widths, constant_values=UNWRITTEN).reshape(c.y_shape)
        return Expectation(kernel, [self.stored], expected)

    def check(self, spec: TargetSpec, rule=conv_kernel) -> str:
        """Runs the kernel, compares all of its output buffer, returns the rule's name."""
        return self.expectation(spec, rule).check(spec)


DENSE = {
    "one channel": Case((1, 7, 9, 1), 5, (3, 3), pads=ONE),
    "first layer": Case((1, 17, 15, 3), 24, (3, 3), strides=(2, 2), pads=ONE),
    "uneven padding, batch 2": Case((2, 9, 11, 5), 17, (3, 3), strides=(2, 1), pads=(0, 1, 2, 1)),
    "pointwise, batch 4": Case((4, 5, 19, 17), 24, (1, 1)),
    "pointwise, strided": Case((1, 8, 9, 24), 33, (1, 1), strides=(2, 2)),
    "wide halos": Case((1, 8, 8, 24), 10, (5, 5), pads=TWO, x_halo=(3, 2, 2, 4), y_halo=(1, 2, 0, 1)),
    "dilated": Case((1, 12, 13, 6), 12, (3, 3), dilations=(2, 2), pads=TWO),
    "dilated rows": Case((1, 12, 6, 8), 3, (3, 2), dilations=(3, 1), pads=(3, 0, 3, 0)),
    "tall": Case((1, 12, 1, 24), 40, (7, 1), pads=(3, 0, 3, 0)),
    "one row": Case((2, 1, 40, 8), 1, (1, 9), pads=(0, 4, 0, 4)),
    "four groups": Case((1, 6, 6, 32), 24, (3, 3), pads=ONE, group=4),
    "eight groups": Case((2, 5, 5, 240), 120, (1, 1), group=8),
    "two outputs for a channel": Case((1, 6, 6, 17), 34, (3, 3), pads=ONE, group=17),
    "signed": Case((1, 6, 7, 17), 40, (3, 3), pads=ONE, x_dtype="int8", y_dtype="int8"),
    "signed out, few": Case((1, 6, 7, 16), 3, (3, 3), pads=ONE, y_dtype="int8"),
    "clamped": Case((1, 6, 7, 16), 40, (3, 3), pads=ONE, clamp=(85, 140)),
    "unbounded": Case((1, 6, 7, 16), 40, (3, 3), pads=ONE, gain=1e7),
    "fixed": Case((1, 6, 7, 16), 40, (3, 3), pads=ONE, rounding="fixed"),
    "fixed2": Case((1, 6, 7, 16), 40, (3, 3), pads=ONE, rounding="fixed2"),
    "classifier": Case((1, 1, 1, 64), 1001, (1, 1)),
    "16 bits": Case((1, 5, 6, 7), 13, (3, 3), pads=ONE, y_dtype="int16", y_zero_point=0, y_halo=ONE),
    "16 bits, clamped": Case((1, 7, 7, 33), 70, (1, 1), y_dtype="int16", y_zero_point=0, clamp=(0, 900)),
    "16 bits, zero point": Case((2, 5, 6, 3), 21, (3, 3), (2, 2), pads=ONE, y_dtype="int16", y_zero_point=-9999),
    "16 bits, unbounded": Case((1, 5, 6, 16), 8, (1, 1), y_dtype="int16", gain=1e7, x_dtype="int8"),
    "16 bits, grouped, fixed": Case((1, 5, 6, 16), 24, (3, 3), group=4, y_dtype="int16", rounding="fixed"),
    "16 bits, fixed2": Case((1, 5, 6, 3), 37, (3, 3), y_dtype="int16", rounding="fixed2", y_zero_point=0),
}
DEPTHWISE = {
    "3x3": Case((1, 9, 8, 24), 24, (3, 3), pads=ONE, group=24),
    "3x3, strided": Case((1, 9, 8, 96), 96, (3, 3), strides=(2, 2), pads=(0, 0, 1, 1), group=96),
    "5x5, batch 4": Case((4, 5, 5, 17), 17, (5, 5), pads=TWO, group=17, y_halo=ONE),
    "5x5, strided": Case((1, 11, 11, 70), 70, (5, 5), strides=(2, 2), pads=TWO, group=70),
    "dilated": Case((1, 9, 9, 3), 3, (3, 3), dilations=(2, 2), pads=TWO, group=3),
    "one row": Case((1, 1, 30, 40), 40, (1, 31), pads=(0, 15, 0, 15), group=40),
    "tall": Case((1, 20, 2, 5), 5, (7, 1), pads=(3, 0, 3, 0), group=5),
    "signed": Case((1, 9, 9, 70), 70, (3, 3), (2, 1), pads=ONE, group=70, x_dtype="int8", y_dtype="int8"),
    "stride 3, fixed2": Case((1, 9, 9, 33), 33, (3, 3), (3, 3), pads=ONE, group=33, rounding="fixed2"),
    "clamped": Case((1, 9, 9, 20), 20, (4, 2), pads=ONE, group=20, clamp=(80, 120)),
    "fixed": Case((1, 5, 5, 16), 16, (3, 3), pads=ONE, group=16, rounding="fixed"),
    "16 bits": Case((1, 7, 6, 70), 70, (3, 3), pads=ONE, group=70, y_dtype="int16", y_zero_point=0, y_halo=ONE),
    "16 bits, clamped": Case((1, 5, 5, 19), 19, (5, 5), group=19, y_dtype="int16", y_zero_point=0, clamp=(-5, 7000)),
    "16 bits, fixed": Case((2, 7, 5, 3), 3, (3, 3), (2, 2), pads=ONE, group=3, y_dtype="int16", rounding="fixed"),
    "16 bits, fixed2": Case((1, 5, 5, 33), 33, (3, 3), group=33, y_dtype="int16", rounding="fixed2", x_dtype="int8"),
}
OTHER = {
    "16-bit activation": Case((1, 5, 6, 3), 5, (3, 3), pads=ONE, x_dtype="int16", gain=1 / 256),
    "centred weights": Case((1, 5, 6, 8), 12, (3, 3), pads=ONE, weight_dtype="int16"),
}


def on_each_target(cases: dict[str, Case]) -> list:
    """All cases on the best instruction set, and every other one on each of the others."""
    return [
        pytest.param(name, spec, id=f"{spec.instruction_set}, {name}")
        for i, spec in enumerate(SPECS)
        for j, name in enumerate(cases)
        if i == 0 or (i + j) % 2 == 0
    ]


@pytest.mark.parametrize(("name", "spec"), on_each_target(DENSE))
def test_dense(name: str, spec: TargetSpec) -> None:
    assert "-dense-" in DENSE[name].build().check(spec)


@pytest.mark.parametrize(("name", "spec"), on_each_target(DEPTHWISE))
def test_depthwise(name: str, spec: TargetSpec) -> None:
    assert "-depthwise-" in DEPTHWISE[name].build().check(spec)


@pytest.mark.parametrize("name", OTHER)
def test_what_only_the_generic_rule_takes(name: str) -> None:
    assert OTHER[name].build().check(SPECS[0]) == "generic-conv"


GENERIC = ["first layer", "wide halos", "dilated", "four groups", "two outputs for a channel", "unbounded"]


@pytest.mark.parametrize("name", [*GENERIC, "fixed", "fixed2", "signed"])
def test_generic(name: str) -> None:
    DENSE[name].build().check(SPECS[-1], conv_generic)


@pytest.mark.parametrize("spec", HOSTS)
def test_depthwise_too_long_for_its_rule_is_dense(spec: TargetSpec) -> None:
    case = Case((1, 70, 3, 16), 16, (65, 1), group=16)
    assert "-dense-" in case.build().check(spec)


def test_extremes_do_not_overflow() -> None:
    """Largest activations and weights, where saturating 16-bit instructions would give other sums."""
    problem = Case((1, 4, 4, 64), 16, (3, 3), gain=1 / 8).build()
    weights = np.full_like(problem.weights, 127)
    weights[::2] = -128
    extreme = replace(problem, x=np.full_like(problem.x, 255), weights=weights)
    for spec in SPECS:
        extreme.check(spec)


@pytest.mark.parametrize("spec", HOSTS)
def test_ties_round_to_even(spec: TargetSpec) -> None:
    problem = Case((1, 14, 14, 16), 64, (1, 1)).build()
    made = replace(problem.workload.requantize, multiplier=np.full(64, 2.0**-7))
    replace(problem, workload=replace(problem.workload, requantize=made)).check(spec)


def test_the_last_rule_always_applies() -> None:
    problem = OTHER["16-bit activation"].build()
    assert conv_rules[-1](problem.workload, problem.weights, problem.bias, SPECS[0]) is not None


def test_halo_must_cover_the_pads() -> None:
    problem = Case((1, 5, 5, 4), 4, (3, 3), pads=ONE, x_halo=(1, 1, 1, 0)).build()
    with pytest.raises(ValueError, match="does not cover"):
        conv_kernel(problem.workload, problem.weights, problem.bias, SPECS[0])


@pytest.mark.parametrize("y_halo", [NO_HALO, (0, 4, 0, 3), (2, 1, 1, 1), (1, 0, 0, 0)])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 9, 3), (1, 6, 30, 24)])
def test_pad_copy(shape: tuple[int, int, int, int], y_halo: tuple[int, int, int, int]) -> None:
    x = random_stored(np.random.default_rng(0), "int8", shape)
    kernel = pad_copy_kernel(shape, ONE, y_halo, 17, "int8")
    stored = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    top, left, bottom, right = y_halo
    expected = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=17)
    rows = expected.shape[0] * expected.shape[1]
    y = run(
        kernel,
        [stored.reshape(shape[0] * (shape[1] + 2), -1)],
        (rows, expected.size // rows),
        "int8",
        SPECS[0],
    )
    np.testing.assert_array_equal(y.reshape(expected.shape), expected)


def test_with_border_fills_what_the_kernel_left() -> None:
    problem = Case((2, 9, 11, 5), 17, (3, 3), pads=ONE, y_halo=(1, 2, 3, 4)).build()
    c = problem.workload
    kernel = with_border(conv_kernel(c, problem.weights, problem.bias, SPECS[0]), (c.n, c.oh, c.ow, c.oc), c.y_halo, 7)
    expected = np.pad(problem.expected(), ((0, 0), (1, 3), (2, 4), (0, 0)), constant_values=7)
    y = run(kernel, [problem.stored], c.y_shape, "uint8", SPECS[0])
    np.testing.assert_array_equal(y.reshape(expected.shape), expected)


@pytest.mark.parametrize("spec", HOSTS)
def test_assembly_of_the_dense_loop(spec: TargetSpec) -> None:
    """The loop over the reduction keeps its accumulators in registers; nothing calls a library."""
    problem = Case((1, 14, 14, 64), 64, (3, 3), pads=ONE).build()
    text = assembly(conv_dense(problem.workload, problem.weights, problem.bias, spec), spec)
    assert "Workspace" not in text and "lrint" not in text
    dot = "vpdpbusd" if spec.instruction_set == "avx512-vnni" else "pmaddwd"
    loops = [body for body in innermost_loops(text) if dot in body]
    assert loops
    for body in loops:
        assert not re.search(r"[xyz]mm\d+, -?\d*\(%r[sb]p\)", body), body


def test_targets_by_name() -> None:
    assert set(names()) <= set(target_names())
    assert resolve_target("host").instruction_set == runnable()[0]
    assert resolve_target("host:avx2").vector_bytes == 32


@pytest.mark.parametrize("name", ["hosts", "host:avx", ""])
def test_unknown_target(name: str) -> None:
    with pytest.raises(TargetError, match="host:portable"):
        resolve_target(name)
