"""Every operation of dialect `q`: its text, its integers, and what its verifier refuses."""

from __future__ import annotations

import re
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

INVALID = [
    ("quantize", "-> tensor<8x!u>", "-> tensor<4x!u>", "expected a result of shape [8], found [4]"),
    ("quantize", "(tensor<8xf32>)", "(tensor<8xi32>)", "operand 'x'"),
    ("quantize per axis", "2x2x!c", "2x2x!b", "expected a per-tensor or per-axis type"),
    ("quantize per axis", "2x2x!c", "2x2x!quant.uniform<i8:f32:0, {1.0e-01}>", "1 scales do not fit axis 0 of [2, 2]"),
    ("quantize per axis", "2x2x!c", "2x2x!quant.uniform<i8:f32:2, {1.0e-01}>", "expected an axis in 0..1, found 2"),
    ("quantize", "8x!u", "8x!quant.uniform<i32:f32, 1.0e-01>", "not exact enough to quantize to 32 bits"),
    ("dequantize", "tensor<3xf32>", "tensor<1x3xf32>", "expected a result of shape [3], found [1, 3]"),
    ("conv", 'rounding = "fp32"', 'rounding = "up"', "rounding must be one of fp32, fixed, fixed2, got 'up'"),
    ("conv", 'layout = "NCHW"', 'layout = "NCWH"', "layout must be one of NCHW, NHWC"),
    ("conv", "clamp = array<i64: 0, 255>", "clamp = array<i64: 0, 256>", "two integers lo <= hi in 0:255"),
    ("conv", "clamp = array<i64: 0, 255>", "clamp = array<i64: 9, 8>", "clamp must be two integers lo <= hi"),
    ("conv", "2x2xi8>", "2x2xf32>", "expected a weight of integers of 8 or 16 bits, found f32"),
    ("conv", "tensor<1x1x2x2xi8>", "tensor<1x2x2x2xi8>", "1 input channels do not fit a weight [1, 2, 2, 2]"),
    ("conv", "group = 1", "group = 2", "do not fit a weight [1, 1, 2, 2] in 2 groups"),
    ("conv", "tensor<1x1x2x2xi8>", "tensor<1x2x2xi8>", "of one rank above 2, found"),
    ("conv", "tensor<1xi32>", "tensor<2xi32>", "expected bias of shape [1], found [2]"),
    ("conv", "tensor<1xf64>", "tensor<2xf64>", "expected 1 or 1 multipliers, found [2]"),
    ("conv", "-> tensor<1x1x2x2x!u>", "-> tensor<1x1x2x3x!u>", "expected spatial extents [2, 2] of the result"),
    ("conv", "-> tensor<1x1x2x2x!u>", "-> tensor<2x1x2x2x!u>", "expected 1 images, found 2"),
    ("conv", "-> tensor<1x1x2x2x!u>", "-> tensor<1x2x2x2x!u>", "expected 1 output channels, found 2"),
    ("conv", "strides = array<i64: 1, 1>", "strides = array<i64: 0, 1>", "strides and dilations must be positive"),
    ("conv", "pads = array<i64: 0, 0, 0, 0>", "pads = array<i64: 0, 0>", "expected 2 kernel extents, strides"),
    ("conv", "(tensor<1x1x3x3x!u>", "(tensor<1x1x3x3x!c>", "expected a per-tensor type"),
    (
        "conv padded, strided, clamped, with zero points of weights",
        "tensor<2xi32>) ->",
        "tensor<3xi32>) ->",
        "expected weight zero points of shape [2], found [3]",
    ),
    ("matmul", "tensor<2x2xi8>", "tensor<3x2xi8>", "expected [..., M, K] and [..., K, N], found [2, 2] and [3, 2]"),
    ("matmul", "tensor<2x2xi8>", "tensor<2x2xf32>", "expected a right operand of integers of 8 or 16 bits"),
    ("matmul", "tensor<2xi32>", "tensor<1xi32>", "expected bias of shape [2], found [1]"),
    ("matmul", "-> tensor<2x2x!u>", "-> tensor<2x1x!u>", "expected a result of shape [2, 2], found [2, 1]"),
    ("matmul", "tensor<1xf64>", "tensor<3xf64>", "expected 1 or 2 multipliers, found [3]"),
    ("matmul of activations", "tensor<2x1x!v>", "tensor<3x2x1x!v>", "do not broadcast"),
    ("matmul of activations", "tensor<2x1x!v>", "tensor<2x1x!c>", "expected a per-tensor type"),
    ("matmul with zero points a column", "tensor<2xi32>) ->", "tensor<1xi32>) ->", "expected zero points of shape [2]"),
    ("add", "(tensor<3x!u>, ", "(tensor<2x!u>, ", "shapes [2] and [3] do not broadcast"),
    ("add", "-> tensor<3x!u>", "-> tensor<1x3x!u>", "expected a result of shape [3], found [1, 3]"),
    ("add", ", 255>", ", 300>", "clamp must be"),
    ("sub", "-> tensor<3x!u>", "-> tensor<3xf32>", "result 'y'"),
    ("mul", '"fp32"', '"fp16"', "rounding must be one of"),
    ("mul", "tensor<3x!u>) ->", "tensor<3xf32>) ->", "operand 'b'"),
    ("lut", "256xui8", "255xui8", "expected a table of shape [256], found [255]"),
    ("lut", "256xui8", "256xi8", "the table holds i8, the result is stored as u8"),
    ("lut", "256xui8", "256xf32", "the table holds f32, the result is stored as u8"),
    ("lut", "(tensor<2x2x!u>", "(tensor<2x2x!h>", "expected a table of shape [65536], found [256]"),
    ("lut", "(tensor<2x2x!u>", "(tensor<2x2x!quant.uniform<u4:f32, 1.0e-01>>", "expected an operand of 8 or 16 bits"),
    ("lut", "(tensor<2x2x!u>", "(tensor<2x2x!k>", "expected a per-tensor type"),
    ("lut", "-> tensor<2x2x!v>", "-> tensor<2x2x!k>", "expected a table of shape [2, 256], found [256]"),
    ("lut of one table a channel", "2x2x!u>", "2x2x!h>", "expected an operand of 8 bits for a result with one scale"),
    ("lut of one table a channel", "!k", "!quant.uniform<u8:f32:1, {1.0e-01, 1.0e-01:3}>", "share one zero point"),
    ("add", "(tensor<3x!u>, ", "(tensor<3x!k>, ", "expected a per-tensor type"),
    ("add of 8 and 16 bits to 16", "-> tensor<4x!h>", "-> tensor<4x!quant.uniform<i16:f32, 1.0e-07>>", "is too small"),
    ("add of 8 and 16 bits to 16", "4x!u>)", "4x!quant.uniform<i32:f32, 1.0e-01>>)", "a type of 8 or 16 bits"),
    (
        "mul of 16 bits",
        "(tensor<4x!h>, tensor<4x!h>)",
        "(tensor<4x!quant.uniform<u16:f32, 1.0e-01>>, tensor<4x!quant.uniform<u16:f32, 1.0e-01>>)",
        "can reach 4294836225, beyond int32",
    ),
    ("requantize 8 to 16 bits", '"fp32"', '"up"', "rounding must be one of"),
    ("requantize 8 to 16 bits", "-> tensor<3x!h>", "-> tensor<4x!h>", "expected a result of shape [3], found [4]"),
    ("requantize 8 to 16 bits", "(tensor<3x!u>)", "(tensor<3x!c>)", "expected a per-tensor type"),
    ("requantize 8 to 16 bits", "32767>", "32768>", "clamp must be"),
    ("requantize 16 to 8 bits, clamped", "(tensor<5x!h>)", "(tensor<5x!quant.uniform<i32:f32, 0.1>>)", "8 or 16 bits"),
    ("requantize to one scale a channel", "!k>", "!quant.uniform<u8:f32:{0:2, 1:2}, {{0.1}}>>", "a per-tensor type"),
    (
        "requantize to one scale a channel",
        "-> tensor<2x2x!k>",
        "-> tensor<2x2x!quant.uniform<u8:f32:1, {1.0e-01}>>",
        "1 scales do not fit axis 1",
    ),
    ("conv", "(tensor<1x1x3x3x!u>", "(tensor<1x1x3x3x!h>", "expected an operand of 8 bits"),
    ("conv with one scale a channel", "!k>, tensor", "!c>, tensor", "expected a per-tensor type or one along axis 1"),
    (
        "conv with one scale a channel",
        "-> tensor<1x2x2x!k>",
        "-> tensor<1x2x2x!quant.uniform<u8:f32:1, {1.0e-01:1, 1.0e-01:2}>>",
        "expected channels that share one zero point",
    ),
    ("matmul", "(tensor<2x2x!u>", "(tensor<2x2x!h>", "expected an operand of 8 bits"),
    ("matmul of activations", "tensor<2x1x!v>", "tensor<2x1x!h>", "expected an operand of 8 bits"),
    ("transpose of one scale a channel", "f32:0", "f32:1", "the result must have the operand's type"),
    ("reshape of one scale a channel", "f32:2", "f32:3", "axis 3 of [1, 3, 2, 2, 2] is not axis 1 of [3, 2, 4]"),
    ("reshape of one scale a channel", "f32:2, {5.0e-01", "f32:2, {4.0e-01", "must have the operand's type"),
    ("reshape of one scale a channel", "1x3x2x2x2", "1x3x8", "axis 2 of [1, 3, 8] is not axis 1 of [3, 2, 4]"),
    ("slice", "(tensor<2x4x!u>", "(tensor<2x4x!k>", "expected a per-tensor type"),
    (
        "mean of 16 bits",
        "(tensor<2x3x!h>)",
        "(tensor<2x65536x!h>)",
        "the sum of 65536 values of !quant.uniform<i16:f32, 1.0e-02> can reach 2147483648, beyond int32",
    ),
    ("lut", "-> tensor<2x2x!v>", "-> tensor<4x!v>", "expected a result of shape [2, 2], found [4]"),
    ("average_pool", "kernel = array<i64: 2, 2>", "kernel = array<i64: 2, 3>", "expected spatial extents"),
    ("average_pool", "-> tensor<1x1x2x1x!u>", "-> tensor<1x3x2x1x!u>", "expected 1 on axis 1 of the result, found 3"),
    ("average_pool", "(tensor<1x1x2x2x!u>)", "(tensor<2x2x!u>)", "of one rank above 2"),
    ("average_pool", '"fp32"', '"nearest"', "rounding must be one of"),
    ("mean", "axes = array<i64: 1>", "axes = array<i64: 2>", "expected an axis in 0..1, found 2"),
    ("mean", "axes = array<i64: 1>", "axes = array<i64: 1, 1>", "expected axes, each once"),
    ("mean", "-> tensor<2x!u>", "-> tensor<3x!u>", "expected a result of shape [2, 1] or [2], found [3]"),
    ("softmax", "axis = 1", "axis = 2", "expected an axis in 0..1, found 2"),
    ("softmax", "3x2x!p", "3x2x!u", "expected a result of 8 bits with scale 1/256 that starts at real 0"),
    ("softmax", "(tensor<3x2x!u>)", "(tensor<3x2x!quant.uniform<u16:f32, 1.0e-01>>)", "expected an operand of 8 bits"),
    ("max_pool", "-> tensor<1x1x1x2x!s>", "-> tensor<1x1x1x2x!u>", "the result must have the operand's type"),
    ("max_pool", "dilations = array<i64: 1, 1>", "dilations = array<i64: 1, 0>", "must be positive"),
    ("max_pool", "pads = array<i64: 0, 1, 0, 0>", "pads = array<i64: 0, 1, 0, -1>", "pads not negative"),
    ("concat", "axis = 1", "axis = -1", "expected an axis in 0..1, found -1"),
    ("concat", "tensor<2x2x!u>)", "tensor<3x2x!u>)", "expected an operand of shape [2, 2], found [3, 2]"),
    ("concat", "tensor<2x2x!u>)", "tensor<2x2x!v>)", "the result must have the operand's type"),
    ("concat", "-> tensor<2x3x!u>", "-> tensor<2x4x!u>", "the operands hold 3 of 4 elements along axis 1"),
    ("split", "axis = 0", "axis = 1", "expected an axis in 0..0, found 1"),
    ("split", "tensor<3x!u>)", "tensor<2x!u>)", "the parts hold 3 of 4 elements along axis 0"),
    ("split", "tensor<3x!u>)", "tensor<3x!v>)", "the result must have the operand's type"),
    ("slice", "1, 3>", "1, 4>", "axis 1: from 4 to 2 by -2 leaves 0..3"),
    ("slice", "1, -2>", "1, 0>", "axis 1: from 3 to 3 by 0 leaves 0..3"),
    ("slice", "starts = array<i64: 1, 3>", "starts = array<i64: 3>", "as many starts and steps"),
    ("pad", "array<i64: 0, 1, 0, 2>", "array<i64: 0, 1, 0, -2>", "expected 4 pads that are not negative"),
    ("pad", "value = 9", "value = 256", "the value 256 is outside of the type"),
    ("pad", '"constant"', '"wrap"', "mode must be constant, edge or reflect, got 'wrap'"),
    ("pad reflect", "(tensor<1x3x!u>) -> tensor<1x6x!u>", "(tensor<1x2x!u>) -> tensor<1x5x!u>", "reflect takes pads"),
    ("pad", "-> tensor<1x6x!u>", "-> tensor<1x5x!u>", "expected a result of shape [1, 6], found [1, 5]"),
    ("reshape", "-> tensor<6x!u>", "-> tensor<5x!u>", "[2, 3] does not reshape to [5]"),
    ("reshape", "-> tensor<6x!u>", "-> tensor<6x!v>", "the result must have the operand's type"),
    ("transpose", "array<i64: 1, 0>", "array<i64: 1, 1>", "perm must order the 2 axes, got [1, 1]"),
    ("transpose", "-> tensor<3x2x!u>", "-> tensor<2x3x!u>", "expected a result of shape [3, 2], found [2, 3]"),
    ("matmul with groups of rows", "group = 2", "group = 4", "expected a group of 1..3 rows, found 4"),
    ("matmul with groups of rows", "tensor<2x1xi32>", "tensor<3x1xi32>", "expected factors of shape [2, 1]"),
    ("matmul with groups of rows", "tensor<3x1xi8>", "tensor<3x1xi16>", "expected a right operand of i8"),
    ("gather", "axis = 1", "axis = 2", "expected an axis in 0..1, found 2"),
    ("gather", "tensor<2xi64>", "tensor<2xi32>", "operand 'indices'"),
    ("gather", "-> tensor<2x2x!u>", "-> tensor<2x3x!u>", "expected a result of shape [2, 2], found [2, 3]"),
    ("resize", "tensor<3xi64>", "tensor<1x3xi64>", "rows and columns must be vectors"),
    ("resize", "-> tensor<1x1x3x1x!u>", "-> tensor<1x1x3x2x!u>", "expected a result of shape [1, 1, 3, 1]"),
    ("resize", '"NCHW"', '"CHW"', "layout must be one of NCHW, NHWC, got 'CHW'"),
]  # fmt: skip


def test_every_operation_has_cases() -> None:
    valid = {op.name for case in CASES for op in [operation_of(CASES[case].text)]}
    invalid = {operation_of(CASES[case].text).name for case, *_ in INVALID}
    elsewhere = {"q.constant", *(op.name for op in RUNTIME_OPS)}
    assert valid == invalid == {op.name for op in Q_OPS} - elsewhere


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


@pytest.mark.parametrize(("name", "old", "new", "message"), INVALID)
def test_verifier_refuses(name: str, old: str, new: str, message: str) -> None:
    text = CASES[name].text
    assert old in text
    with pytest.raises(IRError, match=re.escape(message)) as error:
        checked(module_of(text.replace(old, new)))
    assert "q." in str(error.value)


def test_missing_and_unknown_attributes() -> None:
    text = CASES["add"].text
    with pytest.raises(IRError, match="clamp"):
        checked(module_of(text.replace(" {clamp = array<i64: 0, 255>}", "")))
    with pytest.raises(IRError, match=r"q.add does not verify: unknown attribute 'clamps'"):
        checked(module_of(text.replace("{clamp", "{clamps = 1 : i64, clamp")))


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
