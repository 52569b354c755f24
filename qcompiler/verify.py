"""Proof on real inputs that an artifact computes the integers of its own IR.

Every integer tensor that the artifact stores is compared with the interpreter's, with `==`. Float islands may differ
by the rounding of float32, and through a quantize that can move an integer; so the interpreter goes on with the
artifact's own floats, and each integer op is judged on the operands it really had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from xdsl.ir import Operation

from qcompiler.bundle import Bundle
from qcompiler.errors import BundleError
from qcompiler.interpreter import Interpreter
from qcompiler.ir.onnx_dialect import OnnxOp
from qcompiler.model import Model


@dataclass(frozen=True)
class Difference:
    """An integer tensor that differs: how many elements, and by how much at most."""

    sample: int
    name: str
    elements: int
    largest: int


@dataclass
class Verification:
    """`tensors` integer tensors of `samples` inputs were compared; `float_error` is the largest error of a float
    tensor relative to its largest magnitude."""

    samples: int = 0
    tensors: int = 0
    elements: int = 0
    float_error: float = 0.0
    differences: tuple[Difference, ...] = ()

    @property
    def exact(self) -> bool:
        return self.tensors > 0 and not self.differences


def integer_program(bundle: Bundle) -> Model:
    """The IR that a bundle was made from: its last dump.

    Raises:
        BundleError: the bundle has no dumps.
    """
    dumps = sorted((Path(bundle.path) / "ir").glob("[0-9][0-9][0-9]_*.mlir"))
    if not dumps:
        raise BundleError(f"{bundle.path} holds no IR dumps; compile it again to verify it")
    return Model.load(dumps[-1])


def verify(
    bundle: Bundle, feeds: Iterable[Mapping[str, np.ndarray]], model: Model | None = None
) -> Verification:
    """Compares a bundle with the interpreter on `feeds`; `model` is its integer program unless the bundle's own."""
    interpreter = Interpreter(model if model is not None else integer_program(bundle))
    result = Verification()
    differences: list[Difference] = []
    for sample, feed in enumerate(feeds):
        inputs = dict(feed)
        stored = bundle.trace(inputs, logical=True)
        known = bundle.manifest.values

        def watch(op: Operation, results: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
            taken = list(results)
            for index, value in enumerate(op.results):
                name = interpreter.names[value]
                if name not in known:
                    continue
                found = stored[name]  # noqa: B023 - used within the iteration
                if known[name].layout == "NHWC-halo" and found.ndim == 4:
                    found = found.transpose(0, 2, 3, 1)
                found, own = found.reshape(results[index].shape), results[index]
                if isinstance(op, OnnxOp):
                    taken[index] = found
                if own.dtype.kind == "f":
                    scale = max(float(np.abs(own).max(initial=0.0)), 1e-30)
                    error = float(np.abs(found - own).max(initial=0.0)) / scale
                    result.float_error = max(result.float_error, error)
                    continue
                result.tensors += 1
                result.elements += own.size
                different = int(np.count_nonzero(found != own))
                if different:
                    largest = int(np.abs(found.astype(np.int64) - own.astype(np.int64)).max())
                    differences.append(Difference(sample, name, different, largest))  # noqa: B023
            return tuple(taken)

        interpreter.run(inputs, watch)
        result.samples += 1
    result.differences = tuple(differences)
    return result
