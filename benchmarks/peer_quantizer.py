"""onnxruntime's static quantization in the settings its users try, as the peer of `accuracy.py`."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

import qcompiler
from qcompiler.exporters.onnx_export import export_onnx


@dataclass(frozen=True)
class Setting:
    """One way to call `quantize_static`; `samples` bounds the calibration, as the histograms keep all activations."""

    method: str = "MinMax"
    samples: int = 128
    only_products: bool = False
    """Quantize Conv, MatMul and Gemm alone."""
    symmetric: bool = False
    """Signed symmetric activations in place of unsigned affine ones."""
    reduced: bool = False
    """Weights of 7 bits."""


SETTINGS = {
    "minmax": Setting(),
    "minmax, products": Setting(only_products=True),
    "minmax, symmetric": Setting(symmetric=True),
    "minmax, 7-bit weights": Setting(reduced=True),
    "percentile": Setting("Percentile", 32),
    "percentile, products": Setting("Percentile", 32, only_products=True),
    "entropy": Setting("Entropy", 32),
}


def upgraded(path: Path, folder: Path) -> Path:
    """The model at the opset this project imports to: onnxruntime's quantizer fails on several files as published."""
    out = folder / "float.onnx"
    model = qcompiler.import_onnx(path)
    onnx.save(export_onnx(model.module, model.store), out)
    return out


def quantize(path: Path, setting: Setting, feeds: Iterable[Mapping[str, np.ndarray]], out: Path) -> None:
    """Writes the QDQ model of `path`, a float model, to `out`; raises what onnxruntime raises."""
    from onnxruntime import quantization as ort

    class Reader(ort.CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.feeds, None)  # type: ignore[return-value]

    kind = ort.QuantType.QInt8 if setting.symmetric else ort.QuantType.QUInt8
    options = {"WeightSymmetric": True, "ActivationSymmetric": setting.symmetric, "CalibPercentile": 99.99}
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):
        ort.quantize_static(
            str(path),
            str(out),
            Reader(),
            op_types_to_quantize=["Conv", "MatMul", "Gemm"] if setting.only_products else None,
            per_channel=True,
            reduce_range=setting.reduced,
            activation_type=kind,
            weight_type=ort.QuantType.QInt8,
            calibrate_method=ort.CalibrationMethod[setting.method],
            extra_options=options,
        )
