"""Float islands: what stays in floating point, through TVM's own ONNX converter, as calls of scheduled kernels."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace

import numpy as np
import onnx
import tvm
from tvm import relax, tirx
from tvm.relax import transform
from tvm.relax.frontend.onnx import from_onnx

from ..errors import ModelError
from .contraction import ALLOW_CONTRACTION
from .float_conv import legalize_conv
from .float_decompose import decompose
from .float_loops import SINGLE, Axis, Nest, emit, emit_single
from .float_resize import legalize_resize
from .float_schedule import Scheduled, schedule
from .program import Buffer, Kernel, Program, Step

Value = str | np.ndarray
"""The name of a buffer, or the values of a constant."""


def lower_float(model: onnx.ModelProto, vector_bytes: int = 64) -> Program:
    """Lowers a float graph of static shapes to scheduled kernels.

    Args:
        model: a graph at the compiler's opset. Its inputs and outputs become the program's buffers of the same names;
            all other buffers are named after the first output.
        vector_bytes: size of the target's vector registers, 16, 32 or 64; 4 where these hold no floats.
            `SINGLE` for the work-items of a device.

    Raises:
        ModelError: an operator that neither TVM's converter nor a decomposition knows, or that needs TVM's run-time
            library. The message names the node.
    """
    try:
        return _Lowering(decompose(model), vector_bytes, _location(model)).run()
    except ModelError:
        raise
    except Exception as error:
        raise _explain(model, error) from error


def _location(model: onnx.ModelProto) -> str:
    """The nodes of the island; TVM does not keep which of them became which kernel."""
    names = [node.name or node.output[0] for node in model.graph.node]
    return "+".join(names) if len(names) <= 3 else f"{names[0]}+...+{names[-1]} ({len(names)} nodes)"


def to_relax(model: onnx.ModelProto) -> tvm.IRModule:
    """The graph as a Relax module of fused calls of TIR functions.

    Raises:
        Exception: whatever TVM raises for an operator it cannot convert.
    """
    own = {"relax.nn.conv1d": legalize_conv, "relax.nn.conv2d": legalize_conv, "relax.take": _legalize_take}
    own["relax.image.resize2d"] = legalize_resize
    passes = [
        transform.DecomposeOpsForInference(),
        transform.CanonicalizeBindings(),
        _fold_constants,
        relax.backend.DispatchSortScan(),
        transform.LegalizeOps(own),
        transform.FoldConstant(),
        transform.AnnotateTIROpPattern(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.DeadCodeElimination(),
    ]
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        module = from_onnx(model, keep_params_in_input=False)
    with tvm.target.Target("llvm"), tvm.transform.PassContext(opt_level=3):
        return tvm.transform.Sequential(passes)(module)


def _legalize_take(builder: relax.BlockBuilder, call: tvm.ir.Call) -> tvm.ir.Expr:
    """Gather whose indices outside the axis, an error in ONNX, read the nearest element instead of other memory."""
    axis = call.attrs.axis
    return builder.call_te(tvm.topi.take, *call.args, None if axis is None else int(axis), mode="clip")


@relax.expr_functor.mutator
class _Folder(relax.PyExprMutator):
    """Evaluates the cheap operators of constants in numpy; TVM's own folding compiles a function for each."""

    def visit_call_(self, call: tvm.ir.Call):
        call = super().visit_call_(call)
        if not isinstance(call.op, tvm.ir.Op) or call.op.name not in _FOLDABLE:
            return call
        arguments = [self._constant(argument) for argument in call.args if not _is_shape(argument)]
        if any(argument is None for argument in arguments):
            return call
        return relax.const(np.ascontiguousarray(_FOLDABLE[call.op.name](call, *arguments)))

    def _constant(self, expr) -> np.ndarray | None:
        while isinstance(expr, relax.Var):
            expr = self.lookup_binding(expr)
        return expr.value.numpy() if isinstance(expr, tvm.ir.GenericConst) else None


def _is_shape(expr) -> bool:
    return isinstance(expr.ty, relax.ShapeType)


def _reshape(call: tvm.ir.Call, values: np.ndarray) -> np.ndarray:
    return values.reshape([int(extent) for extent in call.ty.shape])


def _permute(call: tvm.ir.Call, values: np.ndarray) -> np.ndarray:
    return values.transpose(None if call.attrs.axes is None else [int(axis) for axis in call.attrs.axes])


_FOLDABLE: dict[str, Callable[..., np.ndarray]] = {
    "relax.reshape": _reshape,
    "relax.expand_dims": _reshape,
    "relax.squeeze": _reshape,
    "relax.flatten": _reshape,
    "relax.permute_dims": _permute,
    "relax.astype": lambda call, values: values.astype(str(call.attrs.dtype)),
    "relax.isnan": lambda call, values: np.isnan(values),
    "relax.where": lambda call, condition, chosen, other: np.where(condition, chosen, other),
}


@tvm.transform.module_pass(opt_level=0)
def _fold_constants(module: tvm.IRModule, _: tvm.transform.PassContext) -> tvm.IRModule:
    folder = _Folder(module)
    module["main"] = folder.visit_expr(module["main"])
    return module


def _explain(model: onnx.ModelProto, error: Exception) -> ModelError:
    """An error that names the node at fault, found by lowering each node on its own."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for node in inferred.graph.node:
        alone = _single_node(inferred, node)
        try:
            _Lowering(decompose(alone), 64, "").run()
        except Exception as reason:
            text = " ".join(str(reason).split())[:300]
            return ModelError(
                f"node {node.name or node.output[0]!r}: operator {node.op_type} cannot be compiled as a float "
                f"operation ({text}); replace it in the model by supported operators"
            )
    text = " ".join(str(error).split())[:300]
    return ModelError(f"the float operations around {model.graph.output[0].name!r} cannot be compiled ({text})")


def _single_node(model: onnx.ModelProto, node: onnx.NodeProto) -> onnx.ModelProto:
    graph = model.graph
    infos = {info.name: info for info in (*graph.input, *graph.value_info, *graph.output)}
    constants = [tensor for tensor in graph.initializer if tensor.name in node.input]
    held = {tensor.name for tensor in constants}
    inputs = [infos[name] for name in dict.fromkeys(node.input) if name in infos and name not in held]
    outputs = [infos[name] for name in node.output if name in infos]
    alone = onnx.helper.make_graph([node], graph.name, inputs, outputs, constants)
    return onnx.helper.make_model(alone, opset_imports=model.opset_import, ir_version=model.ir_version)


def _half_weights(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """The model with its float16 constants as inputs, so that their Cast is not folded, and their values."""
    halves = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT16]
    if not halves:
        return model, {}
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.initializer[:]
    changed.graph.initializer.extend(t for t in model.graph.initializer if t not in halves)
    changed.graph.input.extend(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in halves)
    return changed, {t.name: onnx.numpy_helper.to_array(t) for t in halves}


@dataclass(frozen=True)
class _Call:
    """One kernel call; a constant argument stands at its place among `arguments`."""

    func: tvm.ir.GlobalVar
    arguments: tuple[Value, ...]
    outputs: tuple[str, ...]


class _Lowering:
    def __init__(self, model: onnx.ModelProto, vector_bytes: int, location: str):
        self.graph = model.graph
        self.location = location
        self.vector_bytes = vector_bytes
        model, self.halves = _half_weights(model)
        self.module = to_relax(model)
        self.buffers: dict[str, Buffer] = {}
        self.values: dict[relax.Var, Value | list] = {}
        self.calls: list[_Call] = []
        self.prefix = f"{self.graph.output[0].name}/"
        self.scheduled: dict[tuple, Scheduled] = {}

    def run(self) -> Program:
        main = self.module["main"]
        constants = {tensor.name for tensor in self.graph.initializer}
        names = [info.name for info in self.graph.input if info.name not in constants]
        for var, name in zip(main.params, [*names, *self.halves], strict=True):
            self.values[var] = self.halves[name] if name in self.halves else self._buffer(name, var.ty)
        for block in main.body.blocks:
            for binding in block.bindings:
                self.values[binding.var] = self._evaluate(binding.var, binding.value)
        results = self._value(main.body.body)
        steps = [self._step(call) for call in self.calls]
        steps = self._finish(steps, results if isinstance(results, list) else [results])
        program = Program(self.buffers, names, [info.name for info in self.graph.output], steps)
        program.check()
        return program

    def _finish(self, steps: list[Step], results: list[Value]) -> list[Step]:
        """The steps with the outputs under their own names; copies where an output is not a kernel's alone."""
        inputs = {info.name for info in self.graph.input}
        renamed: dict[str, str] = {}
        copies = []
        for info, value in zip(self.graph.output, results, strict=True):
            name, shape = info.name, tuple(d.dim_value for d in info.type.tensor_type.shape.dim)
            if isinstance(value, str) and value not in renamed and value not in inputs:
                renamed[value] = name
                self.buffers[name] = replace(self.buffers.pop(value), name=name, shape=shape)
            else:
                source = renamed.get(value, value) if isinstance(value, str) else value
                copies.append(self._copy(source, name, shape))

        def rename(names: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(renamed.get(name, name) for name in names)

        return [replace(s, inputs=rename(s.inputs), outputs=rename(s.outputs)) for s in [*steps, *copies]]

    def _buffer(self, name: str, ty: relax.TensorType) -> str:
        self.buffers[name] = Buffer(name, tuple(int(d) for d in ty.shape), str(ty.dtype))
        return name

    def _value(self, expr) -> Value | list:
        if isinstance(expr, relax.Var):
            return self.values[expr]
        if isinstance(expr, tvm.ir.GenericConst):
            return expr.value.numpy()
        if isinstance(expr, relax.Tuple):
            return [self._value(item) for item in expr.fields]
        raise ValueError(f"{type(expr).__name__} is left after legalization")

    def _evaluate(self, var: relax.Var, expr) -> Value | list:
        if isinstance(expr, relax.TupleGetItem):
            return self._value(expr.tuple_value)[expr.index]
        if not isinstance(expr, tvm.ir.Call):
            return self._value(expr)
        name = expr.op.name if isinstance(expr.op, tvm.ir.Op) else str(expr.op)
        if name != "relax.call_tir":
            raise ValueError(f"TVM has no kernel for {name} without its run-time library")
        func, arguments = expr.args
        arguments = [self._value(argument) for argument in arguments.fields]
        types = var.ty.fields if isinstance(var.ty, relax.TupleType) else [var.ty]
        shape = [int(d) for d in types[0].shape]
        if len(types) == len(arguments) == 1 and self._is_reshape(func, arguments[0], shape):
            return arguments[0] if isinstance(arguments[0], str) else arguments[0].reshape(shape)
        outputs = [self._buffer(f"{self.prefix}{len(self.buffers)}", ty) for ty in types]
        self.calls.append(_Call(func, tuple(arguments), tuple(outputs)))
        return outputs if isinstance(var.ty, relax.TupleType) else outputs[0]

    def _is_reshape(self, func: tvm.ir.GlobalVar, value: Value, shape: list[int]) -> bool:
        """Whether `func` only gives its argument another shape. A slice from the start has the same pattern."""
        size = np.prod(self.buffers[value].shape) if isinstance(value, str) else value.size
        return size == np.prod(shape) and relax.analysis.has_reshape_pattern(self.module[func])

    def _step(self, call: _Call) -> Step:
        constants = {i: value for i, value in enumerate(call.arguments) if isinstance(value, np.ndarray)}
        key = call.func, *constants
        if key not in self.scheduled:
            self.scheduled[key] = schedule(
                self.module[call.func], tuple(constants), len(call.outputs), self.vector_bytes
            )
        result = self.scheduled[key]
        reads = [i for i in range(len(call.arguments)) if i not in constants]
        order = [*reads, *constants, *range(len(call.arguments), len(result.func.params))]
        func = tirx.PrimFunc([result.func.params[i] for i in order], result.func.body, attrs=result.func.attrs)
        values = [result.pack[i](value) if i in result.pack else value for i, value in constants.items()]
        kernel = Kernel(func, f"float.{result.rule}", tuple(np.ascontiguousarray(value) for value in values))
        inputs = tuple(call.arguments[i] for i in reads)
        return Step(kernel, inputs, call.outputs, f"{self.location}: {call.func.name_hint}")

    def _copy(self, value: Value, name: str, shape: Sequence[int]) -> Step:
        """A step that copies a buffer or a constant to the program output `name`."""
        dtype = self.buffers[value].dtype if isinstance(value, str) else str(value.dtype)
        self.buffers[name] = Buffer(name, tuple(shape), dtype)
        size = int(np.prod(shape, dtype=np.int64))
        source, target = (tirx.decl_buffer((size,), dtype, role) for role in ("source", "target"))
        i = Axis(tirx.Var("i", "int64"), size)
        nest = Nest((i,), (), target, i.var, tirx.BufferLoad(source, [i.var]))
        func = tirx.PrimFunc(
            [source, target], emit_single(nest) if self.vector_bytes == SINGLE else emit(nest, self.vector_bytes // 4)
        )
        func = func.with_attr("s_tir", True).with_attr("tirx.noalias", True).with_attr(ALLOW_CONTRACTION, 1)
        if isinstance(value, str):
            return Step(Kernel(func, "float.copy"), (value,), (name,), f"{self.location}: copy")
        return Step(Kernel(func, "float.copy", (np.ascontiguousarray(value),)), (), (name,), f"{self.location}: copy")
