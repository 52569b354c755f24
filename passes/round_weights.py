"""Pass `round-weights`: weights round one after the other, each making up for the error of those before it.

E. Frantar, S. Ashkboos, T. Hoefler, D. Alistarh, "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained
Transformers" (ICLR 2023): column by column of a weight matrix, the rounding error is spread over the columns to come
by the inverse Hessian of the layer's squared output error, `H = X^T X` of its inputs. An output channel keeps rounding
to nearest where that has the lower error on the samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from qcompiler.arithmetic.affine import along_axis, quantize
from qcompiler.calibration.cache import SavedCalibration
from qcompiler.errors import CalibrationError
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.values import body, integer, integers, rank, value_names
from qcompiler.passes.canonicalize import constant_array
from qcompiler.passes.measure import spread_samples
from qcompiler.passes.originals import replace_constant
from qcompiler.passes.sites import Level, Simulation
from qcompiler.pipeline import CompilerContext, QuantPass, Stage

_ROWS = 128
"""Positions of an image, or rows of a matrix, taken of one sample, at random with a fixed seed."""

_DAMPING = 0.01
_LARGEST_INPUT = 8192
_HESSIAN_BYTES = 1 << 28
"""Hessians of so many bytes are gathered in one pass over the samples."""

_BLOCK = 128


@dataclass(frozen=True)
class RoundWeights(QuantPass):
    """Rounds the weights of Conv, Gemm and MatMul by second order, on the inputs that calibration samples give them.

    `samples`: how many calibration samples, evenly spread over all. The weights become values that their types hold
    exactly.
    """

    name: ClassVar[str] = "round-weights"
    requires: ClassVar = (Stage.CHOSEN,)
    samples: int = 128

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        if ctx.calibration is None:
            raise CalibrationError(f"{ctx.source}: round-weights needs calibration data; give it with --calibration")
        if isinstance(ctx.calibration, SavedCalibration):
            ctx.notes.append(
                f"{ctx.calibration.source} holds no samples to round weights by: they are rounded to nearest"
            )
            return
        layers = [layer for op in body(module).ops if (layer := _Layer.of(op, ctx)) is not None]
        if not layers:
            return
        samples = spread_samples(ctx.calibration, self.samples)
        inputs = {layer.op.operands[0] for layer in layers}
        simulation = Simulation(module, ctx.store, [v for v in inputs if isinstance(v.owner, Operation)])
        names = value_names(module)
        rounded: dict[Operation, np.ndarray] = {}
        for part in ctx.progress.track(list(_parts(layers)), "rounding weights"):
            values = list(dict.fromkeys(layer.op.operands[0] for layer in part))
            made = [v for v in values if isinstance(v.owner, Operation)]
            hessians = [np.zeros((layer.groups, layer.inputs, layer.inputs)) for layer in part]
            random = np.random.default_rng(0)
            for feed in samples:
                found = dict(zip(made, simulation.observe(feed, made, {}, Level.FLOAT), strict=True)) if made else {}
                found |= {v: feed[names[v]] for v in values if v not in found}
                for layer, hessian in zip(part, hessians, strict=True):
                    rows = layer.rows(found[layer.op.operands[0]], random)
                    hessian += rows.transpose(0, 2, 1) @ rows
            for layer, hessian in zip(part, hessians, strict=True):
                rounded[layer.op] = layer.rounded(hessian)
        for op, array in rounded.items():
            base = op.operands[1].owner.resource  # type: ignore[union-attr]
            replace_constant(op, 1, array, f"{base}.rounded", ctx.store)


@dataclass(frozen=True)
class _Layer:
    """One op's weights as `[groups, outputs of a group, inputs of a group]`."""

    op: Operation
    weight: np.ndarray
    kind: UniformType
    groups: int

    @staticmethod
    def of(op: Operation, ctx: CompilerContext) -> _Layer | None:
        kind = op.attributes.get("q.weight")
        if not isinstance(kind, UniformType) or op_name(op) not in ("Conv", "Gemm", "MatMul"):
            return None
        if kind.blocks or kind.zero_points.any():
            return None
        weight = constant_array(op.operands[1], ctx.store)
        if weight is None or (op_name(op) != "Conv" and weight.ndim != 2):
            return None
        layer = _Layer(op, weight, kind, integer(op.properties.get("group"), 1) if op_name(op) == "Conv" else 1)
        return layer if layer.inputs <= _LARGEST_INPUT else None

    @property
    def inputs(self) -> int:
        return self.weight[0].size if op_name(self.op) == "Conv" else self.weight.shape[0]

    def matrix(self, array: np.ndarray) -> np.ndarray:
        """`[groups, outputs, inputs]` of an array of the weight's shape."""
        flat = array.reshape(len(array), -1) if op_name(self.op) == "Conv" else array.T
        return flat.reshape(self.groups, -1, self.inputs)

    def array(self, matrix: np.ndarray) -> np.ndarray:
        """The inverse of `matrix`."""
        flat = matrix.reshape(-1, self.inputs)
        return flat.reshape(self.weight.shape) if op_name(self.op) == "Conv" else np.ascontiguousarray(flat.T)

    def rows(self, x: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """`[groups, rows, inputs]`: what the weights are multiplied by at some positions of one sample."""
        if op_name(self.op) != "Conv":
            flat = x.reshape(-1, x.shape[-1])
            return flat[_some(len(flat), random)][None]
        dims = rank(self.op.operands[0]) - 2
        kernel = self.weight.shape[2:]
        strides = integers(self.op.properties.get("strides"), [1] * dims)
        dilations = integers(self.op.properties.get("dilations"), [1] * dims)
        pads = integers(self.op.properties.get("pads"), [0] * 2 * dims)
        x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:dims], pads[dims:], strict=True)])
        window = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
        windows = np.lib.stride_tricks.sliding_window_view(x, window, tuple(range(2, 2 + dims)))
        steps = (*(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in dilations))
        windows = windows[(slice(None), slice(None), *steps)]
        extent = windows.shape[2 : 2 + dims]
        chosen = np.unravel_index(_some(int(np.prod(extent)), random), extent)
        patches = windows[(slice(None), slice(None), *chosen)]  # [n, channels, rows, *kernel]
        n, channels, rows = patches.shape[:3]
        split = patches.reshape(n, self.groups, channels // self.groups, rows, -1)
        return split.transpose(1, 0, 3, 2, 4).reshape(self.groups, n * rows, self.inputs)

    def rounded(self, hessian: np.ndarray) -> np.ndarray:
        """The weight as float32 values that its type holds, of the weight's shape."""
        kind = self.kind
        scales = np.broadcast_to(along_axis(kind.scales, kind.axis, self.weight.ndim), self.weight.shape)
        scale, weight = self.matrix(scales)[:, :, 0].astype(np.float64), self.matrix(self.weight).astype(np.float64)
        stored = quantize(self.weight, kind.scales, 0, kind.qmin, kind.qmax, np.int32, kind.axis)
        nearest = self.matrix(stored).astype(np.float64)
        found = second_order(weight, scale, hessian, (kind.qmin, kind.qmax))
        better = _error(found * scale[:, :, None] - weight, hessian) < _error(
            nearest * scale[:, :, None] - weight, hessian
        )
        integers_ = np.where(better[:, :, None], found, nearest).astype(np.float32)
        return (self.array(integers_) * scales).astype(np.float32)


def _some(count: int, random: np.random.Generator) -> np.ndarray:
    return np.arange(count) if count <= _ROWS else np.sort(random.choice(count, _ROWS, replace=False))


def _parts(layers: Sequence[_Layer]) -> Iterator[list[_Layer]]:
    """Layers in runs whose Hessians fit into `_HESSIAN_BYTES`, one layer at least."""
    part: list[_Layer] = []
    size = 0
    for layer in layers:
        own = 8 * layer.groups * layer.inputs**2
        if part and size + own > _HESSIAN_BYTES:
            yield part
            part, size = [], 0
        part.append(layer)
        size += own
    yield part


def _error(difference: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Squared output error of each output channel, `[groups, outputs]`."""
    return ((difference @ hessian) * difference).sum(axis=2)


def second_order(weight: np.ndarray, scale: np.ndarray, hessian: np.ndarray, limits: tuple[int, int]) -> np.ndarray:
    """Integers of float64 `[groups, outputs, inputs]` weights, with `[groups, outputs]` scales, as float64.

    `hessian` is float64 `[groups, inputs, inputs]`. Inputs that were never other than zero round to nearest.
    """
    size = weight.shape[2]
    diagonal = np.einsum("gii->gi", hessian)
    mean = np.maximum(diagonal.mean(axis=1, keepdims=True), 1e-30)
    damped = hessian + np.eye(size) * (np.where(diagonal > 0, 0.0, mean) + _DAMPING * mean)[:, None, :]
    # The upper factor of the inverse, whose rows say how an error spreads over later columns.
    upper = np.linalg.cholesky(np.linalg.inv(damped)).transpose(0, 2, 1)
    left, result = weight.copy(), np.empty_like(weight)
    for begin in range(0, size, _BLOCK):
        end = min(begin + _BLOCK, size)
        errors = np.empty((*weight.shape[:2], end - begin))
        for i in range(begin, end):
            result[:, :, i] = np.clip(np.rint(left[:, :, i] / scale), *limits)
            errors[:, :, i - begin] = (left[:, :, i] - result[:, :, i] * scale) / upper[:, i, i, None]
            left[:, :, i + 1 : end] -= errors[:, :, i - begin, None] * upper[:, None, i, i + 1 : end]
        left[:, :, end:] -= errors @ upper[:, begin:end, end:]
    return result
