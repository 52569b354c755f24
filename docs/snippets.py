"""Writes the dumps that stand in these documents: `python docs/snippets.py`.

A document marks the place of a dump by a line `<!-- dump: NAME -->`; the code block behind it is replaced. The tests
compare the blocks with what the compiler prints now, numbers aside.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import qcompiler
from qcompiler.frontends.onnx_import import import_graph
from qcompiler.frontends.onnx_load import normalize
from qcompiler.model import Model
from qcompiler.pipeline import CompilerContext, PassManager, parse
from qcompiler.targets.spec import resolve_target

DOCS = Path(__file__).resolve().parent
DIGITS = DOCS.parent / "examples" / "digits"

PASSES = (
    "canonicalize",
    "fold-batch-norm",
    "calibrate",
    "choose-scheme",
    "correct-bias",
    "insert-qdq",
    "integerize",
    "legalize",
    "fold-zero-point",
    "plan-layout",
)


def small_model() -> onnx.ModelProto:
    """Convolution with batch normalization and ReLU, then a convolution and hard-swish written out."""
    rng = np.random.default_rng(0)
    weights: list[onnx.TensorProto] = []

    def constant(name: str, value: object) -> str:
        weights.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    nodes = [
        helper.make_node(
            "Conv", ["x", constant("w1", rng.normal(0, 0.5, (2, 3, 3, 3)))], ["c1"], "conv1", auto_pad="SAME_UPPER"
        ),
        helper.make_node(
            "BatchNormalization",
            ["c1", *(constant(n, rng.uniform(0.5, 1.5, 2)) for n in ("gamma", "beta", "mean", "variance"))],
            ["n1"],
            "norm1",
        ),
        helper.make_node("Relu", ["n1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", constant("w2", rng.normal(0, 0.5, (2, 2, 1, 1)))], ["c2"], "conv2"),
        helper.make_node("HardSwish", ["c2"], ["y"], "swish2"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 4, 4])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def operations(model: Model) -> str:
    """The function's operations as a dump has them, without locations; reasons and resource types shortened."""
    lines = [line for line in model.text().splitlines() if re.match(r" +(%|func\.)", line)]
    text = "\n".join(line.removeprefix("  ") for line in lines)
    text = re.sub(r" loc\((?:fused\[[^\]]*\]|\"[^\"]*\")\)", "", text)
    return re.sub(r'q\.why(_weight)? = "[^"]*"', r'q.why\1 = "..."', text)


@cache
def small() -> dict[str, str]:
    """The small model after its import and after each pass."""
    loaded = normalize(small_model())
    model = import_graph(loaded.proto, loaded.arrays, "small.onnx")
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.normal(0.5, 1, (1, 3, 4, 4)).astype(np.float32)} for _ in range(8)]
    found = {"import": operations(model)}
    context = CompilerContext(model.store, calibration=feeds, target=resolve_target("host:portable"))
    for name in PASSES:
        PassManager(parse(name)).run(model, context)
        found[name] = operations(model)
        if name == "integerize":
            other = model.clone()
            PassManager(parse("legalize{storage=i8 rounding=fixed2}")).run(other, CompilerContext())
            found["legalize-i8"] = operations(other)
    return found


@cache
def digits() -> str:
    """The last dump of the digit classifier, whole."""
    model = qcompiler.import_onnx(DIGITS / "digits.onnx")
    return qcompiler.quantize(model, DIGITS / "calibration.npz", target="host:portable").model.text()


def dump(name: str) -> str:
    """The text that belongs behind the mark NAME, `SOURCE REGEX`: the lines in which the expression is found.

    SOURCE is `digits`, or a pass: the small model after it.
    """
    source, _, pattern = name.partition(" ")
    text = digits() if source == "digits" else small()[source]
    lines = [line.strip() for line in text.splitlines() if re.search(pattern, line)]
    assert lines, name
    return "\n".join(lines)


BLOCK = re.compile(r"(<!-- dump: (.+?) -->\n+```mlir\n)((?:(?!```).*\n)*)(```)")
"""A mark and its code block: what stands in front of the dump, the name, the dump, the end."""


def main() -> None:
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        new = BLOCK.sub(lambda match: match[1] + dump(match[2]) + "\n" + match[4], text)
        if new != text:
            path.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
