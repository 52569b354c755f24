"""ONNX operators that TVM's converter lacks or computes slowly, rewritten in operators it has.

Definitions are those of the ONNX operator specification at the compiler's opset.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import ModelError
from .float_recurrent import unroll_recurrent
from .float_resize import rewrite_resize
from .float_rewriter import Rewriter, attributes_of


def decompose(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that computes the same without the operators in `REWRITES`.

    Raises:
        ModelError: such an operator in a form that has no rewrite.
    """
    if not any(node.op_type in REWRITES for node in model.graph.node):
        return model
    rewriter = Rewriter(model)
    for node in model.graph.node:
        rewriter.prefix = node.name or node.output[0]
        rewrite = REWRITES.get(node.op_type)
        if rewrite is None or not rewrite(rewriter, node):
            rewriter.nodes.append(node)
    graph = helper.make_graph(
        rewriter.nodes,
        model.graph.name,
        model.graph.input,
        model.graph.output,
        [*model.graph.initializer, *rewriter.added],
    )
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _batch_normalization(add: Rewriter, node: onnx.NodeProto) -> bool:
    """One multiplication and one addition a channel."""
    if any(name not in add.tensors for name in node.input[1:]) or len([o for o in node.output if o]) > 1:
        return False
    scale, bias, mean, variance = (add.constant(node, i).astype(np.float64) for i in range(1, 5))
    multiplier = scale / np.sqrt(variance + attributes_of(node).get("epsilon", 1e-5))
    shape = [-1, *[1] * (len(add.shapes[node.input[0]]) - 2)]
    factor = add.array(multiplier.reshape(shape).astype(np.float32))
    shift = add.array((bias - mean * multiplier).reshape(shape).astype(np.float32))
    add("Add", add("Mul", node.input[0], factor), shift, output=node.output[0])
    return True


def _clip(add: Rewriter, node: onnx.NodeProto) -> bool:
    """Bounds of rank 1: TVM's converter does not take those of rank 0. A bound that is NaN is none."""
    if any(name and name not in add.tensors for name in node.input[1:]):
        return False
    bounds = [add.constant(node, i) for i in (1, 2)]
    if all(bound is None or bound.ndim for bound in bounds):
        return False
    names = [add.array(b.reshape(1)) if b is not None and not np.isnan(b) else "" for b in bounds]
    add("Clip", node.input[0], *names, output=node.output[0])
    return True


def _pairwise(add: Rewriter, node: onnx.NodeProto) -> bool:
    """Sum, Mean, Max and Min, two operands at a time; TVM's converter stacks them all to one tensor."""
    value, *others = node.input
    for other in others:
        if node.op_type in ("Sum", "Mean"):
            value = add("Add", value, other)
        else:
            comparison = "Greater" if node.op_type == "Max" else "Less"
            value = add("Where", add(comparison, value, other), value, other)
    if node.op_type == "Mean":
        value = add("Div", value, add.array(np.float32(len(node.input))))
    add("Identity", value, output=node.output[0])
    return True


def _pow(add: Rewriter, node: onnx.NodeProto) -> bool:
    """Squares, which need no call of the C library; integer exponents as floats."""
    base, exponent = node.input
    if exponent not in add.tensors:
        return False
    values = numpy_helper.to_array(add.tensors[exponent])
    if values.size == 1 and values.ndim <= len(add.shapes[base]) and values.item() == 2:
        add("Mul", base, base, output=node.output[0])
    elif values.dtype != np.float32 and add.types[base] == onnx.TensorProto.FLOAT:
        add("Pow", base, add.array(values.astype(np.float32)), output=node.output[0])
    else:
        return False
    return True


def _lrn(add: Rewriter, node: onnx.NodeProto) -> bool:
    """`x / (bias + alpha / size * s)^beta`, `s` the sum of squares over `size` channels; powers by square roots."""
    attributes = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0, **attributes_of(node)}
    roots = {0.5: (1,), 0.75: (1, 2), 1.0: (0,)}.get(attributes["beta"])
    x, size = node.input[0], attributes["size"]
    channels, rank = add.shapes[x][1], len(add.shapes[x])
    if roots is None or size > channels:
        return False
    before = (size - 1) // 2
    widths = np.zeros((2, rank), np.int64)
    widths[:, 1] = before, size - 1 - before
    padded = add("Pad", add("Mul", x, x), add.array(widths.reshape(-1)))
    axis, total = add.array([1]), ""
    for first in range(size):
        part = add("Slice", padded, add.array([first]), add.array([first + channels]), axis)
        total = add("Add", total, part) if total else part
    factor, bias = np.float32(attributes["alpha"] / size), np.float32(attributes["bias"])
    base = add("Add", add("Mul", total, add.array(factor)), add.array(bias))
    powers = [base]  # to the power of 1, 1/2, 1/4
    for _ in range(max(roots)):
        powers.append(add("Sqrt", powers[-1]))
    divisor = powers[roots[0]]
    for root in roots[1:]:
        divisor = add("Mul", divisor, powers[root])
    add("Div", x, divisor, output=node.output[0])
    return True


def _celu(add: Rewriter, node: onnx.NodeProto) -> bool:
    """`max(0, x) + min(0, alpha * (exp(x / alpha) - 1))`."""
    alpha = np.float32(attributes_of(node).get("alpha", 1.0))
    x, zero = node.input[0], add.array(np.float32(0))
    negative = add("Elu", add("Min", add("Div", x, add.array(alpha)), zero), alpha=1.0)
    add("Add", add("Max", x, zero), add("Mul", negative, add.array(alpha)), output=node.output[0])
    return True


def _lp_normalization(add: Rewriter, node: onnx.NodeProto) -> bool:
    attributes = attributes_of(node)
    reduction = {1: "ReduceL1", 2: "ReduceL2"}[attributes.get("p", 2)]
    axis = add.array(np.array([attributes.get("axis", -1)], np.int64))
    norm = add(reduction, node.input[0], axis, keepdims=1)
    is_zero = add("Equal", norm, add.array(np.float32(0)))
    norm = add("Where", is_zero, add.array(np.float32(1)), norm)
    add("Div", node.input[0], norm, output=node.output[0])
    return True


def _layer_normalization(add: Rewriter, node: onnx.NodeProto) -> bool:
    """Only where mean or deviation are wanted: TVM's converter does not compute them."""
    if not any(node.output[1:]):
        return False
    x, scale = node.input[:2]
    attributes = attributes_of(node)
    rank = len(add.shapes[x])
    axes = add.array(np.arange(attributes.get("axis", -1) % rank, rank))
    mean = add("ReduceMean", x, axes)
    centered = add("Sub", x, mean)
    variance = add("ReduceMean", add("Mul", centered, centered), axes)
    deviation = add("Sqrt", add("Add", variance, add.array(np.float32(attributes.get("epsilon", 1e-5)))))
    inverse = add("Reciprocal", deviation)
    result = add("Mul", add("Mul", centered, inverse), scale)
    if len(node.input) > 2 and node.input[2]:
        result = add("Add", result, node.input[2])
    for name, value in zip(node.output, (result, mean, inverse), strict=False):
        if name:
            add("Identity", value, output=name)
    return True


def _is_inf(add: Rewriter, node: onnx.NodeProto) -> bool:
    """Infinities of one sign only, which TVM's converter does not tell apart."""
    attributes = attributes_of(node)
    positive, negative = (attributes.get(f"detect_{sign}", 1) for sign in ("positive", "negative"))
    if positive and negative:
        return False
    # Equal to NaN is never true.
    value = np.inf if positive else -np.inf if negative else np.nan
    add("Equal", node.input[0], add.array(np.float32(value)), output=node.output[0])
    return True


def _conv_transpose(add: Rewriter, node: onnx.NodeProto) -> bool:
    """An explicit output shape as pads, by the specification's formula."""
    attributes = attributes_of(node)
    if "output_shape" not in attributes:
        return False
    sizes, kernel = add.shapes[node.input[0]][2:], add.shapes[node.input[1]][2:]
    rank = len(sizes)
    wanted = attributes.pop("output_shape")[-rank:]
    strides, dilations = (attributes.get(key, [1] * rank) for key in ("strides", "dilations"))
    extra = attributes.get("output_padding", [0] * rank)
    totals = [
        s * (n - 1) + e + (k - 1) * d + 1 - w
        for s, n, e, k, d, w in zip(strides, sizes, extra, kernel, dilations, wanted, strict=True)
    ]
    begin = [t // 2 if attributes.get("auto_pad") == b"SAME_UPPER" else t - t // 2 for t in totals]
    attributes.pop("auto_pad", None)
    attributes["pads"] = [*begin, *(t - b for t, b in zip(totals, begin, strict=True))]
    add("ConvTranspose", *node.input, output=node.output[0], **attributes)
    return True


def _roi_align(add: Rewriter, node: onnx.NodeProto) -> bool:
    if attributes_of(node).get("mode") == b"max":
        raise ModelError(f"node {node.name or node.output[0]!r}: RoiAlign of mode max cannot be compiled; use mode avg")
    return False


REWRITES: dict[str, Callable[[Rewriter, onnx.NodeProto], bool]] = {
    "BatchNormalization": _batch_normalization,
    "Celu": _celu,
    "Clip": _clip,
    "LRN": _lrn,
    "ConvTranspose": _conv_transpose,
    "IsInf": _is_inf,
    "LayerNormalization": _layer_normalization,
    "LpNormalization": _lp_normalization,
    "Max": _pairwise,
    "Mean": _pairwise,
    "Min": _pairwise,
    "Pow": _pow,
    "Resize": rewrite_resize,
    "RoiAlign": _roi_align,
    "Sum": _pairwise,
    "LSTM": unroll_recurrent,
    "GRU": unroll_recurrent,
    "RNN": unroll_recurrent,
}
"""By operator: adds the replacement and returns True, or returns False to keep the node."""
