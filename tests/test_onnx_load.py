"""ONNX files become static, clean graphs; what cannot is refused with a message that says what to do."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import complete, constant, model_of, ops, run

from qcompiler.errors import ModelError
from qcompiler.frontends.onnx_load import load_onnx, normalize

MODELS = Path(__file__).resolve().parents[2] / "shared" / "models"
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def node(op: str, inputs: str, outputs: str = "y", name: str = "n", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(","), outputs.split(","), name, **attributes)


def i64(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


# ---- files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"this is not a model at all, only text", "not an ONNX model"),
        (b"\x00\x01\x02\x03", "not an ONNX model"),
        (onnx.ModelProto(ir_version=8).SerializeToString(), "no graph with outputs"),
    ],
)
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        load_onnx(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(ModelError, match="cannot read the model"):
            load_onnx(path)


def test_every_truncation_of_a_model_is_refused(tmp_path: Path) -> None:
    model = model_of([node("MatMul", "x,w")], {"x": [2, 3]}, ["y"], {"w": weights(3, 4)})
    data = model.SerializeToString()
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    assert ops(load_onnx(path)) == ["MatMul"]
    for length in range(0, len(data), 3):
        path.write_bytes(data[:length])
        with pytest.raises(ModelError):
            load_onnx(path)


def test_the_model_given_is_not_changed() -> None:
    model = model_of([node("Unsqueeze", "x", axes=[0])], {"x": ["N", 2]}, ["y"], opset=9)
    before = model.SerializeToString(deterministic=True)
    normalize(model, {"x": (4, 2)})
    assert model.SerializeToString(deterministic=True) == before


# ---- external data


def external_model(tmp_path: Path, array: np.ndarray, **entry: str) -> Path:
    tensor = TensorProto(name="w", data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": "w.bin", "offset": "16", "length": str(array.nbytes), **entry}.items():
        tensor.external_data.add(key=key, value=value)
    model = model_of([node("MatMul", "x,w")], {"x": [2, array.shape[0]]}, ["y"])
    model.graph.initializer.append(tensor)
    (tmp_path / "w.bin").write_bytes(bytes(16) + array.tobytes())
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_external_data_are_memory_mapped(tmp_path: Path) -> None:
    array = weights(64, 32)
    model = load_onnx(external_model(tmp_path, array))
    mapped = model.arrays["w"]
    base = mapped
    while base.base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap) and not mapped.flags.writeable
    assert np.array_equal(mapped, array)
    assert not model.proto.graph.initializer


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"location": "gone.bin"}, r"tensor 'w'.*gone\.bin' does not exist"),
        ({"location": "../w.bin"}, "outside the model's folder"),
        ({"length": "12"}, r"holds 12 bytes for it, expected 8192 for shape \[64, 32\]"),
        ({"offset": "17"}, "has 8208 bytes, expected at least 8209"),
        ({"offset": "abc"}, "tensor 'w' is damaged"),
    ],
)
def test_wrong_external_data_are_refused(tmp_path: Path, entry: dict[str, str], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_onnx(external_model(tmp_path, weights(64, 32), **entry))


def test_weights_beyond_two_gigabytes_are_not_read(tmp_path: Path) -> None:
    rows, columns = 1 << 15, 1 << 15
    path = external_model(tmp_path, weights(8, 8))
    model = onnx.load(path, load_external_data=False)
    tensor = model.graph.initializer[0]
    tensor.data_type = TensorProto.INT8
    tensor.dims[:] = [3 * rows, columns]
    tensor.external_data[2].value = str(3 * rows * columns)
    with open(tmp_path / "w.bin", "r+b") as file:
        file.truncate(16 + 3 * rows * columns)
    del model.graph.node[:]
    model.graph.node.append(node("Gather", "w,i"))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("i", TensorProto.INT64, [2]))
    path.write_bytes(model.SerializeToString())
    begin = time.perf_counter()
    normalized = load_onnx(path)
    assert time.perf_counter() - begin < 2
    assert normalized.arrays["w"].nbytes == 3 << 30
    assert normalized.proto.ByteSize() < 1000


def test_a_damaged_tensor_is_refused() -> None:
    model = model_of([node("MatMul", "x,w")], {"x": [2, 3]}, ["y"], {"w": weights(3, 4)})
    model.graph.initializer[0].raw_data = b"\0" * 20
    with pytest.raises(ModelError, match="tensor 'w' is damaged"):
        normalize(model)


# ---- shapes of inputs


def add_model(*dims: int | str | None, other: tuple[int | str, ...] | None = None) -> onnx.ModelProto:
    inputs = {"a": dims} if other is None else {"a": dims, "b": other}
    return model_of([node("Add", "a,b" if other else "a,a")], inputs, ["y"])


def shape_of(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_symbolic_dimensions_are_set_and_reach_every_value() -> None:
    model = normalize(add_model("N", 3, other=("N", 3)), {"a": (5, 3)})
    assert [shape_of(v) for v in model.proto.graph.input] == [[5, 3], [5, 3]]
    assert shape_of(model.proto.graph.output[0]) == [5, 3]


@pytest.mark.parametrize(
    ("model", "shapes", "message"),
    [
        (add_model("N", 3), {}, r"input 'a': dimension 0 is symbolic \('N'\); set it with --shape a=1x3"),
        (add_model(None, 3), {}, "input 'a': dimension 0 is of unknown size"),
        (add_model(2, 0), {}, "input 'a': dimension 1 is of size 0; set it with --shape a=2x1"),
        (add_model(2, 3), {"a": (2, 4)}, "--shape a=2x4 contradicts the model, whose input 'a' is 2x3"),
        (add_model(2, 3), {"a": (2, 3, 1)}, "contradicts the model"),
        (add_model("N", 3), {"a": (0, 3)}, "every size must be 1 or more"),
        (
            add_model("N", 3),
            {"q": (1, 3)},
            "names the input 'q', which the model does not have; its inputs are: a",
        ),
        (
            add_model("N", 3, other=("N", 3)),
            {"a": (2, 3), "b": (4, 3)},
            "dimension 'N' is 2 in input 'a' but 4 in input 'b'",
        ),
        (model_of([node("Relu", "a")], {"a": None}, ["y"]), {}, "input 'a' has no shape"),
    ],
)
def test_unset_and_contradicting_shapes_are_refused(
    model: onnx.ModelProto, shapes: dict[str, tuple[int, ...]], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        normalize(model, shapes)


def test_an_input_without_a_shape_can_be_given_one() -> None:
    model = normalize(model_of([node("Relu", "a")], {"a": None}, ["y"]), {"a": (2, 3)})
    assert shape_of(model.proto.graph.output[0]) == [2, 3]


def test_initializers_are_no_inputs() -> None:
    model = model_of([node("Add", "x,w")], {"x": [2], "w": [2]}, ["y"], {"w": weights(2)})
    assert [value.name for value in normalize(model).proto.graph.input] == ["x"]


def test_a_shape_that_depends_on_data_is_refused_by_node() -> None:
    model = model_of([node("NonZero", "x", name="find")], {"x": [4]}, ["y"])
    with pytest.raises(ModelError, match=r"node 'find' \(NonZero\): the shape of its result 'y' is not static"):
        normalize(model)


def test_a_contradiction_of_shapes_is_refused_with_the_reason() -> None:
    model = model_of([node("MatMul", "x,w", name="product")], {"x": [2, 3]}, ["y"], {"w": weights(4, 5)})
    with pytest.raises(ModelError, match=r"node 'product' \(MatMul\).*[Ii]ncompatible dimensions"):
        normalize(model)


# ---- folding and cleaning


def test_shape_chains_fold_away() -> None:
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape,zero", "batch"),
        node("Mul", "batch,two", "double"),
        node("Unsqueeze", "double,axes", "double1"),
        node("Concat", "double1,rest", "target", axis=0),
        node("Cast", "target", "as32", to=TensorProto.INT32),
        node("Cast", "as32", "target64", to=TensorProto.INT64),
        node("Reshape", "x,target64"),
    ]
    constants = {"zero": np.array(0), "two": np.array(2), "axes": i64(0), "rest": i64(-1)}
    model = normalize(model_of(nodes, {"x": ["N", 4]}, ["y"], constants), {"x": (3, 4)})
    assert ops(model) == ["Reshape"]
    assert np.array_equal(constant(model, "target64"), [6, -1])
    assert shape_of(model.proto.graph.output[0]) == [6, 2]


def test_half_precision_storage_folds_to_float32_weights() -> None:
    stored = weights(40, 50).astype(np.float16)
    nodes = [node("Cast", "w16", "w", to=TensorProto.FLOAT), node("MatMul", "x,w")]
    model = normalize(model_of(nodes, {"x": [2, 40]}, ["y"], {"w16": stored}))
    assert ops(model) == ["MatMul"] and list(model.arrays) == ["w"]
    assert np.array_equal(model.arrays["w"], stored.astype(np.float32))
    assert not model.arrays["w"].flags.writeable and not model.notes


def test_a_large_constant_of_shape_takes_no_memory() -> None:
    value = numpy_helper.from_array(np.array([0.5], np.float32))
    nodes = [node("ConstantOfShape", "shape", "w", value=value), node("MatMul", "x,w")]
    model = normalize(model_of(nodes, {"x": [1, 30000]}, ["y"], {"shape": i64(30000, 20000)}))
    assert ops(model) == ["MatMul"]
    assert model.arrays["w"].shape == (30000, 20000) and model.arrays["w"].strides == (0, 0)


def test_folding_does_not_blow_up_weights() -> None:
    nodes = [node("Expand", "row,shape", "w"), node("MatMul", "x,w")]
    constants = {"row": weights(1, 2000), "shape": i64(3000, 2000)}
    assert ops(normalize(model_of(nodes, {"x": [1, 3000]}, ["y"], constants))) == ["Expand", "MatMul"]
    constants["shape"] = i64(1000, 2000)
    assert ops(normalize(model_of(nodes, {"x": [1, 1000]}, ["y"], constants))) == ["MatMul"]


NO_OPS: dict[str, tuple[onnx.NodeProto, dict[str, Any]]] = {
    "identity": (node("Identity", "r", "z"), {}),
    "dropout": (node("Dropout", "r,ratio", "z"), {"ratio": np.float32(0.5)}),
    "cast": (node("Cast", "r", "z", to=TensorProto.FLOAT), {}),
    "reshape": (node("Reshape", "r,c", "z"), {"c": i64(1, -1, 4)}),
    "transpose": (node("Transpose", "r", "z", perm=[0, 1, 2]), {}),
    "transpose-of-ones": (node("Reshape", "r,c", "z"), {"c": i64(1, 3, 4)}),
    "slice": (node("Slice", "r,c,e", "z"), {"c": i64(0), "e": i64(9)}),
    "pad": (node("Pad", "r,c", "z"), {"c": i64(0, 0, 0, 0, 0, 0)}),
    "concat": (node("Concat", "r", "z", axis=0), {}),
    "sum": (node("Sum", "r", "z"), {}),
    "expand": (node("Expand", "r,c", "z"), {"c": i64(1, 1, 4)}),
    "tile": (node("Tile", "r,c", "z"), {"c": i64(1, 1, 1)}),
}


@pytest.mark.parametrize("name", NO_OPS)
def test_no_ops_are_removed(name: str) -> None:
    middle, constants = NO_OPS[name]
    model = model_of([node("Relu", "x", "r"), middle, node("Exp", "z")], {"x": [1, 3, 4]}, ["y"], constants)
    assert ops(normalize(model)) == ["Relu", "Exp"]


@pytest.mark.parametrize(
    ("middle", "constants"),
    [
        (node("Transpose", "r", "z", perm=[1, 0]), {}),
        (node("Slice", "r,c,e,a,s", "z"), {"c": i64(-1), "e": i64(-9), "a": i64(1), "s": i64(-1)}),
        (node("Pad", "r,c", "z"), {"c": i64(1, 0, -1, 0)}),
        (node("Dropout", "r,ratio,training", "z"), {"ratio": np.float32(0.5), "training": np.array(True)}),
    ],
)
def test_what_only_looks_like_a_no_op_stays(middle: onnx.NodeProto, constants: dict[str, np.ndarray]) -> None:
    model = model_of([node("Relu", "x", "r"), middle, node("Exp", "z")], {"x": [4, 4]}, ["y"], constants)
    assert ops(normalize(model)) == ["Relu", middle.op_type, "Exp"]


def test_outputs_keep_their_names_when_no_ops_go() -> None:
    nodes = [
        node("Relu", "x", "r", "relu"),
        node("Identity", "r", "first", "1"),
        node("Identity", "r", "second", "2"),
        node("Identity", "x", "through", "3"),
        node("Identity", "c", "fixed", "4"),
        node("Identity", "first", "again", "5"),
        node("Exp", "r", "e", "exp"),
    ]
    outputs = ["first", "second", "through", "fixed", "again", "e"]
    model = normalize(model_of(nodes, {"x": [3]}, outputs, {"c": weights(3)}))
    assert [value.name for value in model.proto.graph.output] == outputs
    assert ops(model).count("Identity") == 4
    x = weights(3)
    expected = run(model_of(nodes, {"x": [3]}, outputs, {"c": weights(3)}), {"x": x})
    for left, right in zip(run(complete(model), {"x": x}), expected, strict=True):
        assert np.array_equal(left, right)


def test_an_output_that_is_an_initializer_comes_through_identity() -> None:
    model = normalize(model_of([node("Relu", "x")], {"x": [2]}, ["y", "c"], {"c": weights(2)}))
    assert ops(model) == ["Relu", "Identity"]
    assert np.array_equal(run(complete(model), {"x": weights(2)})[1], weights(2))


def test_dead_nodes_unused_initializers_and_unused_outputs_go() -> None:
    nodes = [
        node("Exp", "x", "dead"),
        node("MaxPool", "x", "y,indices", kernel_shape=[2]),
    ]
    model = normalize(model_of(nodes, {"x": [1, 1, 4]}, ["y"], {"unused": weights(2000)}))
    assert ops(model) == ["MaxPool"] and not model.arrays
    assert list(model.proto.graph.node[0].output) == ["y"]


def test_nodes_are_sorted_and_named_uniquely() -> None:
    nodes = [
        node("Exp", "b", name="same"),
        node("Relu", "x", "a", name="same"),
        node("Neg", "a", "b", name=""),
    ]
    model = normalize(model_of(nodes, {"x": [2]}, ["y"]))
    assert [(n.op_type, n.name) for n in model.proto.graph.node] == [
        ("Relu", "same"),
        ("Neg", "b"),
        ("Exp", "same_1"),
    ]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("Relu", "q")], r"node 'n' \(Relu\): its input 'q' is not defined"),
        ([node("Add", "x,z", "y"), node("Relu", "y", "z")], "a cycle"),
        ([node("Relu", "x"), node("Exp", "x")], "'y' is already defined"),
        ([node("Relu", "x", "z")], "output 'y' is not defined"),
        ([node("Relu", "x", slope=1.0)], r"node 'n' \(Relu\).*Unrecognized attribute: slope"),
        ([node("Add", "x")], r"node 'n' \(Add\): it does not fit the definition"),
        ([node("Rleu", "x", name="typo")], r"node 'typo' \(Rleu\): ONNX has no such op"),
    ],
)
def test_inconsistent_graphs_are_refused(nodes: list[onnx.NodeProto], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        normalize(model_of(nodes, {"x": [2]}, ["y"]))


# ---- functions, foreign ops, control flow


def test_local_functions_are_inlined() -> None:
    body = [helper.make_node("Mul", ["a", "a"], ["s"]), helper.make_node("Add", ["s", "b"], ["o"])]
    function = helper.make_function("own", "SquareAdd", ["a", "b"], ["o"], body, [helper.make_opsetid("", 17)])
    calls = [
        helper.make_node("SquareAdd", ["x", "w"], ["t"], "first", domain="own"),
        helper.make_node("SquareAdd", ["t", "w"], ["y"], "second", domain="own"),
    ]
    model = model_of(calls, {"x": [2000]}, ["y"], {"w": weights(2000)}, 17, domains=["own"])
    model.functions.append(function)
    normalized = normalize(model)
    assert ops(normalized) == ["Mul", "Add", "Mul", "Add"] and list(normalized.arrays) == ["w"]
    x = weights(2000)
    assert np.array_equal(run(complete(normalized), {"x": x})[0], run(model, {"x": x})[0])


def test_foreign_ops_are_listed_with_their_nodes() -> None:
    nodes = [
        helper.make_node("Trick", ["x"], ["a"], "one", domain="com.example"),
        helper.make_node("Trick", ["a"], ["b"], "two", domain="com.example"),
        helper.make_node("Scaler", ["b"], ["y"], "three", domain="ai.onnx.ml"),
    ]
    message = r"ai\.onnx\.ml::Scaler \(three\); com\.example::Trick \(one, two\)"
    with pytest.raises(ModelError, match=message):
        normalize(model_of(nodes, {"x": [2]}, ["y"], domains=["com.example", "ai.onnx.ml"]))


def branch(name: str, op: str, constants: dict[str, np.ndarray]) -> onnx.GraphProto:
    tensors = [numpy_helper.from_array(array, key) for key, array in constants.items()]
    nodes = [helper.make_node(op, ["r", "k"], ["t"], op), helper.make_node("Relu", ["t"], [name], "relu")]
    return helper.make_graph(nodes, name, [], [onnx.ValueInfoProto(name=name)], tensors)


@pytest.mark.parametrize(("rank", "taken"), [(2, "Add"), (1, "Mul")])
def test_an_if_whose_condition_folds_is_replaced_by_its_branch(rank: int, taken: str) -> None:
    nodes = [
        node("Relu", "x", "r", "relu"),
        node("Shape", "r", "shape", "shape"),
        node("Size", "shape", "rank", "rank"),
        node("Equal", "rank,two", "is2", "equal"),
        node(
            "If",
            "is2",
            name="choose",
            then_branch=branch("yes", "Add", {"k": np.float32(2)}),
            else_branch=branch("no", "Mul", {"k": np.float32(3)}),
        ),
        node("Exp", "y", "t"),
    ]
    model = model_of(nodes, {"x": [4] * rank}, ["t"], {"two": np.array(2)})
    normalized = normalize(model)
    assert ops(normalized) == ["Relu", taken, "Relu", "Exp"]
    assert f"choose/{taken}" in [n.name for n in normalized.proto.graph.node]
    x = weights(*[4] * rank)
    assert np.array_equal(run(complete(normalized), {"x": x})[0], run(model, {"x": x})[0])


# ---- element types and values


@pytest.mark.parametrize(
    ("element", "dtype", "word"),
    [
        (TensorProto.FLOAT16, np.float16, "float16"),
        (TensorProto.DOUBLE, np.float64, "float64"),
        (TensorProto.BFLOAT16, ml_dtypes.bfloat16, "bfloat16"),
    ],
)
def test_other_float_types_are_computed_in_float32(element: int, dtype: Any, word: str) -> None:
    nodes = [
        node("MatMul", "x,w", "m"),
        node("Cast", "m", "m32", to=TensorProto.FLOAT),
        node("Relu", "m32", "r"),
        node("Cast", "r", to=element),
    ]
    w = weights(40, 50).astype(dtype)
    model = normalize(model_of(nodes, {"x": [2, 40]}, ["y"], {"w": w}, element=element))
    assert ops(model) == ["MatMul", "Relu"]
    assert model.arrays["w"].dtype == np.float32
    assert np.array_equal(model.arrays["w"], w.astype(np.float32))
    for value in (*model.proto.graph.input, *model.proto.graph.output, *model.proto.graph.value_info):
        assert value.type.tensor_type.elem_type == TensorProto.FLOAT
    assert model.notes == (f"values of type {word} are computed as float32, the inputs and outputs x, y too",)


def test_doubles_beyond_float32_become_its_largest() -> None:
    nodes = [node("Max", "x,c")]
    model = normalize(model_of(nodes, {"x": [2]}, ["y"], {"c": np.array([-1e300, 2.0])}, element=TensorProto.DOUBLE))
    assert constant(model, "c").tolist() == [np.finfo(np.float32).min, 2.0]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    w = weights(40, 50)
    w[3, 4] = bad
    message = "weights 'w' of node 'n' .MatMul. hold " + ("NaN" if np.isnan(bad) else "an infinite value")
    with pytest.raises(ModelError, match=message):
        normalize(model_of([node("MatMul", "x,w")], {"x": [2, 40]}, ["y"], {"w": w}))


def test_infinite_limits_and_masks_are_allowed() -> None:
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    nodes = [node("Add", "x,mask", "a"), node("Clip", "a,low,high")]
    constants = {"mask": mask, "low": np.float32(-1), "high": np.float32(np.inf)}
    assert ops(normalize(model_of(nodes, {"x": [4, 4]}, ["y"], constants))) == ["Add", "Clip"]


# ---- quantized models


def test_qdq_passes_unchanged() -> None:
    nodes = [
        node("QuantizeLinear", "x,s,z", "xq", name="q"),
        node("DequantizeLinear", "xq,s,z", "xd", name="d"),
        node("DequantizeLinear", "wq,ws", "wd", name="dw", axis=0),
        node("Conv", "xd,wd", name="conv"),
    ]
    constants = {
        "s": np.float32(0.1),
        "z": np.uint8(3),
        "wq": np.arange(54, dtype=np.int8).reshape(2, 3, 3, 3),
        "ws": np.array([0.1, 0.2], np.float32),
    }
    model = normalize(model_of(nodes, {"x": [1, 3, 5, 5]}, ["y"], constants, 13))
    # the weights do not wait for the input, so their node may stand anywhere before the convolution
    assert sorted(n.name for n in model.proto.graph.node) == ["conv", "d", "dw", "q"]
    assert constant(model, "wq").dtype == np.int8
    assert np.array_equal(constant(model, "wq"), constants["wq"])


def u8(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape, dtype=np.uint8)


def quantized(op: str, inputs: str, domain: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(","), ["y"], "q", domain=domain, **attributes)


RNG = np.random.default_rng(7)
SCALES: dict[str, Any] = {
    "xs": np.float32(0.02),
    "xz": np.uint8(120),
    "ys": np.float32(0.05),
    "yz": np.uint8(131),
    "bs": np.float32(0.03),
    "bz": np.uint8(100),
}
OPERATORS: dict[str, tuple[onnx.NodeProto, tuple[int, ...], dict[str, Any], list[str]]] = {
    "conv": (
        quantized("QLinearConv", "x,xs,xz,w,ws,wz,ys,yz,b", pads=[1, 0, 0, 1]),
        (1, 3, 6, 5),
        {
            "w": RNG.integers(-127, 128, (4, 3, 2, 2), dtype=np.int8),
            "ws": np.array([0.01, 0.02, 0.03, 0.004], np.float32),
            "wz": np.zeros(4, np.int8),
            "b": np.array([100, -200, 30, 1000], np.int32),
            "xs": np.array([0.02], np.float32),
            "xz": np.array([120], np.uint8),
        },
        ["DequantizeLinear"] * 3 + ["Conv", "QuantizeLinear"],
    ),
    "matmul": (
        quantized("QLinearMatMul", "x,xs,xz,w,ws,wz,ys,yz"),
        (2, 6),
        {
            "w": RNG.integers(-127, 128, (6, 4), dtype=np.int8),
            "ws": np.array([0.01, 0.02, 0.03, 0.004], np.float32),
            "wz": np.zeros(4, np.int8),
        },
        ["DequantizeLinear", "DequantizeLinear", "MatMul", "QuantizeLinear"],
    ),
    "gemm": (
        quantized("QGemm", "x,xs,xz,w,bs,wz,b,ys,yz", "com.microsoft", transB=1),
        (2, 6),
        {
            "w": RNG.integers(-127, 128, (4, 6), dtype=np.int8),
            "wz": np.int8(0),
            "b": np.array([100, -200, 30, 1000], np.int32),
        },
        ["DequantizeLinear"] * 3 + ["Gemm", "QuantizeLinear"],
    ),
    "add": (
        quantized("QLinearAdd", "x,xs,xz,b,bs,bz,ys,yz", "com.microsoft"),
        (2, 6),
        {"b": u8(RNG, 2, 6)},
        ["DequantizeLinear", "DequantizeLinear", "Add", "QuantizeLinear"],
    ),
    "mul": (
        quantized("QLinearMul", "x,xs,xz,b,bs,bz,ys,yz", "com.microsoft"),
        (2, 6),
        {"b": u8(RNG, 6)},
        ["DequantizeLinear", "DequantizeLinear", "Mul", "QuantizeLinear"],
    ),
    "sigmoid": (
        quantized("QLinearSigmoid", "x,xs,xz,ys,yz", "com.microsoft"),
        (2, 6),
        {},
        ["DequantizeLinear", "Sigmoid", "QuantizeLinear"],
    ),
    "leaky-relu": (
        quantized("QLinearLeakyRelu", "x,xs,xz,ys,yz", "com.microsoft", alpha=0.2),
        (2, 6),
        {},
        ["DequantizeLinear", "LeakyRelu", "QuantizeLinear"],
    ),
    "average-pool": (
        quantized("QLinearAveragePool", "x,xs,xz,ys,yz", "com.microsoft", kernel_shape=[2, 2]),
        (1, 2, 4, 4),
        {},
        ["DequantizeLinear", "AveragePool", "QuantizeLinear"],
    ),
    "global-average-pool": (
        quantized("QLinearGlobalAveragePool", "x,xs,xz,ys,yz", "com.microsoft", channels_last=0),
        (2, 9, 4, 4),
        {"ys": np.float32(0.01)},
        ["DequantizeLinear", "GlobalAveragePool", "QuantizeLinear"],
    ),
    "softmax": (
        quantized("QLinearSoftmax", "x,xs,xz,ys,yz", "com.microsoft", axis=-1, opset=13),
        (2, 6),
        {"ys": np.float32(1 / 256), "yz": np.uint8(0)},
        ["DequantizeLinear", "Softmax", "QuantizeLinear"],
    ),
    "concat": (
        quantized("QLinearConcat", "ys,yz,x,xs,xz,b,bs,bz", "com.microsoft", axis=1),
        (2, 6),
        {"b": u8(RNG, 2, 3)},
        ["DequantizeLinear", "DequantizeLinear", "Concat", "QuantizeLinear"],
    ),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_quantized_operators_become_qdq(name: str) -> None:
    """The runtime's integer kernels round differently by at most one step."""
    operator, shape, own, expected_ops = OPERATORS[name]
    constants = {k: np.asarray(v) for k, v in {**SCALES, **own}.items() if k in operator.input}
    model = model_of([operator], {"x": shape}, ["y"], constants, 13, TensorProto.UINT8, domains=["com.microsoft"])
    normalized = normalize(model)
    assert sorted(ops(normalized)) == sorted(expected_ops)
    x = u8(np.random.default_rng(8), *shape)
    expected, found = run(model, {"x": x})[0], run(complete(normalized), {"x": x})[0]
    assert found.dtype == expected.dtype == np.uint8
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1
    assert np.unique(found).size > 3


def contrib(op: str, inputs: str, outputs: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(","), outputs.split(","), "c", domain="com.microsoft", **attributes)


CONTRIBUTED: dict[str, tuple[onnx.NodeProto, tuple[int, ...], dict[str, np.ndarray]]] = {
    "gelu": (contrib("Gelu", "x"), (2, 6), {}),
    "bias-gelu": (contrib("BiasGelu", "x,b"), (2, 6), {"b": weights(6)}),
    "fast-gelu": (contrib("FastGelu", "x,b"), (2, 6), {"b": weights(6)}),
    "quick-gelu": (contrib("QuickGelu", "x", alpha=1.5), (2, 6), {}),
    "fused-matmul": (contrib("FusedMatMul", "x,b", transB=1, alpha=0.5), (2, 6), {"b": weights(4, 6)}),
    "fused-conv": (
        contrib("FusedConv", "x,b", activation="LeakyRelu", activation_params=[0.1], pads=[1, 1, 1, 1]),
        (1, 3, 5, 5),
        {"b": weights(4, 3, 3, 3)},
    ),
    "skip-layer-normalization": (
        contrib("SkipLayerNormalization", "x,b,g,h", epsilon=1e-5),
        (1, 2, 6),
        {"b": weights(1, 2, 6), "g": weights(6), "h": weights(6)},
    ),
}


@pytest.mark.parametrize("name", CONTRIBUTED)
def test_contributed_ops_become_standard_ones(name: str) -> None:
    operator, shape, constants = CONTRIBUTED[name]
    nodes = [node("Relu", "x", "r"), operator]
    operator.input[0] = "r"
    model = model_of(nodes, {"x": shape}, ["y"], constants, 13, domains=["com.microsoft"])
    normalized = normalize(model)
    assert not any(n.domain for n in normalized.proto.graph.node)
    x = weights(*shape)
    np.testing.assert_allclose(run(complete(normalized), {"x": x})[0], run(model, {"x": x})[0], rtol=1e-5, atol=1e-6)


# ---- real models


def paths(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.onnx"))


def feeds_for(path: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds: dict[str, np.ndarray] = {}
    for value in session.get_inputs():
        if "int" in value.type:
            high = 2 if "mask" in value.name else 500
            feeds[value.name] = rng.integers(0, high, value.shape, dtype=np.int64)
        else:
            feeds[value.name] = rng.standard_normal(value.shape).astype(np.float32)
    return feeds


def check_real(path: Path) -> None:
    normalized = load_onnx(path)
    model = complete(normalized)
    onnx.checker.check_model(model)
    feeds = feeds_for(path)
    for expected, found in zip(run(str(path), feeds), run(model, feeds), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(expected).max())))


@pytest.mark.models
@pytest.mark.skipif(not MODELS.is_dir(), reason=f"the models are not at {MODELS}")
@pytest.mark.parametrize("path", paths(MODELS), ids=lambda path: path.stem)
def test_real_models_keep_their_results(path: Path) -> None:
    check_real(path)


@pytest.mark.parametrize("path", paths(LIGHT), ids=lambda path: path.stem)
def test_light_networks_normalize_to_static_inference_graphs(path: Path) -> None:
    normalized = load_onnx(path)
    assert not set(ops(normalized)) & {"ConstantOfShape", "Dropout", "Shape", "Unsqueeze", "Identity"}
    for value in (*normalized.proto.graph.value_info, *normalized.proto.graph.output):
        assert min(shape_of(value), default=1) > 0


@pytest.mark.slow
@pytest.mark.parametrize("path", paths(LIGHT), ids=lambda path: path.stem)
def test_light_networks_keep_their_results(path: Path) -> None:
    check_real(path)
