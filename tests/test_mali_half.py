"""float16 on Mali: the functions of the prelude in every value, a float island that a recipe gives it, and devices
without it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from mali_driver import build_example, call, needs_gcc, needs_opencl
from opencl_device import missing
from small_graphs import Graph, feeds_of
from test_float16 import FEEDS, HALF, half_operations, quantized

import qcompiler
from qcompiler.frontends.onnx_import import import_graph
from qcompiler.lowering.lower import lower
from qcompiler.lowering.opencl import build_device_program
from qcompiler.lowering.opencl_prelude import prelude_of
from qcompiler.recipe import LayerRule, Recipe
from qcompiler.targets.spec import resolve_target
from qcompiler.verify import verify

SPEC = resolve_target("mali")
FUNCTIONS = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "max": np.fmax, "min": np.fmin}
EVERY = np.arange(1 << 16, dtype=np.uint16)
CLANG = shutil.which("clang") or shutil.which("clang-19")
needs_device = pytest.mark.skipif(bool(missing()), reason=missing())

KERNEL = """
__kernel void binary(__global ushort* a, __global ushort* b, __global ushort* y) {
  int i = get_global_id(0) * 4;
  ushort4 r = qc_half_NAME4(vload4(0, a + i), vload4(0, b + i));
  ushort2 s = qc_half_NAME2(vload2(0, a + i), vload2(0, b + i));
  vstore4((ushort4)(s, qc_half_NAME(a[i + 2], b[i + 2]), r.w), 0, y + i);
}
__kernel void round_float(__global float* a, __global ushort* y) {
  int i = get_global_id(0) * 4;
  vstore4(qc_to_half4(vload4(0, a + i)), 0, y + i);
}
__kernel void widen(__global ushort* a, __global float* y) {
  int i = get_global_id(0) * 4;
  vstore4(qc_from_half4(vload4(0, a + i)), 0, y + i);
}
"""


def pairs() -> tuple[np.ndarray, np.ndarray]:
    """Every value with others by chance, with itself, and special ones with each other."""
    rng = np.random.default_rng(0)
    special = np.array([0, 1, 2, 0x3FF, 0x400, 0x3C00, 0x3C01, 0x7BFF, 0x7C00, 0x7E00], np.uint16)
    special = np.concatenate([special, special | 0x8000])
    first = np.concatenate([np.tile(EVERY, 9), np.repeat(special, special.size)])
    others = [EVERY, *(rng.permutation(EVERY) for _ in range(8)), np.tile(special, special.size)]
    return first, np.concatenate(others)


def run(function: str, kernel: str, inputs: list[np.ndarray], output: np.ndarray) -> np.ndarray:
    """What a kernel of `KERNEL` makes of arrays."""
    import pyopencl as cl
    from opencl_device import EMULATED_HALF, device_queue

    queue = device_queue()
    source = KERNEL.replace("NAME", function)
    built = cl.Program(queue.context, prelude_of(source) + source).build([EMULATED_HALF], cache_dir=False)
    flags = cl.mem_flags.READ_WRITE | cl.mem_flags.COPY_HOST_PTR
    buffers = [cl.Buffer(queue.context, flags, hostbuf=array) for array in (*inputs, output)]
    getattr(built, kernel)(queue, (output.size // 4,), None, *buffers)
    cl.enqueue_copy(queue, output, buffers[-1])
    queue.finish()
    return output


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """Equal bits; zeros of either sign are equal, NaN is NaN."""
    found = found.view(expected.dtype)
    wrong = ~((found == expected) | (np.isnan(found) & np.isnan(expected)))
    assert not wrong.any(), (found[wrong][:5], expected[wrong][:5], np.flatnonzero(wrong)[:5])


@needs_device
@pytest.mark.parametrize("name", FUNCTIONS)
def test_arithmetic_is_that_of_numpy(name: str) -> None:
    a, b = pairs()
    with np.errstate(all="ignore"):
        expected = FUNCTIONS[name](a.view(np.float16), b.view(np.float16))
    assert_same(run(name, "binary", [a, b], np.zeros_like(a)), expected)


@needs_device
def test_conversions_are_those_of_numpy() -> None:
    assert_same(run("add", "widen", [EVERY], np.zeros(EVERY.size, np.float32)), EVERY.view(np.float16).astype("f4"))
    halves = EVERY.view(np.float16).astype(np.float32)
    halves = halves[np.isfinite(halves)]
    between = np.diff(halves) / 2 + halves[:-1]
    rng = np.random.default_rng(1)
    floats = [halves, between, *(np.nextafter(between, np.float32(to)) for to in (-np.inf, np.inf))]
    values = np.concatenate([*floats, rng.integers(0, 1 << 32, 1 << 18, np.uint32).view(np.float32)])
    values = np.resize(values, values.size // 4 * 4)
    with np.errstate(all="ignore"):
        assert_same(run("add", "round_float", [values], np.zeros(values.size, np.uint16)), values.astype(np.float16))


def pointwise(channels: int) -> tuple[qcompiler.Quantized, list[dict[str, np.ndarray]]]:
    """Layers of basic operations alone, a float island in float16, with an odd or an even last axis."""
    g = Graph(x=(2, 3, channels), z=(2, 3, channels))
    y = g("Div", g("Mul", g("Add", "x", "z"), g.weight(channels)), g.constant(np.float32([1.7])))
    y = g("Max", g("Sub", y, g("Abs", g("Neg", "z"))), g.constant(np.float32([-0.37])))
    proto = g.proto(g("LeakyRelu", g("Relu", g("Min", y, "x")), alpha=0.1))
    recipe = Recipe(tuple(LayerRule(node.name, precision="float16") for node in proto.graph.node))
    feeds = feeds_of(proto)
    return qcompiler.quantize(import_graph(proto), feeds, target="mali", recipe=recipe), feeds


@needs_gcc
@needs_opencl
@pytest.mark.parametrize("channels", [pytest.param(5, marks=pytest.mark.slow), 8])
def test_basic_operations_give_the_interpreters_bits(channels: int, tmp_path: Path) -> None:
    """As none is fused with another."""
    result, feeds = pointwise(channels)
    qcompiler.compile(result, output=tmp_path / "out", target="mali")
    bundle = qcompiler.load_bundle(tmp_path / "out", emulate=True)
    source = (tmp_path / "out" / "kernels.cl").read_text()
    assert f"qc_half_mul{'' if channels % 2 else '4'}(" in source.partition("// Function")[2]
    for feed in feeds:
        (found,), (expected,) = bundle.run(feed).values(), qcompiler.interpret(result, feed).values()
        assert np.array_equal(found, expected)


@pytest.mark.slow
@needs_gcc
@needs_opencl
def test_an_island_among_integers(tmp_path: Path) -> None:
    result = quantized("mali")
    assert sorted(half_operations(result)) == sorted(["Cast", *HALF])
    qcompiler.compile(result, output=tmp_path / "out", target="mali")
    checked = verify(qcompiler.load_bundle(tmp_path / "out", emulate=True), FEEDS)
    assert checked.exact
    assert checked.float_error < 2e-3


@needs_gcc
@needs_opencl
def test_a_device_without_float16(tmp_path: Path) -> None:
    """The driver says what is missing, unless it is told to do without."""
    import pyopencl

    device = pyopencl.get_platforms()[0].get_devices()[0]
    if "cl_khr_fp16" in device.extensions.split():
        pytest.skip("the OpenCL device here computes in float16")
    result, feeds = pointwise(8)
    qcompiler.compile(result, output=tmp_path / "out", target="mali")
    program = build_example(tmp_path / "out", tmp_path)
    for name, array in feeds[0].items():
        array.tofile(tmp_path / name)
    said = call(program, "out", "x", "z", "y", cwd=tmp_path, code=1)
    assert "lacks the extension cl_khr_fp16, which the kernels need" in said
    assert not (tmp_path / "y").exists()


def test_stored_weights_need_no_extension() -> None:
    """They are read as integers and converted."""
    g = Graph(x=(1, 6, 5, 5))
    proto = g.proto(g("Conv", "x", g.weight(8, 6, 3, 3)))
    recipe = Recipe((LayerRule(proto.graph.node[0].name, precision="float16"),))
    result = qcompiler.quantize(import_graph(proto), feeds_of(proto), target="mali", recipe=recipe)
    device = build_device_program(lower(result.model, SPEC).program, SPEC)
    assert device.extensions == ()
    assert "qc_from_half(" in device.source.partition("// Function")[2]


@pytest.mark.skipif(CLANG is None, reason="needs apt-get install clang")
def test_the_source_compiles_for_a_device_with_float16(tmp_path: Path) -> None:
    """By clang's front end, which knows the extension's functions."""
    result, _ = pointwise(8)
    device = build_device_program(lower(result.model, SPEC).program, SPEC)
    assert device.extensions == ("cl_khr_fp16",)
    (tmp_path / "kernels.cl").write_text(device.source + KERNEL.replace("NAME", "div"))
    front = ["-x", "cl", "-cl-std=CL1.2", "-target", "spir64", "-Xclang", "-cl-ext=+cl_khr_fp16"]
    front += ["-Dcl_khr_fp16=1", "-Xclang", "-finclude-default-header", "-fsyntax-only", "-Werror"]
    done = subprocess.run([str(CLANG), *front, tmp_path / "kernels.cl"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:2000]
