"""Keeps LLVM from fusing a floating-point multiplication with a following addition.

A fused multiply-add rounds once where the specification rounds twice. TVM asks LLVM for fusion everywhere
(`FPOpFusion::Fast`) and has no target option against it, so every product that could reach an addition goes
through LLVM's `llvm.arithmetic.fence`, which becomes no instruction.

LLVM 22 never ends lowering the fence for Hexagon. There a product is the instruction's own intrinsic, for each element.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tvm.target import Target
    from tvm.tirx import PrimFunc

ALLOW_CONTRACTION = "qcompiler.allow_contraction"
"""Attribute (value 1) of float kernels that promise no exact result: their products may be fused."""

_FENCE = "llvm.arithmetic.fence"
_HEXAGON_PRODUCT = "llvm.hexagon.F2.sfmpy"


def has_fence(target: Target) -> bool:
    """Whether LLVM lowers the fence for a target; where not, `with_scalar_products` takes its place."""
    return not str(target.attrs["mtriple"]).startswith("hexagon")


def forbid_contraction(func: PrimFunc) -> PrimFunc:
    """Fences the floating-point products of `func`, scheduled or lowered.

    A product that is only an operand of a call of an LLVM intrinsic, of min or max, or of a conversion to an
    integer has nothing it could be fused with and stays as it is, and so does all of a function that carries
    `ALLOW_CONTRACTION`.
    """
    from tvm.ir import Call, Op
    from tvm.target.codegen import llvm_lookup_intrinsic_id
    from tvm.tirx import Cast, Max, Min, Mul, PrimFunc, call_llvm_pure_intrin
    from tvm_ffi import structural_map

    if func.attrs.get(ALLOW_CONTRACTION):
        return func
    intrinsics = (Op.get("tirx.call_llvm_pure_intrin"), Op.get("tirx.call_llvm_intrin"))
    fence_id = llvm_lookup_intrinsic_id(_FENCE)

    def is_intrinsic(value) -> bool:
        return isinstance(value, Call) and any(value.op.same_as(op) for op in intrinsics)

    def fence(product: Mul):
        return call_llvm_pure_intrin(product.ty, _FENCE, product) if product.ty.dtype.is_float else product

    def unfence(value):
        return value.args[1] if is_intrinsic(value) and int(value.args[0]) == fence_id else value

    def min_max(node: Min | Max):
        return type(node)(unfence(node.a), unfence(node.b))

    def cast(node: Cast):
        return node if node.ty.dtype.is_float else Cast(node.ty, unfence(node.value))

    def call(node: Call):
        if not is_intrinsic(node):
            return node
        arguments = [unfence(argument) for argument in node.args]
        return Call(node.op, arguments, node.attrs, node.ty_args, ret_ty=node.ty)

    body = structural_map(func.body, [(Mul, fence), ((Min, Max), min_max), (Cast, cast), (Call, call)])
    return PrimFunc(func.params, body, func.ret_type, func.attrs)


def with_scalar_products(func: PrimFunc) -> PrimFunc:
    """What `forbid_contraction` does, for Hexagon: of a lowered function, whose vectors are final."""
    from tvm.tirx import Mul, PrimFunc, Shuffle, call_llvm_pure_intrin, const
    from tvm_ffi import structural_map

    if func.attrs.get(ALLOW_CONTRACTION):
        return func

    def separate(product: Mul):
        lanes = product.ty.dtype.lanes
        if str(product.ty.dtype).partition("x")[0] != "float32":
            return product

        def factors(lane: int):
            return (Shuffle([v], [const(lane, "int32")]) if lanes > 1 else v for v in (product.a, product.b))

        results = [call_llvm_pure_intrin("float32", _HEXAGON_PRODUCT, *factors(lane)) for lane in range(lanes)]
        return results[0] if lanes == 1 else Shuffle(results, [const(lane, "int32") for lane in range(lanes)])

    body = structural_map(func.body, (Mul, separate))
    return PrimFunc(func.params, body, func.ret_type, func.attrs)
