"""From a laid-out integer module to a `Program`: buffers with halos, one kernel call an op.

The lowering of every op stands in `lower_ops`; this file decides what lies where.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from types import ModuleType

import numpy as np
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Block, Operation, SSAValue

from qcompiler.errors import ModelError, PipelineError
from qcompiler.exporters.onnx_export import export_operations
from qcompiler.ir.graph import is_activation
from qcompiler.ir.q_conv import ConvOp, MatMulOp
from qcompiler.ir.q_elementwise import ConstantOp, DequantizeOp, QuantizeOp
from qcompiler.ir.q_grouped import GroupedMatMulOp
from qcompiler.ir.q_movement import ReshapeOp, TransposeOp
from qcompiler.ir.store import resource_name
from qcompiler.ir.values import (
    body,
    defining,
    describe,
    dtype_of,
    input_names,
    integers,
    is_quantized,
    location_names,
    output_names,
    quantized,
    shape,
    string,
    users,
    value_names,
)
from qcompiler.lowering.compute_movement import concat_kernel, copy_kernel
from qcompiler.lowering.halo import pad_copy_kernel, with_border
from qcompiler.lowering.islands import Island, schedule
from qcompiler.lowering.program import Buffer, Halo, Kernel, Program, Step
from qcompiler.lowering.view import NO_HALO, View
from qcompiler.model import Model
from qcompiler.pipeline import Progress, Stage, stage
from qcompiler.targets.spec import TargetSpec


def spatial_pads(op: ConvOp) -> Halo:
    """Pads of a convolution as top, left, bottom, right."""
    top, left, bottom, right = integers(op.pads)
    return top, left, bottom, right


@dataclass
class Lowering:
    """State of one lowering: where every value lies, and the steps so far."""

    model: Model
    spec: TargetSpec
    kernels: ModuleType
    program: Program = field(default_factory=Program)
    views: dict[SSAValue, View] = field(default_factory=dict)
    places: dict[SSAValue, str] = field(default_factory=dict)
    """Name of the buffer of each value."""

    def __post_init__(self) -> None:
        self.program.alignment = self.spec.alignment
        self.names = value_names(self.model.module)
        self.halos = _halos(self.model)
        self.direct_outputs = self._find_direct_outputs()

    # ------------------------------------------------------------------------------------------ values

    def constant(self, value: SSAValue) -> np.ndarray | None:
        """The array of a constant, None for an activation."""
        op = defining(value, ConstantOp)
        return None if op is None else self.model.store[op.resource]

    def array(self, value: SSAValue) -> np.ndarray:
        """The array of a value that has to be a constant."""
        found = self.constant(value)
        if found is None:
            raise ModelError(f"{self.model.source}: {self.names[value]} has to be a constant here")
        return found

    def operand(self, value: SSAValue) -> View | np.ndarray:
        """What a kernel builder takes for an operand: a view of its buffer, or a constant array."""
        found = self.constant(value)
        return self.views[value] if found is None else found

    def result(self, value: SSAValue) -> View:
        """The view in which a result is to be written; registers its buffer."""
        view = View(shape(value), str(dtype_of(value)), self.halos.get(value, NO_HALO))
        self._place(value, view)
        return view

    def alias(self, value: SSAValue, of: SSAValue) -> None:
        """`value` has the memory of `of`."""
        self.views[value] = View(shape(value), str(dtype_of(value)))
        self.places[value] = self.places[of]

    def _place(self, value: SSAValue, view: View, name: str | None = None) -> None:
        name = name or self.direct_outputs.get(value) or self._unique(resource_name(self.names[value]))
        self.views[value] = view
        self.places[value] = name
        self.program.buffers[name] = Buffer(name, view.physical_shape, view.dtype)

    def _unique(self, name: str) -> str:
        unique, number = name, 1
        taken = {*self.program.buffers, *self.direct_outputs.values()}
        while unique in taken:
            unique, number = f"{name}.{number}", number + 1
        return unique

    def _find_direct_outputs(self) -> dict[SSAValue, str]:
        """Values that can be written straight into the caller's memory: read by the return alone, and once."""
        last = body(self.model.module).last_op
        assert isinstance(last, ReturnOp)
        found = {}
        taken = {_external(name, "in") for name in input_names(self.model.module)}
        for value, name in zip(last.operands, output_names(self.model.module), strict=True):
            once = sum(1 for _ in value.uses) == 1 and isinstance(value.owner, Operation)
            if once and not isinstance(value.owner, ConstantOp | ReshapeOp):
                found[value] = _external(name, "out")
        assert not taken & set(found.values())
        return found

    # ------------------------------------------------------------------------------------------- steps

    def step(self, op: Operation, kernel: Kernel, *inputs: SSAValue) -> None:
        """Adds a call that reads the activations among `inputs` and writes the op's results with their borders."""
        for value in op.results:
            if any(halo := self.halos.get(value, NO_HALO)):
                extent = self.views[value].shape
                zero, device = quantized(value).zero_point, bool(self.spec.driver)
                kernel = with_border(kernel, extent, halo, zero, device=device)  # type: ignore[arg-type]
        macs = op.macs if isinstance(op, ConvOp | MatMulOp | GroupedMatMulOp) else 0
        self.add(kernel, inputs, [self.places[r] for r in op.results], describe_location(op), macs)

    def add(self, kernel: Kernel, inputs: Sequence[SSAValue], outputs: list[str], location: str, macs: int = 0) -> None:
        read = tuple(self.places[v] for v in inputs if is_activation(v))
        self.program.steps.append(Step(kernel, read, tuple(outputs), location, macs))

    # --------------------------------------------------------------------------------------------- run

    def run(self, progress: Progress) -> Program:
        block = body(self.model.module)
        for value, name in zip(block.args, input_names(self.model.module), strict=True):
            self._place(value, View(shape(value), str(dtype_of(value))), _external(name, "in"))
            self.program.inputs.append(_external(name, "in"))
            if is_quantized(value):
                self._take_in(value)
        from qcompiler.lowering.lower_ops import lower_op

        for item in progress.track(schedule(self.model.module), "making kernels"):
            if isinstance(item, Island):
                self._island(item)
            else:
                try:
                    lower_op(self, item)
                except ValueError as error:
                    raise ModelError(f"{self.model.source}: {describe(item)} cannot be lowered: {error}") from error
        self._finish(block)
        return self.program

    def _take_in(self, value: SSAValue) -> None:
        """Copies a quantized input into the arena, where kernels may read past the end of it and find its halo."""
        outside, place = self.views[value], self.places[value]
        halo = self.halos.get(value, NO_HALO)
        inside = View(outside.shape, outside.dtype, halo)
        self._place(value, inside, self._unique(f"{place}.copy"))
        if any(halo):
            zero = quantized(value).zero_point
            device = bool(self.spec.driver)
            kernel = pad_copy_kernel(outside.shape, NO_HALO, halo, zero, outside.dtype, device=device)  # type: ignore[arg-type]
        else:
            kernel = copy_kernel(outside, inside, self.spec)
        self.program.steps.append(Step(kernel, (place,), (self.places[value],), f"input {self.names[value]}"))

    def _island(self, island: Island) -> None:
        from qcompiler.lowering.float_island import lower_float
        from qcompiler.lowering.float_loops import SINGLE

        labels = {v: f"v{i}" for i, v in enumerate((*island.inputs, *(r for op in island.ops for r in op.results)))}
        constants = list(
            dict.fromkeys(v.owner for op in island.ops for v in op.operands if isinstance(v.owner, ConstantOp))
        )
        proto = export_operations([*constants, *island.ops], island.inputs, island.outputs, labels, self.model.store)
        width = self.spec.vector_bytes if self.spec.float_vectors else 4
        part = lower_float(proto, SINGLE if self.spec.driver else width)
        renamed = {labels[v]: self.places[v] for v in island.inputs}
        for value in island.outputs:
            self._place(value, View(shape(value), str(dtype_of(value))))
            renamed[labels[value]] = self.places[value]
        for name, buffer in part.buffers.items():
            if name not in renamed:
                renamed[name] = self._unique(resource_name(f"float.{name}"))
                self.program.buffers[renamed[name]] = Buffer(renamed[name], buffer.shape, buffer.dtype)
        for step in part.steps:
            inputs, outputs = (tuple(renamed[n] for n in names) for names in (step.inputs, step.outputs))
            self.program.steps.append(Step(step.kernel, inputs, outputs, step.location))

    def _finish(self, block: Block) -> None:
        """Copies into the caller's memory what could not be written there."""
        last = block.last_op
        assert isinstance(last, ReturnOp)
        for value, label in zip(last.operands, output_names(self.model.module), strict=True):
            name = _external(label, "out")
            self.program.outputs.append(name)
            if self.places.get(value) == name:
                continue
            view = View(shape(value), str(dtype_of(value)))
            source = self.operand(value)
            self.program.buffers[name] = Buffer(name, view.physical_shape, view.dtype)
            if isinstance(source, np.ndarray):
                flat = View((source.size,), view.dtype)
                kernel = concat_kernel([source.reshape(-1)], flat, 0, self.spec)
            else:
                kernel = copy_kernel(source, view, self.spec)
            self.add(kernel, (value,), [name], f"output {label}")


def _external(name: str, kind: str) -> str:
    """Buffer name of a program input or output; the two may have one name in the model."""
    return f"{kind}.{resource_name(name)}"


def describe_location(op: Operation) -> str:
    return "+".join(location_names(op)) or op.name


def _halos(model: Model) -> dict[SSAValue, Halo]:
    """Halo of every channels-last image: as wide as the widest padding of the convolutions that read it."""
    found: dict[SSAValue, Halo] = {}
    for op in body(model.module).ops:
        if not isinstance(op, ConvOp):
            continue
        if string(op.layout) != "NHWC":
            raise PipelineError(f"{model.source}: {describe(op)} is not channels-last; run plan-layout before lowering")
        found.setdefault(op.y, NO_HALO)
        pads, old = spatial_pads(op), found.get(op.x, NO_HALO)
        found[op.x] = tuple(max(a, b) for a, b in zip(pads, old, strict=True))  # type: ignore[assignment]
    return found


def lower(model: Model, spec: TargetSpec, progress: Progress | None = None) -> Lowering:
    """The program of a module that `plan-layout` has seen, with where every value lies.

    Raises:
        PipelineError: the module is at another stage.
        ModelError: an op that neither an integer rule nor TVM's converter can lower.
    """
    if stage(model.module) is not Stage.LAID_OUT:
        raise PipelineError(
            f"{model.source}: lowering needs a module of stage laid_out, "
            f"this one is {stage(model.module).name.lower()}; run the pipeline up to plan-layout"
        )
    lowering = Lowering(model, spec, import_module(spec.kernels))
    lowering.run(progress or Progress())
    return lowering


def fused_transpose(value: SSAValue) -> TransposeOp | None:
    """The transpose that alone reads a freshly quantized value: quantize writes its result at once."""
    readers = users(value)
    is_one = len(readers) == 1 and isinstance(readers[0], TransposeOp) and isinstance(value.owner, QuantizeOp)
    return readers[0] if is_one else None  # type: ignore[return-value]


def transposed_source(op: DequantizeOp) -> TransposeOp | None:
    """The transpose whose result this dequantize alone reads: dequantize reads through it."""
    source = defining(op.x, TransposeOp)
    if source is None or len(users(op.x)) != 1 or fused_transpose(source.x) is source:
        return None
    return source


def is_fused(op: Operation) -> bool:
    """Whether a transpose is done by the quantize before or the dequantize behind it."""
    if not isinstance(op, TransposeOp):
        return False
    readers = users(op.y)
    return fused_transpose(op.x) is op or (
        len(readers) == 1 and isinstance(readers[0], DequantizeOp) and transposed_source(readers[0]) is op
    )
