"""The quantization cases of the onnx package itself: import, interpreter and host build give the expected values."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.backend.test.case import node as node_cases

import qcompiler

COUNTS = {
    "quantizelinear": 13,
    "dequantizelinear": 14,
    "dynamicquantizelinear": 6,
    "qlinearconv": 1,
    "qlinearmatmul": 8,
    "convinteger": 2,
    "matmulinteger": 1,
}


def _collect() -> dict[str, node_cases.TestCase]:
    """The cases by name; the package's own `collect_testcases` would make those of all operators, which takes long."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for module in COUNTS:
            importlib.import_module(f"{node_cases.__name__}.{module}")
    found = {case.name.removeprefix("test_"): case for case in node_cases._NodeTestCases}
    return {name: case for name, case in found.items() if name.startswith(tuple(COUNTS))}


CASES = _collect()


def array_of(value: np.ndarray | onnx.TensorProto) -> np.ndarray:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def bits(array: np.ndarray) -> np.ndarray:
    """An array whose equality is that of all bits."""
    return array.view(f"u{array.dtype.itemsize}")


def test_the_package_has_the_cases_counted_here() -> None:
    for prefix, count in COUNTS.items():
        assert sum(name.startswith(prefix) for name in CASES) == count
    assert len(CASES) == 45


@pytest.mark.parametrize("name", CASES)
def test_case(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    path = tmp_path / "model.onnx"
    onnx.save_model(case.model, str(path))
    quantized = qcompiler.quantize(qcompiler.import_onnx(path), None)
    bundle = qcompiler.compile(quantized, output=tmp_path / "bundle")
    for inputs, outputs in case.data_sets:
        feeds = {v.name: array_of(a) for v, a in zip(case.model.graph.input, inputs, strict=True)}
        # float16 is computed as float32, at the interface too
        feeds = {key: a.astype(np.float32) if a.dtype == np.float16 else a for key, a in feeds.items()}
        own, compiled = qcompiler.interpret(quantized, feeds), bundle.run(feeds)
        for value, expected in zip(case.model.graph.output, map(array_of, outputs), strict=True):
            for result in (own[value.name], compiled[value.name]):
                if expected.dtype == np.float16:
                    result = result.astype(np.float16)
                assert result.dtype == expected.dtype
                assert result.shape == expected.shape
                assert np.array_equal(bits(result), bits(expected)), f"{result} instead of {expected}"
            assert np.array_equal(bits(own[value.name]), bits(compiled[value.name]))
    exported = onnx.load(bundle.path / "model.qdq.onnx")
    onnx.checker.check_model(exported, full_check=True)
