"""Kernels as functions of tensors of TVM's runtime."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize
from tvm.tirx import PrimFunc

from .contraction import forbid_contraction
from .parallel import without_marks
from .program import SLACK, Kernel

Kind = tuple[tuple[int, ...], str]
"""Shape and dtype."""


def padded(extents: Sequence[int], dtype: str) -> Kind:
    """The flat tensor that holds a buffer and the `SLACK` bytes behind it, which kernels may read."""
    return (prod(extents) + SLACK // np.dtype(dtype).itemsize,), dtype


def tensor_function(kernel: Kernel, parameters: Sequence[Kind], *, schedule: bool = True) -> PrimFunc:
    """The kernel as a function of tensors of other shapes, whose memory begins with its own buffers.

    It is marked as scheduled unless it is left plain, and runs on one thread; products and additions stay apart.
    """
    plain = None if schedule else kernel.plain
    function = without_marks(forbid_contraction(plain or kernel.func))
    outer = [
        tirx.decl_buffer(extent, dtype, f"{inner.name}_memory")
        for inner, (extent, dtype) in zip(function.params, parameters, strict=True)
    ]
    views = [tirx.DeclBuffer(inner, data=memory.data) for inner, memory in zip(function.params, outer, strict=True)]
    attributes = {"s_tir": True, "tirx.noalias": True, "tirx.is_scheduled": plain is None}
    root = function.body.block if isinstance(function.body, SBlockRealize) else None
    inner, buffers = (function.body, []) if root is None else (root.body, root.alloc_buffers)
    block = SBlock([], [], [], "root", tirx.SeqStmt([*views, inner]), None, buffers)
    return PrimFunc(outer, SBlockRealize([], True, block)).with_attr(attributes)
