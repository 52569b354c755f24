"""Small typed helpers on values and operations: shapes, element types, names, locations, constants."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from typing import TypeVar

import ml_dtypes
import numpy as np
from onnx import helper
from xdsl.dialects.builtin import (
    DictionaryAttr,
    FloatAttr,
    FusedLoc,
    IntegerAttr,
    IntegerType,
    LocationAttr,
    ModuleOp,
    NameLoc,
    NoneAttr,
    NoneType,
    Signedness,
    StringAttr,
    TensorType,
    f32,
    f64,
)
from xdsl.dialects.func import FuncOp
from xdsl.ir import Attribute, Block, Operation, SSAValue

from qcompiler.arithmetic.formats import NAMES, storage_of
from qcompiler.errors import IRError
from qcompiler.ir.onnx_dialect import ELEMENT_TYPES
from qcompiler.ir.quant_types import UniformType

_OpT = TypeVar("_OpT", bound=Operation)

_INTEGERS = {
    np.dtype(f"{sign}int{bits}"): IntegerType(bits, Signedness.UNSIGNED if sign else Signedness.SIGNLESS)
    for sign in ("", "u")
    for bits in (8, 16, 32, 64)
}
_DTYPES: dict[Attribute, np.dtype] = {
    f32: np.dtype(np.float32),
    f64: np.dtype(np.float64),
    ELEMENT_TYPES[10]: np.dtype(np.float16),
    IntegerType(1): np.dtype(np.bool_),
    **{element: dtype for dtype, element in _INTEGERS.items()},
}
_ELEMENTS = {dtype: element for element, dtype in _DTYPES.items()}
_SMALL = {ELEMENT_TYPES[helper.np_dtype_to_tensor_dtype(np.dtype(getattr(ml_dtypes, name)))]: name for name in NAMES}
"""Element types that numpy lacks, by the name ml_dtypes gives them (qcompiler.arithmetic.formats)."""


def tensor(value: SSAValue) -> TensorType:
    """The tensor type of a value.

    Raises:
        IRError: the value is no ranked tensor.
    """
    if not isinstance(value.type, TensorType):
        raise IRError(f"expected a tensor of known rank, found {value.type}")
    return value.type


def shape(value: SSAValue) -> tuple[int, ...]:
    return tuple(tensor(value).get_shape())


def rank(value: SSAValue) -> int:
    return len(shape(value))


def size(value: SSAValue) -> int:
    """Number of elements."""
    return prod(shape(value))


def is_tensor(value: SSAValue) -> bool:
    return isinstance(value.type, TensorType)


def is_float(value: SSAValue) -> bool:
    """Whether the value is a float32 tensor."""
    return is_tensor(value) and tensor(value).element_type == f32


def is_quantized(value: SSAValue) -> bool:
    return is_tensor(value) and isinstance(tensor(value).element_type, UniformType)


def quantized(value: SSAValue) -> UniformType:
    """The quantized element type of a value.

    Raises:
        IRError: the value is not quantized.
    """
    element = tensor(value).element_type
    if not isinstance(element, UniformType):
        raise IRError(f"expected a quantized tensor, found {value.type}")
    return element


def element_type(dtype: np.dtype) -> Attribute:
    """Element type of a numpy dtype.

    Raises:
        IRError: the IR has no such type.
    """
    try:
        return _ELEMENTS[np.dtype(dtype)]
    except KeyError:
        raise IRError(f"arrays of type {dtype} have no place in the IR") from None


def dtype_of(value: SSAValue) -> np.dtype:
    """The numpy dtype of the elements as stored."""
    element = tensor(value).element_type
    if isinstance(element, UniformType):
        return element.dtype
    if element in _SMALL:
        return storage_of(_SMALL[element])
    try:
        return _DTYPES[element]
    except KeyError:
        raise IRError(f"no array type stands for {element}") from None


def small_type(value: SSAValue) -> str:
    """ml_dtypes' name of an element type that numpy lacks, else empty."""
    return _SMALL.get(tensor(value).element_type, "")


def retyped(value: SSAValue, element: Attribute) -> TensorType:
    """The type of `value` with another element type."""
    return TensorType(element, shape(value))


def defining(value: SSAValue, kind: type[_OpT]) -> _OpT | None:
    """The operation that defines `value`, if it is of this kind."""
    return value.owner if isinstance(value.owner, kind) else None


def is_absent(value: SSAValue) -> bool:
    """Whether this is the `onnx.none` of an absent optional input."""
    return isinstance(value.type, NoneType)


def users(value: SSAValue) -> list[Operation]:
    """Operations that read the value, each once, in no particular order."""
    return list(dict.fromkeys(use.operation for use in value.uses))


def integer(attribute: Attribute | None, default: int = 0) -> int:
    """Python int of an optional IntegerAttr."""
    return attribute.value.data if isinstance(attribute, IntegerAttr) else default


def real(attribute: Attribute | None, default: float = 0.0) -> float:
    """Python float of an optional FloatAttr."""
    return attribute.value.data if isinstance(attribute, FloatAttr) else default


def string(attribute: Attribute | None, default: str = "") -> str:
    """Python string of an optional StringAttr."""
    return attribute.data if isinstance(attribute, StringAttr) else default


def integers(attribute: Attribute | None, default: Sequence[int] = ()) -> tuple[int, ...]:
    """Python ints of an optional dense array."""
    return tuple(attribute.get_values()) if attribute is not None else tuple(default)  # type: ignore[attr-defined]


def numbers_of(attribute: Attribute | None) -> dict[str, float]:
    """The numbers of an optional dictionary, to seven digits, as float32 has them."""
    if not isinstance(attribute, DictionaryAttr):
        return {}
    found = {key: v.value.data for key, v in attribute.data.items() if isinstance(v, FloatAttr | IntegerAttr)}
    return {key: value if isinstance(value, int) else float(f"{value:.7g}") for key, value in found.items()}


# -------------------------------------------------------------------------------------------------- locations


def location(*names: str) -> LocationAttr:
    """Location of an op made from these original nodes; the last one names the tensor it computes."""
    named = [NameLoc(StringAttr(n), NoneAttr()) for n in dict.fromkeys(names)]
    return named[0] if len(named) == 1 else FusedLoc(named, NoneAttr())


def location_names(op: Operation) -> tuple[str, ...]:
    """Names of the original nodes an op was made from; empty if unknown."""
    place = op.location
    if isinstance(place, NameLoc):
        return (place.desc.data,)
    if isinstance(place, FusedLoc):
        return tuple(p.desc.data for p in place.locations.data if isinstance(p, NameLoc))
    return ()


def fused_location(*ops: Operation) -> LocationAttr:
    """Location of an op that does the work of these, in their order of execution."""
    names = [name for op in ops for name in location_names(op)]
    return location(*names) if names else ops[0].location


def describe(op: Operation) -> str:
    """`onnx.Conv 'conv1'`, for messages."""
    names = location_names(op)
    return f"{op.name} '{names[-1]}'" if names else op.name


# ----------------------------------------------------------------------------------------- function and values


def main(module: ModuleOp) -> FuncOp:
    """The module's one function.

    Raises:
        IRError: there is no function, or more than one.
    """
    functions = [op for op in module.ops if isinstance(op, FuncOp)]
    if len(functions) != 1:
        raise IRError(f"expected a module with one function, found {len(functions)}")
    return functions[0]


def body(module: ModuleOp) -> Block:
    return main(module).body.block


def _names(attributes: Iterable[DictionaryAttr] | None, count: int, prefix: str) -> list[str]:
    dictionaries = list(attributes or ())
    return [
        string(dictionaries[i].data.get("onnx.name"), f"{prefix}{i}") if i < len(dictionaries) else f"{prefix}{i}"
        for i in range(count)
    ]


def input_names(module: ModuleOp) -> list[str]:
    """ONNX names of the function's arguments."""
    function = main(module)
    return _names(function.arg_attrs, len(function.body.block.args), "input")


def output_names(module: ModuleOp) -> list[str]:
    """ONNX names of the function's results."""
    function = main(module)
    return _names(function.res_attrs, len(function.function_type.outputs.data), "output")


def value_names(module: ModuleOp) -> dict[SSAValue, str]:
    """A unique, stable name of every value: the argument's name, or that of the node that computes it.

    A second result gets the suffix `:1`; values of ops that share a location, or whose name is that of another value's
    output, get `#2`, `#3`...
    """
    block = body(module)
    names: dict[SSAValue, str] = dict(zip(block.args, input_names(module), strict=True))
    returned = block.last_op.operands if block.last_op is not None else ()
    owners = dict(zip(output_names(module), returned, strict=True)) | {name: value for value, name in names.items()}
    seen: dict[str, int] = {}
    for op in block.ops:
        places = location_names(op)
        base = places[-1] if places else op.name
        for index, value in enumerate(op.results):
            stem = name = f"{base}:{index}" if index else base
            while owners.setdefault(name, value) is not value or name in seen:
                seen[stem] = seen.get(stem, 1) + 1
                name = f"{stem}#{seen[stem]}"
            seen[name] = 1
            names[value] = name
    return names
