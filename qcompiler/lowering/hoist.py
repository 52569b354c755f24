"""Large temporaries of a kernel become parameters, so that the static memory plan can place them.

TVM keeps allocations below 1024 bytes on the stack and turns larger ones into calls of its run-time library
(`LowerTVMBuiltin`), which a bundle does not have; in some places even smaller ones of storage scope `local`. Such a
buffer is a register tile and stays on the stack whatever its size.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc, Var

STACK_LIMIT = 1024
"""Bytes; an allocation of this size or more does not stay on the stack (TVM's `kMaxStackAlloca`)."""

Scratch = tuple[tuple[tuple[int, ...], str], ...]


def is_hoisted(buffer: Var) -> bool:
    """Whether a temporary becomes a parameter. Raises ValueError if its size is not constant."""
    return buffer.scope() != "local" and _nbytes(buffer) >= STACK_LIMIT


def _nbytes(buffer: Var) -> int:
    try:
        extents = [int(extent) for extent in buffer.shape]
    except TypeError:
        raise ValueError(f"temporary {buffer.name} has a shape that is not constant: {buffer.shape}") from None
    return int(np.prod(extents, dtype=np.int64)) * buffer.dtype.itemsize


def hoist_allocations(func: PrimFunc) -> tuple[PrimFunc, Scratch]:
    """Turns allocations of `STACK_LIMIT` bytes or more into trailing parameters, unless of scope `local`.

    Args:
        func: a PrimFunc whose blocks are already lowered (allocations are `AllocBuffer` statements of
        constant size).

    Returns:
        The rewritten function and one entry of `Kernel.scratch` for each added parameter, as plain bytes.

    Raises:
        ValueError: an allocation has a size that is not constant.
    """
    from tvm.tirx import AllocBuffer, Evaluate, IntImm, PrimFunc
    from tvm_ffi import structural_map

    hoisted = []

    def visit(statement: AllocBuffer):
        buffer = statement.buffer
        if buffer.scope() == "local":
            return AllocBuffer(buffer, annotations={"disable_lower_builtin": IntImm("bool", 1)})
        if not is_hoisted(buffer):
            return statement
        hoisted.append((buffer, ((_nbytes(buffer),), "uint8")))
        return Evaluate(0)

    body = structural_map(func.body, (AllocBuffer, visit))
    if body.same_as(func.body):
        return func, ()
    rewritten = PrimFunc([*func.params, *(buffer for buffer, _ in hoisted)], body, func.ret_type, func.attrs)
    return rewritten, tuple(scratch for _, scratch in hoisted)
