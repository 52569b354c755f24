"""Runs one kernel on arrays, for the tests of kernels."""

from __future__ import annotations

from functools import cache

import numpy as np
from qcompiler.targets.host.spec import runnable, tvm_target
from qcompiler.targets.spec import TargetSpec, resolve_target

from qcompiler.lowering.contraction import forbid_contraction
from qcompiler.lowering.program import Kernel
from qcompiler.lowering.view import View

SPECS = [resolve_target(f"host:{name}") for name in runnable()]
"""Every instruction set this machine can run, best first."""

_OUTSIDE = 77
"""Fills halos of inputs, and all of the outputs before the call."""


def random_stored(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max, shape, dtype, endpoint=True)


def run(
    kernel: Kernel,
    inputs: list[tuple[View, np.ndarray]],
    outputs: list[View],
    spec: TargetSpec,
    border: int = _OUTSIDE,
) -> list[np.ndarray]:
    """The results of a kernel, after a check that it wrote nothing outside them; `border` fills the inputs' halos."""
    import tvm

    arguments = [physical(view, array, border) for view, array in inputs]
    arguments += list(kernel.constants)
    results = [np.full(view.physical_shape, _OUTSIDE, view.dtype) for view in outputs]
    arguments += results
    arguments += [np.full(shape, _OUTSIDE, dtype) for shape, dtype in kernel.scratch]
    module = tvm.IRModule({"main": forbid_contraction(kernel.func)})
    tensors = [
        tvm.runtime.tensor(a.reshape([int(n) for n in p.shape]))
        for a, p in zip(arguments, kernel.func.params, strict=True)
    ]
    tvm.compile(module, target=_target(spec))["main"](*tensors)
    first = len(inputs) + len(kernel.constants)
    interiors = []
    for view, tensor in zip(outputs, tensors[first:], strict=False):
        result = tensor.numpy().reshape(view.physical_shape)
        interiors.append(interior(view, result).copy())
        interior(view, result)[...] = _OUTSIDE
        assert (result == _OUTSIDE).all(), "the kernel wrote into a halo"
    return interiors


def physical(view: View, array: np.ndarray, border: int) -> np.ndarray:
    """The buffer of a tensor, its halo filled with `border`."""
    assert array.shape == view.shape and str(array.dtype) == view.dtype
    buffer = np.full(view.physical_shape, border, view.dtype)
    interior(view, buffer)[...] = array
    return buffer


def interior(view: View, buffer: np.ndarray) -> np.ndarray:
    """The tensor inside its buffer, as a view of it."""
    strides = [stride * buffer.itemsize for stride in view.strides]
    return np.lib.stride_tricks.as_strided(buffer.reshape(-1)[view.origin :], view.shape, strides)


@cache
def _target(spec: TargetSpec):
    import tvm

    return tvm.target.Target(tvm_target(spec))
