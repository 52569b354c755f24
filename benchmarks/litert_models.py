"""Converts a float ONNX model to a fully integer LiteRT model, the peer of `arm.py --litert`.

    python3.11 -m venv FOLDER; FOLDER/bin/pip install -r benchmarks/litert_requirements.txt
    FOLDER/bin/python benchmarks/litert_models.py MODEL.onnx CALIBRATION.npz OUT.tflite

TensorFlow does not go with what this project needs, hence the environment of its own. onnx2tf rebuilds the model with
channels last; TensorFlow's converter quantizes it after training: weights int8 per channel, activations, inputs and
outputs int8. CALIBRATION.npz has an array of samples for each input. Beside OUT.tflite, OUT.npz has the first sample as
the model takes it, by index of the tensor.

Prints the nodes that XNNPACK takes, and the least cosine, over samples, of the first output with that of the float
model in onnxruntime. Writes nothing and returns 1 for a cosine below `LEAST_COSINE`, and for models of anything but
images: MiniLM, which takes onnx2tf many minutes, has a cosine of 0.08 to 0.29 in integers (before: 1.00).
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import onnx2tf
import onnxruntime
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter, OpResolverType

LEAST_COSINE = 0.8


def convert(model: Path, samples: dict[str, np.ndarray]) -> bytes:
    """The LiteRT model."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        # onnx2tf looks here for images that it tries its layers with, and fetches them otherwise
        images = np.random.default_rng(0).random((20, 128, 128, 3), np.float32)
        np.save("calibration_image_sample_data_20x128x128x3_float32.npy", images)
        keras = onnx2tf.convert(input_onnx_file_path=str(model), output_folder_path=folder, non_verbose=True)

        def representative() -> Iterator[list[np.ndarray]]:
            for index in range(len(next(iter(samples.values())))):
                yield [channels_last(samples[entry.name][index]) for entry in keras.inputs]

        converter = tf.lite.TFLiteConverter.from_keras_model(keras)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = representative
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.lite.OpsSet.TFLITE_BUILTINS]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        return converter.convert()


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1)) if array.ndim == 4 else array


def taken_by_xnnpack(model: Path) -> tuple[int, int]:
    """The nodes that XNNPACK takes, and all nodes."""
    plain = Interpreter(str(model), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    interpreter = Interpreter(str(model), num_threads=1)
    interpreter.allocate_tensors()
    # delegates come last, in place of the nodes whose outputs they write
    producers = {tensor: node for node in interpreter._get_ops_details() for tensor in node["outputs"]}
    left, wanted, seen = set(), [entry["index"] for entry in interpreter.get_output_details()], set()
    while wanted:
        node = producers.get(wanted.pop())
        if node is None or node["index"] in seen:
            continue
        seen.add(node["index"])
        if node["op_name"] != "DELEGATE":
            left.add(node["index"])
        wanted += list(node["inputs"])
    total = len(plain._get_ops_details())
    return total - len(left), total


def inputs_of(interpreter: Interpreter, samples: dict[str, np.ndarray], index: int) -> dict[int, np.ndarray]:
    """A sample in the types and layouts of the model."""
    found = {}
    for entry in interpreter.get_input_details():
        value = channels_last(samples[entry["name"].removeprefix("serving_default_").removesuffix(":0")][index])
        scale, zero = entry["quantization"]
        if scale:
            value = np.clip(np.round(value / scale + zero), -128, 127)
        found[entry["index"]] = value.astype(entry["dtype"])
    return found


def least_cosine(model: Path, interpreter: Interpreter, samples: dict[str, np.ndarray]) -> float:
    """Over samples, of the first output with that of the float model."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    output, cosines = interpreter.get_output_details()[0], []
    scale, zero = output["quantization"]
    for index in range(len(next(iter(samples.values())))):
        for tensor, value in inputs_of(interpreter, samples, index).items():
            interpreter.set_tensor(tensor, value)
        interpreter.invoke()
        ours = interpreter.get_tensor(output["index"]).astype(np.float64).ravel()
        ours = (ours - zero) * scale if scale else ours
        theirs = np.ravel(session.run(None, {name: array[index] for name, array in samples.items()})[0]).astype(float)
        cosines.append(ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs))
    return min(cosines)


def main() -> None:
    model, calibration, out = (Path(argument).absolute() for argument in sys.argv[1:])
    with np.load(calibration) as arrays:
        samples = dict(arrays)
    if any(array[0].ndim != 4 for array in samples.values()):
        sys.exit(f"{model.name}: only models of images are converted")
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        converted, inputs = Path(folder) / out.name, Path(folder) / out.with_suffix(".npz").name
        converted.write_bytes(convert(model, samples))
        interpreter = Interpreter(str(converted), num_threads=1)
        interpreter.allocate_tensors()
        np.savez(inputs, **{str(tensor): value for tensor, value in inputs_of(interpreter, samples, 0).items()})
        taken, total = taken_by_xnnpack(converted)
        cosine = least_cosine(model, interpreter, samples)
        print(f"{model.name}: XNNPACK takes {taken} of {total} nodes, least cosine with the float model {cosine:.4f}")
        if not cosine >= LEAST_COSINE:
            sys.exit(f"{model.name}: does not agree with the float model")
        for file in (inputs, converted):
            file.replace(out.with_name(file.name))


if __name__ == "__main__":
    main()
