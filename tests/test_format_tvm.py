"""The Relax executable of `--format tvm`: the same results as the bundle's library, byte for byte."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from small_graphs import GRAPHS, Graph, feeds_of
from small_program import TARGET, small_program

import qcompiler
from qcompiler.bundle import Bundle
from qcompiler.bundle.link import link_shared
from qcompiler.cli import main
from qcompiler.errors import PipelineError
from qcompiler.lowering.aot import build_object
from qcompiler.lowering.relax_program import EXPORTS, export_executable
from qcompiler.targets.toolchain import AARCH64_LINUX


def opened(library: Path) -> tvm.relax.VirtualMachine:
    return tvm.relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())


def check(bundle: Bundle, machine: tvm.relax.VirtualMachine, inputs: Mapping[str, np.ndarray]) -> None:
    results = machine["main"](*(tvm.runtime.tensor(inputs[t.name]) for t in bundle.manifest.inputs))
    expected = bundle.run(inputs)
    assert len(results) == len(expected)
    for tensor, result in zip(bundle.manifest.outputs, results, strict=True):
        found = result.numpy()
        assert (found.shape, found.dtype) == (tensor.shape, np.dtype(tensor.dtype))
        assert found.tobytes() == expected[tensor.name].tobytes()


def two_branches() -> onnx.ModelProto:
    """Padded convolutions, a sum, a float island, two inputs; two outputs, of which one repeats an input."""
    g = Graph(x=(1, 3, 10, 12), z=(1, 6, 10, 12))
    y = g("Relu", g("Conv", "x", g.weight(6, 3, 3, 3), g.weight(6), pads=[1, 1, 1, 1]))
    y = g("Conv", g("Add", y, "z"), g.weight(6, 1, 3, 3), pads=[1, 1, 1, 1], group=6)
    y = g("Flatten", g("GlobalAveragePool", y))
    y = g("MatMul", y, g.weight(6, 5))
    return g.proto(g("Softmax", g("Cos", y)), "z")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx and data.npz."""
    folder = tmp_path_factory.mktemp("tvm")
    proto = two_branches()
    onnx.save(proto, folder / "model.onnx")
    samples = feeds_of(proto)
    np.savez(folder / "data.npz", **{name: np.concatenate([f[name] for f in samples]) for name in samples[0]})
    return folder


def command(work: Path, out: Path, *more: str) -> int:
    given = [str(work / "model.onnx"), "--calibration", str(work / "data.npz"), "-o", str(out)]
    return main(["compile", "-q", *given, *more])


@pytest.mark.parametrize("options", [(), ("--embed-weights", "--target", "host:portable")])
def test_results_are_those_of_the_bundle(work: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    assert command(work, tmp_path / "out", "--format", "tvm", *options) == 0
    bundle = qcompiler.load_bundle(tmp_path / "out")
    assert "model.tvm.so" in bundle.manifest.files
    machine = opened(bundle.path / "model.tvm.so")
    for inputs in feeds_of(two_branches(), seed=2):
        check(bundle, machine, inputs)


def test_interpreter_library_and_executable_agree(tmp_path: Path) -> None:
    """The same integers by the interpreter, by the library without TVM, and by TVM's runtime."""
    proto = GRAPHS["residual-block"]()
    onnx.save(proto, tmp_path / "model.onnx")
    quantized = qcompiler.quantize(qcompiler.import_onnx(tmp_path / "model.onnx"), feeds_of(proto))
    bundle = qcompiler.compile(quantized, output=tmp_path / "out", form="tvm")
    machine = opened(bundle.path / "model.tvm.so")
    for inputs in feeds_of(proto, seed=3):
        expected = qcompiler.interpret(quantized, inputs)
        by_library = bundle.run(inputs)
        assert {n: y.tobytes() for n, y in by_library.items()} == {n: y.tobytes() for n, y in expected.items()}
        check(bundle, machine, inputs)


def test_a_bundle_has_no_executable_unless_asked(work: Path, tmp_path: Path) -> None:
    assert command(work, tmp_path / "out") == 0
    assert not (tmp_path / "out" / "model.tvm.so").exists()


def test_scalars_and_integers(tmp_path: Path) -> None:
    g = Graph(x=(2, 7))
    mean = g("ReduceMean", "x", keepdims=0)
    proto = g.proto(mean, g("ArgMax", "x", axis=1, keepdims=0), g("Relu", "x"))
    onnx.save(proto, tmp_path / "model.onnx")
    samples = feeds_of(proto)
    bundle = qcompiler.compile(tmp_path / "model.onnx", output=tmp_path / "out", calibration=samples, form="tvm")
    assert bundle.manifest.outputs[0].shape == ()
    check(bundle, opened(bundle.path / "model.tvm.so"), samples[0])


def test_tensors_that_do_not_fit_are_refused_by_the_machine(work: Path, tmp_path: Path) -> None:
    command(work, tmp_path / "out", "--format", "tvm")
    machine = opened(tmp_path / "out" / "model.tvm.so")
    x, z = (tvm.runtime.tensor(np.zeros((1, c, 9, 12), np.float32)) for c in (3, 6))
    with pytest.raises(RuntimeError, match=r"input0.*shape"):
        machine["main"](x, z)


def test_kernels_share_memory_as_in_the_bundle(tmp_path: Path) -> None:
    program, reference = small_program()
    compiled = build_object(program, TARGET)
    shapes = {name: (*program.buffers[name].shape, 1) for name in program.external}
    library = tmp_path / "small.so"
    export_executable(
        program, compiled, TARGET, shapes, library, partial(link_shared, exports=EXPORTS, incomplete=True)
    )
    rng = np.random.default_rng(2)
    machine = opened(library)
    for _ in range(3):
        x, z = (rng.integers(0, 256, (4, 256, 1), dtype=np.uint8) for _ in range(2))
        y, real = machine["main"](tvm.runtime.tensor(x), tvm.runtime.tensor(z))
        expected = reference(x[..., 0], z[..., 0])
        assert (y.numpy()[..., 0] == expected["y"]).all()
        assert (real.numpy()[..., 0] == expected["real"]).all()


@pytest.mark.skipif(shutil.which("aarch64-linux-gnu-gcc") is None, reason=f"no cross compiler: {AARCH64_LINUX.install}")
def test_an_executable_for_arm_lacks_functions_of_the_runtime_alone(work: Path, tmp_path: Path) -> None:
    assert command(work, tmp_path / "out", "--format", "tvm", "--target", "arm-cpu") == 0
    listing = subprocess.run(
        ["aarch64-linux-gnu-nm", "-D", tmp_path / "out" / "model.tvm.so"], capture_output=True, text=True, check=True
    )
    symbols = [line.split()[-2:] for line in listing.stdout.splitlines()]
    missing = {name.partition("@")[0] for kind, name in symbols if kind == "U"}
    assert {name for name in missing if name.startswith("TVM")} == {"TVMFFIErrorSetRaisedFromCStrParts"}
    assert missing <= {"TVMFFIErrorSetRaisedFromCStrParts", "cosf", "expf", "memcpy", "memset", "memmove"}
    assert {name for kind, name in symbols if kind in "TRD"} >= {"__tvm_ffi__library_bin"}


def test_unknown_formats_are_refused(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(work, tmp_path / "out", "--format", "tflite") == 2
    assert "unknown format 'tflite': expected bundle or tvm" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(PipelineError, match="unknown format"):
        qcompiler.compile(work / "model.onnx", output=tmp_path / "out", form="vm")
