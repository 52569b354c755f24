"""Every operation of dialect `q`: its text, and its integers; `filecheck/invalid` has what its verifier refuses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from ir_text import checked, module_of, operation_of
from xdsl.dialects.builtin import TensorType, f32

from qcompiler.errors import IRError
from qcompiler.ir.q_base import QOp
from qcompiler.ir.q_dialect import Q_OPS
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.q_runtime import RUNTIME_OPS
from qcompiler.ir.rewriting import verify_module
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.text import parse_module, print_module
from qcompiler.ir.values import body, dtype_of


@dataclass(frozen=True)
class Case:
    """A valid operation, arrays for its operands (reshaped to their types), and its results, worked out by hand."""

    text: str
    operands: tuple[object, ...]
    results: tuple[object, ...]


NAN, INF = float("nan"), float("inf")
TABLE = [(i * 7) % 256 for i in range(256)]

CASES = {
    "quantize": Case(
        '"q.quantize"(%x) : (tensor<8xf32>) -> tensor<8x!u>',
        ([0.0, 0.25, 0.75, -0.75, -10, 1000, INF, NAN],),
        ([3, 3, 5, 1, 0, 255, 255, 0],),
    ),
    "quantize per axis": Case(
        '"q.quantize"(%x) {q.why = "weights"} : (tensor<2x2xf32>) -> tensor<2x2x!c>',
        ([1.0, -100, 1.0, 100],),
        ([10, -127, 5, 127],),
    ),
    "dequantize": Case('"q.dequantize"(%x) : (tensor<3x!u>) -> tensor<3xf32>', ([0, 3, 255],), ([-1.5, 0, 126],)),
    "conv": Case(
        '"q.conv"(%x, %w, %b, %m) {strides = array<i64: 1, 1>, pads = array<i64: 0, 0, 0, 0>, '
        "dilations = array<i64: 1, 1>, group = 1 : i64, x_zero_point = 3 : i64, pad_value = 3 : i64, "
        'rounding = "fp32", clamp = array<i64: 0, 255>, layout = "NCHW"} : '
        "(tensor<1x1x3x3x!u>, tensor<1x1x2x2xi8>, tensor<1xi32>, tensor<1xf64>) -> tensor<1x1x2x2x!u>",
        ([3, 4, 5, 6, 7, 8, 9, 10, 11], [1, -2, 3, 4], [5], [0.5]),
        ([17, 20, 26, 29],),
    ),
    "conv padded, strided, clamped, with zero points of weights": Case(
        '"q.conv"(%x, %w, %b, %m, %z) {strides = array<i64: 2, 1>, pads = array<i64: 1, 0, 0, 0>, '
        "dilations = array<i64: 1, 1>, group = 1 : i64, x_zero_point = 3 : i64, pad_value = 3 : i64, "
        'rounding = "fixed2", clamp = array<i64: 3, 20>, layout = "NHWC"} : (tensor<1x2x1x1x!u>, '
        "tensor<2x1x2x1xi8>, tensor<2xi32>, tensor<2xf64>, tensor<2xi32>) -> tensor<1x1x1x2x!u>",
        ([5, 7], [2, 3, -4, 0], [1, 0], [0.5, 0.25], [1, -2]),
        ([6, 4],),  # row -1 is padding: (5 - 3) * (3 - 1) + 1 = 5 -> 2.5 -> 3;  2 * (0 + 2) = 4 -> 1
    ),
    "matmul": Case(
        '"q.matmul"(%a, %b, %c, %m) {a_zero_point = 3 : i64, b_zero_point = 0 : i64, rounding = "fp32", '
        "clamp = array<i64: 0, 255>} : "
        "(tensor<2x2x!u>, tensor<2x2xi8>, tensor<2xi32>, tensor<1xf64>) -> tensor<2x2x!u>",
        ([4, 5, 6, 7], [1, 0, 0, 2], [1, -1], [0.5]),
        ([4, 5, 5, 7],),
    ),
    "matmul of activations": Case(
        '"q.matmul"(%a, %b, %c, %m) {a_zero_point = 3 : i64, b_zero_point = 128 : i64, rounding = "fixed", '
        "clamp = array<i64: 0, 255>} : "
        "(tensor<2x1x2x!u>, tensor<2x1x!v>, tensor<1xi32>, tensor<1xf64>) -> tensor<2x1x1x!u>",
        ([4, 5, 3, 3], [129, 126], [0], [0.5]),
        ([2, 3],),  # 1 - 4 = -3 -> -1.5, half up -> -1
    ),
    "matmul with zero points a column": Case(
        '"q.matmul"(%a, %b, %c, %m, %z) {a_zero_point = 3 : i64, b_zero_point = 0 : i64, rounding = "fp32", '
        "clamp = array<i64: 0, 255>} : "
        "(tensor<1x2x!u>, tensor<2x2xi8>, tensor<2xi32>, tensor<2xf64>, tensor<2xi32>) -> tensor<1x2x!u>",
        ([4, 5], [1, 0, 0, 2], [0, 0], [1.0, 0.5], [1, -1]),
        ([1, 7],),  # 0 + 2 * -1 = -2;  1 + 2 * 3 = 7 -> 3.5 -> 4
    ),
    "matmul with groups of rows": Case(
        '"q.matmul_grouped"(%a, %b, %c, %m, %f) {a_zero_point = 3 : i64, clamp = array<i64: 0, 255>, '
        'group = 2 : i64, rounding = "fp32"} : (tensor<1x3x!u>, tensor<3x1xi8>, tensor<1xi32>, tensor<1xf64>, '
        "tensor<2x1xi32>) -> tensor<1x1x!u>",
        ([4, 5, 3 + 2], [1, 2, -1], [1], [0.5], [3, 4]),
        ([7],),  # 1 + 3 * (1 + 4) + 4 * -2 = 8 -> 4
    ),
    "add": Case(
        '"q.add"(%a, %b) {clamp = array<i64: 0, 255>} : (tensor<3x!u>, tensor<3x!u>) -> tensor<3x!u>',
        ([3, 5, 255], [3, 4, 255]),
        ([3, 6, 255],),
    ),
    "add broadcast, other scales, clamped": Case(
        '"q.add"(%a, %b) {clamp = array<i64: 3, 100>} : (tensor<2x2x!u>, tensor<2x!v>) -> tensor<2x2x!u>',
        ([3, 5, 255, 0], [130, 126]),
        ([4, 4, 100, 3],),
    ),
    "sub": Case(
        '"q.sub"(%a, %b) {clamp = array<i64: 0, 255>} : (tensor<3x!u>, tensor<3x!u>) -> tensor<3x!u>',
        ([3, 5, 0], [3, 4, 255]),
        ([3, 4, 0],),
    ),
    "mul": Case(
        '"q.mul"(%a, %b) {clamp = array<i64: 0, 255>, rounding = "fp32"} : '
        "(tensor<3x!u>, tensor<3x!u>) -> tensor<3x!u>",
        ([3, 5, 7], [9, 4, 7]),
        ([3, 4, 11],),
    ),
    "add of 8 and 16 bits to 16": Case(
        '"q.add"(%a, %b) {clamp = array<i64: -32768, 32767>} : (tensor<4x!h>, tensor<4x!u>) -> tensor<4x!h>',
        ([0, 1000, -32768, 32767], [3, 4, 255, 255]),
        ([0, 1050, -20168, 32767],),
    ),
    "sub of 16 bits to 8": Case(
        '"q.sub"(%a, %b) {clamp = array<i64: 0, 255>} : (tensor<4x!h>, tensor<4x!h>) -> tensor<4x!u>',
        ([0, 1000, -32768, 32767], [0, 500, 32767, -32768]),
        ([3, 13, 0, 255],),
    ),
    "mul of 16 bits": Case(
        '"q.mul"(%a, %b) {clamp = array<i64: -32768, 32767>, rounding = "fixed"} : '
        "(tensor<4x!h>, tensor<4x!h>) -> tensor<4x!h>",
        ([150, -150, -32768, 32767], [100, 100, -32768, -5]),
        ([150, -150, 32767, -1638],),
    ),
    "requantize 8 to 16 bits": Case(
        '"q.requantize"(%x) {rounding = "fp32", clamp = array<i64: -32768, 32767>} : (tensor<3x!u>) -> tensor<3x!h>',
        ([0, 3, 255],),
        ([-150, 0, 12600],),
    ),
    "requantize 16 to 8 bits, clamped": Case(
        '"q.requantize"(%x) {rounding = "fixed", clamp = array<i64: 3, 200>} : (tensor<5x!h>) -> tensor<5x!u>',
        ([-32768, 0, 76, 24, 32767],),
        ([3, 3, 5, 3, 200],),  # 1.52 -> 2, 0.48 -> 0
    ),
    "requantize to one scale a channel": Case(
        '"q.requantize"(%x) {rounding = "fp32", clamp = array<i64: 0, 255>} : (tensor<2x2x!h>) -> tensor<2x2x!k>',
        ([100, 100, -32768, 32767],),
        ([5, 7, 0, 255],),
    ),
    "lut of one table a channel": Case(
        '"q.lut"(%x, %t) : (tensor<1x2x2x!u>, tensor<2x256xui8>) -> tensor<1x2x2x!k>',
        ([0, 1, 0, 1], TABLE + TABLE[::-1]),
        ([0, 7, (255 * 7) % 256, (254 * 7) % 256],),
    ),
    "lut of 16 bits": Case(
        '"q.lut"(%x, %t) : (tensor<3x!h>, tensor<65536xi16>) -> tensor<3x!h>',
        ([-32768, 0, 32767], list(range(32767, -32769, -1))),
        ([32767, -1, -32768],),
    ),
    "conv with one scale a channel": Case(
        '"q.conv"(%x, %w, %b, %m) {strides = array<i64: 1>, pads = array<i64: 1, 0>, dilations = array<i64: 1>, '
        "group = 2 : i64, x_zero_point = 3 : i64, pad_value = 3 : i64, "
        'rounding = "fp32", clamp = array<i64: 3, 255>, layout = "NCHW"} : '
        "(tensor<1x2x2x!k>, tensor<2x1x2xi8>, tensor<2xi32>, tensor<2xf64>) -> tensor<1x2x2x!k>",
        ([4, 5, 6, 7], [1, 2, 3, -4], [0, 20], [1.0, 0.5]),
        ([5, 8, 7, 9],),  # 2, 1 + 4; (20 - 12) / 2, (20 + 9 - 16) / 2 -> 6, ties to even
    ),
    "transpose of one scale a channel": Case(
        '"q.transpose"(%x) {perm = array<i64: 1, 0>} : (tensor<1x2x!k>) -> '
        "tensor<2x1x!quant.uniform<u8:f32:0, {5.0e-01:3, 2.5e-01:3}>>",
        ([1, 2],),
        ([1, 2],),
    ),
    "reshape of one scale a channel": Case(
        '"q.reshape"(%x) : (tensor<3x2x4x!k>) -> tensor<1x3x2x2x2x!quant.uniform<u8:f32:2, {5.0e-01:3, 2.5e-01:3}>>',
        (list(range(24)),),
        (list(range(24)),),
    ),
    "max_pool of 16 bits": Case(
        '"q.max_pool"(%x) {kernel = array<i64: 2>, strides = array<i64: 2>, pads = array<i64: 1, 1>, '
        'dilations = array<i64: 1>, layout = "NHWC"} : (tensor<1x4x1x!h>) -> tensor<1x3x1x!h>',
        ([-32768, -9, -300, -7],),
        ([-32768, -9, -7],),
    ),
    "mean of 16 bits": Case(
        '"q.mean"(%x) {axes = array<i64: 1>, rounding = "fp32", clamp = array<i64: 0, 255>} : '
        "(tensor<2x3x!h>) -> tensor<2x!u>",
        ([3000, 1200, 0, -32768, 0, 0],),
        ([31, 0],),
    ),
    "lut": Case(
        '"q.lut"(%x, %t) : (tensor<2x2x!u>, tensor<256xui8>) -> tensor<2x2x!v>',
        ([0, 1, 2, 255], TABLE),
        ([0, 7, 14, (255 * 7) % 256],),
    ),
    "lut of signed": Case(
        '"q.lut"(%x, %t) : (tensor<3x!s>, tensor<256xui8>) -> tensor<3x!v>',
        ([-128, 0, 127], TABLE),
        ([0, 128, (255 * 7) % 256],),
    ),
    "average_pool": Case(
        '"q.average_pool"(%x) {kernel = array<i64: 2, 2>, strides = array<i64: 1, 1>, '
        'pads = array<i64: 1, 0, 0, 0>, count_include_pad = false, rounding = "fp32", '
        'clamp = array<i64: 0, 255>, layout = "NCHW"} : (tensor<1x1x2x2x!u>) -> tensor<1x1x2x1x!u>',
        ([3, 4, 5, 7],),
        ([3, 5],),  # 1 / 2 -> 0, ties to even;  7 / 4 -> 2
    ),
    "average_pool that counts padding": Case(
        '"q.average_pool"(%x) {kernel = array<i64: 2, 2>, strides = array<i64: 1, 1>, '
        'pads = array<i64: 1, 0, 0, 0>, count_include_pad = true, rounding = "fixed", '
        'clamp = array<i64: 0, 255>, layout = "NHWC"} : (tensor<1x2x2x1x!u>) -> tensor<1x2x1x1x!u>',
        ([3, 9, 5, 7],),
        ([5, 6],),  # 6 / 4 -> 2, half up;  12 / 4 = 3
    ),
    "mean": Case(
        '"q.mean"(%x) {axes = array<i64: 1>, rounding = "fp32", clamp = array<i64: 0, 255>} : '
        "(tensor<2x3x!u>) -> tensor<2x!u>",
        ([3, 4, 8, 0, 0, 0],),
        ([5, 0],),
    ),
    "mean of first and last axis, kept": Case(
        '"q.mean"(%x) {axes = array<i64: 0, 2>, rounding = "fixed", clamp = array<i64: 0, 4>} : '
        "(tensor<2x2x1x!u>) -> tensor<1x2x1x!u>",
        ([3, 5, 4, 9],),
        ([4, 4],),  # 1 / 2 -> 1, half up;  8 / 2 = 4 -> 7, clamped
    ),
    "softmax": Case(
        '"q.softmax"(%x) {axis = 1 : i64} : (tensor<3x2x!u>) -> tensor<3x2x!p>',
        ([9, 9, 0, 255, 200, 202],),
        ([128, 128, 0, 255, 69, 187],),  # 256 / (1 + e) = 68.85
    ),
    "max_pool": Case(
        '"q.max_pool"(%x) {kernel = array<i64: 2, 2>, strides = array<i64: 1, 1>, '
        'pads = array<i64: 0, 1, 0, 0>, dilations = array<i64: 1, 1>, layout = "NCHW"} : '
        "(tensor<1x1x2x2x!s>) -> tensor<1x1x1x2x!s>",
        ([-5, -7, -128, -6],),
        ([-5, -5],),
    ),
    "max_pool of one axis, dilated": Case(
        '"q.max_pool"(%x) {kernel = array<i64: 2>, strides = array<i64: 1>, pads = array<i64: 0, 0>, '
        'dilations = array<i64: 2>, layout = "NHWC"} : (tensor<1x4x1x!u>) -> tensor<1x2x1x!u>',
        ([1, 9, 3, 4],),
        ([3, 9],),
    ),
    "concat": Case(
        '"q.concat"(%a, %b) {axis = 1 : i64} : (tensor<2x1x!u>, tensor<2x2x!u>) -> tensor<2x3x!u>',
        ([1, 2], [3, 4, 5, 6]),
        ([1, 3, 4, 2, 5, 6],),
    ),
    "split": Case(
        '"q.split"(%x) {axis = 0 : i64} : (tensor<4x!u>) -> (tensor<1x!u>, tensor<3x!u>)',
        ([1, 2, 3, 4],),
        ([1], [2, 3, 4]),
    ),
    "slice": Case(
        '"q.slice"(%x) {starts = array<i64: 1, 3>, steps = array<i64: 1, -2>} : (tensor<2x4x!u>) -> tensor<1x2x!u>',
        ([0, 1, 2, 3, 4, 5, 6, 7],),
        ([7, 5],),
    ),
    "pad": Case(
        '"q.pad"(%x) {pads = array<i64: 0, 1, 0, 2>, value = 9 : i64, mode = "constant"} : '
        "(tensor<1x3x!u>) -> tensor<1x6x!u>",
        ([1, 2, 3],),
        ([9, 1, 2, 3, 9, 9],),
    ),
    "pad edge": Case(
        '"q.pad"(%x) {pads = array<i64: 0, 1, 0, 2>, value = 0 : i64, mode = "edge"} : '
        "(tensor<1x3x!u>) -> tensor<1x6x!u>",
        ([1, 2, 3],),
        ([1, 1, 2, 3, 3, 3],),
    ),
    "pad reflect": Case(
        '"q.pad"(%x) {pads = array<i64: 0, 1, 0, 2>, value = 0 : i64, mode = "reflect"} : '
        "(tensor<1x3x!u>) -> tensor<1x6x!u>",
        ([1, 2, 3],),
        ([2, 1, 2, 3, 2, 1],),
    ),
    "reshape": Case('"q.reshape"(%x) : (tensor<2x3x!u>) -> tensor<6x!u>', ([1, 2, 3, 4, 5, 6],), ([1, 2, 3, 4, 5, 6],)),
    "transpose": Case(
        '"q.transpose"(%x) {perm = array<i64: 1, 0>} : (tensor<2x3x!u>) -> tensor<3x2x!u>',
        ([1, 2, 3, 4, 5, 6],),
        ([1, 4, 2, 5, 3, 6],),
    ),
    "gather": Case(
        '"q.gather"(%x, %i) {axis = 1 : i64} : (tensor<2x3x!u>, tensor<2xi64>) -> tensor<2x2x!u>',
        ([1, 2, 3, 4, 5, 6], [-1, 0]),
        ([3, 1, 6, 4],),
    ),
    "resize": Case(
        '"q.resize"(%x, %r, %c) {layout = "NCHW"} : '
        "(tensor<1x1x2x2x!u>, tensor<3xi64>, tensor<1xi64>) -> tensor<1x1x3x1x!u>",
        ([1, 2, 3, 4], [0, 1, 1], [1]),
        ([2, 4, 4],),
    ),
}


def test_every_operation_has_cases() -> None:
    valid = {op.name for case in CASES for op in [operation_of(CASES[case].text)]}
    elsewhere = {"q.constant", *(op.name for op in RUNTIME_OPS)}
    assert valid == {op.name for op in Q_OPS} - elsewhere


@pytest.mark.parametrize("name", CASES)
def test_text_round_trip(name: str) -> None:
    text = print_module(checked(module_of(CASES[name].text)))
    assert print_module(checked(text)) == text


@pytest.mark.parametrize("name", CASES)
def test_evaluate(name: str) -> None:
    case = CASES[name]
    op = operation_of(case.text)
    assert isinstance(op, QOp)
    arrays = [
        np.asarray(a, dtype_of(v)).reshape(v.type.get_shape())  # type: ignore[attr-defined]
        for v, a in zip(op.operands, case.operands, strict=True)
    ]
    results = op.evaluate(*arrays)
    for value, found, expected in zip(op.results, results, case.results, strict=True):
        assert found.dtype == dtype_of(value)
        assert found.shape == tuple(value.type.get_shape())  # type: ignore[attr-defined]
        assert found.ravel().tolist() == expected


def test_missing_attribute() -> None:
    with pytest.raises(IRError, match="clamp"):
        checked(module_of(CASES["add"].text.replace(" {clamp = array<i64: 0, 255>}", "")))


def test_constant() -> None:
    store = ConstantStore()
    op = ConstantOp.of(store, "layer/w:0", np.arange(6, dtype=np.float32).reshape(2, 3))
    assert op.resource == "layer_w_0"
    assert store[op.resource].tolist() == [[0, 1, 2], [3, 4, 5]]
    op.verify()
    with pytest.raises(TypeError, match="read from the store"):
        op.evaluate()


def test_constant_type_must_match_its_resource() -> None:
    text = (
        "func.func @main() -> tensor<2xf32> {\n"
        '  %0 = "q.constant"() {value = dense_resource<w> : tensor<3xf32>} : () -> tensor<2xf32>\n'
        "  func.return %0 : tensor<2xf32>\n}\n"
    )
    with pytest.raises(IRError, match=r"the resource has type tensor<3xf32>, the result tensor<2xf32>"):
        checked(text)


def test_verifier_names_op_and_neighbours() -> None:
    text = (
        "func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {\n"
        '  %0 = "onnx.Abs"(%x) : (tensor<2xf32>) -> tensor<2xf32> loc("first")\n'
        '  %1 = "q.quantize"(%0) : (tensor<2xf32>) -> tensor<3x!quant.uniform<u8:f32, 1.0e-01>> loc("bad")\n'
        "  func.return %0 : tensor<2xf32>\n}\n"
    )
    module = parse_module(text)
    with pytest.raises(IRError) as error:
        verify_module(module)
    message = str(error.value)
    assert message.startswith("q.quantize 'bad' does not verify: ")
    assert '> %1 = "q.quantize"' in message.replace("%2", "%1")
    assert '"onnx.Abs"' in message


def test_use_before_definition() -> None:
    text = (
        "func.func @main(%x: tensor<2xf32>) -> tensor<2xf32> {\n"
        '  %1 = "onnx.Abs"(%0) : (tensor<2xf32>) -> tensor<2xf32> loc("early")\n'
        '  %0 = "onnx.Abs"(%x) : (tensor<2xf32>) -> tensor<2xf32> loc("late")\n'
        "  func.return %1 : tensor<2xf32>\n}\n"
    )
    with pytest.raises(IRError, match=r"onnx.Abs 'early' uses a value before its definition"):
        verify_module(parse_module(text))


def test_element_type_is_the_type_of_the_array() -> None:
    op = ConstantOp.of(ConstantStore(), "w", np.zeros((2, 1), np.float32))
    assert op.y.type == TensorType(f32, [2, 1])
    assert body(checked(module_of(CASES["add"].text))).first_op is not None
