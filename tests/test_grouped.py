"""Weights with a scale a group of rows: exact arithmetic, the op, the pass, the host's kernel, the export."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from products import HOSTS, Expectation, random_stored
from small_graphs import Graph, feeds_of, onnxruntime_outputs, outputs, passed, run_passes, sqnr
from xdsl.dialects.builtin import DictionaryAttr, StringAttr

from qcompiler.arithmetic.conv import matmul_acc
from qcompiler.arithmetic.grouped import (
    effective_weights,
    factors_of,
    fits_int32,
    group_scales,
    grouped_bound,
    spread,
)
from qcompiler.arithmetic.requantize import requantize
from qcompiler.errors import IRError, PipelineError
from qcompiler.exporters.export import export
from qcompiler.frontends.onnx_import import import_graph
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.q_grouped import GroupedMatMulOp
from qcompiler.ir.rewriting import verify_module
from qcompiler.ir.text import parse_module
from qcompiler.ir.values import body, integer
from qcompiler.lowering.workload import MatmulWorkload, Requantize
from qcompiler.model import Model
from qcompiler.targets.cpu.grouped import grouped_kernel
from qcompiler.targets.spec import TargetSpec

_CHOSEN = "canonicalize,fold-batch-norm,canonicalize,calibrate,choose-scheme"


@st.composite
def _weights(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    k, n = draw(st.integers(1, 40)), draw(st.integers(1, 6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spreads = np.exp(rng.normal(0, 2, (k, 1)))
    return (rng.normal(0, 1, (k, n)) * spreads).astype(np.float32), draw(st.integers(1, 50))


@given(_weights(), st.sampled_from([7, 127]), st.sampled_from([1, 16, 256]))
@settings(max_examples=60, deadline=None)
def test_scales_are_units_times_factors(drawn: tuple[np.ndarray, int], qmax: int, resolution: int) -> None:
    w, group = drawn
    scales = group_scales(w, group, qmax, resolution)
    parts = factors_of(scales)
    assert parts is not None
    units, factors = parts
    assert factors.min() >= 1
    assert factors.max() <= resolution
    assert np.array_equal(units * factors, scales.astype(np.float64))
    # no weight is cut off, and no group has a scale coarser than one step above what it needs
    assert (np.abs(w) <= spread(scales, group, len(w)).astype(np.float64) * (qmax + 0.5)).all()


def test_scales_that_are_no_products() -> None:
    assert factors_of(np.array([[1.0, 1.0], [1 / 3, 0.5]], np.float32)) is None


@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_sum_of_scaled_groups_and_its_bound(k: int, n: int, group: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    w = random_stored(rng, "int8", (k, n))
    factors = rng.integers(1, 257, (-(-k // group), n))
    bias = rng.integers(-(10**6), 10**6, n)
    x = random_stored(rng, "uint8", (4, k))
    zero = int(rng.integers(0, 256))
    expected = np.tile(bias, (4, 1))
    for g, first in enumerate(range(0, k, group)):
        rows = slice(first, first + group)
        expected += factors[g] * ((x[:, rows].astype(np.int64) - zero) @ w[rows].astype(np.int64))
    found = matmul_acc(x, effective_weights(w, factors, group), zero, 0, bias.astype(np.int32))
    assert np.array_equal(found, expected)
    bound = grouped_bound(w, factors, group, -zero, 255 - zero, bias)
    assert (np.abs(expected) <= bound).all()
    effective = effective_weights(w, factors, group).astype(np.int64)
    highest = bias + (np.where(effective > 0, 255 - zero, -zero) * effective).sum(0)
    assert (bound >= np.abs(highest)).all()


def test_bound_is_exact_at_the_limit() -> None:
    w, factors = np.full((2, 1), 127, np.int8), np.full((1, 1), 256)
    room = 2**31 - 1 - 2 * 127 * 256 * 255
    assert fits_int32(w, factors, 2, 0, 255, np.array([room]))
    assert not fits_int32(w, factors, 2, 0, 255, np.array([room + 1]))


# ------------------------------------------------------------------------------------------- the kernel

_SHAPES = [
    (1, 4, 1, 4),
    (5, 19, 3, 8),
    (7, 64, 17, 16),
    (3, 70, 1, 32),
    (2, 33, 40, 6),
    (16, 128, 48, 64),
    (1, 5, 3, 5),
]


@pytest.mark.parametrize("spec", HOSTS)
@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_host_kernel(spec: TargetSpec, dtype: str) -> None:
    for case in kernel_cases(spec, dtype):
        case.check(spec)


def kernel_cases(spec: TargetSpec, dtype: str) -> Iterator[Expectation]:
    for m, k, n, group in _SHAPES:
        rng = np.random.default_rng(m * k * n)
        a, b = random_stored(rng, dtype, (m, k)), random_stored(rng, "int8", (k, n))
        factors = rng.integers(1, 257, (-(-k // group), n)).astype(np.int32)
        bias = rng.integers(-(10**5), 10**5, n).astype(np.int32)
        multiplier = rng.uniform(1e-7, 3e-6, n)
        for out, rounding in (("uint8", "fp32"), ("int8", "fixed"), ("int16", "fp32")):
            zero = 128 if out == "uint8" else -3
            limits = np.iinfo(out)
            form = Requantize(rounding, multiplier, zero, (limits.min + 3, limits.max), out)  # type: ignore[arg-type]
            info = np.iinfo(dtype)
            bound = int(grouped_bound(b, factors, group, info.min, info.max, bias).max())
            workload = MatmulWorkload((), (), m, k, n, dtype, "int8", 0, 0, form, bound)
            kernel = grouped_kernel(workload, b, factors, group, bias, spec)
            acc = matmul_acc(a, effective_weights(b, factors, group), 0, 0, bias)
            expected = requantize(acc, multiplier, zero, limits.min + 3, limits.max, np.dtype(out), rounding, 1)  # type: ignore[arg-type]
            yield Expectation(kernel, [a], expected)


# ------------------------------------------------------------------------------------ pass, op and export


def _graph(rows: tuple[int, ...], k: int, n: int, bias: bool) -> tuple[Model, list[dict[str, np.ndarray]], list]:
    g = Graph(x=(*rows, k))
    w = g.constant((g.rng.normal(0, 0.3, (k, n)) * np.exp(g.rng.normal(0, 1.5, (k, 1)))).astype(np.float32))
    y = g("MatMul", "x", w)
    if bias:
        y = g("Add", y, g.weight(n))
    y = g("MatMul", g("Relu", y), g.weight(n, 5))
    proto = g.proto(y)
    feeds = feeds_of(proto)
    return import_graph(proto), feeds, [onnxruntime_outputs(proto, f) for f in feeds]


def _everything(model: Model, feeds: list, passes: str) -> Model:
    from unittest import mock

    from qcompiler.passes import choose_scheme

    with mock.patch.object(choose_scheme, "border", lambda module, gains, inner: (0.0, set(gains))):
        return passed(model, passes, feeds)


@pytest.mark.parametrize(("rows", "k", "n", "group"), [((4,), 32, 17, 8), ((2, 3), 37, 3, 16), ((1,), 20, 40, 64)])
@pytest.mark.parametrize("bits", [8, 4])
def test_pass_to_integers(rows: tuple[int, ...], k: int, n: int, group: int, bits: int) -> None:
    model, feeds, reference = _graph(rows, k, n, bias=len(rows) == 2)
    qdq = _everything(model, feeds, f"{_CHOSEN},group-weights{{group={group} bits={bits}}},correct-bias,insert-qdq")
    whole = passed(qdq, "integerize")
    grouped = [op for op in body(whole.module).ops if isinstance(op, GroupedMatMulOp)]
    assert [integer(op.group) for op in grouped] == [min(group, k), min(group, n)]
    before = outputs(whole, feeds)
    lowered = passed(whole, "legalize{storage=i8},fold-zero-point,plan-layout,cse,dce")
    for a, b in zip(before, outputs(lowered, feeds), strict=True):
        for name in a:
            assert np.array_equal(a[name], b[name])
    assert Model(parse_module(whole.text()), whole.store).text() == whole.text()
    plain = _everything(model, feeds, f"{_CHOSEN},insert-qdq,integerize")
    name = next(iter(reference[0]))
    ours, theirs = (sqnr(reference, o, name) for o in (before, outputs(plain, feeds)))
    if bits == 8:
        assert ours >= theirs - 1.0  # at least about as near as a scale a channel
    # The QDQ export, a blocked DequantizeLinear, computes the same up to one step.
    step = max(np.abs(o[name]).max() for o in before) / 100
    for found, feed in zip(before, feeds, strict=True):
        np.testing.assert_allclose(onnxruntime_outputs(export(qdq), feed)[name], found[name], atol=step)


def test_recipe_asks_for_groups() -> None:
    model, feeds, _ = _graph((4,), 32, 6, bias=False)
    chosen = _everything(model, feeds, _CHOSEN)
    first = next(op for op in body(chosen.module).ops if op_name(op) == "MatMul")
    first.attributes["q.recipe"] = DictionaryAttr({"weights": StringAttr("per-group:8")})
    whole = passed(chosen, "group-weights,insert-qdq,integerize")
    assert [integer(o.group) for o in body(whole.module).ops if isinstance(o, GroupedMatMulOp)] == [8]
    first.attributes["q.recipe"] = DictionaryAttr({"weights": StringAttr("per-group:many")})
    with pytest.raises(PipelineError, match="per-group:N"):
        run_passes(chosen, "group-weights")
    with pytest.raises(PipelineError, match="4 or 8 bits"):
        passed(model, f"{_CHOSEN},group-weights{{bits=3}}", feeds)


def test_long_sums_take_coarser_scales() -> None:
    g = Graph(x=(2, 3000))
    sizes = np.where(np.arange(3000) < 64, 0.37, 1.0)[:, None]
    w = g.constant((np.sign(g.rng.normal(0, 1, (3000, 2))) * sizes).astype(np.float32))
    proto = g.proto(g("MatMul", "x", w))
    feeds = feeds_of(proto)
    chosen = _everything(import_graph(proto), feeds, f"{_CHOSEN},group-weights{{group=64}}")
    op = next(o for o in body(chosen.module).ops if op_name(o) == "MatMul")
    assert "factors up to 8" in str(op.attributes["q.why_weight"])


def test_invalid_ops() -> None:
    model, feeds, _ = _graph((4,), 32, 6, bias=False)
    text = _everything(model, feeds, f"{_CHOSEN},group-weights{{group=8}},insert-qdq,integerize").text()
    for old, new, message in (
        ("group = 8 ", "group = 0 ", "expected a group of 1..32 rows, found 0"),
        ("group = 8 ", "group = 16 ", r"expected factors of shape \[2, 6\], found \[4, 6\]"),
    ):
        module = parse_module(text.replace(old, new, 1))
        with pytest.raises(IRError, match=message):
            verify_module(module)
