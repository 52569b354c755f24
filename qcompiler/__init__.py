"""qcompiler: ONNX models to integer programs with one semantics on every target.

model = qcompiler.import_onnx("model.onnx")
bundle = qcompiler.compile(model, calibration="data.npz", target="host", output="out/")
bundle.run({"input": array})
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qcompiler.api import Quantized, compile, export, import_onnx, interpret, load_bundle, quantize
    from qcompiler.precision_search import search
    from qcompiler.sensitivity import measure_sensitivity

__version__ = "0.1.0"

__all__ = [
    "Quantized",
    "compile",
    "export",
    "import_onnx",
    "interpret",
    "load_bundle",
    "measure_sensitivity",
    "quantize",
    "search",
]
_HOMES = {"measure_sensitivity": "qcompiler.sensitivity", "search": "qcompiler.precision_search"}


def __getattr__(name: str) -> Any:
    """Loads the functions when they are first asked for: importing the package stays quick."""
    if name in __all__:
        return getattr(import_module(_HOMES.get(name, "qcompiler.api")), name)
    raise AttributeError(f"module 'qcompiler' has no attribute '{name}'")
