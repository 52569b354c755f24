"""Ops of opset 7 to the newest mean the same after they are brought to the project's opset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import defs, helper
from onnx_models import complete, model_of, ops, run

from qcompiler.errors import ModelError
from qcompiler.frontends.onnx_load import normalize
from qcompiler.frontends.onnx_upgrade import ADAPTERS, OLDEST
from qcompiler.ir.opset import OPSET

NEWEST_IN_RUNTIME = 26

Case = Callable[[int], "tuple[list[onnx.NodeProto], dict[str, np.ndarray]] | None"]


def node(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(","), outputs.split(","), op.lower(), **attributes)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def axes_as(op: str, input_from: int, axes: list[int], **attributes: Any) -> Case:
    def case(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
        if opset < input_from:
            return [node(op, "x", axes=axes, **attributes)], {}
        return [node(op, "x,axes", **attributes)], {"axes": i64(*axes)}

    return case


def plain(op: str, inputs: str = "x", since: int = OLDEST, **parts: Any) -> Case:
    constants = parts.pop("constants", {})

    def case(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]] | None:
        return ([node(op, inputs, **parts)], constants) if opset >= since else None

    return case


def clip(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    if opset < 11:
        return [node("Clip", "x", min=-0.5, max=0.25)], {}
    return [node("Clip", "x,low,high")], {"low": np.float32(-0.5), "high": np.float32(0.25)}


def clip_above(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    if opset < 11:
        return [node("Clip", "x", max=0.25)], {}
    return [node("Clip", "x,,high")], {"high": np.float32(0.25)}


def pad(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    pads = [0, 0, 1, 2, 0, 0, 3, 0]
    if opset < 11:
        return [node("Pad", "x", pads=pads, value=1.5)], {}
    return [node("Pad", "x,pads,value")], {"pads": i64(*pads), "value": np.float32(1.5)}


def pad_reflect(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    pads = [0, 0, 1, 2, 0, 0, 2, 0]
    if opset < 11:
        return [node("Pad", "x", pads=pads, mode="reflect")], {}
    return [node("Pad", "x,pads", mode="reflect")], {"pads": i64(*pads)}


def slice_(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    if opset < 10:
        return [node("Slice", "x", starts=[1, -3], ends=[3, 100], axes=[1, 3])], {}
    return [node("Slice", "x,s,e,a")], {"s": i64(1, -3), "e": i64(3, 100), "a": i64(1, 3)}


def split(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    if opset < 13:
        return [node("Split", "x", "a,y", axis=1, split=[1, 3])], {}
    return [node("Split", "x,split", "a,y", axis=1)], {"split": i64(1, 3)}


def split_evenly(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    extra = {"num_outputs": 2} if opset >= 18 else {}
    return [node("Split", "x", "a,y", axis=1, **extra)], {}


def squeeze_all(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    return [node("Reshape", "x,shape", "r"), node("Squeeze", "r")], {"shape": i64(1, 8, 1, 60)}


def top_k(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    if opset < 10:
        return [node("TopK", "x", "y,i", k=2, axis=3)], {}
    return [node("TopK", "x,k", "y,i", axis=3)], {"k": i64(2)}


def dropout(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    if opset < 12:
        return [node("Relu", "x", "r"), node("Dropout", "r", ratio=0.3)], {}
    return [node("Relu", "x", "r"), node("Dropout", "r,ratio")], {"ratio": np.float32(0.3)}


def resize(mode: str, scales: tuple[float, ...], since: int = OLDEST, **attributes: Any) -> Case:
    def case(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]] | None:
        if opset < since:
            return None
        if opset < 9:
            return [node("Upsample", "x", mode=mode, scales=list(scales))], {}
        if opset == 9:
            return [node("Upsample", "x,scales", mode=mode)], {"scales": f32(*scales)}
        if opset == 10:
            return [node("Resize", "x,scales", mode=mode)], {"scales": f32(*scales)}
        constants = {"roi": f32(), "scales": f32(*scales)}
        return [node("Resize", "x,roi,scales", mode=mode, **attributes)], constants

    return case


def resize_sizes(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]] | None:
    if opset < 11:
        return None
    constants = {"roi": f32(), "scales": f32(), "sizes": i64(2, 4, 7, 9)}
    return [node("Resize", "x,roi,scales,sizes", mode="linear")], constants


def resize_tf_half_pixel(rounding: str) -> Case:
    def case(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]] | None:
        if opset not in (11, 12):
            return None
        attributes = {
            "coordinate_transformation_mode": "tf_half_pixel_for_nn",
            "nearest_mode": rounding,
            "mode": "nearest",
        }
        constants = {"roi": f32(), "scales": f32(1, 1, 1.6, 0.6)}
        return [node("Resize", "x,roi,scales", **attributes)], constants

    return case


def batch_normalization(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    extra = {"spatial": 1} if opset < 9 else {}
    channel = {name: f32(*np.linspace(0.5, 1.5, 4)) for name in ("s", "b", "m", "v")}
    return [node("BatchNormalization", "x,s,b,m,v", epsilon=1e-3, **extra)], channel


def group_normalization(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]] | None:
    if opset < 18:
        return None
    values = f32(0.5, 2.0) if opset < 21 else f32(0.5, 0.5, 2.0, 2.0)
    return [node("GroupNormalization", "x,s,b", num_groups=2)], {"s": values, "b": values * 3}


def scatter(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]] | None:
    op = "Scatter" if opset < 11 else "ScatterElements"
    constants = {"i": np.zeros((1, 1, 1, 2), np.int64), "u": np.full((1, 1, 1, 2), 9, np.float32)}
    return ([node(op, "x,i,u", axis=1)], constants) if opset >= 9 else None


def grid_sample(mode: str, new_mode: str) -> Case:
    def case(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]] | None:
        if opset < 16:
            return None
        grid = np.linspace(-1, 1, 2 * 3 * 3 * 2).astype(np.float32).reshape(2, 3, 3, 2)
        return [node("GridSample", "x,grid", mode=mode if opset < 20 else new_mode)], {"grid": grid}

    return case


def roi_align(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]] | None:
    constants = {"rois": f32(0, 0, 3, 3, 1, 1, 4, 2).reshape(2, 4), "batch": i64(0, 1)}
    extra = {"output_height": 2, "output_width": 2, "sampling_ratio": 2}
    # onnxruntime runs versions 10 to 16 of the op
    return ([node("RoiAlign", "x,rois,batch", **extra)], constants) if 10 <= opset < 22 else None


def shape_chain(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    axes = {} if opset >= 13 else {"axes": [0]}
    more = ",axes" if opset >= 13 else ""
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape,zero", "batch"),
        node("Unsqueeze", "batch" + more, "batch1", **axes),
        node("Concat", "batch1,rest", "target", axis=0),
        node("Reshape", "x,target"),
    ]
    return nodes, {
        "zero": np.array(0, np.int64),
        "rest": i64(-1),
        **({"axes": i64(0)} if opset >= 13 else {}),
    }


def lstm(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    constants = {
        "shape": i64(8, 1, 60),
        "w": rng.standard_normal((1, 12, 60)).astype(np.float32),
        "r": rng.standard_normal((1, 12, 3)).astype(np.float32),
    }
    return [node("Reshape", "x,shape", "seq"), node("LSTM", "seq,w,r", "y,h", hidden_size=3)], constants


def gemm(opset: int) -> tuple[list[onnx.NodeProto], dict[str, np.ndarray]]:
    constants = {"w": np.linspace(-1, 1, 180).astype(np.float32).reshape(3, 60), "c": f32(1, 2, 3)}
    return [node("Flatten", "x", "f", axis=2), node("Gemm", "f,w,c", transB=1)], constants


CASES: dict[str, Case] = {
    "average-pool": plain("AveragePool", kernel_shape=[2, 2], pads=[1, 0, 0, 1]),
    "batch-normalization": batch_normalization,
    "clip": clip,
    "clip-above": clip_above,
    "dropout": dropout,
    "gemm": gemm,
    "grid-sample-cubic": grid_sample("bicubic", "cubic"),
    "grid-sample-linear": grid_sample("bilinear", "linear"),
    "group-normalization": group_normalization,
    "hardmax": plain("Hardmax"),
    "log-softmax": plain("LogSoftmax", axis=1),
    "lrn": plain("LRN", size=3),
    "lstm": lstm,
    "max-pool": plain("MaxPool", kernel_shape=[3, 2], strides=[2, 1]),
    "pad": pad,
    "pad-reflect": pad_reflect,
    "reduce-l2": axes_as("ReduceL2", 18, [1, -1], keepdims=0),
    "reduce-max": axes_as("ReduceMax", 18, [2]),
    "reduce-mean": axes_as("ReduceMean", 18, [2, 3]),
    "reduce-mean-all": plain("ReduceMean", keepdims=0),
    "reduce-sum": axes_as("ReduceSum", 13, [1], keepdims=0),
    "resize-down": resize("nearest", (1, 1, 0.4, 0.5), 10, coordinate_transformation_mode="align_corners"),
    "resize-half-pixel": resize("linear", (1, 1, 1.5, 2.0)),
    "resize-linear": resize("linear", (1, 1, 2.0, 2.0), coordinate_transformation_mode="asymmetric"),
    "resize-nearest": resize("nearest", (1, 1, 2.0, 3.0), nearest_mode="floor"),
    "resize-sizes": resize_sizes,
    "resize-tf-half-pixel-floor": resize_tf_half_pixel("floor"),
    "resize-tf-half-pixel-prefer": resize_tf_half_pixel("round_prefer_floor"),
    "roi-align": roi_align,
    "scatter": scatter,
    "shape-chain": shape_chain,
    "slice": slice_,
    "softmax-default-axis": plain("Softmax"),
    "softmax-last": plain("Softmax", axis=3),
    "softmax-middle": plain("Softmax", axis=2),
    "split": split,
    "split-evenly": split_evenly,
    "squeeze-all": squeeze_all,
    "top-k": top_k,
    "unsqueeze": axes_as("Unsqueeze", 13, [0, 2]),
}


@pytest.mark.parametrize("name", CASES)
def test_results_stay_the_same_from_every_opset(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 12)).astype(np.float32)
    tried = 0
    for opset in range(OLDEST, NEWEST_IN_RUNTIME + 1):
        case = CASES[name](opset)
        if case is None:
            continue
        nodes, constants = case
        model = model_of(nodes, {"x": x.shape}, ["y"], constants, opset)
        normalized = normalize(model)
        assert normalized.proto.opset_import[0].version == OPSET
        onnx.checker.check_model(complete(normalized), full_check=True)
        (expected,), (found,) = run(model, {"x": x}), run(complete(normalized), {"x": x})
        assert found.shape == expected.shape and found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7, err_msg=f"opset {opset}")
        tried += 1
    assert tried


def test_every_incompatible_change_of_an_op_has_an_adapter() -> None:
    adapted: dict[str, int] = defaultdict(int)
    for op, below, _ in ADAPTERS:
        adapted[op] = max(adapted[op], below)
    history: dict[str, dict[int, defs.OpSchema]] = defaultdict(dict)
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "" and schema.since_version <= OPSET:
            history[schema.name][schema.since_version] = schema
    for name, versions in history.items():
        numbers = sorted(versions)
        for old, new in pairwise(numbers):
            if new <= max(OLDEST, adapted[name]) or name == "Constant":
                continue
            before, after = versions[old], versions[new]
            assert not after.deprecated, name
            kept = [formal.name for formal in after.inputs][: len(before.inputs)]
            assert kept == [formal.name for formal in before.inputs], (name, new)
            for key, attribute in before.attributes.items():
                assert key in after.attributes, (name, new, key)
                assert after.attributes[key].default_value == attribute.default_value, (name, new, key)


def test_softmax_over_trailing_ones_needs_no_reshape() -> None:
    model = model_of([node("Softmax", "x", axis=1)], {"x": [1, 10, 1, 1]}, ["y"], opset=9)
    assert ops(normalize(model)) == ["Softmax"]


@pytest.mark.parametrize(
    ("op", "since", "inputs", "attributes"),
    [
        ("RMSNormalization", 23, ["x", "scale"], {"axis": -1}),
        ("Attention", 23, ["x", "x", "x"], {}),
        ("Swish", 24, ["x"], {}),
    ],
)
def test_ops_newer_than_ours_are_expanded_by_their_definition(
    op: str, since: int, inputs: list[str], attributes: dict[str, Any]
) -> None:
    x = np.random.default_rng(1).standard_normal((2, 2, 3, 8)).astype(np.float32)
    constants = {"scale": np.linspace(0.5, 2, 8).astype(np.float32)} if "scale" in inputs else {}
    model = model_of([helper.make_node(op, inputs, ["y"], "n", **attributes)], {"x": x.shape}, ["y"], constants, since)
    normalized = normalize(model)
    assert op not in ops(normalized)
    np.testing.assert_allclose(run(complete(normalized), {"x": x})[0], run(model, {"x": x})[0], rtol=1e-5, atol=1e-6)


def test_a_newer_op_that_cannot_be_expanded_is_an_error() -> None:
    model = model_of([node("CumProd", "x,axis")], {"x": [2, 3]}, ["y"], {"axis": np.array(0, np.int64)}, 26)
    with pytest.raises(ModelError, match=r"node 'cumprod' \(CumProd\).*opset 26; export the model with opset 21"):
        normalize(model)


def test_an_attribute_newer_than_ours_is_dropped_at_its_default_only() -> None:
    def cast(mode: str) -> onnx.ModelProto:
        nodes = [node("Cast", "x", "i", to=onnx.TensorProto.INT32, round_mode=mode), node("Cast", "i", to=1)]
        return model_of(nodes, {"x": [2]}, ["y"], opset=24)

    assert ops(normalize(cast("up"))) == ["Cast", "Cast"]
    with pytest.raises(ModelError, match="its attribute 'round_mode' came with opset 24"):
        normalize(cast("down"))


@pytest.mark.parametrize("opset", [6, defs.onnx_opset_version() + 1])
def test_an_opset_out_of_range_is_an_error(opset: int) -> None:
    with pytest.raises(ModelError, match=f"opset {opset} is not in the range 7 to"):
        normalize(model_of([node("Relu", "x")], {"x": [2]}, ["y"], opset=opset))


def test_batch_normalization_in_training_form_is_an_error() -> None:
    channel = {name: f32(1, 1) for name in ("s", "b", "m", "v")}
    training = node("BatchNormalization", "x,s,b,m,v", "y,mean,var,m2,v2")
    with pytest.raises(ModelError, match=r"node 'batchnormalization'.*training mode"):
        normalize(model_of([training], {"x": [1, 2, 3]}, ["y", "mean"], channel, 9))
    assert ops(normalize(model_of([training], {"x": [1, 2, 3]}, ["y"], channel, 9))) == ["BatchNormalization"]
    per_activation = node("BatchNormalization", "x,s,b,m,v", spatial=0)
    with pytest.raises(ModelError, match="spatial=0"):
        normalize(model_of([per_activation], {"x": [1, 2, 3]}, ["y"], channel, 7))
