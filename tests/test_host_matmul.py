"""Matrix products on the host: every rule equals numpy's product of int64, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from products import HOSTS, SPECS, Expectation, assembly, random_stored

from qcompiler.arithmetic.requantize import requantize
from qcompiler.lowering.workload import MatmulWorkload, Requantize
from qcompiler.targets.cpu.matmul import matmul_constant, matmul_generic, matmul_kernel, matmul_rules
from qcompiler.targets.spec import TargetSpec


@dataclass(frozen=True)
class Case:
    """One product `[*a_batch, m, k] @ [*b_batch, k, n]`; zero points are (a, b)."""

    a_batch: tuple[int, ...]
    b_batch: tuple[int, ...]
    mkn: tuple[int, int, int]
    dtypes: tuple[str, str, str] = ("uint8", "uint8", "uint8")
    zero_points: tuple[int, int] = (117, 131)
    constant: bool = False
    rounding: str = "fp32"
    per_column: bool = False
    has_bias: bool = True
    y_zero_point: int | None = None
    """That of the results; None for one within their type."""

    def check(self, spec: TargetSpec, rule=matmul_kernel) -> str:
        """Runs the kernel, compares, returns the rule's name."""
        return self.expectation(spec, rule).check(spec)

    def expectation(self, spec: TargetSpec, rule=matmul_kernel, seed: int = 0) -> Expectation:
        workload, a, b, bias = self.build(seed)
        acc = (a.astype(np.int64) - self.zero_points[0]) @ (b.astype(np.int64) - self.zero_points[1])
        acc = acc if bias is None else acc + bias
        made = workload.requantize
        expected = requantize(
            acc, made.multiplier, made.zero_point, *made.clamp, made.out_dtype, made.rounding, acc.ndim - 1
        )
        kernel = rule(workload, b if self.constant else None, bias, spec)
        inputs = [a] if self.constant else [a, b]
        return Expectation(kernel, inputs, expected.reshape(workload.y_shape))

    def build(self, seed: int = 0) -> tuple[MatmulWorkload, np.ndarray, np.ndarray, np.ndarray | None]:
        m, k, n = self.mkn
        rng = np.random.default_rng(seed)
        a = random_stored(rng, self.dtypes[0], (*self.a_batch, m, k))
        b = random_stored(rng, self.dtypes[1], (*self.b_batch, k, n))
        bias = rng.integers(-2000, 2000, n, np.int32) if self.has_bias else None
        limits = np.iinfo(self.dtypes[2])
        spread = 74 * 74 * np.sqrt(k) * 6 / (limits.max - limits.min)
        made = Requantize(
            self.rounding,
            rng.uniform(0.5, 2, n if self.per_column else 1) / spread,
            (limits.min + limits.max) // 3 if self.y_zero_point is None else self.y_zero_point,
            (limits.min, limits.max),
            self.dtypes[2],
        )
        workload = MatmulWorkload(
            self.a_batch,
            self.b_batch,
            m,
            k,
            n,
            *self.dtypes[:2],
            *self.zero_points,
            made,
            k * 256 * 256 + 2000,
        )
        return workload, a, b, bias


SIGNED = ("int8", "int8", "int8")
WEIGHTS = ("uint8", "int8", "uint8")
WIDE = ("uint8", "int8", "int16")

CONSTANT = {
    "classifier": Case((), (), (1, 65, 1001), WEIGHTS, (117, 0), constant=True, per_column=True),
    "batch in front": Case((2, 3), (), (5, 33, 24), WEIGHTS, (3, 0), constant=True, per_column=True),
    "batch of one": Case((1, 2), (1, 1), (5, 33, 24), WEIGHTS, (3, 0), constant=True),
    "signed": Case((), (), (7, 30, 40), SIGNED, (-3, 0), constant=True, per_column=True),
    "unsigned weights around 128": Case((), (), (7, 30, 40), zero_points=(117, 128), constant=True),
    "fixed": Case((), (), (3, 17, 5), WEIGHTS, (117, 0), constant=True, rounding="fixed"),
    "fixed2": Case((), (), (3, 17, 5), WEIGHTS, (117, 0), constant=True, rounding="fixed2"),
    "16 bits": Case((), (), (7, 30, 41), WIDE, (117, 0), constant=True, per_column=True),
    "16 bits, one row, fixed": Case((), (), (1, 65, 130), WIDE, (3, 0), constant=True, rounding="fixed"),
    "16 bits, fixed2": Case((2,), (), (3, 17, 5), WIDE, (3, 0), constant=True, rounding="fixed2"),
}
PACKED = {
    "attention scores": Case((1, 3), (1, 3), (19, 64, 19)),
    "attention values": Case((1, 3), (1, 3), (19, 19, 64), ("uint8", "int8", "uint8"), (0, 5)),
    "narrow": Case((2,), (2,), (5, 17, 3)),
    "short": Case((), (), (7, 3, 10), SIGNED, (-3, 0)),
    "signed": Case((), (), (3, 5, 24), SIGNED, (-3, 5)),
    "one right-hand side": Case((2, 2), (), (7, 30, 33)),
    "one left-hand side": Case((), (4,), (7, 30, 33), has_bias=False),
    "no zero points": Case((2,), (2,), (9, 40, 17), ("uint8", "uint8", "uint8"), (0, 128)),
    "fixed2": Case((), (), (7, 33, 40), rounding="fixed2"),
    "affine weights": Case((3,), (), (7, 30, 33), zero_points=(117, 100), constant=True, per_column=True),
    "16 bits": Case((2,), (2,), (5, 17, 19), ("int8", "uint8", "int16"), (-3, 131)),
    "16 bits, fixed2": Case((), (), (7, 33, 3), ("uint8", "uint8", "int16"), rounding="fixed2"),
    "a weight for each batch entry": Case((3,), (3,), (7, 30, 33), zero_points=(117, 100), constant=True),
}
GENERIC = {
    "crossed batches": Case((2, 1), (1, 3), (4, 9, 7)),
    "crossed batches, constant": Case((2, 1), (1, 3), (4, 9, 8), WEIGHTS, (117, 0), constant=True),
    "16-bit operand": Case((), (), (7, 30, 40), ("int16", "int8", "int8"), (-300, 0), constant=True),
}
EVERY_TARGET = pytest.mark.parametrize("spec", HOSTS)


@EVERY_TARGET
@pytest.mark.parametrize("name", CONSTANT)
def test_constant(name: str, spec: TargetSpec) -> None:
    assert "-dense-" in CONSTANT[name].check(spec)


@EVERY_TARGET
@pytest.mark.parametrize("name", PACKED)
def test_packed(name: str, spec: TargetSpec) -> None:
    assert "-packed-" in PACKED[name].check(spec)


@pytest.mark.parametrize("name", GENERIC)
def test_what_only_the_generic_rule_takes(name: str) -> None:
    assert GENERIC[name].check(SPECS[0]) == "generic-matmul"


@pytest.mark.parametrize("name", ["narrow", "one left-hand side", "fixed2"])
def test_generic(name: str) -> None:
    PACKED[name].check(SPECS[-1], matmul_generic)


def test_the_last_rule_always_applies() -> None:
    workload, _, _, bias = GENERIC["crossed batches"].build()
    assert matmul_rules[-1](workload, None, bias, SPECS[0]) is not None


@EVERY_TARGET
def test_assembly_calls_no_library(spec: TargetSpec) -> None:
    workload, _, b, bias = CONSTANT["classifier"].build()
    text = assembly(matmul_constant(workload, b, bias, spec), spec)
    assert "Workspace" not in text and "lrint" not in text
