"""Models that the benchmarks share: pretrained networks where they are at hand, known topologies elsewhere.

The onnx package carries well-known networks without their weights (`light_*.onnx`: a constant in place of every
tensor). Here they get weights after He et al. (2015), normal with variance 2 / fan-in, and batch norms near the
identity, all of one seed: activations stay finite and different, and speed does not depend on more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

SHARED = Path(__file__).resolve().parent.parent.parent / "shared" / "models"
"""Folder of pretrained models, beside the repository; need not exist."""

PRETRAINED = {"mobilenetv2": "mobilenetv2_100_224.onnx", "squeezenet1.1": "squeezenet1.1.onnx"}
TOPOLOGIES = (
    "resnet50",
    "squeezenet",
    "shufflenet",
    "inception_v1",
    "inception_v2",
    "densenet121",
    "bvlc_alexnet",
    "zfnet512",
    "vgg19",
)
EVERYDAY = ("resnet50", "mobilenetv2", "squeezenet1.1", "shufflenet", "inception_v1", "inception_v2", "densenet121")
"""What a benchmark runs unless told otherwise."""


def model_path(name: str, folder: Path) -> Path:
    """The ONNX file of a model by name, or of a path; topologies are written into `folder`.

    Raises:
        FileNotFoundError: a pretrained model is not at hand.
        KeyError: the name is unknown.
    """
    if name.endswith(".onnx"):
        return Path(name)
    if name in PRETRAINED:
        path = SHARED / PRETRAINED[name]
        if not path.exists():
            raise FileNotFoundError(f"{name}: the pretrained model {path} is missing")
        return path
    if name not in TOPOLOGIES:
        raise KeyError(f"unknown model {name}; known: {', '.join((*PRETRAINED, *TOPOLOGIES))}, or a path")
    path = folder / f"{name}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(with_weights(light_model(name)), str(path))
    return path


def light_model(name: str) -> onnx.ModelProto:
    """A network of the onnx package, without weights."""
    return onnx.load(str(Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / f"light_{name}.onnx"))


def with_weights(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """The network with weights in place of the nodes that repeat a constant."""
    rng = np.random.default_rng(seed)
    graph = model.graph
    known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    repeats = [node for node in graph.node if node.op_type == "ConstantOfShape"]
    made = [
        numpy_helper.from_array(
            _weights(_uses(graph, node.output[0]), tuple(known[node.input[0]]), rng), node.output[0]
        )
        for node in repeats
    ]
    unused = {node.input[0] for node in repeats}
    initializers = [tensor for tensor in graph.initializer if tensor.name not in unused] + made
    constants = {tensor.name for tensor in initializers} | unused
    fresh = helper.make_graph(
        [node for node in graph.node if node.op_type != "ConstantOfShape"],
        graph.name,
        [value for value in graph.input if value.name not in constants],
        list(graph.output),
        initializers,
    )
    return helper.make_model(fresh, opset_imports=list(model.opset_import), ir_version=8)


def _uses(graph: onnx.GraphProto, name: str) -> tuple[str, int]:
    """Op that reads a weight, through changes of its shape, and which operand the weight is."""
    for node in graph.node:
        if name in node.input:
            if node.op_type in ("Unsqueeze", "Reshape"):
                return _uses(graph, node.output[0])
            return node.op_type, list(node.input).index(name)
    return "", 0


def _weights(use: tuple[str, int], shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    op, operand = use
    if op in ("Conv", "Gemm") and operand == 1:
        values = rng.normal(0, math.sqrt(2 / math.prod(shape[1:])), shape)
    elif (op, operand) == ("BatchNormalization", 4):  # variance
        values = rng.uniform(0.8, 1.2, shape)
    elif op == "Mul" or (op, operand) == ("BatchNormalization", 1):  # scale
        values = rng.uniform(0.5, 1, shape)
    else:
        values = rng.normal(0, 0.1, shape)
    return values.astype(np.float32)


class Images:
    """`count` feeds of smooth random images with mean 0 and variance 1, made when they are read."""

    def __init__(self, path: Path, count: int, seed: int = 0) -> None:
        graph = onnx.load(str(path), load_external_data=False).graph
        constants = {tensor.name for tensor in graph.initializer}
        self.shapes = {
            value.name: [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
            for value in graph.input
            if value.name not in constants
        }
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        rng = np.random.default_rng(self.seed)
        for _ in range(self.count):
            yield {name: _image(shape, rng) for name, shape in self.shapes.items()}


def _image(shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """Noise of several scales: each octave of squares of 1, 2, 4... pixels adds as much."""
    image = rng.standard_normal(shape)
    height, width = shape[-2:]
    size = 2
    while size <= min(height, width) // 4:
        coarse = rng.standard_normal((*shape[:-2], -(-height // size), -(-width // size)))
        image += coarse.repeat(size, -2).repeat(size, -1)[..., :height, :width]
        size *= 2
    return ((image - image.mean()) / image.std()).astype(np.float32)
