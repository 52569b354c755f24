"""What tests of bad input share: a small model, samples for it, and a command that must fail as promised.

The promise: one clear message, exit code 2, no traceback, nothing half-written. Every failing command
runs in a folder of its own; what lies in the folder before must lie there afterwards, byte for byte, and nothing else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_graphs import Graph

from qcompiler.cli import main

F32 = np.float32


def plain() -> onnx.ModelProto:
    """Input x [1, 3, 8, 8]; Conv, Relu, a mean, Gemm."""
    g = Graph(x=(1, 3, 8, 8))
    y = g("Relu", g("Conv", "x", g.weight(4, 3, 3, 3), g.weight(4), pads=[1, 1, 1, 1]))
    y = g("Flatten", g("GlobalAveragePool", y))
    return g.proto(g("Gemm", y, g.weight(4, 5), g.weight(5)))


def samples(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 1, (count, 3, 8, 8)).astype(F32)


def tree(folder: Path) -> dict[str, bytes | None]:
    """All files and folders below, with the files' content."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != ".ses"  # onnxruntime's, in the folder for temporary files
    }


class Fails:
    """Runs a command that must fail as promised, and returns its message."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.capfd = capfd

    def __call__(self, *arguments: str) -> str:
        before = tree(self.folder)
        self.capfd.readouterr()
        code = main(arguments)
        captured = self.capfd.readouterr()
        assert code == 2, f"exit code {code}\n{captured.err}"
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("error: ") == 1, "one message"
        assert len(captured.err) < 1500
        assert "Traceback" not in captured.err
        assert tree(self.folder) == before, "nothing written, nothing changed"
        return captured.err


def compiling(*more: str, data: str = "data.npz", out: str = "new") -> list[str]:
    return ["compile", "model.onnx", "--calibration", data, "-o", out, *more]


def write(path: str, content: bytes) -> None:
    """Writes a file in the working folder."""
    Path(path).write_bytes(content)


def bare_from(g: Graph) -> onnx.ModelProto:
    """The nodes of a graph as a model; nothing inferred or checked."""
    graph = helper.make_graph(
        g.nodes,
        "graph",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in g.inputs.items()],
        [onnx.ValueInfoProto(name=g.nodes[-1].output[0])],
        [numpy_helper.from_array(a, n) for n, a in g.weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
