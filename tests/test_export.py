"""Exports run in onnxruntime: integers equal ours within one unit; profiles refuse what a runtime does not take."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from small_graphs import GRAPHS, Feeds, feeds_of, outputs, passed, stages
from xdsl.dialects.builtin import TensorType
from xdsl.rewriter import Rewriter

import qcompiler
from qcompiler.cli import main as command_line
from qcompiler.errors import ModelError, PipelineError
from qcompiler.exporters.export import export, fitted
from qcompiler.exporters.onnx_export import export_onnx
from qcompiler.exporters.qoperator import export_qoperator
from qcompiler.frontends.onnx_import import import_graph
from qcompiler.ir.q_elementwise import QuantizeOp
from qcompiler.ir.quant_types import UniformType
from qcompiler.ir.values import body, quantized, shape
from qcompiler.model import Model
from qcompiler.profiles import PROFILES, check_module, check_recipe, constraints, resolve_profile
from qcompiler.recipe import LayerRule, Recipe

_OPERATORS = {
    "conv": "QLinearConv",
    "conv-clip": "QLinearConv",
    "gemm": "QGemm",
    "matmul-bias-rank-3": "QGemm",
    "matmul-of-activations": "QLinearMatMul",
    "matmul-batched-weight": "QLinearMatMul",
    "add": "QLinearAdd",
    "add-constant": "QLinearAdd",
    "mul-broadcast": "QLinearMul",
    "concat": "Concat",
    "concat-constant": "QLinearConcat",
    "average-pool": "QLinearAveragePool",
    "global-average-pool": "QLinearGlobalAveragePool",
    "reduce-mean": "QLinearGlobalAveragePool",
    "sigmoid": "QLinearSigmoid",
    "leaky-relu": "QLinearLeakyRelu",
    "softmax": "QLinearSoftmax",
    "max-pool": "MaxPool",
    "pad-constant": "Pad",
    "transpose": "Transpose",
    "resize-half-pixel": "Resize",
}


def _run(proto: onnx.ModelProto, feeds: list[Feeds], optimized: bool = False) -> list[Feeds]:
    """Outputs in onnxruntime. Without its optimizations a QDQ model computes in float between quantize nodes."""
    onnx.checker.check_model(proto)
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return [dict(zip(names, session.run(None, feed), strict=True)) for feed in feeds]


def _steps(module: Model, ours: list[Feeds], theirs: list[Feeds]) -> tuple[float, float]:
    """The largest difference in units of the coarsest scale, and the share of elements that differ.

    Only outputs of 8 bits have a share: in 16 bits a fixed-point factor and a float product differ by a unit often.
    """
    scales = [quantized(op.y).scales.max() for op in body(module.module).ops if isinstance(op, QuantizeOp)]
    unit = float(max(scales, default=1.0))
    differences = [np.abs(a[n] - b[n]).ravel() for a, b in zip(ours, theirs, strict=True) for n in a]
    every = np.concatenate(differences)
    wide = any(quantized(op.y).dtype.itemsize > 1 for op in body(module.module).ops if isinstance(op, QuantizeOp))
    share = 0.0 if wide else float(np.mean(every > 1e-5 * unit))
    return float(every.max(initial=0.0)) / unit, share


@pytest.mark.parametrize("name", GRAPHS)
def test_both_formats_give_our_integers(name: str) -> None:
    """One unit of difference at most: a float32 product in another order may round the other way; few elements do."""
    at = stages(name)
    ours = outputs(at.integer, at.feeds)
    for proto in (export_qoperator(at.qdq.module, at.qdq.store), export_onnx(at.qdq.module, at.qdq.store)):
        largest, share = _steps(at.qdq, ours, _run(proto, at.feeds))
        assert largest <= 1.001
        assert share <= 0.02


@pytest.mark.parametrize("name", ["residual-block", "attention", "conv-clip"])
def test_optimized_qdq_gives_our_integers(name: str) -> None:
    at = stages(name)
    theirs = _run(export_onnx(at.qdq.module, at.qdq.store), at.feeds, optimized=True)
    largest, share = _steps(at.qdq, outputs(at.integer, at.feeds), theirs)
    assert largest <= 1.001
    assert share <= 0.05


@pytest.mark.parametrize(("name", "operator"), _OPERATORS.items())
def test_operators_on_integers(name: str, operator: str) -> None:
    at = stages(name)
    proto = export_qoperator(at.qdq.module, at.qdq.store)
    kinds = Counter(node.op_type for node in proto.graph.node)
    assert kinds[operator]
    assert kinds["DequantizeLinear"] == 1  # the output's
    assert not kinds["Conv"] + kinds["MatMul"] + kinds["Gemm"]


def test_what_has_no_form_stays_between_quantize_and_dequantize() -> None:
    at = stages("sub-broadcast")
    kinds = Counter(n.op_type for n in export_qoperator(at.qdq.module, at.qdq.store).graph.node)
    assert kinds["Sub"] == 1
    assert kinds["DequantizeLinear"] == 3


def test_no_float_weight_is_left_in_an_export() -> None:
    at = stages("residual-block")
    for form in ("qdq", "qoperator"):
        proto = export(at.qdq, form)
        read = {name for node in proto.graph.node for name in node.input}
        assert {i.name for i in proto.graph.initializer} <= read


@pytest.mark.parametrize("name", ["add", "conv-depthwise"])
def test_sixteen_bits_and_scales_a_channel_stay_in_float(name: str) -> None:
    """Neither has a form in QOperator, so both formats compute the same in float."""
    at = stages(name)
    model = at.qdq.clone()
    op = next(o for o in body(model.module).ops if isinstance(o, QuantizeOp))
    scales = np.linspace(0.01, 0.03, shape(op.y)[1])
    kind = UniformType.make("i16", 1e-4) if name == "add" else UniformType.make("u8", scales, 128, axis=1)
    Rewriter.replace_value_with_new_type(op.y, TensorType(kind, shape(op.y)))
    protos = [export(model, form) for form in ("qdq", "qoperator")]
    kinds = Counter(node.op_type for node in protos[1].graph.node)
    assert kinds["Add" if name == "add" else "Conv"] == 1
    for a, b in zip(*(_run(proto, at.feeds) for proto in protos), strict=True):
        for output, value in a.items():
            np.testing.assert_array_equal(value, b[output])


# --------------------------------------------------------------------------------------------- profiles


@pytest.mark.parametrize("name", PROFILES)
@pytest.mark.parametrize("graph", ["residual-block", "attention", "concat-constant"])
def test_quantized_under_a_profile_exports_under_it(name: str, graph: str) -> None:
    proto = GRAPHS[graph]()
    feeds = feeds_of(proto)
    model = passed(
        import_graph(proto),
        f"canonicalize,fold-batch-norm,canonicalize,calibrate,choose-scheme{{profile={name}}},insert-qdq",
        feeds,
    )
    profile = resolve_profile(name)
    ours = _run(export(model), feeds)
    fit = _run(export(model, "qdq", profile), feeds)
    for a, b in zip(ours, fit, strict=True):
        for value in a:  # other signedness is exact, and so are biases: float32 holds them
            np.testing.assert_allclose(a[value], b[value], atol=2e-2 if not profile.quantized_bias else 1e-6)
    kinds = [quantized(o.y) for o in body(fitted(model, profile).module).ops if isinstance(o, QuantizeOp)]
    assert {k.storage for k in kinds} <= {*profile.activations, *profile.wide_activations}
    if not profile.affine:
        assert all(k.zero_point == 0 for k in kinds)


def test_refusal_names_the_node_and_the_reason() -> None:
    at = stages("conv-relu")
    with pytest.raises(ModelError, match=r"node '.*'.*'tensorrt' takes symmetric activations only"):
        export(at.qdq, "qdq", resolve_profile("tensorrt"))
    with pytest.raises(ModelError, match="'qnn' takes a scale a channel in weights of Conv only, found it in"):
        check_module(stages("matmul-bias").qdq.module, resolve_profile("qnn"))
    with pytest.raises(PipelineError, match="'tensorrt' reads qdq, not qoperator"):
        export(at.qdq, "qoperator", resolve_profile("tensorrt"))
    with pytest.raises(PipelineError, match="unknown export format 'tflite'"):
        export(at.qdq, "tflite")
    with pytest.raises(PipelineError, match="unknown profile 'gpu'; known are onnxruntime"):
        resolve_profile("gpu")
    with pytest.raises(ModelError, match="export a module from before integerize"):
        export(at.integer)


@pytest.mark.parametrize(
    ("profile", "rule", "reason"),
    [
        ("tensorrt", LayerRule("a*", precision="int16"), "no activations of 16 bits"),
        ("tensorrt", LayerRule("a*", scheme="affine"), "symmetric activations only"),
        ("qnn", LayerRule("a*", weights="per-group:32"), "no weights with a scale a group"),
    ],
)
def test_recipe_against_a_profile(profile: str, rule: LayerRule, reason: str) -> None:
    with pytest.raises(ModelError, match=rf"layer 'a\*': profile '{profile}' takes {reason}"):
        check_recipe(Recipe((rule,)), resolve_profile(profile))
    check_recipe(Recipe((rule,)), resolve_profile("onnxruntime"))


def test_every_profile_names_its_sources() -> None:
    for profile in PROFILES.values():
        assert profile.sources
        assert constraints(profile).storage in profile.activations


# ----------------------------------------------------------------------------------- command line and API


def test_command_and_api(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = GRAPHS["conv-relu"]()
    feeds = feeds_of(proto)
    onnx.save(proto, tmp_path / "m.onnx")
    np.savez(tmp_path / "data.npz", **{n: np.stack([f[n] for f in feeds]) for n in feeds[0]})
    model = qcompiler.import_onnx(tmp_path / "m.onnx")
    result = qcompiler.quantize(model, feeds, profile="xnnpack")
    stored = qcompiler.export(result, form="qdq", profile="xnnpack")
    assert {i.data_type for i in stored.graph.initializer if "zero_point" in i.name} <= {
        onnx.TensorProto.INT8,
        onnx.TensorProto.INT32,
    }
    out = tmp_path / "out.onnx"
    arguments = ["export", str(tmp_path / "m.onnx"), "--calibration", str(tmp_path / "data.npz"), "-q", "-o", str(out)]
    assert command_line([*arguments, "--profile", "qnn", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["operators"]["QuantizeLinear"]
    assert _run(onnx.load(out), feeds)
    result.qdq.save(tmp_path / "qdq.mlir")
    assert command_line(["export", str(tmp_path / "qdq.mlir"), "-o", str(out), "--format", "qoperator"]) == 0
    assert "conv" in capsys.readouterr().out.lower()
    assert command_line(["export", str(tmp_path / "qdq.mlir"), "-o", str(out), "--format", "other"]) == 2
