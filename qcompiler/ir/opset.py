"""The one ONNX opset that the `onnx` dialect, the exporters and the interpreter speak."""

OPSET = 21
