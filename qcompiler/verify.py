"""Proof on real inputs that an artifact computes the integers of its own IR.

Every integer tensor that the artifact stores is compared with the interpreter's, with `==`. Float islands may differ
by the rounding of float32, and through a quantize that can move an integer; so the interpreter goes on with the
artifact's own floats, and each integer op is judged on the operands it really had.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import tee
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
    differences: list[Difference] = field(default_factory=list)

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


def verify(bundle: Bundle, feeds: Iterable[Mapping[str, np.ndarray]], model: Model | None = None) -> Verification:
    """Compares a bundle with the interpreter on `feeds`; `model` is its integer program unless the bundle's own."""
    interpreter = Interpreter(model if model is not None else integer_program(bundle))
    result = Verification()
    ahead, feeds = tee(feeds)
    for feed, stored in zip(feeds, bundle.trace_many(ahead, logical=True), strict=True):
        _Comparison(bundle, interpreter, result, stored).run(dict(feed))
    return result


class _Comparison:
    """One input through the bundle and the interpreter."""

    def __init__(
        self, bundle: Bundle, interpreter: Interpreter, result: Verification, stored: dict[str, np.ndarray]
    ) -> None:
        self.interpreter = interpreter
        self.result = result
        self.known = bundle.manifest.values
        self.stored = stored

    def run(self, feed: dict[str, np.ndarray]) -> None:
        self.interpreter.run(feed, self._watch)
        self.result.samples += 1

    def _watch(self, op: Operation, results: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """Compares the results of an op; those of float ops give way to the bundle's own."""
        taken = list(results)
        for index, value in enumerate(op.results):
            name = self.interpreter.names[value]
            if name not in self.known:
                continue
            found = self.stored[name]
            if self.known[name].layout == "NHWC-halo":
                found = found.transpose(0, 2, 3, 1)
            found = found.reshape(results[index].shape)
            if isinstance(op, OnnxOp):
                taken[index] = found
            self._compare(name, found, results[index])
        return tuple(taken)

    def _compare(self, name: str, found: np.ndarray, own: np.ndarray) -> None:
        result = self.result
        if own.dtype.kind == "f":
            scale = max(float(np.abs(own).max(initial=0.0)), 1e-30)
            result.float_error = max(result.float_error, float(np.abs(found - own).max(initial=0.0)) / scale)
            return
        result.tensors += 1
        result.elements += own.size
        if different := int(np.count_nonzero(found != own)):
            largest = int(np.abs(found.astype(np.int64) - own.astype(np.int64)).max())
            result.differences.append(Difference(result.samples, name, different, largest))
