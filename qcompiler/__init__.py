"""qcompiler: ONNX models to integer programs with one semantics on every target."""

__version__ = "0.1.0"
