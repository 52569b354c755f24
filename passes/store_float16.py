"""Pass `store-float16`: weights of layers that a recipe keeps in float16 take half the space.

The layer still computes in float32; a Cast stands between the stored weight and its reader. The pass runs late, so that
nothing folds the two together again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import DictionaryAttr, IntegerAttr, ModuleOp, StringAttr, TensorType, f32, i64
from xdsl.ir import Operation

from qcompiler.errors import PipelineError
from qcompiler.ir.onnx_dialect import onnx_ops
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.values import body, describe
from qcompiler.passes.canonicalize import constant_array
from qcompiler.pipeline import CompilerContext, QuantPass, Stage

_FLOAT = 1
"""ONNX's number of float32."""


@dataclass(frozen=True)
class StoreFloat16(QuantPass):
    """Stores weights of layers whose recipe says float16 in that type, with a Cast to float32 behind.

    Weights are float32 constants of two dimensions or more; biases and the like stay as they are.
    """

    name: ClassVar[str] = "store-float16"
    requires: ClassVar = (Stage.CHOSEN,)

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        for op in list(body(module).ops):
            recipe = op.attributes.get("q.recipe")
            half = isinstance(recipe, DictionaryAttr) and recipe.data.get("precision") == StringAttr("float16")
            if half and "q.float" in op.attributes:
                _store(ctx, op)


def _store(ctx: CompilerContext, op: Operation) -> None:
    for index, value in enumerate(op.operands):
        array = constant_array(value, ctx.store)
        if array is None or array.dtype != np.float32 or array.ndim < 2:
            continue
        largest = float(np.abs(array).max(initial=0.0))
        if largest > float(np.finfo(np.float16).max):
            raise PipelineError(f"{describe(op)}: a weight of {largest:g} does not fit float16; ask for float32")
        name = value.owner.resource  # type: ignore[union-attr]
        stored = ConstantOp.of(ctx.store, f"{name}.f16", array.astype(np.float16), location=op.location)
        cast = onnx_ops()["Cast"].create(
            operands=[stored.y],
            result_types=[TensorType(f32, array.shape)],
            properties={"to": IntegerAttr(_FLOAT, i64)},
            attributes={"q.float": StringAttr("the weight is stored in float16, as the recipe asks")},
        )
        cast.location = op.location
        assert op.parent is not None
        op.parent.insert_ops_before([stored, cast], op)
        op.operands[index] = cast.results[0]
