"""Threads: the same integers however the work is cut, and what may be cut at all."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from small_graphs import Graph, feeds_of
from tvm.script import tirx as T

import qcompiler
from qcompiler.bundle import Bundle
from qcompiler.cli import main
from qcompiler.errors import BundleError
from qcompiler.lowering.kernels import SERIAL, lower_kernels
from qcompiler.lowering.program import Kernel, Step
from qcompiler.targets.toolchain import AARCH64_LINUX

Launcher = Callable[[Callable[[int, int], None]], None]


def model() -> onnx.ModelProto:
    """Dense, depthwise and strided convolutions with borders, a product of activations, sums, a float island."""
    g = Graph(x=(1, 3, 48, 48))
    y = g("Relu", g("Conv", "x", g.weight(32, 3, 3, 3), g.weight(32), pads=[1, 1, 1, 1]))
    z = g("Relu", g("Conv", y, g.weight(32, 1, 3, 3), pads=[1, 1, 1, 1], group=32))
    y = g("Add", y, g("Conv", z, g.weight(32, 32, 3, 3, scale=0.1), pads=[1, 1, 1, 1]))
    y = g("Conv", y, g.weight(24, 32, 3, 3, scale=0.1), strides=[2, 2], pads=[1, 1, 1, 1])
    rows = g("Reshape", y, g.ints(24, 576))
    y = g("MatMul", rows, g("Transpose", rows, perm=[1, 0]))
    return g.proto(g("Softmax", g("Sin", y)))


def quickly_quantized(path: Path, samples: list[dict[str, np.ndarray]], target: str) -> qcompiler.Quantized:
    plain = {"method": "minmax", "weight_rounding": "nearest", "bias_correction": "none", "assign_precision": False}
    return qcompiler.quantize(qcompiler.import_onnx(path), samples, target=target, **plain)


@pytest.fixture(scope="module")
def samples() -> list[dict[str, np.ndarray]]:
    return feeds_of(model(), 2)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory, samples: list[dict[str, np.ndarray]]) -> qcompiler.Quantized:
    path = tmp_path_factory.mktemp("threads") / "model.onnx"
    onnx.save(model(), path)
    return quickly_quantized(path, samples, "host")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, quantized: qcompiler.Quantized) -> Bundle:
    return qcompiler.compile(quantized, output=tmp_path_factory.mktemp("threads") / "out", threads=True, form="tvm")


@pytest.fixture(scope="module")
def expected(
    tmp_path_factory: pytest.TempPathFactory, quantized: qcompiler.Quantized, samples: list[dict[str, np.ndarray]]
) -> list[dict[str, bytes]]:
    """Results of the bundle that is compiled without threads."""
    serial = qcompiler.compile(quantized, output=tmp_path_factory.mktemp("serial") / "out")
    return [contents(serial.run(sample)) for sample in samples]


def contents(arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_any_number_of_threads_gives_the_same(
    bundle: Bundle, samples: list[dict[str, np.ndarray]], expected: list[dict[str, bytes]], count: int
) -> None:
    bundle.set_threads(count)
    for _ in range(5):
        assert [contents(bundle.run(sample)) for sample in samples] == expected
    bundle.set_threads(1)


def launched(bundle: Bundle, sample: Mapping[str, np.ndarray], launcher: Launcher) -> dict[str, bytes]:
    """Results with a launcher of our own, which gets a function from task and number of tasks."""
    task_type = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int32, ctypes.c_int32)

    def launch(task: int, context: int) -> None:
        launcher(lambda index, count: task_type(task)(context, index, count))

    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(launch)
    hook = ctypes.c_void_p.in_dll(bundle._library, "model_parallel_launch")
    hook.value = ctypes.cast(function, ctypes.c_void_p).value
    try:
        return contents(bundle.run(sample))
    finally:
        hook.value = None


@pytest.mark.parametrize("count", [1, 2, 7, 1000])
def test_tasks_run_in_any_order(
    bundle: Bundle, samples: list[dict[str, np.ndarray]], expected: list[dict[str, bytes]], count: int
) -> None:
    launches = 0

    def backwards(task: Callable[[int, int], None]) -> None:
        nonlocal launches
        launches += 1
        for index in reversed(range(count)):
            task(index, count)

    assert launched(bundle, samples[0], backwards) == expected[0]
    assert launches >= 5


def test_work_is_left_out_with_its_task(
    bundle: Bundle, samples: list[dict[str, np.ndarray]], expected: list[dict[str, bytes]]
) -> None:
    assert launched(bundle, samples[0], lambda task: task(0, 2)) != expected[0]


def test_traces_and_steps_of_a_bundle_with_threads(bundle: Bundle, samples: list[dict[str, np.ndarray]]) -> None:
    bundle.set_threads(1)
    serial = bundle.trace(samples[0])
    bundle.set_threads(3)
    shared = bundle.trace(samples[0])
    assert all((serial[name] == shared[name]).all() for name in serial)
    assert len(bundle.profile(1)) == len(bundle.manifest.steps)
    bundle.set_threads(1)


def test_calls_at_once_share_one_pool(
    bundle: Bundle, samples: list[dict[str, np.ndarray]], expected: list[dict[str, bytes]]
) -> None:
    bundle.set_threads(2)
    found: dict[int, list[dict[str, bytes]]] = {}

    def run(number: int) -> None:
        other = qcompiler.load_bundle(bundle.path)  # with an arena of its own
        found[number] = [contents(other.run(sample)) for _ in range(5) for sample in samples]

    callers = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all(results == expected * 5 for results in found.values()) and len(found) == 3
    bundle.set_threads(1)


def test_threads_of_tvm(bundle: Bundle, samples: list[dict[str, np.ndarray]], expected: list[dict[str, bytes]]) -> None:
    machine = tvm.relax.VirtualMachine(tvm.runtime.load_module(str(bundle.path / "model.tvm.so")), tvm.cpu())
    run = machine["main"]
    for sample, wanted in zip(samples, expected, strict=True):
        (found,) = run(tvm.runtime.tensor(sample["x"]))
        assert [found.numpy().tobytes()] == list(wanted.values())


def test_a_bundle_without_threads_refuses_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    g = Graph(x=(1, 4))
    proto = g.proto(g("Relu", "x"))
    onnx.save(proto, tmp_path / "model.onnx")
    feeds = feeds_of(proto)
    one = qcompiler.compile(tmp_path / "model.onnx", output=tmp_path / "one", calibration=feeds)
    assert not (one.path / "parallel.c").exists()
    with pytest.raises(BundleError, match="compiled for one thread"):
        one.set_threads(2)
    np.savez(tmp_path / "x.npz", x=np.concatenate([f["x"] for f in feeds]))
    arguments = ["--input", str(tmp_path / "x.npz"), "--output", str(tmp_path / "y.npz"), "--threads", "2"]
    assert main(["run", "-q", str(one.path), *arguments]) == 2
    assert "compile it with --threads" in capsys.readouterr().err

    many = qcompiler.compile(tmp_path / "model.onnx", output=tmp_path / "many", calibration=feeds, threads=True)
    with pytest.raises(BundleError, match="0 threads, expected at least 1"):
        many.set_threads(0)
    assert main(["run", "-q", str(many.path), *arguments]) == 0
    with np.load(tmp_path / "y.npz") as found:
        assert (found[one.manifest.outputs[0].name][0] == next(iter(one.run(feeds[0]).values()))).all()


@pytest.mark.skipif(
    any(shutil.which(name) is None for name in ("aarch64-linux-gnu-gcc", "qemu-aarch64")),
    reason=f"needs the ARM toolchain: {AARCH64_LINUX.install}",
)
def test_threads_under_the_emulator(tmp_path: Path, samples: list[dict[str, np.ndarray]]) -> None:
    onnx.save(model(), tmp_path / "model.onnx")
    quantized = quickly_quantized(tmp_path / "model.onnx", samples, "arm-cpu")
    qcompiler.compile(quantized, output=tmp_path / "out", target="arm-cpu", threads=True)
    bundle = qcompiler.load_bundle(tmp_path / "out", emulate=True)
    one = [contents(result) for result in bundle.run_many(samples)]
    for count in (2, 3, 8):
        bundle.set_threads(count)
        assert [contents(result) for result in bundle.run_many(samples)] == one


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_the_pool_compiles_without_warnings(bundle: Bundle, tmp_path: Path) -> None:
    strict = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror", "-c"]
    subprocess.run(["gcc", *strict, "-o", tmp_path / "parallel.o", bundle.path / "parallel.c"], check=True)
    library = subprocess.run(["nm", "-D", bundle.path / "libmodel.so"], capture_output=True, text=True, check=True)
    defined = {line.split()[-1] for line in library.stdout.splitlines() if line.split()[-2] in "TBD"}
    assert defined == {"model_run", "model_trace", "model_step", "model_parallel_launch", "model_set_threads"}
    assert "malloc" not in library.stdout


# ------------------------------------------------------------------------------------------ what may be shared


def parts(func: tvm.tirx.PrimFunc, *, threads: bool = True) -> tuple[bool, ...]:
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "x86-64-v3"})
    step = Step(Kernel(func, "test"), (), (), "node")
    return lower_kernels([step], target, "model", threads=threads)[0].parts


@T.prim_func(s_tir=True)
def independent(X: T.Buffer((256, 512), "float32"), Y: T.Buffer((256, 512), "float32")):
    for i, j in T.grid(256, 512):
        with T.sblock("b"):
            vi, vj = T.axis.remap("SS", [i, j])
            Y[vi, vj] = X[vi, vj] + T.float32(1)


@T.prim_func(s_tir=True)
def two_nests(
    X: T.Buffer((256, 512), "float32"), Y: T.Buffer((256, 512), "float32"), Z: T.Buffer((512, 256), "float32")
):
    for i, j in T.grid(256, 512):
        with T.sblock("b"):
            vi, vj = T.axis.remap("SS", [i, j])
            Y[vi, vj] = X[vi, vj] + T.float32(1)
    for i, j in T.grid(512, 256):
        with T.sblock("c"):
            vi, vj = T.axis.remap("SS", [i, j])
            Z[vi, vj] = Y[vj, vi]


@T.prim_func(s_tir=True)
def sums_of_rows(X: T.Buffer((256, 512), "int32"), Y: T.Buffer((256,), "int32")):
    for i, j in T.grid(256, 512):
        with T.sblock("b"):
            vi, vj = T.axis.remap("SR", [i, j])
            with T.init():
                Y[vi] = 0
            Y[vi] = Y[vi] + X[vi, vj]


@T.prim_func(s_tir=True)
def sums_of_columns(X: T.Buffer((256, 512), "int32"), Y: T.Buffer((512,), "int32")):
    for i in range(512):
        with T.sblock("zero"):
            vi = T.axis.spatial(512, i)
            Y[vi] = 0
    for i, j in T.grid(256, 512):
        with T.sblock("b"):
            vi, vj = T.axis.remap("RS", [i, j])
            Y[vj] = Y[vj] + X[vi, vj]


@T.prim_func(s_tir=True)
def recurrence(X: T.Buffer((256, 512), "int32"), Y: T.Buffer((257, 512), "int32")):
    for i, j in T.grid(256, 512):
        with T.sblock("b"):
            vi, vj = T.axis.remap("SS", [i, j])
            Y[vi + 1, vj] = Y[vi, vj] + X[vi, vj]


@T.prim_func(s_tir=True)
def one_scratch(X: T.Buffer((256, 512), "int32"), Y: T.Buffer((256, 512), "int32"), S: T.Buffer((512,), "int32")):
    for i in range(256):
        with T.sblock("b"):
            vi = T.axis.spatial(256, i)
            T.reads(X[vi, 0:512])
            T.writes(Y[vi, 0:512])
            for j in range(512):
                S[j] = X[vi, j] * 3
            for j in range(512):
                Y[vi, j] = S[511 - j]


@T.prim_func(s_tir=True)
def large_temporary(X: T.Buffer((256, 512), "int32"), Y: T.Buffer((256, 512), "int32")):
    for i in range(256):
        with T.sblock("b"):
            vi = T.axis.spatial(256, i)
            T.reads(X[vi, 0:512])
            T.writes(Y[vi, 0:512])
            S = T.sblock_alloc_buffer((512,), "int32")
            for j in range(512):
                S[j] = X[vi, j] * 3
            for j in range(512):
                Y[vi, j] = S[511 - j]


@T.prim_func(s_tir=True)
def small_temporary(X: T.Buffer((4096, 32), "int32"), Y: T.Buffer((4096, 32), "int32")):
    for i in range(4096):
        with T.sblock("b"):
            vi = T.axis.spatial(4096, i)
            T.reads(X[vi, 0:32])
            T.writes(Y[vi, 0:32])
            S = T.sblock_alloc_buffer((32,), "int32")
            for j in range(32):
                S[j] = X[vi, j] * 3
            for j in range(32):
                Y[vi, j] = S[31 - j]


@T.prim_func(s_tir=True)
def little(X: T.Buffer((16, 16), "float32"), Y: T.Buffer((16, 16), "float32")):
    for i, j in T.grid(16, 16):
        with T.sblock("b"):
            vi, vj = T.axis.remap("SS", [i, j])
            Y[vi, vj] = X[vi, vj] + T.float32(1)


@pytest.mark.parametrize(
    ("func", "expected"),
    [
        (independent, (True,)),
        (two_nests, (True, True)),
        (sums_of_rows, (True,)),
        (sums_of_columns, SERIAL),
        (recurrence, SERIAL),
        (one_scratch, SERIAL),
        (large_temporary, SERIAL),
        (small_temporary, (True,)),
        (little, SERIAL),
    ],
)
def test_only_independent_work_is_shared(func: tvm.tirx.PrimFunc, expected: tuple[bool, ...]) -> None:
    assert parts(func) == expected
    assert parts(func, threads=False) == SERIAL
