"""The executable specification: runs a module in numpy, at any stage from the float graph to the laid-out integers.

Integer ops compute exactly what their definition says. Float ops run in onnxruntime, one session an op, so they agree
with other float implementations up to the rounding of float32; integers do not depend on them except through
`q.quantize`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from xdsl.dialects.func import ReturnOp
from xdsl.ir import Operation, SSAValue

from qcompiler.arithmetic.formats import presented, stored
from qcompiler.errors import ModelError
from qcompiler.exporters.onnx_export import export_operations
from qcompiler.ir.onnx_dialect import NoneOp, OnnxOp
from qcompiler.ir.q_base import QOp
from qcompiler.ir.q_conv import ConvOp, MatMulOp
from qcompiler.ir.q_elementwise import ConstantOp
from qcompiler.ir.q_grouped import GroupedMatMulOp
from qcompiler.ir.values import body, describe, dtype_of, shape, small_type, value_names
from qcompiler.model import Model

Watch = Callable[[Operation, tuple[np.ndarray, ...]], "tuple[np.ndarray, ...] | None"]


class Interpreter:
    """Runs one model many times; weights and float ops are prepared once."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.block = body(model.module)
        self.names = value_names(model.module)
        self.last = {value: op for op in self.block.ops for value in op.operands}
        self.constants: dict[SSAValue, np.ndarray] = {
            op.y: model.store[op.resource] for op in self.block.ops if isinstance(op, ConstantOp)
        }
        self._prepared: dict[Operation, object] = {}
        self._sessions: dict[Operation, Callable[..., tuple[np.ndarray, ...]]] = {}

    def run(self, feeds: Mapping[str, np.ndarray], watch: Watch | None = None) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name.

        `watch` sees every op with its results, in order; what it returns, unless None, takes their place.

        Raises:
            ModelError: an input is missing, or has another shape or kind of type than the model's.
        """
        values: dict[SSAValue, np.ndarray] = {}
        for argument, name in zip(self.block.args, self.model.inputs, strict=True):
            if name not in feeds:
                raise ModelError(f"{self.model.source}: input '{name}' is missing; given: {', '.join(feeds) or 'none'}")
            array = stored(np.asarray(feeds[name]))
            if array.shape != shape(argument):
                raise ModelError(
                    f"{self.model.source}: input '{name}': expected shape {list(shape(argument))}, "
                    f"got {list(array.shape)}"
                )
            wanted = dtype_of(argument)
            if not np.can_cast(array.dtype, wanted, "same_kind"):
                raise ModelError(f"{self.model.source}: input '{name}': expected {wanted}, got {array.dtype}")
            values[argument] = array.astype(wanted, copy=False)
            if wanted.kind in "iu" and not np.array_equal(values[argument], array):
                raise ModelError(f"{self.model.source}: input '{name}': {array.dtype} values outside of {wanted}")
        for op in self.block.ops:
            if isinstance(op, ConstantOp | NoneOp):
                continue
            if isinstance(op, ReturnOp):
                outputs = [values[v] if v in values else self.constants[v] for v in op.operands]
                shown = [presented(a, small_type(v)) for a, v in zip(outputs, op.operands, strict=True)]
                return dict(zip(self.model.outputs, shown, strict=True))
            operands = [values[v] if v in values else self.constants.get(v) for v in op.operands]
            results = self._execute(op, operands)
            if watch is not None:
                results = watch(op, results) or results
            values.update(zip(op.results, results, strict=True))
            for value in op.operands:
                if self.last[value] is op:
                    values.pop(value, None)
        raise ModelError(f"{self.model.source}: the function does not return")

    def run_all(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every activation by its name, outputs included under their own."""
        found: dict[str, np.ndarray] = {}

        def keep(op: Operation, results: tuple[np.ndarray, ...]) -> None:
            found.update({self.names[v]: a for v, a in zip(op.results, results, strict=True)})

        outputs = self.run(feeds, keep)  # type: ignore[arg-type]
        return {**found, **outputs}

    def _execute(self, op: Operation, operands: list[np.ndarray | None]) -> tuple[np.ndarray, ...]:
        if isinstance(op, ConvOp | MatMulOp | GroupedMatMulOp) and op.operands[1] in self.constants:
            if op not in self._prepared:
                self._prepared[op] = op.prepare(*(a for i, a in enumerate(operands) if i in (1, 4)))  # type: ignore[arg-type]
            operands = [operands[0], self._prepared[op], *operands[2:]]  # type: ignore[list-item]
        if isinstance(op, QOp):
            return op.evaluate(*operands)  # type: ignore[arg-type]
        if isinstance(op, OnnxOp):
            return self._float(op)(*operands)
        raise ModelError(f"{self.model.source}: {describe(op)} cannot be interpreted")

    def _float(self, op: OnnxOp) -> Callable[..., tuple[np.ndarray, ...]]:
        if op not in self._sessions:
            self._sessions[op] = _session(op, self.model)
        return self._sessions[op]


def _session(op: OnnxOp, model: Model) -> Callable[..., tuple[np.ndarray, ...]]:
    """One float op as a function of its operands."""
    import onnxruntime

    constants = [v.owner for v in dict.fromkeys(op.operands) if isinstance(v.owner, ConstantOp)]
    variable = [v for v in dict.fromkeys(op.operands) if not isinstance(v.owner, ConstantOp | NoneOp)]
    present = [r for r in op.results if r.first_use is not None] or list(op.results)
    names = {v: f"v{i}" for i, v in enumerate((*variable, *op.results))}
    proto = export_operations([*constants, op], variable, present, names, model.store)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"{model.source}: onnxruntime does not take {describe(op)}: {error}") from None
    indices = {v: i for i, v in enumerate(op.operands)}

    def call(*operands: np.ndarray) -> tuple[np.ndarray, ...]:
        outputs = session.run(None, {names[v]: operands[indices[v]] for v in variable})
        by_value = {v: np.asarray(array) for v, array in zip(present, outputs, strict=True)}
        return tuple(by_value.get(r, np.empty(0)) for r in op.results)

    return call


def interpret(model: Model, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs of a model on one set of inputs, by name."""
    return Interpreter(model).run(feeds)
