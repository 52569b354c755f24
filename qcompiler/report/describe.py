"""What a module holds: types of its tensors and the reasons, what stays float and why, work and sizes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from xdsl.dialects.builtin import DictionaryAttr
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Attribute, SSAValue

from qcompiler.ir.graph import is_activation
from qcompiler.ir.onnx_dialect import NoneOp, OnnxOp
from qcompiler.ir.pointwise import Pointwise, fused_clamp, op_name
from qcompiler.ir.q_base import QOp
from qcompiler.ir.q_conv import ConvOp, MatMulOp
from qcompiler.ir.q_elementwise import ConstantOp, DequantizeOp, QuantizeOp
from qcompiler.ir.q_grouped import GroupedMatMulOp
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.values import (
    body,
    defining,
    describe,
    dtype_of,
    integer,
    is_quantized,
    is_tensor,
    numbers_of,
    quantized,
    shape,
    string,
    value_names,
)
from qcompiler.model import Model
from qcompiler.passes.canonicalize import macs as float_macs
from qcompiler.passes.integer_rules import reason_for_float
from qcompiler.pipeline import Stage, stage

CANONICAL = "canonicalize,fold-batch-norm,canonicalize"
"""What becomes of a float model before anything is decided; reports on float models show this form."""


@dataclass(frozen=True)
class TensorRow:
    """A tensor and how it is stored. `scale` is (smallest, largest) over channels, None if not quantized."""

    name: str
    op: str
    shape: tuple[int, ...]
    storage: str
    scale: tuple[float, float] | None = None
    zero_point: int | None = None
    channels: int | None = None
    """Number of scales, None for one per tensor."""
    why: str = ""
    numbers: dict[str, float] = field(default_factory=dict)
    """Figures behind the choice: ends of the range, dB that each candidate was expected to have..."""

    @property
    def kind(self) -> str:
        """How the tensor is stored, in words."""
        if self.scale is None:
            return "float"
        bits = f"{self.storage[1:].partition('<')[0]} bits"
        if self.channels is not None:
            return f"{bits} per channel"
        middle = {"u8": 128, "u16": 32768, "u4": 8}.get(self.storage, 0)
        return f"{bits} {'symmetric' if self.zero_point == middle else 'affine'}"


@dataclass(frozen=True)
class FloatRow:
    """An operation that runs in float, and why."""

    name: str
    op: str
    shape: tuple[int, ...]
    macs: int
    why: str


@dataclass(frozen=True)
class Description:
    """The state of a module. `integer` and `float` count operations by name; `macs` are those of one run."""

    source: str
    stage: str
    inputs: tuple[TensorRow, ...]
    outputs: tuple[TensorRow, ...]
    integer: dict[str, int]
    float: dict[str, int]
    borders: int
    """Quantize and dequantize operations on activations."""
    integer_macs: int
    float_macs: int
    constant_bytes: int
    tensors: tuple[TensorRow, ...]
    weights: tuple[TensorRow, ...]
    floats: tuple[FloatRow, ...]
    storages: dict[str, int]
    """Number of activations of each kind of storage."""
    calibration: dict[str, Any] | None
    """Method, samples, and how much ranges still grew over the last half and quarter of them; None if not recorded."""


def base_name(name: str) -> str:
    """The name of a value without the number that tells it from others of the same node."""
    return re.sub(r"#\d+$", "", name)


def read_description(content: Mapping[str, Any]) -> Description:
    """The description whose `dataclasses.asdict` was written as JSON."""

    def row(kind: type, entry: Mapping[str, Any]) -> Any:
        return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()})

    kinds = {
        "inputs": TensorRow,
        "outputs": TensorRow,
        "tensors": TensorRow,
        "weights": TensorRow,
        "floats": FloatRow,
    }
    rows = {key: tuple(row(kind, entry) for entry in content[key]) for key, kind in kinds.items()}
    return Description(**{**content, **rows})


def describe_model(model: Model) -> Description:
    """The description of a module at any stage.

    Before `choose-scheme` an operation counts as integer if it has an integer form; afterwards as decided.
    """
    return _Describer(model).run()


class _Describer:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.block = body(model.module)
        self.names = {value: base_name(name) for value, name in value_names(model.module).items()}
        self.stage = stage(model.module)
        self.pointwise = Pointwise.of(model.module, model.store)
        self.integer: Counter[str] = Counter()
        self.float: Counter[str] = Counter()
        self.macs = {True: 0, False: 0}
        self.borders = 0
        self.tensors: list[TensorRow] = []
        self.weights: list[TensorRow] = []
        self.floats: list[FloatRow] = []

    def run(self) -> Description:
        returned: tuple[SSAValue, ...] = ()
        for op in self.block.ops:
            if isinstance(op, ReturnOp):
                returned = tuple(op.operands)
            elif isinstance(op, QuantizeOp | DequantizeOp):
                self._border(op)
            elif isinstance(op, ConstantOp):
                self._constant(op)
            elif isinstance(op, QOp):
                self._integer(op)
            elif isinstance(op, OnnxOp) and not isinstance(op, NoneOp):
                self._onnx(op)
        store = self.model.store
        used = {op.resource for op in self.block.ops if isinstance(op, ConstantOp)}
        return Description(
            source=self.model.source,
            stage=self.stage.name.lower(),
            inputs=tuple(self._row(a, n) for a, n in zip(self.block.args, self.model.inputs, strict=True)),
            outputs=tuple(self._row(v, n) for v, n in zip(returned, self.model.outputs, strict=True)),
            integer=dict(self.integer.most_common()),
            float=dict(self.float.most_common()),
            borders=self.borders,
            integer_macs=self.macs[True],
            float_macs=self.macs[False],
            constant_bytes=sum(store[name].nbytes for name in used),
            tensors=tuple(self.tensors),
            weights=tuple(self.weights),
            floats=tuple(self.floats),
            storages=dict(Counter([row.kind for row in self.tensors] + ["float"] * len(self.floats)).most_common()),
            calibration=_calibration(self.model.module.attributes.get("q.calibration")),
        )

    def _row(
        self, value: SSAValue, name: str, op: str = "", why: Attribute | None = None, numbers: Attribute | None = None
    ) -> TensorRow:
        extent = shape(value)
        if not is_quantized(value):
            return TensorRow(name, op, extent, str(dtype_of(value)), why=string(why))
        return _typed_row(name, op, extent, quantized(value), string(why), numbers)

    def _border(self, op: QuantizeOp | DequantizeOp) -> None:
        if not is_activation(op.operands[0]):
            return
        self.borders += 1
        if isinstance(op, QuantizeOp):
            self.tensors.append(self._row(op.y, self.names[op.x], op.name, op.why, op.numbers))

    def _constant(self, op: ConstantOp) -> None:
        if is_quantized(op.y):
            self.weights.append(self._row(op.y, op.resource, op.name, op.why))

    def _integer(self, op: QOp) -> None:
        self.integer[op.name] += 1
        if isinstance(op, ConvOp):
            self.macs[True] += op.macs
            self._weight(op, op.w, quantized(op.x), op.multiplier, op.w_zero_point is None)
        elif isinstance(op, GroupedMatMulOp):
            self.macs[True] += op.macs
            self._weight(op, op.b, quantized(op.a), op.multiplier, True)
        elif isinstance(op, MatMulOp):
            self.macs[True] += op.macs
            symmetric = op.b_zero_points is None and integer(op.b_zero_point) == 0
            self._weight(op, op.b, quantized(op.a), op.multiplier, symmetric)
        why, numbers = op.properties.get("q.why"), op.properties.get("q.numbers")
        for value in op.results:
            self.tensors.append(self._row(value, self.names[value], op.name, why, numbers))

    def _weight(
        self,
        op: ConvOp | MatMulOp | GroupedMatMulOp,
        weight: SSAValue,
        x: UniformType,
        factors: SSAValue,
        symmetric: bool,
    ) -> None:
        """A constant weight, whose scale stands in the multiplier `s_x * s_w / s_y` alone."""
        constant, multiplier = defining(weight, ConstantOp), defining(factors, ConstantOp)
        if constant is None or multiplier is None or is_quantized(weight):
            return
        x_scales = x.scales if x.per_tensor else np.repeat(x.scales, shape(weight)[0] // x.scales.size)
        scales = self.model.store[multiplier.resource] * quantized(op.y).scales / x_scales
        self.weights.append(
            TensorRow(
                constant.resource,
                op.name,
                shape(weight),
                f"i{8 * dtype_of(weight).itemsize}",
                (float(scales.min()), float(scales.max())),
                0 if symmetric else None,
                scales.size if scales.size > 1 else None,
                string(constant.why),
            )
        )

    def _onnx(self, op: OnnxOp) -> None:
        reason = self._reason(op)
        (self.integer if reason is None else self.float)[op.name] += 1
        self.macs[reason is None] += float_macs(op)
        if reason is not None:
            values = [v for v in op.results if is_tensor(v)]
            extent = shape(values[0]) if values else ()
            name = self.names[op.results[0]] if op.results else describe(op)
            self.floats.append(FloatRow(name, op.name, extent, float_macs(op), reason))
        kinds = op.attributes.get("q.types")
        for value, kind in zip(op.results, kinds.data if kinds is not None else (), strict=False):  # type: ignore[attr-defined]
            if isinstance(kind, UniformType):
                why = string(op.attributes.get("q.why"))
                numbers = op.attributes.get("q.numbers")
                self.tensors.append(_typed_row(self.names[value], op.name, shape(value), kind, why, numbers))
        if isinstance(kind := op.attributes.get("q.weight"), UniformType):
            why = string(op.attributes.get("q.why_weight"))
            self.weights.append(_typed_row(self.names[op.results[0]], op.name, shape(op.operands[1]), kind, why))

    def _reason(self, op: OnnxOp) -> str | None:
        """Why an operation of the float graph runs in float, None if it is or can become an integer one."""
        recorded = op.attributes.get("q.float")
        if recorded is not None:
            return string(recorded)
        if self.stage >= Stage.CHOSEN or "q.integer" in op.attributes:
            return None
        values = [v for v in op.operands if is_activation(v)]
        if not values:
            return "computed from constants"
        if op.results[0] in self.pointwise.roots:
            return None
        if op_name(op) in ("Relu", "Clip") and fused_clamp(op.operands[0], self.model.store) is op:
            return None
        return reason_for_float(op, self.model.store)


def _typed_row(
    name: str, op: str, extent: tuple[int, ...], kind: UniformType, why: str, numbers: Attribute | None = None
) -> TensorRow:
    scales = kind.scales
    limits = (float(scales.min()), float(scales.max()))
    zero = kind.zero_point if kind.per_tensor else None
    channels = None if kind.per_tensor else scales.size
    return TensorRow(name, op, extent, kind.storage, limits, zero, channels, why, numbers_of(numbers))


def _calibration(recorded: Attribute | None) -> dict[str, Any] | None:
    if not isinstance(recorded, DictionaryAttr):
        return None
    return {**numbers_of(recorded), "method": string(recorded.data["method"])}
