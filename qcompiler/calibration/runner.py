"""Runs the float model in onnxruntime with values observed, one sample at a time."""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from qcompiler.calibration.statistics import TensorStatistics
from qcompiler.errors import CalibrationError, ModelError

Progress = Callable[[int, int | None], None]

_FLOAT_TYPES = ("tensor(float)", "tensor(float16)", "tensor(double)")


def calibrate(
    model: onnx.ModelProto | str | os.PathLike[str],
    values: Sequence[str],
    feeds: Iterable[Mapping[str, np.ndarray]],
    progress: Progress | None = None,
    threads: int = 0,
    channel_axes: Mapping[str, int | None] | None = None,
    tails: bool = False,
) -> dict[str, TensorStatistics]:
    """Statistics of the named float values over all feeds.

    Every value is made an output of the model, so that onnxruntime keeps it through its fusions. One sample
    with all its observed values is in memory at a time.

    Args:
        model: the float model; its path if it has external data or more than 2 GB.
        values: names of node outputs and graph inputs.
        feeds: model inputs by name, one sample each, as `open_calibration` gives them.
        progress: called with the number of samples done and of all, if known. Without it a bar is drawn, if
            the standard error stream is a terminal.
        threads: of onnxruntime; 0 for all cores.
        channel_axes: the axis of the per-channel statistics (None: one channel for all), for values it names.
            Else it is axis 1, or the last one where a MatMul reads or writes the value; vectors and scalars
            have none.
        tails: whether to count the largest values of every channel too, for the range method `outlier`.

    Raises:
        ModelError: onnxruntime cannot load the model, or it has no value of that name.
        CalibrationError: no feeds, a failing run, a value that is not a float tensor or holds NaN.
    """
    proto = model if isinstance(model, onnx.ModelProto) else _load(Path(model))
    folder = None if isinstance(model, onnx.ModelProto) else Path(model).parent
    session = _session(proto, folder, values, threads)
    last_axis = {
        name for node in proto.graph.node if node.op_type == "MatMul" for name in (node.input[0], node.output[0])
    }
    axes = channel_axes or {}
    statistics: dict[str, TensorStatistics] = {}

    def observe(sample: int, feed: Mapping[str, np.ndarray]) -> None:
        for name, array in _run(session, feed, values, sample):
            if name not in statistics:
                default = (-1 if name in last_axis else 1) if array.ndim > 1 else None
                axis = axes.get(name, default)
                statistics[name] = TensorStatistics.empty(1 if axis is None else array.shape[axis], axis, tails)
            try:
                statistics[name].update(array)
            except CalibrationError as error:
                raise CalibrationError(
                    f"sample {sample}: value {name!r} of the float model {error}; check the model and its inputs"
                ) from None

    done = 0
    with _progress(progress, operator.length_hint(feeds) or None) as report:
        for feed in feeds:
            observe(done, feed)
            done += 1
            report(done)
    if not done:
        raise CalibrationError("the calibration data is empty, at least one sample is needed")
    return statistics


def _run(
    session: Any, feed: Mapping[str, np.ndarray], values: Sequence[str], sample: int
) -> Iterator[tuple[str, np.ndarray]]:
    """The values of one sample, each released after its turn."""
    fed = {value.name for value in session.get_inputs()}
    computed = [name for name in values if name not in fed]
    try:
        arrays = dict(zip(computed, session.run(computed, dict(feed)), strict=True)) if computed else {}
    except Exception as error:  # the errors of onnxruntime have no common base
        raise CalibrationError(f"sample {sample}: the float model does not run on it: {error}") from None
    for name in values:
        yield name, arrays.pop(name) if name in arrays else np.asarray(feed[name])


def _load(path: Path) -> onnx.ModelProto:
    try:
        return onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's DecodeError among others
        raise ModelError(f"{path}: cannot be read as an ONNX model: {error}") from None


def _session(proto: onnx.ModelProto, folder: Path | None, values: Sequence[str], threads: int) -> Any:
    """An onnxruntime session that can fetch every value that is not a graph input."""
    import onnxruntime

    graph = proto.graph
    inputs = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
    computed = {name for node in graph.node for name in node.output}
    unknown = [name for name in values if name not in inputs and name not in computed]
    if unknown:
        raise ModelError(f"the model has no values {', '.join(map(repr, unknown))} to observe")
    present = inputs | {value.name for value in graph.output}
    outputs = [onnx.ValueInfoProto(name=name) for name in values if name not in present]
    extra = onnx.ModelProto(graph=onnx.GraphProto(output=outputs))
    try:
        # Serialized messages merge when they are joined: repeated fields append.
        data = proto.SerializeToString() + extra.SerializeToString()
    except Exception:  # protobuf's EncodeError or ValueError, by version
        raise ModelError("the model is over 2 GB: save it with external data and pass its path") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are raised; their text need not be logged as well
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
    try:
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"onnxruntime cannot load the float model: {error}") from None
    for value in [*session.get_inputs(), *session.get_outputs()]:
        if value.name in values and value.type not in _FLOAT_TYPES:
            raise CalibrationError(f"value {value.name!r} is {value.type}: only float tensors are observed")
    return session


@contextmanager
def _progress(progress: Progress | None, total: int | None) -> Iterator[Callable[[int], None]]:
    if progress is not None:
        yield lambda done: progress(done, total)
        return
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("calibrating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.update(task, completed=done)
