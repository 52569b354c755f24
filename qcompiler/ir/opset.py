"""The one ONNX opset that the `onnx` dialect, the exporters and the interpreter speak."""

OPSET = 21

WIDER = {"QuantizeLinear": 28, "DequantizeLinear": 28}
"""Ops that the dialect has at a later version: it means the same and takes more types."""


def version_of(op: str) -> int:
    """The version at which the dialect has an op of ONNX."""
    return WIDER.get(op, OPSET)
