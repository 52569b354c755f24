"""What the runtimes that read our ONNX exports take, as data, and whether a recipe or a quantized module fits.

A `Profile` says which stored types a runtime computes with; every profile names the documents its values come from.
`constraints` gives what `choose-scheme` has to obey so that the result fits; `check_module` and `check_recipe` refuse
with a reason what does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from xdsl.dialects.builtin import ModuleOp
from xdsl.ir import Operation

from qcompiler.errors import ModelError, PipelineError
from qcompiler.ir.pointwise import op_name
from qcompiler.ir.q_elementwise import ConstantOp, DequantizeOp, QuantizeOp
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.values import body, location_names, quantized, users
from qcompiler.recipe import Recipe

_PRODUCTS = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Profile:
    """The quantized types one runtime takes."""

    name: str
    activations: tuple[str, ...]
    """Storage types of activations of 8 bits."""
    wide_activations: tuple[str, ...]
    """Storage types of activations of 16 bits; empty: none are taken."""
    affine: bool
    """Whether an activation may have a zero point other than that of the symmetric type."""
    symmetric_zero: Mapping[str, int]
    """The zero point of a symmetric activation, by storage type."""
    weights: tuple[str, ...]
    """Storage types of weights; those of 8 bits first."""
    weight_zero_point: bool
    """Whether a weight may have a zero point other than 0."""
    per_channel: tuple[str, ...]
    """ONNX ops whose weight may have one scale an output channel."""
    per_group: bool
    """Whether the weight of a matrix product may have scales of groups (blocked DequantizeLinear)."""
    per_channel_activations: bool
    """Whether an activation may have one scale a channel."""
    quantized_bias: bool
    """Whether biases are int32 behind DequantizeLinear; else they stay float."""
    formats: tuple[str, ...]
    """The export formats it reads: `qdq`, `qoperator`."""
    opset: int
    """The smallest opset that has all of it."""
    sources: tuple[str, ...]
    """Where the values above are documented."""


@dataclass(frozen=True)
class Constraints:
    """What `choose-scheme` must obey under a profile."""

    policy: str | None
    """The policy that is forced, None: any."""
    storage: str
    """Storage of 8-bit activations."""
    sixteen_bits: bool
    per_channel: tuple[str, ...]
    per_group: bool
    per_channel_activations: bool


_ONNXRUNTIME = "https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html"
_OPERATORS = "https://github.com/microsoft/onnxruntime/blob/main/docs/OperatorKernels.md"
_TENSORRT = "https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html"
_TENSORRT_ONNX = "https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md"
_QNN = "https://onnxruntime.ai/docs/execution-providers/QNN-ExecutionProvider.html"
_COREML = "https://apple.github.io/coremltools/docs-guides/source/opt-quantization-overview.html"
_COREML_API = "https://apple.github.io/coremltools/source/coremltools.optimize.coreml.quantization.html"
_XNNPACK = "https://docs.pytorch.org/executorch/stable/backends/xnnpack/xnnpack-quantization.html"
_LITERT = "https://developers.google.com/edge/litert/quantization/quantization_spec"

_CENTRED = {"u8": 128, "i8": 0, "u16": 32768, "i16": 0}
_SIGNED = {"i8": 0, "i16": 0}

PROFILES = {
    p.name: p
    for p in (
        Profile(
            name="onnxruntime",
            activations=("u8", "i8"),
            wide_activations=("u16", "i16"),
            affine=True,
            symmetric_zero=_CENTRED,
            weights=("i8", "u8", "i4", "u4"),
            weight_zero_point=True,
            per_channel=_PRODUCTS,
            per_group=True,
            per_channel_activations=True,
            quantized_bias=True,
            formats=("qdq", "qoperator"),
            opset=21,
            sources=(_ONNXRUNTIME, _OPERATORS),
        ),
        Profile(  # one signed type, zero points all 0; INT4 is for weights alone; biases are read as float
            name="tensorrt",
            activations=("i8",),
            wide_activations=(),
            affine=False,
            symmetric_zero=_SIGNED,
            weights=("i8", "i4"),
            weight_zero_point=False,
            per_channel=_PRODUCTS,
            per_group=True,
            per_channel_activations=False,
            quantized_bias=False,
            formats=("qdq",),
            opset=21,
            sources=(_TENSORRT, _TENSORRT_ONNX),
        ),
        Profile(  # activations unsigned, of 8 or 16 bits; scales a channel for convolutions alone
            name="qnn",
            activations=("u8",),
            wide_activations=("u16",),
            affine=True,
            symmetric_zero=_CENTRED,
            weights=("i8",),
            weight_zero_point=False,
            per_channel=("Conv",),
            per_group=False,
            per_channel_activations=False,
            quantized_bias=True,
            formats=("qdq",),
            opset=21,
            sources=(_QNN,),
        ),
        Profile(  # for converters to Core ML, which reads no ONNX itself: what its 8-bit arithmetic takes
            name="coreml",
            activations=("i8",),
            wide_activations=(),
            affine=False,
            symmetric_zero=_SIGNED,
            weights=("i8", "i4"),
            weight_zero_point=False,
            per_channel=_PRODUCTS,
            per_group=True,
            per_channel_activations=False,
            quantized_bias=False,
            formats=("qdq",),
            opset=21,
            sources=(_COREML, _COREML_API),
        ),
        Profile(  # signed activations with zero points, symmetric signed weights
            name="xnnpack",
            activations=("i8",),
            wide_activations=(),
            affine=True,
            symmetric_zero=_SIGNED,
            weights=("i8",),
            weight_zero_point=False,
            per_channel=_PRODUCTS,
            per_group=False,
            per_channel_activations=False,
            quantized_bias=True,
            formats=("qdq",),
            opset=21,
            sources=(_XNNPACK, _LITERT),
        ),
    )
}


def resolve_profile(name: str) -> Profile:
    """The profile of a name.

    Raises:
        PipelineError: there is none of that name.
    """
    if name not in PROFILES:
        raise PipelineError(f"unknown profile '{name}'; known are {', '.join(PROFILES)}")
    return PROFILES[name]


def constraints(profile: Profile) -> Constraints:
    """What the choice of types must obey so that the profile takes the result."""
    return Constraints(
        policy=None if profile.affine else "symmetric",
        storage=profile.activations[0],
        sixteen_bits=bool(profile.wide_activations),
        per_channel=profile.per_channel,
        per_group=profile.per_group,
        per_channel_activations=profile.per_channel_activations,
    )


# ----------------------------------------------------------------------------------------------- modules


def check_module(module: ModuleOp, profile: Profile, source: str = "<model>") -> None:
    """Checks that a runtime takes every type of a QDQ module.

    Raises:
        ModelError: it does not; the message names the node and says why.
    """
    for op in body(module).ops:
        reason = None
        if isinstance(op, QuantizeOp):
            reason = _activation_problem(quantized(op.y), profile)
        elif isinstance(op, DequantizeOp) and isinstance(op.x.owner, ConstantOp):
            reason = _constant_problem(op, profile)
        if reason is not None:
            raise ModelError(
                f"{source}: {_node(op)}: profile '{profile.name}' takes {reason}; quantize with the profile "
                f"(choose-scheme{{profile={profile.name}}}) or keep the node in float"
            )


def is_weight(op: DequantizeOp) -> bool:
    """Whether a dequantized constant is the weight of a product."""
    return any(op_name(u) in _PRODUCTS and u.operands[1] is op.y for u in users(op.y))


def _node(op: Operation) -> str:
    names = location_names(op)
    return f"node '{names[-1]}'" if names else op.name


def _activation_problem(kind: UniformType, profile: Profile) -> str | None:
    wide = kind.dtype.itemsize > 1
    allowed = profile.wide_activations if wide else profile.activations
    if not allowed:
        return f"no activations of 16 bits, found {kind.storage}"
    if kind.storage not in allowed:
        return f"activations stored as {' or '.join(allowed)}, found {kind.storage}"
    if not kind.per_tensor and not profile.per_channel_activations:
        return f"one scale an activation, found one for each index of axis {kind.axis}"
    zeros = set(kind.zero_points.ravel().tolist())
    if not profile.affine and zeros != {profile.symmetric_zero[kind.storage]}:
        return f"symmetric activations only, found zero point {min(zeros)}"
    return None


def _constant_problem(op: DequantizeOp, profile: Profile) -> str | None:
    kind = quantized(op.x)
    if kind.storage == "i32":
        return None if profile.quantized_bias else "biases in float only, found one of int32"
    if not is_weight(op):
        return _activation_problem(kind, profile)
    reader = op_name(users(op.y)[0])
    if kind.storage not in profile.weights:
        return f"weights stored as {' or '.join(profile.weights)}, found {kind.storage}"
    if np.any(kind.zero_points) and not profile.weight_zero_point:
        return "symmetric weights only, found a zero point"
    if kind.blocks and not profile.per_group:
        return "no weights with a scale a group"
    if kind.axis is not None and reader not in profile.per_channel:
        return f"a scale a channel in weights of {' and '.join(profile.per_channel)} only, found it in {reader}"
    return None


# ------------------------------------------------------------------------------------------------ recipes


def check_recipe(recipe: Recipe, profile: Profile) -> None:
    """Checks that a runtime takes what every rule of a recipe asks for.

    Raises:
        ModelError: it does not; the message names the rule's layers and says why.
    """
    for rule in recipe.layers:
        reason = None
        if rule.precision == "int16" and not profile.wide_activations:
            reason = 'no activations of 16 bits, and precision = "int16" stores them'
        elif rule.scheme == "affine" and not profile.affine:
            reason = 'symmetric activations only, and scheme = "affine" asks for a zero point'
        elif (rule.weights or "").startswith("per-group") and not profile.per_group:
            reason = f'no weights with a scale a group, and weights = "{rule.weights}" asks for them'
        if reason is not None:
            raise ModelError(
                f"recipe: layer '{rule.match}': profile '{profile.name}' takes {reason}; change the rule or the profile"
            )
