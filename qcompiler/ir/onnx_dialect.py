"""Dialect `onnx`: one operation class for every ONNX schema of the default domain, generated from `onnx.defs`.

Operands follow ONNX's own convention: positional, trailing absent ones dropped, an absent one in the middle is the
result of `onnx.none`. Attributes are xDSL properties under ONNX's names. An operation checks operand and result
counts, element types and attribute names against its schema.
"""

from __future__ import annotations

from functools import cache
from typing import ClassVar

import onnx
from onnx import defs
from xdsl.dialects.builtin import (
    ArrayAttr,
    BFloat16Type,
    ComplexType,
    DenseArrayBase,
    DenseResourceAttr,
    Float4E2M1FNType,
    Float6E2M3FNType,
    Float6E3M2FNType,
    Float8E4M3FNType,
    Float8E4M3FNUZType,
    Float8E5M2FNUZType,
    Float8E5M2Type,
    FloatAttr,
    IntegerAttr,
    IntegerType,
    NoneType,
    Signedness,
    StringAttr,
    TensorType,
    UnrankedTensorType,
    f16,
    f32,
    f64,
)
from xdsl.ir import Attribute, Dialect, ParametrizedAttribute, SSAValue, TypeAttribute
from xdsl.irdl import (
    AnyAttr,
    AttrConstraint,
    BaseAttr,
    IRDLOperation,
    irdl_attr_definition,
    irdl_op_definition,
    opt_prop_def,
    prop_def,
    result_def,
    traits_def,
    var_operand_def,
    var_result_def,
)
from xdsl.traits import Pure
from xdsl.utils.exceptions import VerifyException

from qcompiler.ir.opset import OPSET, version_of

_P = onnx.TensorProto
_KIND = defs.OpSchema.AttrType
_OPTION = defs.OpSchema.FormalParameterOption


@irdl_attr_definition
class StringType(ParametrizedAttribute, TypeAttribute):
    """Element type of a tensor of strings."""

    name = "onnx.string"


ELEMENT_TYPES: dict[int, Attribute] = {
    _P.FLOAT: f32,
    _P.FLOAT16: f16,
    _P.DOUBLE: f64,
    _P.BFLOAT16: BFloat16Type(),
    _P.BOOL: IntegerType(1),
    _P.STRING: StringType(),
    _P.COMPLEX64: ComplexType(f32),
    _P.COMPLEX128: ComplexType(f64),
    **{getattr(_P, f"INT{n}"): IntegerType(n) for n in (2, 4, 8, 16, 32, 64)},
    **{getattr(_P, f"UINT{n}"): IntegerType(n, Signedness.UNSIGNED) for n in (2, 4, 8, 16, 32, 64)},
    _P.FLOAT8E4M3FN: Float8E4M3FNType(),
    _P.FLOAT8E4M3FNUZ: Float8E4M3FNUZType(),
    _P.FLOAT8E5M2: Float8E5M2Type(),
    _P.FLOAT8E5M2FNUZ: Float8E5M2FNUZType(),
    _P.FLOAT4E2M1: Float4E2M1FNType(),
    _P.FLOAT6E2M3: Float6E2M3FNType(),
    _P.FLOAT6E3M2: Float6E3M2FNType(),
}
"""ONNX element type number to the IR's element type."""

_SPELLING = {f"tensor({_P.DataType.Name(k).lower()})": v for k, v in ELEMENT_TYPES.items()}

_ATTRIBUTE: dict[object, AttrConstraint] = {
    _KIND.INT: BaseAttr(IntegerAttr),
    _KIND.FLOAT: BaseAttr(FloatAttr),
    _KIND.STRING: BaseAttr(StringAttr),
    _KIND.INTS: BaseAttr(DenseArrayBase),
    _KIND.FLOATS: BaseAttr(DenseArrayBase),
    _KIND.STRINGS: BaseAttr(ArrayAttr),
    _KIND.TENSOR: BaseAttr(DenseResourceAttr),
}


@irdl_op_definition
class NoneOp(IRDLOperation):
    """The value that stands for an absent optional input."""

    name = "onnx.none"
    result = result_def(NoneType)
    traits = traits_def(Pure())


class OnnxOp(IRDLOperation):
    """Base of the generated operations."""

    SCHEMA: ClassVar[defs.OpSchema]
    SLOTS: ClassVar[dict[str, int]]
    ALLOWED: ClassVar[dict[str, frozenset[Attribute]]]

    def input(self, name: str) -> SSAValue | None:
        """The operand with ONNX's name, None if it is absent."""
        index = self.SLOTS[name]
        if index >= len(self.operands) or isinstance(self.operands[index].type, NoneType):
            return None
        return self.operands[index]

    def verify_(self) -> None:
        schema = self.SCHEMA
        for what, values, low, high in (
            ("inputs", self.operands, schema.min_input, schema.max_input),
            ("outputs", self.results, schema.min_output, schema.max_output),
        ):
            if not low <= len(values) <= high:
                raise VerifyException(f"{self.name}: expected {low} to {high} {what}, got {len(values)}")
        for name in self.attributes:
            if "." not in name:
                known = ", ".join(sorted(schema.attributes)) or "no attributes"
                raise VerifyException(f"{self.name}: unknown attribute '{name}', expected one of: {known}")
        bound: dict[str, Attribute] = {}
        for values, formals in ((self.operands, schema.inputs), (self.results, schema.outputs)):
            for index, value in enumerate(values):
                self._verify_type(value, formals[min(index, len(formals) - 1)], bound)

    def _verify_type(self, value: SSAValue, formal: defs.OpSchema.FormalParameter, bound: dict[str, Attribute]) -> None:
        if isinstance(value.type, NoneType):
            if formal.option != _OPTION.Optional:
                raise VerifyException(f"{self.name}: input {formal.name} is not optional")
            return
        if not isinstance(value.type, TensorType | UnrankedTensorType):
            return
        element = value.type.element_type
        allowed = self.ALLOWED.get(formal.type_str)
        if allowed is not None and element not in allowed:
            raise VerifyException(f"{self.name}: {formal.name} may not have element type {element}")
        if formal.is_homogeneous and bound.setdefault(formal.type_str, element) != element:
            other = bound[formal.type_str]
            raise VerifyException(f"{self.name}: {formal.name} has element type {element}, expected {other}")


def _make_op(schema: defs.OpSchema) -> type[OnnxOp]:
    pure = schema.node_determinism != defs.OpSchema.NodeDeterminism.NonDeterministic
    body: dict[str, object] = {
        "name": f"onnx.{schema.name}",
        "__doc__": schema.doc,
        "__annotations__": {},
        "__module__": __name__,
        "inputs_": var_operand_def(AnyAttr()),
        "outputs_": var_result_def(AnyAttr()),
        "traits": traits_def(Pure()) if pure else traits_def(),
    }
    for attribute in schema.attributes.values():
        define = prop_def if attribute.required else opt_prop_def
        # the trailing underscore keeps names such as `axis` or `body` apart from xDSL's own and Python's keywords
        body[attribute.name + "_"] = define(_ATTRIBUTE.get(attribute.type, AnyAttr()), prop_name=attribute.name)
    op = irdl_op_definition(type(schema.name + "Op", (OnnxOp,), body))
    op.SCHEMA = schema
    op.SLOTS = {formal.name: index for index, formal in enumerate(schema.inputs)}
    op.ALLOWED = {
        c.type_param_str: frozenset(_SPELLING[t] for t in c.allowed_type_strs if t in _SPELLING)
        for c in schema.type_constraints
    }
    return op


@cache
def onnx_dialect() -> Dialect:
    """The dialect at the project's opset; made when first asked for (about 50 ms)."""
    names = {s.name for s in defs.get_all_schemas_with_history() if not s.domain and s.since_version <= OPSET}
    schemas = [defs.get_schema(name, version_of(name), "") for name in sorted(names)]
    return Dialect("onnx", [NoneOp, *(_make_op(s) for s in schemas if not s.deprecated)], [StringType])


@cache
def onnx_ops() -> dict[str, type[OnnxOp]]:
    """Class of every op by ONNX's name, `Conv`."""
    ops = {op.name.removeprefix("onnx."): op for op in onnx_dialect().operations}
    return {name: op for name, op in ops.items() if issubclass(op, OnnxOp)}
