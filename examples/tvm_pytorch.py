"""A network written in PyTorch, quantized inside TVM and built by TVM, with the interpreter's integers.

    python examples/tvm_pytorch.py

Needs PyTorch (`pip install torch`). The network is of torchvision's kind, inverted residuals and all, with random
weights.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import tvm
from torch import Tensor, nn
from tvm import relax
from tvm.relax.frontend.torch import from_exported_program

import qcompiler
import qcompiler.tvm
from qcompiler.errors import QCompilerError

SHAPE = (1, 3, 64, 64)


def convolution(channels: int, wanted: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """A convolution with batch normalization and ReLU6."""
    return nn.Sequential(
        nn.Conv2d(channels, wanted, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(wanted),
        nn.ReLU6(),
    )


class InvertedResidual(nn.Module):
    """MobileNetV2's block: widen, filter each channel, narrow; the input is added where the shapes allow it."""

    def __init__(self, channels: int, wanted: int, stride: int) -> None:
        super().__init__()
        self.adds = stride == 1 and channels == wanted
        wide = 4 * channels
        self.body = nn.Sequential(
            convolution(channels, wide, 1),
            convolution(wide, wide, 3, stride, groups=wide),
            nn.Conv2d(wide, wanted, 1, bias=False),
            nn.BatchNorm2d(wanted),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        return x + y if self.adds else y


def network() -> nn.Module:
    """A small image classifier; its batch normalizations have seen some images."""
    torch.manual_seed(1)
    model = nn.Sequential(
        convolution(3, 16, 3, 2),
        InvertedResidual(16, 16, 1),
        InvertedResidual(16, 24, 2),
        InvertedResidual(24, 24, 1),
        convolution(24, 96, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(96, 10),
    )
    with torch.no_grad():
        for _ in range(20):
            model(torch.rand(4, *SHAPE[1:]))
    return model.eval()


def main() -> None:
    program = torch.export.export(network(), (torch.rand(SHAPE),))
    module = from_exported_program(program)
    name = module["main"].params[0].name
    rng = np.random.default_rng(0)
    images = [{name: rng.random(SHAPE, np.float32)} for _ in range(24)]

    passes = tvm.transform.Sequential(
        [relax.transform.CanonicalizeBindings(), qcompiler.tvm.Quantize(images[:16], target="host")]
    )
    quantized = passes(module)
    built = relax.build(quantized, qcompiler.tvm.target("host"), relax_pipeline=qcompiler.tvm.pipeline("host"))
    machine = relax.VirtualMachine(built, tvm.cpu())

    (region,) = qcompiler.tvm.regions(quantized)
    integers = qcompiler.tvm.region_model(quantized, region)
    model = network()
    for image in images[16:]:
        result = machine["main"](tvm.runtime.tensor(image[name]))
        (expected,) = qcompiler.interpret(integers, image).values()
        found = (result[0] if isinstance(result, tuple | tvm.ir.Array) else result).numpy()
        if found.tobytes() != expected.tobytes():
            sys.exit("error: TVM's result differs from the interpreter's")
        with torch.no_grad():
            real = model(torch.from_numpy(image[name])).numpy()
        print(f"largest logit {real.max():.4f} in PyTorch, {found.max():.4f} in integers")
    print("8 images: every output equals the interpreter's, bit for bit")


if __name__ == "__main__":
    try:
        main()
    except QCompilerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
