"""Reading the IR on the command line: `diff`, `opt --print-after --only`, and graphs for other programs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from qcompiler.cli import main
from qcompiler.ir.text import parse_module
from qcompiler.model import Model
from qcompiler.report.changes import changes
from qcompiler.report.nodes import nodes_of

TWO = """\
!u = !quant.uniform<u8:f32, {scale}:100>
func.func @main(%x: tensor<4x4xf32> {{onnx.name = "x"}}) -> (tensor<4x4xf32>) {{
  {constant}
  %q = "q.quantize"(%x) : (tensor<4x4xf32>) -> tensor<4x4x!u> loc("x")
  %d = "q.dequantize"(%q) : (tensor<4x4x!u>) -> tensor<4x4xf32> loc("x")
  %a = "onnx.{op}"({operands}) : (tensor<4x4xf32>, tensor<4x4xf32>) -> tensor<4x4xf32> loc("sum")
  %b = "onnx.Relu"(%a) : (tensor<4x4xf32>) -> tensor<4x4xf32> loc("relu")
  func.return %b : tensor<4x4xf32>
}}
"""
CONSTANT = '%c = "q.constant"() {value = dense_resource<c> : tensor<4x4xf32>} : () -> tensor<4x4xf32>'


def model(scale: str = "5.0e-01", op: str = "Add", operands: str = "%d, %c", text: str = TWO, c: float = 1.0) -> Model:
    module = parse_module(text.format(scale=scale, op=op, operands=operands, constant=CONSTANT))
    found = Model(module)
    found.store.put("c", np.full((4, 4), c, np.float32))
    return found


def test_the_same_has_no_changes() -> None:
    assert changes(model(), model()) == []
    renamed = TWO.replace("%a", "%sum").replace("%b", "%7")
    assert changes(model(), model(text=renamed)) == [], "names of values in the text are no difference"


def test_types_operations_operands_and_elements() -> None:
    (quantize,) = changes(model(), model(scale="2.5e-01"))
    assert (quantize.name, quantize.op) == ("x#2", "q.quantize")
    was, now = "4x4 u8, scale 0.5, zero point 100", "4x4 u8, scale 0.25, zero point 100"
    assert quantize.details == (f"type: {was} -> {now}",)
    (change,) = changes(model(), model(op="Mul"))
    assert (change.name, change.details) == ("sum", ("operation: onnx.Add -> onnx.Mul",))
    (change,) = changes(model(), model(operands="%c, %d"))
    assert change.details == ("operands: x#3, c -> c, x#3",)
    (change,) = changes(model(), model(c=1.5))
    assert (change.name, change.op) == ("c", "q.constant")
    assert change.details == ("16 of 16 elements differ, by up to 0.5",)


def test_added_and_removed() -> None:
    without = re.sub(r'.*"onnx.Relu".*\n', "", TWO).replace("return %b", "return %a")
    gone = changes(model(), model(text=without))
    assert [(c.kind, c.name) for c in gone] == [("removed", "relu"), ("changed", "output:output0")]
    fused = without.replace('loc("sum")', 'loc(fused["sum", "relu"])')
    (removed, *_) = changes(model(), model(text=fused))
    assert (removed.kind, removed.name, removed.details) == ("removed", "sum", ("now in relu (onnx.Add)",))
    added = changes(model(text=without), model())
    assert ("added", "relu", ("4x4 f32",)) in [(c.kind, c.name, c.details) for c in added]


def test_names_do_not_count_constants() -> None:
    assert [node.name for node in nodes_of(model())] == ["x", "c", "x#2", "x#3", "sum", "relu", "output:output0"]


def test_diff_of_dumps_and_bundles(here_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = (next((here_bundle / "out" / "ir").glob(f"*_{n}.mlir")) for n in ("insert-qdq", "integerize"))
    capsys.readouterr()
    assert main(["diff", str(before), str(after)]) == 0
    printed = capsys.readouterr().out
    assert "operation: onnx.Relu -> q.conv" in printed
    assert "removed  conv0.node (onnx.Conv)\n           now in relu1.node (q.conv)" in printed
    assert main(["diff", str(before), str(after), "--json"]) == 0
    kinds = {change["kind"] for change in json.loads(capsys.readouterr().out)}
    assert kinds == {"added", "removed", "changed"}
    assert main(["diff", "out", "out"]) == 0
    assert capsys.readouterr().out == "out -> out: the same nodes and types\n"


def test_print_after_a_pass(here_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump = str(next((here_bundle / "out" / "ir").glob("*_insert-qdq.mlir")))
    pipeline = "integerize,legalize"
    capsys.readouterr()
    assert main(["opt", dump, "-p", pipeline, "--print-after", "integerize"]) == 0
    whole = capsys.readouterr().out
    assert whole.startswith("// after integerize\n") and 'q.stage = "integer"' in whole
    assert main(["opt", dump, "-p", pipeline, "--print-after", "legalize", "--only", "conv0.node", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)["printed"]
    assert entry["after"] == "legalize"
    lines = entry["text"].splitlines()
    assert [re.findall(r'"(q\.\w+)"', line) for line in lines].count(["q.conv"]) == 1
    assert all("q.conv" in line or "q.constant" in line for line in lines)
    assert main(["opt", dump, "-p", pipeline, "--only", "*.node"]) == 0
    selected = capsys.readouterr().out
    assert main(["opt", dump, "-p", pipeline]) == 0
    text = capsys.readouterr().out
    operations = [line for line in selected.splitlines() if line.startswith("%")]
    assert operations
    assert {line.strip() for line in text.splitlines()} >= set(operations), "lines are those of the whole text"


def test_bad_places_to_print(here_bundle: Path, fails) -> None:  # type: ignore[no-untyped-def]
    dump = str(next((here_bundle / "out" / "ir").glob("*_insert-qdq.mlir")).relative_to(here_bundle))
    message = fails("opt", dump, "-p", "integerize", "--print-after", "legalize")
    assert "legalize" in message and "it has integerize" in message
    assert "'nothing'" in fails("opt", dump, "-p", "integerize", "--only", "nothing", "-o", "new.mlir")
    assert "diff" not in fails("diff", dump, "missing.mlir")


@pytest.mark.parametrize("source", ["out", "model.onnx", "insert-qdq"])
def test_graphs_for_other_programs(here_bundle: Path, source: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = source if "-" not in source else str(next((here_bundle / "out" / "ir").glob(f"*_{source}.mlir")))
    assert main(["export", path, "-o", "graph.dot", "--format", "dot"]) == 0
    text = Path("graph.dot").read_text()
    assert text.startswith("digraph ") and text.endswith("}\n")
    boxes = re.findall(r'^  ("(?:[^"\\]|\\.)*") \[label=', text, re.MULTILINE)
    edges = re.findall(r'^  ("(?:[^"\\]|\\.)*") -> ("(?:[^"\\]|\\.)*") ', text, re.MULTILINE)
    assert {end for edge in edges for end in edge} == set(boxes), "all that is drawn is connected"
    assert main(["export", path, "-o", "graph.onnx", "--format", "viewer"]) == 0
    graph = onnx.load("graph.onnx").graph
    made = {i.name for i in graph.input} | {i.name for i in graph.initializer}
    for node in graph.node:
        assert made >= {name for name in node.input if name}
        made |= set(node.output)
    assert made >= {o.name for o in graph.output}
    assert ("q" in {node.domain for node in graph.node}) == (source != "model.onnx")
