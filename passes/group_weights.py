"""Pass `group-weights`: weights of matrix products get a scale for each group of rows in each column.

Paper: Dai et al. 2021, "VS-Quant: Per-vector scaled quantization for accurate low-precision neural network inference".
Scales are integer multiples of a unit a column, so that the sums stay exact integers (qcompiler.arithmetic.grouped).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import DictionaryAttr, ModuleOp, StringAttr
from xdsl.ir import Operation

from qcompiler.arithmetic.affine import quantize
from qcompiler.arithmetic.grouped import LARGEST_FACTOR, factors_of, fits_int32, group_scales
from qcompiler.errors import PipelineError
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.values import body, describe, rank, string
from qcompiler.passes.canonicalize import constant_array
from qcompiler.passes.sites import bias_holder, value_type
from qcompiler.pipeline import CompilerContext, QuantPass, Stage

_PREFIX = "per-group:"


@dataclass(frozen=True)
class GroupWeights(QuantPass):
    """Gives constant right operands of matrix products chosen for integers a scale for each group of rows.

    `group`: rows of a group, for all products; 0: for those alone whose recipe says `weights = "per-group:N"`.
    `bits`: 8 or 4 bits a weight. A product whose sums could leave int32 takes coarser group scales; if the coarsest
    are too fine still, it keeps its type, and a note says so.
    """

    name: ClassVar[str] = "group-weights"
    requires: ClassVar = (Stage.CHOSEN,)
    group: int = 0
    bits: int = 8

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        if self.group < 0 or self.bits not in (4, 8):
            raise PipelineError(f"group-weights: expected group >= 0 and 4 or 8 bits, got {self.group}, {self.bits}")
        for op in body(module).ops:
            if op_name(op) not in ("Gemm", "MatMul") or "q.weight" not in op.attributes:
                continue
            group = _asked(op) or self.group
            if group and rank(op.operands[1]) == 2:
                self._group(ctx, op, group)

    def _group(self, ctx: CompilerContext, op: Operation, group: int) -> None:
        weight = constant_array(op.operands[1], ctx.store)
        x = value_type(op.operands[0])
        if weight is None or x is None or x.dtype.itemsize > 1:
            return
        group, qmax = min(group, len(weight)), 127 if self.bits == 8 else 7
        low, high = x.qmin - x.zero_point, x.qmax - x.zero_point
        real = _bias(ctx, op, weight.shape[1])
        resolution = LARGEST_FACTOR
        while resolution:
            scales = group_scales(weight, group, qmax, resolution)
            kind = UniformType.make(f"i{self.bits}", scales, blocks={0: group, 1: 1}, storage_range=(-qmax, qmax))
            parts = factors_of(scales)
            assert parts is not None
            units, factors = parts
            bias = np.rint(real / (np.float64(x.scale) * units))
            full, zeros, axis = kind.spread(weight.shape)
            stored = quantize(weight, full, zeros, kind.qmin, kind.qmax, kind.dtype, axis)
            # Both before and after the zero point is folded into the bias.
            reach = max(-low, high, x.qmax, -x.qmin)
            safe = np.abs(bias).max(initial=0) < 2**30 and fits_int32(stored, factors, group, -reach, reach, bias)
            if safe:
                op.attributes["q.weight"] = kind
                why = f"symmetric per group of {group} rows in -{qmax}..{qmax}, factors up to {factors.max()}"
                op.attributes["q.why_weight"] = StringAttr(why)
                return
            resolution //= 2
        ctx.notes.append(f"{describe(op)}: sums over groups of {group} could leave int32; the weight keeps its type")


def _asked(op: Operation) -> int:
    """The group that the op's recipe asks for, 0 if it does not.

    Raises:
        PipelineError: what follows `per-group:` is no positive number.
    """
    recipe = op.attributes.get("q.recipe")
    text = string(recipe.data.get("weights")) if isinstance(recipe, DictionaryAttr) else ""
    if not text.startswith(_PREFIX):
        return 0
    count = text.removeprefix(_PREFIX)
    if not count.isdecimal() or int(count) < 1:
        raise PipelineError(f"{describe(op)}: expected weights = \"per-group:N\" with N rows, got '{text}'")
    return int(count)


def _bias(ctx: CompilerContext, op: Operation, columns: int) -> np.ndarray:
    """The real bias, float64 `[columns]`; zeros where there is none."""
    holder = bias_holder(op, ctx.store)
    array = None if holder is None else constant_array(holder[0].operands[holder[1]], ctx.store)
    flat = np.zeros(1) if array is None else array.reshape(-1)
    return np.broadcast_to(flat.astype(np.float64), (columns,))
