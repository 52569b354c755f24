"""The passes on float graphs, pattern by pattern: what they make, what they leave, and that results stay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from small_graphs import Graph, feeds_of, onnxruntime_outputs, outputs, passed

from qcompiler.frontends.onnx_import import import_graph
from qcompiler.ir.values import body, integers, location_names
from qcompiler.model import Model


def kinds(model: Model) -> list[str]:
    return [
        op.name.removeprefix("onnx.")
        for op in body(model.module).ops
        if op.name not in ("q.constant", "func.return", "onnx.none")
    ]


def check(proto: onnx.ModelProto, pipeline: str, expected: list[str]) -> Model:
    """Runs passes, compares what is left and that outputs stay those of onnxruntime."""
    feeds = feeds_of(proto)
    model = passed(import_graph(proto), pipeline)
    assert kinds(model) == expected
    for f, found in zip(feeds, outputs(model, feeds), strict=True):
        for name, array in onnxruntime_outputs(proto, f).items():
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-5)
    return model


def _graph(build: Callable[[Graph], str], x: tuple[int, ...] = (1, 3, 6, 6)) -> onnx.ModelProto:
    g = Graph(x=x)
    return g.proto(build(g))


def _conv(g: Graph, x: str = "x", channels: int = 3, **attributes: object) -> str:
    return g("Conv", x, g.weight(4, channels, 3, 3), **attributes)


CANONICAL: dict[str, tuple[Callable[[Graph], str], list[str]]] = {
    "identity": (lambda g: g("Abs", g("Identity", g("Dropout", "x"))), ["Abs"]),
    "flatten, squeeze, unsqueeze": (
        lambda g: g("Squeeze", g("Unsqueeze", g("Flatten", "x", axis=2), g.ints(0)), g.ints(0)),
        ["Reshape"],
    ),
    "reshape to the same shape": (lambda g: g("Abs", g("Reshape", "x", g.ints(1, 3, -1, 6))), ["Abs"]),
    "three transposes": (
        lambda g: g("Transpose", g("Transpose", g("Transpose", "x"), perm=[1, 0, 2, 3]), perm=[2, 3, 1, 0]),
        ["Transpose"],
    ),
    "transposes that cancel": (
        lambda g: g("Abs", g("Transpose", g("Transpose", "x", perm=[0, 2, 3, 1]), perm=[0, 3, 1, 2])),
        ["Abs"],
    ),
    "bias of a convolution": (lambda g: g("Add", g.weight(4, 1, 1), _conv(g)), ["Conv"]),
    "scalar behind a convolution with bias": (
        lambda g: g("Add", g("Conv", "x", g.weight(4, 3, 1, 1), g.weight(4)), g.constant(0.5)),
        ["Conv"],
    ),
    "an addend that is no bias": (lambda g: g("Add", _conv(g), g.weight(4, 4)), ["Conv", "Add"]),
    "a convolution with two readers": (
        lambda g: g("Mul", c := _conv(g), g("Add", c, g.constant(1.0))),
        ["Conv", "Add", "Mul"],
    ),
    "padding in front of a convolution": (
        lambda g: _conv(g, g("Pad", "x", g.ints(0, 0, 1, 2, 0, 0, 0, 1)), pads=[0, 1, 1, 0]),
        ["Conv"],
    ),
    "padding with a number": (
        lambda g: _conv(g, g("Pad", "x", g.ints(0, 0, 1, 1, 0, 0, 1, 1), g.constant(1.0))),
        ["Pad", "Conv"],
    ),
    "padding of channels": (lambda g: _conv(g, g("Pad", "x", g.ints(0, 1, 0, 0, 0, 0, 0, 0)), 4), ["Pad", "Conv"]),
    "padding by reflection": (
        lambda g: _conv(g, g("Pad", "x", g.ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect")),
        ["Pad", "Conv"],
    ),
    "same upper": (lambda g: _conv(g, auto_pad="SAME_UPPER", strides=[2, 3]), ["Conv"]),
    "same lower": (lambda g: _conv(g, auto_pad="SAME_LOWER", strides=[2, 1]), ["Conv"]),
    "valid": (lambda g: g("MaxPool", "x", kernel_shape=[2, 2], auto_pad="VALID"), ["MaxPool"]),
    "average with same padding": (
        lambda g: g("AveragePool", "x", kernel_shape=[3, 2], auto_pad="SAME_UPPER", strides=[2, 2]),
        ["AveragePool"],
    ),
}

MATRICES: dict[str, tuple[Callable[[Graph], str], list[str]]] = {
    "factors and transpose": (
        lambda g: g("Gemm", "x", g.weight(5, 6), g.weight(1, 5), transB=1, alpha=0.5, beta=2.0),
        ["Gemm"],
    ),
    "no bias": (lambda g: g("Gemm", "x", g.weight(6, 5)), ["Gemm"]),
    "scalar bias": (lambda g: g("Gemm", "x", g.weight(6, 5), g.constant(0.5)), ["Gemm"]),
    "a bias a row": (lambda g: g("Gemm", "x", g.weight(6, 4), g.weight(4, 1)), ["Gemm"]),
    "transposed left": (lambda g: g("Gemm", "x", g.weight(4, 5), transA=1), ["Gemm"]),
    "matmul and bias": (lambda g: g("Add", g("MatMul", "x", g.weight(6, 5)), g.weight(1, 5)), ["Gemm"]),
    "matmul and a sum of rows": (
        lambda g: g("Add", g("MatMul", "x", g.weight(6, 4)), g.weight(4, 1)),
        ["MatMul", "Add"],
    ),
    "matmul read twice": (
        lambda g: g("Mul", m := g("MatMul", "x", g.weight(6, 5)), g("Add", m, g.weight(5))),
        ["MatMul", "Add", "Mul"],
    ),
}


@pytest.mark.parametrize("name", CANONICAL)
def test_canonicalize(name: str) -> None:
    build, expected = CANONICAL[name]
    model = check(_graph(build), "canonicalize", expected)
    assert "auto_pad" not in model.text()


@pytest.mark.parametrize("name", MATRICES)
def test_canonicalize_products(name: str) -> None:
    build, expected = MATRICES[name]
    check(_graph(build, (4, 6)), "canonicalize", expected)


def test_a_plain_gemm_has_no_attributes_and_a_vector() -> None:
    for name in ("factors and transpose", "no bias", "scalar bias", "matmul and bias"):
        model = passed(import_graph(_graph(MATRICES[name][0], (4, 6))), "canonicalize")
        gemm = next(op for op in body(model.module).ops if op.name == "onnx.Gemm")
        assert not gemm.properties
        assert [list(v.type.get_shape()) for v in gemm.operands] == [[4, 6], [6, 5], [5]]  # type: ignore[attr-defined]


def test_pads_add_up() -> None:
    model = passed(import_graph(_graph(CANONICAL["padding in front of a convolution"][0])), "canonicalize")
    conv = next(op for op in body(model.module).ops if op.name == "onnx.Conv")
    assert integers(conv.properties["pads"]) == (1, 3, 1, 1)
    assert location_names(conv) == ("pad0.node", "conv1.node")


def test_canonicalize_comes_to_rest() -> None:
    for build, _ in CANONICAL.values():
        once = passed(import_graph(_graph(build)), "canonicalize")
        assert passed(once, "canonicalize").text() == once.text()


def _norm(g: Graph, x: str, channels: int, **attributes: object) -> str:
    variance = g.constant(g.rng.uniform(0.5, 2, channels).astype(np.float32))
    arguments = [g.weight(channels, scale=1.0) for _ in range(3)]
    return g("BatchNormalization", x, *arguments, variance, **attributes)


FOLDED: dict[str, tuple[Callable[[Graph], str], list[str]]] = {
    "behind a convolution": (lambda g: _norm(g, _conv(g), 4, epsilon=1e-2), ["Conv"]),
    "behind one with bias and groups": (
        lambda g: _norm(g, g("Conv", "x", g.weight(6, 1, 3, 3), g.weight(6), group=3, pads=[1] * 4), 6),
        ["Conv"],
    ),
    "two, and a factor": (
        lambda g: g("Mul", g.weight(1, 4, 1, 1), _norm(g, _norm(g, _conv(g), 4), 4)),
        ["Conv"],
    ),
    "alone": (lambda g: g("Relu", _norm(g, "x", 3)), ["Conv", "Relu"]),
    "behind a convolution read twice": (lambda g: g("Add", c := _conv(g), _norm(g, c, 4)), ["Conv", "Conv", "Add"]),
    "a factor that is none a channel": (lambda g: g("Mul", _conv(g), g.weight(4, 4)), ["Conv", "Mul"]),
    "a gate": (lambda g: g("Mul", c := _conv(g), g("Sigmoid", c)), ["Conv", "Sigmoid", "Mul"]),
}


@pytest.mark.parametrize("name", FOLDED)
def test_fold_batch_norm(name: str) -> None:
    build, expected = FOLDED[name]
    check(_graph(build), "fold-batch-norm", expected)


def test_fold_batch_norm_of_one_dimension() -> None:
    def build(g: Graph) -> str:
        return _norm(g, g("Relu", _norm(g, g("Conv", "x", g.weight(4, 3, 3)), 4)), 4)

    check(_graph(build, (2, 3, 9)), "fold-batch-norm", ["Conv", "Relu", "Conv"])


def test_fused_ops_keep_the_names_of_their_parts() -> None:
    model = passed(import_graph(_graph(FOLDED["two, and a factor"][0])), "fold-batch-norm")
    conv = next(op for op in body(model.module).ops if op.name == "onnx.Conv")
    names = ("conv0.node", "batchnormalization1.node", "batchnormalization2.node", "mul3.node")
    assert location_names(conv) == names
