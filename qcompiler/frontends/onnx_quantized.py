"""Quantized ops of the operator form, as DequantizeLinear, the float op, QuantizeLinear.

The two forms have the same real-number meaning: the model's scales and zero points are kept exactly. A convolution or
product whose parameters are values of the program becomes ConvInteger or MatMulInteger, scaled. Sources: the ONNX
operator documentation and, for `com.microsoft`, onnxruntime's ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import onnx

from qcompiler.frontends.onnx_graph import Graph, Replacement, integer, number

Rewrite = Callable[[Graph, onnx.NodeProto], "list[onnx.NodeProto] | None"]
"""The nodes that take a node's place; None if shapes it needs are not known yet."""


def _input(node: onnx.NodeProto, position: int) -> str:
    return node.input[position] if position < len(node.input) else ""


def _attributes(node: onnx.NodeProto, *without: str) -> dict[str, object]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute if a.name not in without}


def _parameters(graph: Graph, node: onnx.NodeProto, position: int) -> tuple[list[str], bool]:
    """Scale and zero point at `position` and the next, scalars if they hold one value; whether it is one."""
    names: list[str] = []
    single = True
    for name in (_input(node, position), _input(node, position + 1)):
        if not name:
            continue
        array = graph.constants.get(name)
        if array is None:
            single &= _is_single(graph, name)
        else:
            single &= array.size == 1
            if array.size == 1 and array.ndim:
                name = graph.add_constant(f"{name}_scalar", array.reshape(()))
        names.append(name)
    return names, single


def _is_single(graph: Graph, name: str) -> bool:
    """Whether a value has one element, as far as its shape is known."""
    kind = graph.types.get(name)
    return kind is not None and kind.shape is not None and prod(kind.shape) == 1


def _run_time(graph: Graph, node: onnx.NodeProto, positions: Sequence[int]) -> bool:
    """Whether one of the scales and zero points at `positions` is no constant."""
    names = (_input(node, position) for position in positions)
    return any(name and name not in graph.constants for name in names)


def _dequantize(new: Replacement, position: int, what: str, axis: int = 0) -> str:
    """The float value of the quantized input at `position`, followed by its scale and zero point."""
    parameters, single = _parameters(new.graph, new.node, position + 1)
    attributes = {} if single else {"axis": axis}
    return new.add("DequantizeLinear", [new.node.input[position], *parameters], what, **attributes)


def _quantize(new: Replacement, value: str, position: int) -> list[onnx.NodeProto]:
    """The node's result: `value` quantized with the scale and zero point at `position` and the next."""
    parameters, _ = _parameters(new.graph, new.node, position)
    if len(parameters) == 1:
        # without a zero point QuantizeLinear yields uint8, as these ops do
        parameters.append(new.graph.add_constant(f"{parameters[0]}_zero", np.array(0, np.uint8)))
    return new.last("QuantizeLinear", [value, *parameters])


def _bias(new: Replacement, position: int, scales: tuple[int, int]) -> str:
    """The float value of an int32 bias, whose scale is the product of two inputs' scales."""
    first, second = (new.graph.constants.get(new.node.input[s]) for s in scales)
    if first is None or second is None:
        raise new.graph.error(new.node, "it has a bias, so the scales of its operands must be constants")
    scale = (first * second).astype(np.float32)
    scale = scale.reshape(()) if scale.size == 1 else scale.reshape(-1)
    name = new.graph.add_constant(f"{new.node.input[position]}_scale", scale)
    attributes = {"axis": 0} if scale.ndim else {}
    return new.add("DequantizeLinear", [new.node.input[position], name], "bias", **attributes)


def _rescaled(new: Replacement, acc: str, scales: tuple[str, str], first: int) -> list[onnx.NodeProto]:
    """The node's result from an int32 accumulator, by the product of two scales and the parameters at `first`."""
    real = new.add("Cast", [acc], "float", to=onnx.TensorProto.FLOAT)
    return _quantize(new, new.add("Mul", [real, new.add("Mul", scales, "scale")], "real"), first)


def _column(new: Replacement, name: str, axes: Sequence[int], what: str) -> str:
    """A vector with further axes of one element; a single value as it is."""
    if _is_single(new.graph, name):
        return name
    return new.add("Unsqueeze", [name, new.graph.add_constant(f"{name}_axes", np.array(axes, np.int64))], what)


def _conv_at_run_time(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """QLinearConv whose parameters are values of the program: ConvInteger, bias, scales."""
    rank = graph.rank(node.input[0])
    if rank is None or graph.rank(node.input[4]) is None:
        return None
    new = Replacement(graph, node)
    operands = [node.input[i] for i in (0, 3, 2, 5)]
    acc = new.add("ConvInteger", operands, "acc", **_attributes(node))
    spatial = list(range(1, rank - 1))
    if bias := _input(node, 8):
        acc = new.add("Add", [acc, _column(new, bias, spatial, "bias")], "biased")
    return _rescaled(new, acc, (node.input[1], _column(new, node.input[4], spatial, "scales")), 6)


def _conv(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    if _run_time(graph, node, (1, 2, 4, 5)):
        return _conv_at_run_time(graph, node)
    new = Replacement(graph, node)
    operands = [_dequantize(new, 0, "input"), _dequantize(new, 3, "weight", axis=0)]
    if _input(node, 8):
        operands.append(_bias(new, 8, (1, 4)))
    return _quantize(new, new.add("Conv", operands, "float", **_attributes(node)), 6)


def _matmul(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    ranks = graph.rank(node.input[0]), graph.rank(node.input[3])
    if ranks[0] is None or ranks[1] is None:
        return None
    new = Replacement(graph, node)
    if _run_time(graph, node, (1, 2, 4, 5)):
        if graph.rank(node.input[1]) is None:
            return None
        acc = new.add("MatMulInteger", [node.input[i] for i in (0, 3, 2, 5)], "acc")
        rows = _column(new, node.input[1], [1], "rows") if graph.rank(node.input[1]) == 1 else node.input[1]
        return _rescaled(new, acc, (rows, node.input[4]), 6)
    operands = [_dequantize(new, 0, "a", axis=ranks[0] - 2), _dequantize(new, 3, "b", axis=ranks[1] - 1)]
    return _quantize(new, new.add("MatMul", operands, "float"), 6)


def _gemm(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    new = Replacement(graph, node)
    transposed = integer(node, "transB", 0)
    operands = [_dequantize(new, 0, "a"), _dequantize(new, 3, "b", axis=0 if transposed else 1)]
    if _input(node, 6):
        if number(node, "alpha", 1.0) != 1.0:
            raise graph.error(node, "alpha must be 1 where there is a bias")
        operands.append(_bias(new, 6, (1, 4)))
    if not _input(node, 7):
        return new.last("Gemm", operands, **_attributes(node))
    return _quantize(new, new.add("Gemm", operands, "float", **_attributes(node)), 7)


def _unary(op: str) -> Rewrite:
    def rewrite(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        if integer(node, "channels_last", 0):
            raise graph.error(node, "channels_last=1 is not supported")
        new = Replacement(graph, node)
        attributes = _attributes(node, "channels_last")
        return _quantize(new, new.add(op, [_dequantize(new, 0, "input")], "float", **attributes), 3)

    return rewrite


def _binary(op: str) -> Rewrite:
    def rewrite(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        new = Replacement(graph, node)
        return _quantize(new, new.add(op, [_dequantize(new, 0, "a"), _dequantize(new, 3, "b")], "float"), 6)

    return rewrite


def _softmax(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    rank, axis = graph.rank(node.input[0]), integer(node, "axis", -1)
    if rank is None:
        return None
    if integer(node, "opset", 13) < 13 and axis % rank != rank - 1:
        raise graph.error(node, "the meaning of opset 12 and older is only supported at the last axis")
    new = Replacement(graph, node)
    return _quantize(new, new.add("Softmax", [_dequantize(new, 0, "input")], "float", axis=axis), 3)


def _concat(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    new = Replacement(graph, node)
    parts = [_dequantize(new, position, "part") for position in range(2, len(node.input), 3)]
    return _quantize(new, new.add("Concat", parts, "float", **_attributes(node)), 0)


def _where(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    new = Replacement(graph, node)
    operands = [node.input[0], _dequantize(new, 1, "x"), _dequantize(new, 4, "y")]
    return _quantize(new, new.add("Where", operands, "float"), 7)


def _matmul_to_float(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """MatMulIntegerToFloat: the int32 product by both scales, and a bias."""
    if graph.rank(node.input[2]) is None:
        return None
    new = Replacement(graph, node)
    operands = [node.input[0], node.input[1], _input(node, 4), _input(node, 5)]
    return _scaled_product(new, operands, (node.input[2], node.input[3]), _input(node, 6))


def _dynamic_matmul(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """DynamicQuantizeMatMul: the same, the left operand quantized by its own range."""
    new = Replacement(graph, node)
    stored, scale, zero = (graph.fresh(f"{node.output[0]}_{what}") for what in ("stored", "scale", "zero"))
    name = f"{node.name or node.output[0]}.stored"
    new.nodes.append(onnx.helper.make_node("DynamicQuantizeLinear", [node.input[0]], [stored, scale, zero], name))
    operands = [stored, node.input[1], zero, _input(node, 3)]
    return _scaled_product(new, operands, (scale, node.input[2]), _input(node, 4))


def _scaled_product(
    new: Replacement, operands: Sequence[str], scales: tuple[str, str], bias: str
) -> list[onnx.NodeProto]:
    if new.graph.rank(scales[0]) == 1 and not _is_single(new.graph, scales[0]):
        scales = (_column(new, scales[0], [1], "rows"), scales[1])
    real = new.add("Cast", [new.add("MatMulInteger", operands, "acc")], "float", to=onnx.TensorProto.FLOAT)
    factors = [real, new.add("Mul", scales, "scale")]
    if not bias:
        return new.last("Mul", factors)
    return new.last("Add", [new.add("Mul", factors, "real"), bias])


def _standard(graph: Graph, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    node.domain = ""
    return [node]


QUANTIZED: dict[tuple[str, str], Rewrite] = {
    ("", "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _matmul,
    ("com.microsoft", "QGemm"): _gemm,
    ("com.microsoft", "QLinearAdd"): _binary("Add"),
    ("com.microsoft", "QLinearMul"): _binary("Mul"),
    ("com.microsoft", "QLinearSigmoid"): _unary("Sigmoid"),
    ("com.microsoft", "QLinearLeakyRelu"): _unary("LeakyRelu"),
    ("com.microsoft", "QLinearAveragePool"): _unary("AveragePool"),
    ("com.microsoft", "QLinearGlobalAveragePool"): _unary("GlobalAveragePool"),
    ("com.microsoft", "QLinearSoftmax"): _softmax,
    ("com.microsoft", "QLinearConcat"): _concat,
    ("com.microsoft", "QLinearWhere"): _where,
    ("com.microsoft", "MatMulIntegerToFloat"): _matmul_to_float,
    ("com.microsoft", "DynamicQuantizeMatMul"): _dynamic_matmul,
    ("com.microsoft", "QuantizeLinear"): _standard,
    ("com.microsoft", "DequantizeLinear"): _standard,
}
"""(domain, op) to its rewrite."""
