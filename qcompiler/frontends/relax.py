"""Relax functions to models and back.

A function becomes ONNX nodes first (`relax_ops`, `relax_prims`), so that all that is done to ONNX models, quantized
ones included, is done to it. Values keep the names of Relax's variables.
"""

# TVM's expressions have no attributes and operators for a type checker.
# pyright: reportArgumentType=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportReturnType=false
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import tvm
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper
from tvm import relax
from tvm.ir import Call, Expr, GenericConst, GlobalVar, Op, Tuple, TupleGetItem, Type
from tvm.relax import TensorType, TupleType, Var, VarBinding
from tvm.relax.frontend.onnx import from_onnx
from tvm.tirx import PrimFunc

from qcompiler.errors import ModelError
from qcompiler.exporters.onnx_export import export_onnx
from qcompiler.frontends.onnx_graph import IR_VERSION
from qcompiler.frontends.onnx_import import import_graph
from qcompiler.frontends.onnx_load import normalize
from qcompiler.frontends.relax_emit import Emitter, NotUnderstood, Value, dtype_of, require, shape_of
from qcompiler.frontends.relax_ops import RULES
from qcompiler.frontends.relax_prims import emit_call
from qcompiler.ir.opset import OPSET
from qcompiler.model import Model


def import_relax(module: tvm.IRModule, function: str = "main") -> Model:
    """The model of a Relax function of static shapes; its inputs are named like the parameters.

    Raises:
        ModelError: the module has no such function, or it holds a call that is not understood; the message names the
            call's variable. `qcompiler.tvm.Partition` leaves such calls in Relax.
    """
    names = [variable.name_hint for variable in module.get_global_vars()]
    if function not in names or not isinstance(module[function], relax.Function):
        raise ModelError(f"the module has no Relax function '{function}'; it has {', '.join(sorted(names))}")
    return import_function(module[function], module, function)


def export_relax(model: Model) -> tvm.IRModule:
    """A module whose function `main` computes a float model, or one with quantize and dequantize, in Relax.

    Raises:
        ModelError: the model is integer already.
    """
    return from_onnx(export_onnx(model.module, model.store), keep_params_in_input=False)


def import_function(function: relax.Function, module: tvm.IRModule, source: str) -> Model:
    """The model of one function, whose calls of TIR functions refer to `module`."""
    graph = normalize(to_onnx(function, module, source), source=source)
    model = import_graph(graph.proto, graph.arrays, source)
    model.notes.extend(graph.notes)
    return model


def to_onnx(function: relax.Function, module: tvm.IRModule, source: str) -> ModelProto:
    """The function as an ONNX model with one output for each element of the result.

    Raises:
        ModelError: a call that is not understood.
    """
    emitter = Emitter()
    inputs = []
    for parameter in function.params:
        try:
            inputs.append(_info(parameter.name, parameter))
        except NotUnderstood as error:
            raise ModelError(f"{source}: parameter '{parameter.name}': {error}") from None
        emitter.values[parameter] = parameter.name
    for binding in (binding for block in function.body.blocks for binding in block.bindings):
        try:
            translate(emitter, binding, module)
        except NotUnderstood as error:
            raise ModelError(f"{source}: '{binding.var.name}' is not understood: {error}") from None
    result = function.body.body
    emitter.label = result.name if isinstance(result, Var) else "output"
    try:
        outputs = _outputs(emitter, result, module)
    except NotUnderstood as error:
        raise ModelError(f"{source}: the result is not understood: {error}") from None
    constants = [numpy_helper.from_array(array, name) for name, array in emitter.constants.items()]
    graph = helper.make_graph(_with_biases(emitter), source, inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def _outputs(emitter: Emitter, result: Expr, module: tvm.IRModule) -> list[ValueInfoProto]:
    value = emitter.values[result] if isinstance(result, Var) else _value(emitter, result, module)
    kinds = result.ty.fields if isinstance(result.ty, TupleType) else [result.ty]
    found = []
    for name, kind in zip([value] if isinstance(value, str) else value, kinds, strict=True):
        found.append(_info(emitter.node("Identity", name), kind))
    return found


def _with_biases(emitter: Emitter) -> list[NodeProto]:
    """The nodes, with each addition of one number a channel to a convolution as the convolution's own bias.

    Relax's convolutions have none. In a quantized model an addition would be an operation between float32 values.
    """
    producers = {name: node for node in emitter.nodes for name in node.output}
    readers = Counter(name for node in emitter.nodes for name in node.input)
    fused: set[str] = set()
    nodes = []
    for node in emitter.nodes:
        pair = [producers.get(name) for name in node.input] if node.op_type == "Add" else []
        for conv, other in zip(pair, reversed(pair), strict=True):
            is_conv = conv is not None and conv.op_type.startswith("Conv") and len(conv.input) == 2
            if is_conv and readers[conv.output[0]] == 1 and (bias := _channels(emitter, producers, other)) is not None:
                fused.add(conv.name)
                copy = NodeProto()
                copy.CopyFrom(conv)
                copy.input.append(bias)
                copy.output[:] = node.output
                node = copy
                break
        nodes.append(node)
    return [node for node in nodes if node.name not in fused or len(node.input) == 3]


def _channels(emitter: Emitter, producers: Mapping[str, NodeProto], node: NodeProto | None) -> str | None:
    """The vector that `node` reshapes to one number for each channel, a constant or a dequantized one."""
    if node is None or node.op_type != "Reshape":
        return None
    source = producers.get(node.input[0])
    is_dequantized = source is not None and source.op_type == "DequantizeLinear"
    vector = emitter.constants.get(source.input[0] if is_dequantized else node.input[0])
    extents = emitter.constants[node.input[1]].tolist()
    if vector is None or vector.ndim != 1 or extents[:2] != [1, vector.size] or max(extents[2:], default=0) != 1:
        return None
    return node.input[0]


def _info(name: str, value: Expr | Type) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype_of(value)), shape_of(value))


def translate(emitter: Emitter, binding: relax.Binding, module: tvm.IRModule) -> None:
    """Emits the nodes of one binding.

    Raises:
        NotUnderstood: they are not known.
    """
    require(isinstance(binding, VarBinding), "a match of types or shapes")
    emitter.label = binding.var.name
    emitter.values[binding.var] = _value(emitter, binding.value, module)


def _value(emitter: Emitter, value: Expr, module: tvm.IRModule) -> Value:
    if isinstance(value, TupleGetItem):
        elements = emitter.values.get(value.tuple_value)
        require(isinstance(elements, tuple), "an element of a tuple that is not known here")
        return elements[value.index]
    if isinstance(value, Tuple):
        return tuple(map(emitter.of, value))
    if isinstance(value, Var | GenericConst):
        return emitter.of(value)
    require(isinstance(value, Call) and isinstance(value.op, Op), "a call of a function")
    name = value.op.name
    if name == "relax.call_tir":
        callee = value.args[0]
        function = module[callee] if isinstance(callee, GlobalVar) else None
        require(isinstance(function, PrimFunc) and len(value.args) == 2, "a call of an unknown function")
        shape_of(value)
        return emit_call(emitter, function, [emitter.of(operand) for operand in value.args[1]])
    require(name in RULES, f"the operator {name}")
    if isinstance(value.ty, TensorType):
        shape_of(value)
    return RULES[name](emitter, value)
