"""A product as TVM sees it before anything is decided: plain loops, the key under which a tuning database keeps it.

The function names the rule whose choices a record holds, and what else its speed depends on. It leaves out what it does
not depend on, scales and zero points above all: layers of the same shape share a record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from math import prod

import tvm
from tvm import tirx
from tvm.target import Target

from qcompiler.lowering.space import BLOCK
from qcompiler.lowering.tir import Access, ElementBlock, Expr, buffer, function, int32
from qcompiler.lowering.workload import Requantize
from qcompiler.targets.cpu.choices import Dense
from qcompiler.targets.spec import TargetSpec


def plain_products(
    dense: Dense,
    rule: str,
    x_shape: Sequence[int],
    y_shape: Sequence[int],
    requantize: Requantize,
    spec: TargetSpec,
    matrices: int = 1,
) -> Callable[[], tvm.IRModule]:
    """Makes the module whose `main` is `sums += x * weights`, int32, over flat buffers as long as the shapes say.

    Merged pixels are one iteration. Weights are int8 `[matrix, group, channel, tap row, tap column, run]`, with one
    matrix for all images or one for each.
    """

    def make() -> tvm.IRModule:
        source, sums = buffer("x", (_size(x_shape),), dense.x_dtype), buffer("sums", (_size(y_shape),), "int32")
        images, height, width = dense.grid
        grid = images, height, -(-width // dense.merged)
        weights = buffer("weights", (matrices, dense.groups, dense.channels, *dense.taps, dense.run), "int8")

        def column(w: Expr) -> Expr:
            start = w * dense.merged
            return start if width % dense.merged == 0 else tirx.min(start, int32(width - dense.merged))

        def result(n: Expr, h: Expr, w: Expr, g: Expr, c: Expr, **_: Expr) -> Access:
            pixel = n * dense.y_steps[0] + h * dense.y_steps[1] + column(w) * dense.y_steps[2]
            return sums, [pixel + g * dense.channels + c + dense.y_origin]

        def operands(n: Expr, h: Expr, w: Expr, g: Expr, c: Expr, i: Expr, j: Expr, k: Expr) -> list[Access]:
            pixel = n * dense.x_steps[0] + h * dense.x_steps[1] + column(w) * dense.x_steps[2]
            matrix = n if matrices > 1 else int32(0)
            tap = i * dense.tap_steps[0] + j * dense.tap_steps[1]
            return [(source, [pixel + tap + g * dense.run + k + dense.x_origin]), (weights, [matrix, g, c, i, j, k])]

        def update(**axes: Expr) -> Expr:
            left, right = (tirx.BufferLoad(*access).astype("int32") for access in operands(**axes))
            return tirx.BufferLoad(*result(**axes)) + left * right

        block = ElementBlock(
            BLOCK,
            dict(zip("nhwgc", (*grid, dense.groups, dense.channels), strict=True)),
            dict(zip("ijk", (*dense.taps, dense.run), strict=True)),
            write=result,
            reads=operands,
            update=update,
            initial=lambda **_: int32(0),
        )
        plain = function([source, weights, sums], [block]).mod["main"]
        attributes = {"rule": rule, "rounding": str(requantize.rounding), "result": requantize.out_dtype}
        named = {f"qcompiler.{name}": value for name, value in attributes.items()}
        return tvm.IRModule({"main": plain.with_attr({"target": _target(spec), **named})})

    return make


def _size(shape: Sequence[int]) -> int:
    return prod(map(int, shape))


@cache
def _target(spec: TargetSpec) -> Target:
    return Target(import_module(spec.kernels).tvm_target(spec))
