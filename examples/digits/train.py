"""Trains a small digit classifier and writes it as ONNX, with calibration and test data.

    pip install torch==2.13.0 scikit-learn onnx onnxruntime
    python examples/digits/train.py

The data are the 1,797 handwritten digits of 8x8 pixels that scikit-learn carries (the test set of "Optical
Recognition of Handwritten Digits" of the UCI repository, CC BY 4.0), scaled to 0..1. A fifth, stratified, is
held out for the test; calibration data are 128 of the training images. Everything is seeded and runs on one
thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

FOLDER = Path(__file__).parent
CALIBRATION_SAMPLES = 128
EPOCHS = 40


def conv(inputs: int, outputs: int, kernel: int, groups: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, and its batch normalization."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Digits(nn.Module):
    """Stem, depthwise-separable block, pooling, residual block, global average, fully connected layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(1, 16, 3)
        self.depthwise = conv(16, 16, 3, groups=16)
        self.pointwise = conv(16, 32, 1)
        self.residual1 = conv(32, 32, 3)
        self.residual2 = conv(32, 32, 3)
        self.classifier = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = nn.functional.relu6(self.depthwise(x))
        x = torch.relu(self.pointwise(x))
        x = nn.functional.max_pool2d(x, 2)
        x = torch.relu(x + self.residual2(torch.relu(self.residual1(x))))
        return self.classifier(x.mean((2, 3)))


def train(images: np.ndarray, labels: np.ndarray) -> Digits:
    """Trains on `[n, 1, 8, 8]` images, each shifted by up to one pixel in every epoch."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    model = Digits()
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    batch, steps = 32, EPOCHS * (len(x) // 32)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for _ in range(EPOCHS):
        order = torch.randperm(len(x))
        for begin in range(0, len(x) - batch + 1, batch):
            chosen = order[begin : begin + batch]
            dy, dx = torch.randint(0, 3, (2,)).tolist()
            shifted = nn.functional.pad(x[chosen], (1, 1, 1, 1))[:, :, dy : dy + 8, dx : dx + 8]
            loss = nn.functional.cross_entropy(model(shifted), y[chosen], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


class Graph:
    """Collects ONNX nodes and weights; every node is named after its layer, its output after the node."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, values: torch.Tensor | np.ndarray) -> str:
        array = values.detach().numpy() if isinstance(values, torch.Tensor) else values
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind: str, name: str, inputs: Sequence[str], **attributes: object) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def conv(self, name: str, x: str, layer: nn.Sequential) -> str:
        convolution, norm = layer
        kernel = convolution.kernel_size[0]
        x = self.node(
            "Conv",
            f"{name}/conv",
            [x, self.weight(f"{name}/conv/weight", convolution.weight)],
            kernel_shape=[kernel, kernel],
            pads=[kernel // 2] * 4,
            group=convolution.groups,
        )
        parameters = {
            "scale": norm.weight,
            "bias": norm.bias,
            "mean": norm.running_mean,
            "variance": norm.running_var,
        }
        names = [self.weight(f"{name}/norm/{key}", value) for key, value in parameters.items()]
        return self.node("BatchNormalization", f"{name}/norm", [x, *names], epsilon=norm.eps)


def export(model: Digits) -> onnx.ModelProto:
    """The model in ONNX, batch norms unfolded: input `image` [1, 1, 8, 8], output `logits` [1, 10]."""
    graph = Graph()
    x = graph.node("Relu", "stem/relu", [graph.conv("stem", "image", model.stem)])
    zero, six = (graph.weight(f"depthwise/{v}", np.array(v, np.float32)) for v in (0, 6))
    x = graph.node("Clip", "depthwise/relu6", [graph.conv("depthwise", x, model.depthwise), zero, six])
    x = graph.node("Relu", "pointwise/relu", [graph.conv("pointwise", x, model.pointwise)])
    x = graph.node("MaxPool", "pool", [x], kernel_shape=[2, 2], strides=[2, 2])
    y = graph.node("Relu", "residual1/relu", [graph.conv("residual1", x, model.residual1)])
    y = graph.conv("residual2", y, model.residual2)
    x = graph.node("Relu", "residual/relu", [graph.node("Add", "residual/add", [x, y])])
    x = graph.node("GlobalAveragePool", "average", [x])
    x = graph.node("Flatten", "flatten", [x], axis=1)
    weight = graph.weight("classifier/weight", model.classifier.weight)
    bias = graph.weight("classifier/bias", model.classifier.bias)
    graph.node("Gemm", "classifier", [x, weight, bias], transB=1)
    graph.nodes[-1].output[0] = "logits"
    proto = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "digits",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, 8, 8])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 10])],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="examples/digits/train.py",
    )
    onnx.checker.check_model(proto, full_check=True)
    return proto


def main() -> None:
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32).reshape(-1, 1, 8, 8)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels.astype(np.int64), test_size=0.2, stratify=labels, random_state=0
    )
    onnx.save(export(train(train_x, train_y)), FOLDER / "digits.onnx")
    np.savez_compressed(FOLDER / "calibration.npz", image=train_x[:CALIBRATION_SAMPLES])
    np.savez_compressed(FOLDER / "test.npz", image=test_x, labels=test_y)

    session = onnxruntime.InferenceSession(FOLDER / "digits.onnx")
    predicted = [session.run(None, {"image": image[None]})[0].argmax() for image in test_x]
    print(f"test accuracy {np.mean(predicted == test_y):.4f} on {len(test_y)} images")


if __name__ == "__main__":
    main()
