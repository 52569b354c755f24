"""Operations with run-time scales and zero points: their text, their results, their kernels, what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from host_kernels import Case as KernelCase
from host_kernels import check
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_text import checked, module_of, operation_of
from products import HOSTS, SPECS

from qcompiler.ir.q_runtime import RUNTIME_OPS, limits_of
from qcompiler.ir.text import print_module
from qcompiler.ir.values import dtype_of, integer, integers, shape, small_type
from qcompiler.lowering.compute_products import conv_integer_kernel, matmul_integer_kernel
from qcompiler.lowering.compute_runtime import (
    dequantize_linear_kernel,
    dynamic_range_kernel,
    quantize_linear_kernel,
)
from qcompiler.lowering.program import Kernel
from qcompiler.lowering.view import View

NAN, INF = float("nan"), float("inf")
_PLAIN = "{axis = 0 : i64, block_size = 0 : i64, saturate = true}"

CASES: dict[str, tuple[str, tuple[object, ...], tuple[object, ...]]] = {
    "quantize": (
        f'"q.quantize_linear"(%x, %s, %z) {_PLAIN} : (tensor<8xf32>, tensor<f32>, tensor<1xui8>) -> tensor<8xui8>',
        ([0.0, 0.25, 0.75, -0.75, -10, 1000, INF, NAN], 0.5, [3]),
        ([3, 3, 5, 1, 0, 255, 255, 0],),
    ),
    "quantize to 16 bits without a zero point": (
        f'"q.quantize_linear"(%x, %s) {_PLAIN} : (tensor<4xf32>, tensor<f32>) -> tensor<4xi16>',
        ([0.5, -0.5, 40000, -40000], 1.0),
        ([0, 0, 32767, -32768],),
    ),
    "quantize to 2 bits a channel": (
        '"q.quantize_linear"(%x, %s, %z) {axis = 1 : i64, block_size = 0 : i64, saturate = true} : '
        "(tensor<2x2xf32>, tensor<2xf32>, tensor<2xi2>) -> tensor<2x2xi2>",
        ([1.0, 1.0, -9, -9], [1.0, 2.0], [0, 1]),
        ([1, 1, -2, -2],),
    ),
    "quantize in blocks, the last one short": (
        '"q.quantize_linear"(%x, %s) {axis = 1 : i64, block_size = 2 : i64, saturate = true} : '
        "(tensor<2x3xf32>, tensor<2x2xf32>) -> tensor<2x3xui4>",
        ([4, 8, 12, 20, 21, 22], [4, 1, 5, 2]),
        ([1, 2, 12, 4, 4, 11],),
    ),
    "quantize to float8": (
        f'"q.quantize_linear"(%x, %s, %z) {_PLAIN} : (tensor<6xf32>, tensor<f32>, tensor<1xf8E4M3FN>) -> '
        "tensor<6xf8E4M3FN>",
        ([0.0, 2.0, -4.0, 1000, -INF, NAN], 2.0, [0]),
        ([0, 0x38, 0xC0, 0x7E, 0xFE, 0x7F],),
    ),
    "quantize to float8, not saturated": (
        '"q.quantize_linear"(%x, %s) {axis = 0 : i64, block_size = 0 : i64, saturate = false} : '
        "(tensor<4xf32>, tensor<f32>) -> tensor<4xf8E5M2>",
        ([1.0, 1e6, -INF, -0.0], 1.0),
        ([0x3C, 0x7C, 0xFC, 0x80],),
    ),
    "dequantize": (
        '"q.dequantize_linear"(%x, %s, %z) {axis = 0 : i64, block_size = 0 : i64} : '
        "(tensor<2x2xui16>, tensor<2xf32>, tensor<2xui16>) -> tensor<2x2xf32>",
        ([0, 65535, 1, 2], [0.5, 2.0], [1, 2]),
        ([-0.5, 32767, -2, 0],),
    ),
    "dequantize float4": (
        '"q.dequantize_linear"(%x, %s) {axis = 0 : i64, block_size = 0 : i64} : '
        "(tensor<3xf4E2M1FN>, tensor<f32>) -> tensor<3xf32>",
        ([1, 7, 15], 2.0),
        ([1.0, 12.0, -12.0],),
    ),
    "dequantize int32": (
        '"q.dequantize_linear"(%x, %s) {axis = 0 : i64, block_size = 0 : i64} : '
        "(tensor<2xi32>, tensor<1xf32>) -> tensor<2xf32>",
        ([-100000, 7], [0.5]),
        ([-50000.0, 3.5],),
    ),
    "range": (
        '"q.dynamic_range"(%x) : (tensor<2x3xf32>) -> (tensor<f32>, tensor<ui8>)',
        ([0.0, -1.0, NAN, 50, 1, -205],),
        (1.0, 205),
    ),
    "range above 0": (
        '"q.dynamic_range"(%x) : (tensor<2xf32>) -> (tensor<f32>, tensor<ui8>)',
        ([510.0, 2.0],),
        (2.0, 0),
    ),
    "range of 0": (
        '"q.dynamic_range"(%x) : (tensor<2xf32>) -> (tensor<f32>, tensor<ui8>)',
        ([0.0, 0.0],),
        (1.0, 0),
    ),
    "conv": (
        '"q.conv_integer"(%x, %w, %p, %q) {strides = array<i64: 1, 1>, pads = array<i64: 1, 0, 0, 0>, '
        "dilations = array<i64: 1, 1>, group = 1 : i64} : "
        "(tensor<1x1x2x2xui8>, tensor<2x1x2x1xi8>, tensor<ui8>, tensor<2xi8>) -> tensor<1x2x2x2xi32>",
        ([2, 3, 4, 5], [1, 2, 3, -4], 1, [1, 0]),
        ([1, 2, 3, 4, -4, -8, 3 - 12, 6 - 16],),
    ),
    "grouped conv of one axis": (
        '"q.conv_integer"(%x, %w, %p, %q) {strides = array<i64: 2>, pads = array<i64: 0, 1>, '
        "dilations = array<i64: 2>, group = 2 : i64} : "
        "(tensor<1x2x4xi8>, tensor<2x1x2xi8>, tensor<i8>, tensor<1xi8>) -> tensor<1x2x2xi32>",
        ([1, 2, 3, 4, 5, 6, 7, 8], [1, 1, 2, -1], 0, [0]),
        ([4, 3, 3, 14],),
    ),
    "matmul": (
        '"q.matmul_integer"(%a, %b, %p, %q) : '
        "(tensor<2x2xui8>, tensor<2x2xi8>, tensor<2xui8>, tensor<2xi8>) -> tensor<2x2xi32>",
        ([1, 2, 3, 4], [1, 2, 3, 4], [1, 2], [0, 1]),
        ([3, 3, 1 + 6, 1 + 6],),
    ),
    "batched matmul": (
        '"q.matmul_integer"(%a, %b, %p, %q) : '
        "(tensor<2x1x2xi8>, tensor<2x3xi8>, tensor<2x1x1xi8>, tensor<i8>) -> tensor<2x1x3xi32>",
        ([1, 2, 3, 4], [1, 0, 0, 0, 1, 0], [0, 1], 0),
        ([1, 2, 0, 2, 3, 0],),
    ),
}


def test_every_operation_has_cases() -> None:
    names = {op.name for op in RUNTIME_OPS}
    assert {operation_of(text).name for text, *_ in CASES.values()} == names


@pytest.mark.parametrize("name", CASES)
def test_text_round_trip(name: str) -> None:
    text = print_module(checked(module_of(CASES[name][0])))
    assert print_module(checked(text)) == text


def arrays(values: object, given: tuple[object, ...]) -> list[np.ndarray]:
    return [
        np.asarray(a).astype(dtype_of(v)).reshape(shape(v))
        for v, a in zip(values, given, strict=True)  # type: ignore[call-overload]
    ]


@pytest.mark.parametrize("name", CASES)
def test_results(name: str) -> None:
    text, given_operands, expected = CASES[name]
    op = operation_of(text)
    results = op.evaluate(*arrays(op.operands, given_operands))
    for result, wanted in zip(results, arrays(op.results, expected), strict=True):
        assert result.dtype == wanted.dtype
        assert result.shape == wanted.shape
        assert np.array_equal(result.view(np.uint8), wanted.view(np.uint8)) if wanted.ndim else result == wanted


def kernel_of(op, operands: list[View | np.ndarray], spec) -> Kernel:  # type: ignore[no-untyped-def]
    """The kernel of an op; its results are views without halo."""
    views = [View(shape(r), str(dtype_of(r))) for r in op.results]
    match op.name:
        case "q.quantize_linear":
            form = small_type(op.y)
            form = (form, bool(op.saturate)) if form.startswith("float") else limits_of(op.y)
            where = integer(op.axis), integer(op.block_size)
            return quantize_linear_kernel(operands[0], operands[1:], views[0], where, form, spec)
        case "q.dequantize_linear":
            form = small_type(op.x)
            where = integer(op.axis), integer(op.block_size)
            form = form if form.startswith("float") else ""
            return dequantize_linear_kernel(operands[0], operands[1:], views[0], where, form, spec)
        case "q.dynamic_range":
            return dynamic_range_kernel(operands[0], *views, spec)
        case "q.conv_integer":
            geometry = integers(op.strides), integers(op.pads), integers(op.dilations), integer(op.group)
            return conv_integer_kernel(*operands, views[0], *geometry, spec)
    return matmul_integer_kernel(*operands, op.zero_point_shapes(), views[0], spec)


@pytest.mark.parametrize("spec", HOSTS)
def test_kernels_equal_the_definition(spec) -> None:  # type: ignore[no-untyped-def]
    """With activations and with constants as parameters."""
    cases = []
    for text, given_operands, _ in CASES.values():
        op = operation_of(text)
        operands = arrays(op.operands, given_operands)
        views = [View(a.shape, str(a.dtype)) for a in operands]
        expected = [(View(r.shape, str(r.dtype)), r) for r in op.evaluate(*operands)]
        inputs = list(zip(views, operands, strict=True))
        cases.append(KernelCase(kernel_of(op, views, spec), inputs, expected))  # type: ignore[arg-type]
        if len(operands) > 1:
            mixed = [views[0], *operands[1:]]
            cases.append(KernelCase(kernel_of(op, mixed, spec), inputs[:1], expected))  # type: ignore[arg-type]
    check(cases, spec)


def sized(text: str, seed: int) -> KernelCase:
    """A case of a kernel on random operands of the types in `text`."""
    op, rng = operation_of(text), np.random.default_rng(seed)
    operands = []
    for value in op.operands:
        dtype = dtype_of(value)
        if dtype.kind == "f":
            a = np.exp(rng.normal(size=shape(value)))
            a = a if value is getattr(op, "scale", None) else (a - 1.0) * 100
        else:
            info = np.iinfo(dtype)
            a = rng.integers(info.min, info.max, shape(value), dtype, endpoint=True)
        operands.append(np.asarray(a, dtype))
    views = [View(a.shape, str(a.dtype)) for a in operands]
    expected = [(View(r.shape, str(r.dtype)), r) for r in op.evaluate(*operands)]
    return KernelCase(kernel_of(op, views, SPECS[0]), list(zip(views, operands, strict=True)), expected)  # type: ignore[arg-type]


def test_kernels_on_more_elements_than_a_vector() -> None:
    floats = ("f8E4M3FN", "f8E4M3FNUZ", "f8E5M2", "f8E5M2FNUZ", "f4E2M1FN", "f6E2M3FN", "f6E3M2FN")
    texts = [
        f'"q.quantize_linear"(%x, %s) {{axis = 1 : i64, block_size = 0 : i64, saturate = {saturate}}} : '
        f"(tensor<9x100xf32>, tensor<100xf32>) -> tensor<9x100x{element}>"
        for element in (*floats, "ui8", "i16", "i4")
        for saturate in ("true", "false")
    ]
    texts += [
        '"q.quantize_linear"(%x, %s, %z) {axis = 1 : i64, block_size = 3 : i64, saturate = true} : '
        "(tensor<2x7x37xf32>, tensor<2x3x37xf32>, tensor<2x3x37xui8>) -> tensor<2x7x37xui8>",
        '"q.dequantize_linear"(%x, %s, %z) {axis = 2 : i64, block_size = 5 : i64} : '
        "(tensor<2x7x37xi8>, tensor<2x7x8xf32>, tensor<2x7x8xi8>) -> tensor<2x7x37xf32>",
        '"q.dynamic_range"(%x) : (tensor<5x1001xf32>) -> (tensor<f32>, tensor<ui8>)',
        '"q.matmul_integer"(%a, %b, %p, %q) : (tensor<3x1x5x33xui8>, tensor<2x33x37xi8>, tensor<5xui8>, '
        "tensor<2x1x37xi8>) -> tensor<3x2x5x37xi32>",
        '"q.conv_integer"(%x, %w, %p, %q) {strides = array<i64: 2, 1>, pads = array<i64: 1, 2, 0, 3>, dilations = '
        "array<i64: 1, 2>, group = 3 : i64} : (tensor<2x6x9x10xui8>, tensor<6x2x3x3xi8>, tensor<ui8>, tensor<6xi8>) "
        "-> tensor<2x6x4x11xi32>",
    ]
    check([sized(text, seed) for seed, text in enumerate(texts)], SPECS[0])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_matmul_integer_is_exact(depth: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 256, (3, depth)), rng.integers(-128, 128, (depth, 4))
    rows, columns = rng.integers(0, 256, (3,)), rng.integers(-128, 128, (4,))
    op = operation_of(
        f'"q.matmul_integer"(%a, %b, %p, %q) : (tensor<3x{depth}xui8>, tensor<{depth}x4xi8>, tensor<3xui8>, '
        "tensor<4xi8>) -> tensor<3x4xi32>"
    )
    given_operands = a.astype(np.uint8), b.astype(np.int8), rows.astype(np.uint8), columns.astype(np.int8)
    assert np.array_equal(op.evaluate(*given_operands)[0], (a - rows[:, None]) @ (b - columns))
