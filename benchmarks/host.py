"""Whole models: our bundle against onnxruntime, int8 and fp32, on one thread.

    python benchmarks/host.py [--layers] [--reuse] [--target host:avx2] [--rounds 15] [model ...]

onnxruntime's int8 model comes from its own static quantization: QDQ, minmax, per-channel int8 weights, uint8
activations, the same calibration images, after its own preprocessing; its quantizer needs opset 13, to which the
onnx package upgrades older models. All contenders run in this process and take turns; a time is the median over the
rounds of the process's CPU time of the second of two consecutive runs. A model is a name of `benchmarks/models.py`
or the path of an ONNX file. Models and bundles are kept in the work folder; `--reuse` takes bundles from there.
`--layers` adds a table of the steps of each bundle.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from models import EVERYDAY, Images, model_path
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from rich.console import Console
from rich.table import Table

import qcompiler
from qcompiler.bundle import Bundle
from qcompiler.ir.q_conv import ConvOp, MatMulOp
from qcompiler.ir.values import body, shape, value_names
from qcompiler.verify import integer_program

WORK = Path(__file__).resolve().parent.parent / "build" / "benchmarks"
CALIBRATION_IMAGES = 4
_OPSET = 13


@dataclass(frozen=True)
class Result:
    """Median seconds of one run of each contender."""

    ours: float
    int8: float
    fp32: float


class _Reader(CalibrationDataReader):
    def __init__(self, feeds: Images) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._feeds, None)


def quantized_by_onnxruntime(path: Path, folder: Path) -> Path:
    """onnxruntime's own static int8 form of a model, written into `folder` unless it is there."""
    result = folder / f"{path.stem}.onnxruntime.int8.onnx"
    if result.exists():
        return result
    prepared = folder / f"{path.stem}.prepared.onnx"
    model = onnx.load(str(path))
    if next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) < _OPSET:
        model = onnx.version_converter.convert_version(model, _OPSET)
    onnx.save(model, str(prepared))  # given the model itself, the preprocessing fails on shapes in external data
    quant_pre_process(str(prepared), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(result),
        _Reader(Images(path, CALIBRATION_IMAGES)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    prepared.unlink()
    return result


def session(path: Path, feeds: dict[str, np.ndarray]) -> Callable[[], float]:
    """A function that runs a model twice in onnxruntime and returns the CPU seconds of the second run."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    opened = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    binding = opened.io_binding()
    for name, value in feeds.items():
        binding.bind_cpu_input(name, value)
    for output in opened.get_outputs():
        binding.bind_output(output.name)

    def run() -> float:
        opened.run_with_iobinding(binding)
        start = time.process_time()
        opened.run_with_iobinding(binding)
        return time.process_time() - start

    return run


def compiled(path: Path, folder: Path, target: str, reuse: bool) -> Bundle:
    """The model's bundle in `folder`."""
    output = folder / f"{path.stem}.{target.replace(':', '-')}.bundle"
    if reuse and (output / "manifest.json").exists():
        return qcompiler.load_bundle(output)
    calibration = Images(path, CALIBRATION_IMAGES)
    return qcompiler.compile(path, target=target, calibration=calibration, output=output)


def contest(path: Path, bundle: Bundle, folder: Path, rounds: int) -> Result:
    """Times of the three contenders on one image."""
    feeds = next(iter(Images(path, 1, seed=1)))
    contenders = (
        lambda: bundle.bench(1, feeds, clock=time.process_time)[0],
        session(quantized_by_onnxruntime(path, folder), feeds),
        session(path, feeds),
    )
    times = [[run() for run in contenders] for _ in range(rounds)]
    return Result(*np.median(times, axis=0).tolist())


def layers(path: Path, bundle: Bundle, rounds: int) -> Table:
    """Time, rate and rule of each step, most expensive first."""
    steps = bundle.manifest.steps
    seconds = bundle.profile(rounds, next(iter(Images(path, 1, seed=1))), clock=time.process_time)
    total = sum(seconds)
    macs = multiply_adds(bundle)
    table = Table("step", "rule", "us", "%", "GOP/s", title=f"{path.stem}: {total * 1e3:.2f} ms in {len(steps)} steps")
    for column in table.columns[2:]:
        column.justify = "right"
    for step, time_ in sorted(zip(steps, seconds, strict=True), key=lambda pair: -pair[1]):
        work = macs.get(step.outputs[0], 0)
        rate = f"{2e-9 * work / time_:.0f}" if work else ""
        table.add_row(step.location, step.rule, f"{time_ * 1e6:.1f}", f"{100 * time_ / total:.1f}", rate)
    return table


def multiply_adds(bundle: Bundle) -> dict[str, int]:
    """Of each convolution and matrix product, by the buffer of its result."""
    module = integer_program(bundle).module
    names, known = value_names(module), bundle.manifest.values
    found = {}
    for op in body(module).ops:
        if isinstance(op, ConvOp):
            found[known[names[op.y]].buffer] = prod(shape(op.y)) * prod(shape(op.w)[1:])
        elif isinstance(op, MatMulOp):
            found[known[names[op.y]].buffer] = prod(shape(op.y)) * shape(op.a)[-1]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Bundles against onnxruntime int8 and fp32, model by model.")
    parser.add_argument("models", nargs="*", default=EVERYDAY, help="names of benchmarks/models.py or ONNX files")
    parser.add_argument("--target", default="host")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--layers", action="store_true", help="a table of every step of every model")
    parser.add_argument("--reuse", action="store_true", help="take bundles that the work folder has")
    parser.add_argument("--work", type=Path, default=WORK, help="folder for models and bundles")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    console = Console(width=140)
    table = Table("model", "ours ms", "int8 ms", "fp32 ms", "int8 / ours", "fp32 / ours", title="against onnxruntime")
    for column in table.columns[1:]:
        column.justify = "right"
    for name in arguments.models:
        path = model_path(name, arguments.work)
        bundle = compiled(path, arguments.work, arguments.target, arguments.reuse)
        result = contest(path, bundle, arguments.work, arguments.rounds)
        row = [f"{seconds * 1e3:.2f}" for seconds in (result.ours, result.int8, result.fp32)]
        row += [f"{result.int8 / result.ours:.2f}", f"{result.fp32 / result.ours:.2f}"]
        console.print(name, *row)
        table.add_row(name, *row)
        if arguments.layers:
            console.print(layers(path, bundle, arguments.rounds))
    console.print(table)


if __name__ == "__main__":
    main()
