"""Integer forms of ops that compute: convolution, matrix product, sums, products, means, softmax."""

from __future__ import annotations

from math import prod

import numpy as np
from xdsl.dialects.builtin import BoolAttr, DenseArrayBase, StringAttr, TensorType
from xdsl.ir import Operation, SSAValue

from qcompiler.arithmetic.grouped import factors_of
from qcompiler.arithmetic.requantize import INT32_MAX
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.q_base import array, number, sum_bound
from qcompiler.ir.q_conv import ConvOp, MatMulOp
from qcompiler.ir.q_elementwise import AddOp, ConstantOp, MulOp, SubOp, product_bound, sum_parameters
from qcompiler.ir.q_grouped import GroupedMatMulOp
from qcompiler.ir.q_reduce import AveragePoolOp, MeanOp, SoftmaxOp
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import dtype_of, element_type, integer, integers, quantized, rank, shape, size
from qcompiler.passes.integer_rules import (
    Rule,
    Site,
    accumulator_scales,
    always,
    constant,
    one_scale,
    present,
    stored,
    stored_alike,
)

_ROUNDING = StringAttr("fp32")
_LAYOUT = StringAttr("NCHW")


def _eight_bits(kind: UniformType) -> bool:
    """Whether a type is one of those that products take."""
    return stored_alike(kind) and kind.dtype.itemsize == 1


def _multiplier(site: Site, x: UniformType, w: UniformType, channels: int) -> SSAValue:
    return site.constant("multiplier", accumulator_scales(x, w, channels) / site.y.scales.astype(np.float64))


def _plain_weight(site: Site, w: SSAValue) -> SSAValue:
    """The weight's stored integers as a tensor of plain integers; its scales are in the multiplier."""
    assert isinstance(w.owner, ConstantOp)
    kind = TensorType(element_type(dtype_of(w)), shape(w))
    plain = ConstantOp.named(w.owner.resource, kind)
    if w.owner.why is not None:
        plain.properties["q.why"] = w.owner.why
    return site.emit(plain)


def _bias(site: Site, value: SSAValue | None, channels: int, x: UniformType, w: UniformType) -> SSAValue | None:
    """The int32 bias, from its dequantize or from float32; zeros where there is none."""
    if value is None:
        return site.constant("bias", np.zeros(channels, np.int32))
    source = site.source(value)
    if source is not None and isinstance(source.owner, ConstantOp):
        return site.constant("bias", site.store[source.owner.resource].reshape(-1).astype(np.int32))
    if not constant(value):
        return None
    scales = accumulator_scales(x, w, channels)
    real = np.rint(stored(value, site.store).reshape(-1).astype(np.float64) / scales)
    if np.abs(real).max(initial=0) >= 2**31:
        return None
    return site.constant("bias", np.broadcast_to(real, (channels,)).astype(np.int32))


def _check_conv(op: Operation, store: ConstantStore) -> str | None:
    if not constant(op.operands[1]):
        return "Conv with a weight that is no constant"
    if len(op.operands) > 2 and present(op, 2) is not None and not constant(op.operands[2]):
        return "Conv with a bias that is no constant"
    return None if rank(op.operands[0]) in (3, 4) else f"Conv of rank {rank(op.operands[0])}"


def _conv(site: Site) -> SSAValue | None:
    op = site.op
    x, w = site.source(op.operands[0]), site.source(op.operands[1])
    if x is None or w is None or not isinstance(w.owner, ConstantOp):
        return None
    kind, weight, clamp = quantized(x), quantized(w), site.clamp()
    channels, group, n = shape(w)[0], integer(op.properties.get("group"), 1), rank(x) - 2
    # Channels may differ in scale where each has filters of its own: the sums of a filter then have one scale.
    alike = kind.per_tensor or (kind.axis == 1 and group == shape(x)[1])
    if not (alike and _eight_bits(kind) and weight.axis in (None, 0) and site.y.axis in (None, 1)) or clamp is None:
        return None
    bias = _bias(site, present(op, 2), channels, kind, weight)
    if bias is None:
        return None
    operands = [x, _plain_weight(site, w), bias, _multiplier(site, kind, weight, channels)]
    zeros = weight.zero_points.reshape(-1)
    if zeros.any():
        operands.append(site.constant("w_zero_point", np.broadcast_to(zeros, (channels,)).astype(np.int32)))
    return site.emit(
        ConvOp.create(
            operands=operands,
            result_types=[site.result()],
            properties={
                "strides": array(integers(op.properties.get("strides"), [1] * n)),
                "pads": array(integers(op.properties.get("pads"), [0] * (2 * n))),
                "dilations": array(integers(op.properties.get("dilations"), [1] * n)),
                "group": number(group),
                "x_zero_point": number(kind.zero_point),
                "pad_value": number(kind.zero_point),
                "rounding": _ROUNDING,
                "clamp": clamp,
                "layout": _LAYOUT,
            },
        )
    )


def _check_matmul(op: Operation, store: ConstantStore) -> str | None:
    a, b = op.operands[:2]
    if rank(a) < 2 or rank(b) < 2:
        return "MatMul with a vector"
    if constant(a):
        return "MatMul with a constant on the left"
    if op_name(op) == "Gemm" and (op.properties or not constant(b)):
        return "Gemm with transposes, factors or an operand that is no constant"
    bias = present(op, 2) if op_name(op) == "Gemm" else None
    if bias is not None and (not constant(bias) or shape(bias) not in ((shape(b)[1],), (1, shape(b)[1]))):
        return "Gemm with a bias that is no constant vector"
    return None


def _matmul(site: Site) -> SSAValue | None:
    """MatMul, Gemm, and MatMul followed by the addition of a constant vector."""
    op = site.op
    a, b = site.source(op.operands[0]), site.source(op.operands[1])
    if a is None or b is None:
        return None
    left, right = quantized(a), quantized(b)
    is_weight = isinstance(b.owner, ConstantOp)
    columns = shape(b)[-1]
    if right.blocks:
        return _grouped(site, a, b)
    if not left.per_tensor or not site.y.per_tensor or right.axis not in (None, rank(b) - 1):
        return None
    if not _eight_bits(left) or not (is_weight or _eight_bits(right)):
        return None
    bias = _bias(site, _addend(site), columns, left, right)
    if bias is None:
        return None
    zeros = right.zero_points.reshape(-1)
    operands = [a, _plain_weight(site, b) if is_weight else b, bias, _multiplier(site, left, right, columns)]
    if len(zeros) > 1 and zeros.any():
        operands.append(site.constant("b_zero_points", zeros.astype(np.int32)))
    return site.emit(
        MatMulOp.create(
            operands=operands,
            result_types=[site.result()],
            properties={
                "a_zero_point": number(left.zero_point),
                "b_zero_point": number(int(zeros[0]) if len(zeros) == 1 else 0),
                "rounding": _ROUNDING,
                "clamp": site.clamp(),
            },
        )
    )


def _addend(site: Site) -> SSAValue | None:
    """What a Gemm, or the addition behind a MatMul, adds to the product."""
    op = site.op
    if len(site.chain) > 1 and op_name(site.chain[1]) == "Add":
        add = site.chain[1]
        return add.operands[1] if add.operands[0] is op.results[0] else add.operands[0]
    return present(op, 2) if op_name(op) == "Gemm" else None


def _grouped(site: Site, a: SSAValue, b: SSAValue) -> SSAValue | None:
    """A product whose constant right operand has scales of groups of rows."""
    left, right = quantized(a), quantized(b)
    parts = factors_of(right.scales) if list(right.blocks.values())[1:] == [1] else None
    if parts is None or not isinstance(b.owner, ConstantOp) or right.dtype != np.int8 or right.zero_points.any():
        return None
    if not _eight_bits(left) or not left.per_tensor or not site.y.per_tensor:
        return None
    units, factors = parts
    bias = _bias(site, _addend(site), len(units), left, right)
    if bias is None:
        return None
    multiplier = np.float64(left.scale) * units / np.float64(site.y.scale)
    operands = [a, _plain_weight(site, b), bias, site.constant("multiplier", multiplier)]
    return site.emit(
        GroupedMatMulOp.create(
            operands=[*operands, site.constant("factors", factors)],
            result_types=[site.result()],
            properties={
                "group": number(right.blocks[0]),
                "a_zero_point": number(left.zero_point),
                "rounding": _ROUNDING,
                "clamp": site.clamp(),
            },
        )
    )


def _check_binary(op: Operation, store: ConstantStore) -> str | None:
    if any(size(v) == 0 for v in op.operands):
        return f"{op_name(op)} of an empty tensor"
    return None


def _fits_int32(op: type[Operation], a: UniformType, b: UniformType, y: UniformType) -> bool:
    if op is MulOp:
        return product_bound(a, b) <= INT32_MAX
    try:
        sum_parameters(a, b, y)
    except ValueError:
        return False
    return True


def _binary(kind: type[AddOp] | type[SubOp] | type[MulOp]):  # type: ignore[no-untyped-def]
    def build(site: Site) -> SSAValue | None:
        a, b = (site.source(v) for v in site.op.operands)
        if a is None or b is None or not all(one_scale(k) for k in (quantized(a), quantized(b), site.y)):
            return None
        if not _fits_int32(kind, quantized(a), quantized(b), site.y):
            return None
        properties = {"clamp": site.clamp()}
        if kind is MulOp:
            properties["rounding"] = _ROUNDING
        return site.emit(kind.create(operands=[a, b], result_types=[site.result()], properties=properties))

    return build


def _check_average_pool(op: Operation, store: ConstantStore) -> str | None:
    if any(d != 1 for d in integers(op.properties.get("dilations"))):
        return "AveragePool with dilations"
    if integer(op.properties.get("ceil_mode")) and integer(op.properties.get("count_include_pad")):
        return "AveragePool with ceil_mode that counts padding"
    return None if rank(op.operands[0]) in (3, 4) else f"AveragePool of rank {rank(op.operands[0])}"


def windows(op: Operation) -> dict[str, DenseArrayBase]:
    """Kernel, strides and pads of a pooling op; `ceil_mode` is written out in the end pads."""
    x, y = shape(op.operands[0])[2:], shape(op.results[0])[2:]
    n = len(x)
    kernel = integers(op.properties.get("kernel_shape"), x)
    strides = integers(op.properties.get("strides"), [1] * n)
    dilations = integers(op.properties.get("dilations"), [1] * n)
    pads = list(integers(op.properties.get("pads"), [0] * (2 * n)))
    for i in range(n):
        needed = (y[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1
        if integer(op.properties.get("ceil_mode")):
            pads[n + i] = max(needed - x[i] - pads[i], 0)
    return {"kernel": array(kernel), "strides": array(strides), "pads": array(pads)}


def _sums(site: Site, x: UniformType, count: int) -> bool:
    """Whether sums of `count` elements of this type fit int32, and the result has one scale."""
    return one_scale(x) and one_scale(site.y) and sum_bound(x, count) <= INT32_MAX


def _average_pool(site: Site) -> SSAValue | None:
    x, pooled = site.source(site.op.operands[0]), windows(site.op)
    if x is None or not _sums(site, quantized(x), prod(integers(pooled["kernel"]))):
        return None
    properties = {
        **pooled,
        "count_include_pad": BoolAttr.from_bool(bool(integer(site.op.properties.get("count_include_pad")))),
        "rounding": _ROUNDING,
        "clamp": site.clamp(),
        "layout": _LAYOUT,
    }
    return site.emit(AveragePoolOp.create(operands=[x], result_types=[site.result()], properties=properties))  # type: ignore[arg-type]


def _check_mean(op: Operation, store: ConstantStore) -> str | None:
    axes = present(op, 1)
    return None if axes is None or constant(axes) else "ReduceMean over axes that are no constant"


def mean_axes(op: Operation, store: ConstantStore) -> tuple[int, ...]:
    """Axes that GlobalAveragePool or ReduceMean reduces, none negative."""
    n = rank(op.operands[0])
    if op_name(op) == "GlobalAveragePool":
        return tuple(range(2, n))
    axes = present(op, 1)
    given = range(n) if axes is None else stored(axes, store).tolist()
    return tuple(sorted(a % n for a in given))


def _mean(site: Site) -> SSAValue | None:
    x, axes = site.source(site.op.operands[0]), mean_axes(site.op, site.store)
    if x is None or not _sums(site, quantized(x), prod(shape(x)[a] for a in axes)):
        return None
    properties = {"axes": array(axes), "rounding": _ROUNDING, "clamp": site.clamp()}
    return site.emit(MeanOp.create(operands=[x], result_types=[site.result()], properties=properties))  # type: ignore[arg-type]


def _softmax(site: Site) -> SSAValue | None:
    x = site.source(site.op.operands[0])
    if x is None or not (quantized(x).per_tensor and _eight_bits(quantized(x)) and _eight_bits(site.y)):
        return None
    wanted = UniformType.make(site.y.storage, 1 / 256, 0 if site.y.storage == "u8" else -128)
    axis = integer(site.op.properties.get("axis"), -1) % rank(x)
    probabilities = site.emit(
        SoftmaxOp.create(operands=[x], result_types=[TensorType(wanted, shape(x))], properties={"axis": number(axis)})
    )
    return site.as_type(probabilities, site.y)


COMPUTE: dict[str, Rule] = {
    "Conv": Rule(_check_conv, _conv),
    "Gemm": Rule(_check_matmul, _matmul),
    "MatMul": Rule(_check_matmul, _matmul),
    "Add": Rule(_check_binary, _binary(AddOp)),
    "Sub": Rule(_check_binary, _binary(SubOp)),
    "Mul": Rule(_check_binary, _binary(MulOp)),
    "AveragePool": Rule(_check_average_pool, _average_pool),
    "GlobalAveragePool": Rule(always, _mean),
    "ReduceMean": Rule(_check_mean, _mean),
    "Softmax": Rule(always, _softmax),
}
