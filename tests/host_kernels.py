"""Runs kernels on arrays and compares the results, for the tests of kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from emulated import Call, run_calls

from qcompiler.lowering.contraction import forbid_contraction
from qcompiler.lowering.program import Kernel
from qcompiler.lowering.view import View
from qcompiler.targets.host.spec import tvm_target
from qcompiler.targets.spec import TargetSpec

NO_HALO = (0, 0, 0, 0)
_OUTSIDE = 77
"""Fills halos of inputs, and all of the outputs before the call."""


@dataclass
class Case:
    """A kernel, its operands with their views, and the results it must give."""

    kernel: Kernel
    inputs: list[tuple[View, np.ndarray]]
    expected: list[tuple[View, np.ndarray]]
    border: int = _OUTSIDE
    """What the halos of the inputs hold."""


def check(cases: list[Case], spec: TargetSpec) -> None:
    """Compiles all kernels as one module; results must be equal, and nothing outside them written."""
    if spec.toolchain.emulator or spec.driver:
        return _check_emulated(cases, spec)
    import tvm

    functions = {f"f{i}": forbid_contraction(case.kernel.func) for i, case in enumerate(cases)}
    module = tvm.IRModule({name: f.with_attr("global_symbol", name) for name, f in functions.items()})
    compiled = tvm.compile(module, target=_target(spec))
    for i, case in enumerate(cases):
        _run(compiled[f"f{i}"], case, i)


def _check_emulated(cases: list[Case], spec: TargetSpec) -> None:
    calls = []
    for case in cases:
        inputs = [_buffer(view, array, case.border) for view, array in case.inputs]
        outputs = [np.full(view.physical_shape, _OUTSIDE, view.dtype) for view, _ in case.expected]
        calls.append(Call(case.kernel, inputs, outputs))
    for i, (case, results) in enumerate(zip(cases, run_calls(calls, spec), strict=True)):
        for (view, expected), result in zip(case.expected, results, strict=True):
            wanted = _buffer(view, expected, _OUTSIDE)
            assert np.array_equal(result, wanted), f"case {i}, rule {case.kernel.rule}, {view}"


def stored(shape: tuple[int, ...], dtype: str, seed: int = 0) -> np.ndarray:
    """Random stored integers of the whole range."""
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max, shape, dtype, endpoint=True)


def view(array: np.ndarray, halo: tuple[int, int, int, int] = NO_HALO) -> View:
    """The view of an array; only those of rank 4 get the halo."""
    return View(array.shape, str(array.dtype), halo if array.ndim == 4 else NO_HALO)


def _run(function, case: Case, number: int) -> None:
    import tvm

    kernel = case.kernel
    arguments = [_buffer(view, array, case.border) for view, array in case.inputs]
    arguments += kernel.constants
    first = len(arguments)
    arguments += [np.full(view.physical_shape, _OUTSIDE, view.dtype) for view, _ in case.expected]
    arguments += [np.full(shape, _OUTSIDE, dtype) for shape, dtype in kernel.scratch]
    shapes = [[int(extent) for extent in p.shape] for p in kernel.func.params]
    tensors = [tvm.runtime.tensor(argument.reshape(shape)) for argument, shape in zip(arguments, shapes, strict=True)]
    function(*tensors)
    for (view, expected), tensor in zip(case.expected, tensors[first:], strict=False):
        wanted = _buffer(view, expected, _OUTSIDE)
        result = tensor.numpy().reshape(wanted.shape)
        assert np.array_equal(result, wanted), f"case {number}, rule {kernel.rule}, {view}"


def _buffer(view: View, array: np.ndarray, border: int) -> np.ndarray:
    """The buffer of a tensor, its halo filled with `border`."""
    assert array.shape == view.shape and str(array.dtype) == view.dtype
    buffer = np.full(view.physical_shape, border, view.dtype)
    strides = [stride * buffer.itemsize for stride in view.strides]
    np.lib.stride_tricks.as_strided(buffer.reshape(-1)[view.origin :], view.shape, strides)[...] = array
    return buffer


@cache
def _target(spec: TargetSpec):
    import tvm

    return tvm.target.Target(tvm_target(spec))
