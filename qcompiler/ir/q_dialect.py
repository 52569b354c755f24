"""Dialect `q`: the table of the integer operations. Definitions stand in the q_*.py files beside this one."""

from __future__ import annotations

from xdsl.ir import Dialect

from qcompiler.ir.q_base import QOp
from qcompiler.ir.q_conv import ConvOp, MatMulOp
from qcompiler.ir.q_elementwise import AddOp, ConstantOp, DequantizeOp, LutOp, MulOp, QuantizeOp, RequantizeOp, SubOp
from qcompiler.ir.q_grouped import GroupedMatMulOp
from qcompiler.ir.q_movement import (
    ConcatOp,
    GatherOp,
    MaxPoolOp,
    PadOp,
    ReshapeOp,
    ResizeOp,
    SliceOp,
    SplitOp,
    TransposeOp,
)
from qcompiler.ir.q_reduce import AveragePoolOp, MeanOp, SoftmaxOp
from qcompiler.ir.q_runtime import RUNTIME_OPS

Q_OPS: tuple[type[QOp], ...] = (
    ConstantOp,
    QuantizeOp,
    DequantizeOp,
    ConvOp,
    MatMulOp,
    GroupedMatMulOp,
    AddOp,
    SubOp,
    MulOp,
    RequantizeOp,
    LutOp,
    AveragePoolOp,
    MeanOp,
    SoftmaxOp,
    MaxPoolOp,
    ConcatOp,
    SplitOp,
    SliceOp,
    PadOp,
    ReshapeOp,
    TransposeOp,
    GatherOp,
    ResizeOp,
    *RUNTIME_OPS,
)

Q = Dialect("q", list(Q_OPS), [])
