"""Layers that a recipe gives float16: computed in vectors of it where the target can."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import Graph, feeds_of

import qcompiler
from qcompiler.errors import PipelineError
from qcompiler.frontends.onnx_import import import_graph
from qcompiler.ir.values import body, dtype_of
from qcompiler.recipe import LayerRule, Recipe
from qcompiler.targets.spec import resolve_target
from qcompiler.targets.toolchain import AARCH64_LINUX
from qcompiler.verify import verify

HALF = ("Sigmoid", "Mul", "Add", "Relu")

needs_arm = pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("aarch64-linux-gnu-gcc", "qemu-aarch64")),
    reason=f"needs the ARM toolchain: {AARCH64_LINUX.install}",
)


def model() -> onnx.ModelProto:
    """A convolution, a float island of pointwise layers, a convolution that reads it in integers."""
    g = Graph(x=(1, 8, 9, 11))
    y = g("Conv", "x", g.weight(16, 8, 3, 3), pads=[1, 1, 1, 1])
    y = g("Relu", g("Add", g("Mul", y, g("Sigmoid", y)), g.weight(16, 1, 1)))
    return g.proto(g("Conv", y, g.weight(8, 16, 1, 1)))


PROTO = model()
FEEDS = feeds_of(PROTO)


def quantized(target: str) -> qcompiler.Quantized:
    rules = [LayerRule(n.name, precision="float16") for n in PROTO.graph.node if n.op_type in HALF]
    rules += [LayerRule(n.name, precision="int8") for n in PROTO.graph.node if n.op_type == "Conv"]
    return qcompiler.quantize(import_graph(PROTO), FEEDS, target=target, recipe=Recipe(tuple(rules)))


def half_operations(result: qcompiler.Quantized) -> list[str]:
    return [
        op.name.removeprefix("onnx.")
        for op in body(result.model.module).ops
        if op.name.startswith("onnx.") and op.results and dtype_of(op.results[0]) == np.float16
    ]


def test_pointwise_layers_compute_in_float16_where_the_target_does() -> None:
    assert sorted(half_operations(quantized("arm-cpu"))) == sorted(["Cast", *HALF])
    assert half_operations(quantized("arm-cpu:cortex-a53")) == []
    assert half_operations(quantized("host:portable")) == []
    assert resolve_target("arm-cpu:cortex-a55").float16


@needs_arm
def test_float16_on_arm(tmp_path: Path) -> None:
    result = quantized("arm-cpu")
    qcompiler.compile(result, output=tmp_path / "out", target="arm-cpu")
    bundle = qcompiler.load_bundle(tmp_path / "out", emulate=True)
    assert "asimdhp" in bundle.manifest.cpu_flags
    checked = verify(bundle, FEEDS)
    assert checked.exact
    assert checked.float_error < 2e-3
    code = subprocess.run(
        ["aarch64-linux-gnu-objdump", "-d", "--no-show-raw-insn", tmp_path / "out" / "libmodel.so"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    kinds = set(re.findall(r"\t(f\w+)\tv\d+\.8h", code))
    assert {"fmul", "fmaxnm"} <= kinds or {"fmla", "fmaxnm"} <= kinds
    assert not re.search(r"\tfcvt\t[hs]\d+, [hs]\d+", code), "conversions of single elements"


def test_a_constant_too_large_for_float16() -> None:
    g = Graph(x=(1, 4))
    proto = g.proto(g("Add", "x", g.constant(np.full(4, 1e5, np.float32))))
    recipe = Recipe((LayerRule("add0.node", precision="float16"),))
    with pytest.raises(PipelineError, match="a constant of 100000 does not fit float16"):
        qcompiler.quantize(import_graph(proto), feeds_of(proto), recipe=recipe, target="arm-cpu")
