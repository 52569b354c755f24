"""Bad ONNX files through the command line: missing, damaged, or saying what cannot be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from bad_input import Fails, bare_from, compiling, plain, write
from onnx import TensorProto, helper, numpy_helper
from small_graphs import Graph

import qcompiler
from qcompiler.errors import QCompilerError


def _edit(change: Callable[[onnx.ModelProto], object]) -> Callable[[], None]:
    """Saves the plain model after a change."""

    def make() -> None:
        model = plain()
        change(model)
        onnx.save(model, "model.onnx")

    return make


def _weight(index: int, value: float) -> Callable[[], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[index]
        array = numpy_helper.to_array(tensor).copy()
        array.flat[1] = value
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    return _edit(change)


def _node(**fields: object) -> Callable[[], None]:
    """The plain model with fields of its second node, the Relu, set."""

    def change(model: onnx.ModelProto) -> None:
        for name, value in fields.items():
            if isinstance(value, list):
                del getattr(model.graph.node[1], name)[:]
                getattr(model.graph.node[1], name).extend(value)
            else:
                setattr(model.graph.node[1], name, value)

    return _edit(change)


def _external(content: bytes | None, location: str = "weights.bin") -> Callable[[], None]:
    """The plain model with its first weight in a file that holds `content`."""

    def make() -> None:
        model = plain()
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        write("model.onnx", model.SerializeToString())
        if content is not None:
            write("weights.bin", content)

    return make


def _saved(make: Callable[[], onnx.ModelProto]) -> Callable[[], None]:
    return lambda: onnx.save(make(), "model.onnx")


def _bare(node: onnx.NodeProto, shape: tuple[object, ...] = (1, 4), **constants: np.ndarray) -> onnx.ModelProto:
    """One node from x to y, nothing inferred or checked."""
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=node.output[0])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _loop() -> onnx.ModelProto:
    """A loop whose number of rounds is known only at run time."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Relu", ["v"], ["v2"])],
        "body",
        [value("i", TensorProto.INT64, []), value("c", TensorProto.BOOL, []), value("v", TensorProto.FLOAT, [1, 4])],
        [value("c2", TensorProto.BOOL, []), value("v2", TensorProto.FLOAT, [1, 4])],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["n", "", "x"], ["y"], "rounds", body=body)],
        "graph",
        [value("x", TensorProto.FLOAT, [1, 4]), value("n", TensorProto.INT64, [])],
        [value("y", TensorProto.FLOAT, [1, 4])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def _batch_norm(variance: float) -> onnx.ModelProto:
    g = Graph(x=(1, 3, 8, 8))
    y = g("Conv", "x", g.weight(4, 3, 1, 1))
    g.nodes.append(
        helper.make_node("BatchNormalization", [y, *(g.constant([v] * 4) for v in (1, 0, 0, variance))], ["y"], "norm")
    )
    return bare_from(g)


def _quantized(scale: float, zero_point: np.ndarray) -> onnx.ModelProto:
    g = Graph(x=(1, 3, 8, 8))
    s, z = g.constant(scale), g.constant(zero_point)
    y = g("DequantizeLinear", g("QuantizeLinear", "x", s, z), s, z)
    g("Conv", y, g.weight(4, 3, 1, 1))
    return bare_from(g)


def _sequence_input(model: onnx.ModelProto) -> None:
    kind = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [1])
    model.graph.input[0].CopyFrom(kind)


MODELS: dict[str, tuple[Callable[[], object], list[str]]] = {
    "missing": (lambda: os.unlink("model.onnx"), ["model.onnx", "No such file"]),
    "empty": (lambda: write("model.onnx", b""), ["model.onnx", "empty"]),
    "text": (lambda: write("model.onnx", b"import torch\n" * 50), ["model.onnx", "not an ONNX model"]),
    "noise": (lambda: write("model.onnx", np.random.default_rng(0).bytes(4096)), ["model.onnx", "ONNX"]),
    "folder": (lambda: (os.unlink("model.onnx"), os.mkdir("model.onnx")), ["model.onnx", "directory"]),
    "half": (lambda: write("model.onnx", plain().SerializeToString()[:800]), ["model.onnx", "truncated"]),
    "no graph": (_edit(lambda m: m.ClearField("graph")), ["model.onnx", "no graph"]),
    "no outputs": (_edit(lambda m: m.graph.ClearField("output")), ["no graph with outputs"]),
    "no opset": (_edit(lambda m: m.ClearField("opset_import")), ["opset"]),
    "old opset": (_edit(lambda m: setattr(m.opset_import[0], "version", 3)), ["opset 3", "7"]),
    "new opset": (_edit(lambda m: setattr(m.opset_import[0], "version", 999)), ["opset 999", "update"]),
    "unknown op": (_node(op_type="Rectify"), ["Rectify", "relu1.node"]),
    "foreign op": (_node(op_type="Thing", domain="com.example"), ["com.example::Thing", "relu1.node"]),
    "undefined value": (_node(input=["nowhere"]), ["nowhere"]),
    "value defined twice": (_node(output=["conv0"]), ["conv0"]),
    "cycle": (_node(input=["globalaveragepool3"]), ["relu1.node"]),
    "unknown attribute": (
        _edit(lambda m: m.graph.node[1].attribute.add(name="slope", type=1)),
        ["slope", "relu1.node"],
    ),
    "too few operands": (_node(op_type="Add"), ["relu1.node", "Add"]),
    "missing output": (_edit(lambda m: setattr(m.graph.output[0], "name", "nothing")), ["nothing"]),
    "external data missing": (_external(None), ["c0", "weights.bin", "does not exist"]),
    "external data short": (_external(b"1234"), ["c0", "weights.bin", "4 bytes", "432"]),
    "external data outside": (_external(b"", "../weights.bin"), ["c0", "outside"]),
    "weight too short": (
        _edit(lambda m: setattr(m.graph.initializer[0], "raw_data", b"12345678")),
        ["c0", "damaged"],
    ),
    "weight NaN": (_weight(0, np.nan), ["c0", "conv0.node", "NaN"]),
    "weight infinite": (_weight(2, np.inf), ["c2", "gemm4.node", "infinite"]),
    "bias NaN": (_weight(1, np.nan), ["c1", "NaN"]),
    "negative variance": (_saved(lambda: _batch_norm(-1.0)), ["norm"]),
    "weight of wrong shape": (
        _edit(lambda m: m.graph.initializer[0].dims.__setitem__(slice(None), [4, 27, 1, 1])),
        ["conv0.node"],
    ),
    "symbolic shape": (
        _edit(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_param", "rows")),
        ["'x'", "rows", "--shape"],
    ),
    "shape of run-time values": (
        _saved(lambda: _bare(helper.make_node("NonZero", ["x"], ["y"], "which"))),
        ["which"],
    ),
    "loop": (_saved(_loop), ["rounds"]),
    "sequence": (_edit(_sequence_input), ["'x'", "tensor"]),
    "strings": (
        _edit(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.STRING)),
        ["x"],
    ),
    "integers into a float op": (
        _edit(lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.INT32)),
        ["conv0.node"],
    ),
    "empty tensor": (
        _edit(lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 0)),
        ["x"],
    ),
    "scale of zero": (_saved(lambda: _quantized(0.0, np.array(3, np.uint8))), ["quantizelinear0.node", "scale"]),
    "scale NaN": (_saved(lambda: _quantized(np.nan, np.array(3, np.uint8))), ["NaN"]),
    "negative scale": (_saved(lambda: _quantized(-0.5, np.array(3, np.uint8))), ["quantizelinear0.node", "scale"]),
}


@pytest.mark.parametrize("case", MODELS)
def test_model(case: str, fails: Fails) -> None:
    make, expected = MODELS[case]
    make()
    message = fails(*compiling())
    for words in expected:
        assert words in message


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("x=1x3x9x8", ["'x'", "1x3x8x8"]),
        ("x=1x3x8", ["'x'"]),
        ("picture=1x3x8x8", ["picture", "x"]),
    ],
)
def test_shape_option(fails: Fails, shape: str, expected: list[str]) -> None:
    message = fails(*compiling("--shape", shape))
    for words in expected:
        assert words in message


def test_truncation_anywhere(here: Path) -> None:
    """Wherever the file is cut off, import says so; it never fails otherwise."""
    content = plain().SerializeToString()
    for length in range(0, len(content), 17):
        write("model.onnx", content[:length])
        with pytest.raises(QCompilerError, match=r"model\.onnx"):
            qcompiler.import_onnx("model.onnx")


def test_damage_anywhere(here: Path) -> None:
    """A file with damaged bytes is imported or refused with a message; nothing else happens."""
    content = plain().SerializeToString()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(400):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        write("model.onnx", bytes(damaged))
        try:
            qcompiler.import_onnx("model.onnx")
        except QCompilerError as error:
            assert "model.onnx" in str(error)
            refused += 1
    assert 20 < refused < 400
