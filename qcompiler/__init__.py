"""qcompiler: ONNX models to integer programs with one semantics on every target."""
