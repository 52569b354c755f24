"""Pass `equalize`: channels between two layers are scaled so that both layers' weights use their ranges alike.

Cross-layer equalization: M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction"
(2019), section 4.1. The factor of a channel, `sqrt(r1 / r2)` with the largest weights of both layers, is rounded to a
power of two here, so that the float function stays the same bit for bit. A bias counts among the first layer's weights,
so that a channel with small weights and a large bias does not blow up the range of the activation between.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Block, Operation, SSAValue

from qcompiler.ir.pointwise import op_name
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import body, integer, users
from qcompiler.passes.canonicalize import constant_array
from qcompiler.passes.integer_rules import present
from qcompiler.pipeline import CompilerContext, QuantPass, Stage

_SWEEPS = 20
_LARGEST_EXPONENT = 12


@dataclass(frozen=True)
class Equalize(QuantPass):
    """Evens out weight ranges from layer to layer, over Conv or Gemm, Relu or LeakyRelu, and Conv or Gemm again.

    Exact in float. Values with several readers, clamps from above and every other op in between are left alone.
    """

    name: ClassVar[str] = "equalize"
    requires: ClassVar = (Stage.FLOAT,)

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        pairs = list(_pairs(module, ctx.store))
        arrays: dict[tuple[Operation, int], np.ndarray] = {}

        def array(op: Operation, index: int) -> np.ndarray:
            if (op, index) not in arrays:
                found = constant_array(op.operands[index], ctx.store)
                assert found is not None
                arrays[op, index] = found
            return arrays[op, index]

        changed: set[tuple[Operation, int]] = set()
        for _ in range(_SWEEPS):
            moved = False
            for first, second in pairs:
                largest = _by_output(first, array(first, 1))
                if present(first, 2) is not None:
                    largest = np.where(largest > 0, np.maximum(largest, np.abs(array(first, 2))), 0)
                factor = _factors(largest, _by_input(second, array(second, 1)))
                if (factor == 1).all():
                    continue
                moved = True
                arrays[first, 1] = _scaled_output(first, array(first, 1), 1 / factor)
                arrays[second, 1] = _scaled_input(second, array(second, 1), factor)
                changed |= {(first, 1), (second, 1)}
                if present(first, 2) is not None:
                    arrays[first, 2] = (array(first, 2) / factor).astype(np.float32)
                    changed.add((first, 2))
            if not moved:
                break
        for op, index in sorted(changed, key=lambda key: key[1]):
            base = op.operands[index].owner.resource  # type: ignore[union-attr]
            set_constant(op, index, arrays[op, index], f"{base}.equalized", ctx.store)
        if changed:
            ctx.notes.append(f"equalize scaled the channels between {len(pairs)} pairs of layers")


def set_constant(op: Operation, index: int, array: np.ndarray, name: str, store: ConstantStore) -> None:
    """Puts another float array in the place of a constant operand, as part of the float model."""
    constant = ConstantOp.of(store, name, array, location=op.location)
    assert isinstance(op.parent, Block)
    op.parent.insert_op_before(constant, op)
    op.operands[index] = constant.y


def _pairs(module: ModuleOp, store: ConstantStore) -> Iterator[tuple[Operation, Operation]]:
    for first in body(module).ops:
        if not _is_layer(first, store):
            continue
        value: SSAValue = first.results[0]
        while len(readers := users(value)) == 1 and op_name(readers[0]) in ("Relu", "LeakyRelu"):
            value = readers[0].results[0]
        if len(readers) == 1 and _is_layer(readers[0], store) and readers[0].operands[0] is value:
            second = readers[0]
            if (op_name(first) == "Conv") == (op_name(second) == "Conv"):
                yield first, second


def _is_layer(op: Operation, store: ConstantStore) -> bool:
    """Whether weights and bias are constants, of the forms whose channels are known."""
    if op_name(op) not in ("Conv", "Gemm") or constant_array(op.operands[1], store) is None:
        return False
    if op_name(op) == "Gemm" and (integer(op.properties.get("transA")) or integer(op.properties.get("transB"))):
        return False
    bias = present(op, 2)
    if bias is None:
        return True
    array, weight = constant_array(bias, store), constant_array(op.operands[1], store)
    assert weight is not None
    return array is not None and array.shape == (weight.shape[0 if op_name(op) == "Conv" else 1],)


def _by_output(op: Operation, weight: np.ndarray) -> np.ndarray:
    """Largest magnitude of each output channel."""
    axis = 0 if op_name(op) == "Conv" else 1
    return np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis))


def _grouped(op: Operation, weight: np.ndarray) -> np.ndarray:
    """Weights of a Conv as `[groups, outputs, inputs, positions]`."""
    return weight.reshape(integer(op.properties.get("group"), 1), -1, weight.shape[1], int(np.prod(weight.shape[2:])))


def _by_input(op: Operation, weight: np.ndarray) -> np.ndarray:
    if op_name(op) == "Conv":
        return np.abs(_grouped(op, weight)).max(axis=(1, 3)).reshape(-1)
    return np.abs(weight).max(axis=1)


def _scaled_output(op: Operation, weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
    column = factor.reshape(-1, *[1] * (weight.ndim - 1)) if op_name(op) == "Conv" else factor
    return (weight * column).astype(np.float32)


def _scaled_input(op: Operation, weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
    if op_name(op) == "Conv":
        split = _grouped(op, weight)
        return (split * factor.reshape(len(split), 1, -1, 1)).astype(np.float32).reshape(weight.shape)
    return (weight * factor[:, None]).astype(np.float32)


def _factors(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """What to divide the first layer's channels by and multiply the second's with; 1 for dead channels."""
    live = (first > 0) & (second > 0)
    ratio = np.where(live, first, 1).astype(np.float64) / np.where(live, second, 1)
    # Truncated, so that channels within a factor of 2 of each other stay and sweeps come to rest.
    return np.exp2(np.clip(np.trunc(np.log2(ratio) / 2), -_LARGEST_EXPONENT, _LARGEST_EXPONENT))
