"""Kernels of ARM CPUs that are no dense products: what their assembly is made of, and odd numbers of channels."""

from __future__ import annotations

import re

import numpy as np
import pytest
from emulated import ARM
from host_kernels import NO_HALO, Case, check, stored, view
from products import assembly, innermost_loops
from test_host_conv import ONE
from test_host_conv import Case as Conv

from qcompiler.arithmetic import elementwise, pool
from qcompiler.arithmetic.softmax import softmax, softmax_table
from qcompiler.lowering.compute_elementwise import (
    add_kernel,
    dequantize_kernel,
    lut_kernel,
    mul_kernel,
    quantize_kernel,
    requantize_kernel,
)
from qcompiler.lowering.compute_movement import (
    concat_kernel,
    copy_kernel,
    resize_kernel,
    slice_kernel,
    transpose_kernel,
)
from qcompiler.lowering.compute_pool import average_pool_kernel, max_pool_kernel, mean_kernel
from qcompiler.lowering.compute_softmax import softmax_kernel
from qcompiler.lowering.program import Kernel
from qcompiler.lowering.view import View
from qcompiler.lowering.workload import Requantize
from qcompiler.targets.arm_cpu.spec import names
from qcompiler.targets.cpu.conv import conv_kernel
from qcompiler.targets.spec import TargetSpec, resolve_target

SETS = list({resolve_target(name).instruction_set: resolve_target(name) for name in names()}.values())
"""A target for each instruction set."""
LIBC = {"memcpy", "memset", "memmove"}
CHECKS = re.compile(r"main_compute_|__tvm_set_raised_\d+|TVMFFIErrorSetRaisedFromCStrParts")
"""What the entry that TVM puts around a kernel calls; bundles have none."""
SPILL = re.compile(r"^\t(?:str|stp|stur)\t[qds]\d.*\[sp", re.MULTILINE)
"""A register of vectors written to the stack."""
MAY_SPILL = {"quantize.blocks": 0.08, "transpose.blocks": 0.02, "lut.vectors": 0.03}
"""Largest share of spills in an inner loop, where LLVM's schedule of a wide body runs out of registers."""

CHANNELS = (1, 3, 5, 17, 64)
PARAMETERS = elementwise.add_parameters(0.1, 0.3, 0.2)
ZEROS = (3, -5, 7)
LIMITS = (-128, 127)
WINDOW = ((3, 3), (2, 2), ONE, (1, 1))


def form(multiplier: float, dtype: str = "int8") -> Requantize:
    limits = np.iinfo(dtype)
    return Requantize("fp32", np.array([multiplier]), 7, (limits.min, limits.max), dtype)


def depthwise(kernel: int, stride: int, spec: TargetSpec) -> Kernel:
    pads = (kernel // 2,) * 4
    shape, window, steps = (1, 14, 14, 64), (kernel, kernel), (stride, stride)
    problem = Conv(shape, 64, window, steps, pads=pads, group=64, x_dtype="int8", y_dtype="int8").build()
    return conv_kernel(problem.workload, problem.weights, problem.bias, spec)


def kernels(spec: TargetSpec) -> dict[str, Kernel]:
    """A kernel of each kind with the shapes that models have."""
    return {**kernels_without_products(spec), "depthwise 3x3 stride 2": depthwise(3, 2, spec)}


def kernels_without_products(spec: TargetSpec) -> dict[str, Kernel]:
    """Those that are no convolutions."""
    image = View((1, 14, 14, 64), "int8")
    border, small = View((1, 14, 14, 64), "int8", ONE), View((1, 7, 7, 64), "int8")
    row, reals = View((4, 128), "int8"), View((1, 64, 14, 14), "float32")
    to_last, to_first = (0, 2, 3, 1), (0, 3, 1, 2)
    table = np.arange(256, dtype=np.uint8).view(np.int8)
    mean = pool.average_multiplier(0.03, 0.01, 9)
    rounded = Requantize("fp32", mean, 7, LIMITS, "int8")
    return {
        "add": add_kernel(image, image, image, ZEROS, PARAMETERS, LIMITS, spec),
        "add into a halo": add_kernel(image, image, border, ZEROS, PARAMETERS, LIMITS, spec),
        "mul": mul_kernel(image, image, image, ZEROS[:2], form(0.01), spec),
        "mul of channels": mul_kernel(image, View((1, 1, 1, 64), "int8"), image, ZEROS[:2], form(0.01), spec),
        "lut": lut_kernel(image, image, table, spec),
        "requantize": requantize_kernel(image, image, 3, form(0.7), spec),
        "quantize": quantize_kernel(View((4, 128), "float32"), row, 0.1, 3, LIMITS, spec),
        "quantize to channels last": quantize_kernel(reals, image, 0.1, 3, LIMITS, spec, perm=to_last),
        "dequantize": dequantize_kernel(row, View((4, 128), "float32"), 0.1, 3, spec),
        "max-pool": max_pool_kernel(border, small, *WINDOW, -128, spec),
        "average-pool": average_pool_kernel(border, small, *WINDOW, 3, rounded, spec),
        "mean of columns": mean_kernel(image, View((1, 1, 1, 64), "int8"), (1, 2), 3, rounded, spec),
        "mean of rows": mean_kernel(row, View((4, 1), "int8"), (1,), 3, rounded, spec),
        "softmax": softmax_kernel(row, row, softmax_table(0.1, 128), 1, spec),
        "copy": copy_kernel(image, border, spec),
        "concat": concat_kernel([image, image], View((1, 14, 14, 128), "int8"), 3, spec),
        "resize": resize_kernel(small, image, np.arange(14) // 2, np.arange(14) // 2, spec),
        "every second": slice_kernel(row, View((4, 64), "int8"), (0, 1), (1, 2), spec),
        "transpose": transpose_kernel(image, View((1, 64, 14, 14), "int8"), to_first, spec),
    }


@pytest.mark.parametrize("spec", SETS, ids=lambda spec: spec.instruction_set)
def test_assembly(spec: TargetSpec) -> None:
    """No calls but of libc's copies, (almost) no vector saved to the stack in an inner loop, and vectors at work."""
    for name, kernel in kernels(spec).items():
        text = assembly(kernel, spec)
        called = set(re.findall(r"^\tbl\t(\w+)", text, re.MULTILINE))
        called = {function for function in called if not CHECKS.fullmatch(function)}
        assert called <= LIBC, name
        for code in innermost_loops(text):
            instructions = len(re.findall(r"^\t[a-z]\w*", code, re.MULTILINE))
            assert len(SPILL.findall(code)) <= MAY_SPILL.get(kernel.rule, 0) * instructions, (name, kernel.rule)
        assert called or re.search(r"\b[qv]\d", text), (name, kernel.rule)


@pytest.mark.parametrize("spec", SETS, ids=lambda spec: spec.instruction_set)
def test_instructions_chosen(spec: TargetSpec) -> None:
    expected = {
        "lut": {"tbl", "tbx"},
        "add": {"mla", "sqxtn"},
        "mul": {"scvtf", "fcvtns", "sqxtn"},
        "max-pool": {"smax"},
        "mean of columns": {"saddw"},
        "every second": {"uzp2"},
        "depthwise 3x3 stride 2": {"smlal", "smlal2"} if spec.instruction_set == "neon" else {"sdot", "zip1"},
    }
    found = kernels(spec)
    for name, instructions in expected.items():
        assert instructions <= set(re.findall(r"^\t(\w+)\t", assembly(found[name], spec), re.MULTILINE)), name


@pytest.mark.slow
@pytest.mark.parametrize("spec", ARM)
@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_odd_channels(spec: TargetSpec, dtype: str) -> None:
    """Odd numbers of channels and batches of 1 and 4, with halos and without, all in one process."""
    cases = []
    limits = (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))
    made = form(0.013, dtype)
    table = stored((256,), dtype, 9)
    for i, channels in enumerate(CHANNELS):
        a, b = (stored(([1, 4][i % 2], 6, 7, channels), dtype, seed) for seed in (i, i + 50))
        halo = ONE if i % 2 else NO_HALO
        va, vb = view(a, halo), view(b)

        def case(kernel: Kernel, *results: np.ndarray, inputs=((va, a),), target=NO_HALO) -> Case:
            return Case(kernel, list(inputs), [(view(result, target), result) for result in results], border=3)

        y = elementwise.add(a, 3, b, 7, *PARAMETERS, 9, *limits, dtype)
        kernel = add_kernel(va, vb, view(y, ONE), (3, 7, 9), PARAMETERS, limits, spec)
        cases.append(case(kernel, y, inputs=((va, a), (vb, b)), target=ONE))
        y = elementwise.mul(a, 3, b, 5, 0.013, 7, *limits, dtype, "fp32")
        cases.append(case(mul_kernel(va, vb, view(y), (3, 5), made, spec), y, inputs=((va, a), (vb, b))))
        y = table[a.astype(int) - limits[0]]
        cases.append(case(lut_kernel(va, view(y, ONE), table, spec), y, target=ONE))
        y = pool.max_pool(a, *WINDOW, layout="NHWC")
        cases.append(case(max_pool_kernel(va, view(y), *WINDOW, 3, spec), y))
        y = pool.max_pool(a, (5, 5), (1, 1), (2, 2, 2, 2), (1, 1), layout="NHWC")
        cases.append(case(max_pool_kernel(va, view(y), (5, 5), (1, 1), (2, 2, 2, 2), (1, 1), None, spec), y))
        y = pool.mean(a, 3, 0.03, 0.01, 7, (1, 2), True, *limits, dtype, "fp32")
        mean = Requantize("fp32", pool.average_multiplier(0.03, 0.01, 42), 7, limits, dtype)
        cases.append(case(mean_kernel(va, view(y), (1, 2), 3, mean, spec), y))
        entries = softmax_table(0.1, channels)
        y = softmax(a, entries, 3, dtype)
        cases.append(case(softmax_kernel(va, view(y), entries, 3, spec), y))
    check(cases, spec)
