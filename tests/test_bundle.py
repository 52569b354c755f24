"""Writing, opening and running bundles, from Python and from C."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_program import TARGET, small_program

from qcompiler.bundle import BundleContents, TensorInfo, ValueInfo, load_bundle, write_bundle
from qcompiler.errors import BundleError
from qcompiler.lowering.aot import build_object
from qcompiler.lowering.program import Buffer, Program

PROGRAM, REFERENCE = small_program()
SHAPE = (1, 1, 4, 256)
SCALE = float(np.float32(0.1))


@pytest.fixture(scope="module")
def contents() -> BundleContents:
    return BundleContents(
        program=PROGRAM,
        compiled=build_object(PROGRAM, TARGET, prefix="net"),
        target={"name": "host", **TARGET},
        inputs=(TensorInfo('first "x"', "x", SHAPE, "uint8", SCALE, 7), TensorInfo("z", "z", SHAPE, "uint8")),
        outputs=(TensorInfo("y", "y", (4, 256), "uint8"), TensorInfo("real", "real", (1024,), "float32")),
        values={
            "%a": ValueInfo("a", (1, 2, 2, 254), "NHWC-halo", (0, 1, 0, 1), SCALE, 3, "u8", "node1"),
            "%b": ValueInfo("b", (2, 512), location="node2"),
        },
        files={"ir/000_import.mlir": "module {}\n", "report.json": b"{}"},
        metadata={"model": "small"},
    )


@pytest.fixture(scope="module")
def bundle(contents, tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bundles") / "net", contents)


def inputs(seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.integers(0, 256, SHAPE, dtype=np.uint8) for name in ('first "x"', "z")}


def expected(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    x, z = (array.reshape(4, 256) for array in given.values())
    return REFERENCE(x, z)


def test_run_gives_the_reference_integers(bundle):
    for seed in range(3):
        given = inputs(seed)
        found = bundle.run(given)
        assert list(found) == ["y", "real"]
        assert (found["y"] == expected(given)["y"]).all()
        assert (found["real"] == expected(given)["real"].reshape(1024)).all()


def test_outputs_of_an_earlier_run_are_not_overwritten(bundle):
    first = bundle.run(inputs(1))["y"]
    bundle.run(inputs(2))
    assert (first == expected(inputs(1))["y"]).all()


def test_weights_in_the_library(contents, tmp_path):
    bundle = write_bundle(tmp_path / "net", replace(contents, embed_weights=True))
    assert bundle.manifest.weights_embedded
    assert not (bundle.path / "weights.bin").exists()
    found = bundle.run(inputs())
    assert (found["y"] == expected(inputs())["y"]).all()
    assert "extern const uint8_t net_weights[NET_WEIGHTS_BYTES];" in (bundle.path / "model.h").read_text()


def test_several_samples(bundle):
    for traced, given in zip(bundle.trace_many(map(inputs, range(3))), map(inputs, range(3)), strict=True):
        assert (traced["y"].reshape(4, 256) == expected(given)["y"]).all()
    for found, given in zip(bundle.run_many(map(inputs, range(3))), map(inputs, range(3)), strict=True):
        assert (found["y"] == expected(given)["y"]).all()


def test_inputs_need_not_be_contiguous_or_aligned(bundle):
    given = inputs()
    shifted = np.empty(1025, np.uint8)[1:].reshape(SHAPE)
    shifted[...] = given["z"]
    strided = np.repeat(given['first "x"'], 2, axis=3)[..., ::2]
    assert (bundle.run({'first "x"': strided, "z": shifted})["y"] == expected(given)["y"]).all()


def test_runs_from_threads_do_not_disturb_each_other(bundle):
    wrong = []

    def work(seed: int) -> None:
        given = inputs(seed)
        for _ in range(20):
            if not (bundle.run(given)["y"] == expected(given)["y"]).all():
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_trace_returns_every_buffer(bundle):
    given = inputs()
    traced = bundle.trace(given)
    assert set(traced) == {"x", "z", "a", "b", "c", "d", "y", "real"}
    for name, array in expected(given).items():
        assert traced[name].dtype == array.dtype
        assert (traced[name].reshape(4, 256) == array).all()
    assert (traced["x"] == given['first "x"'].reshape(4, 256)).all()


def test_trace_in_logical_shape(bundle):
    given = inputs()
    traced = bundle.trace(given, logical=True)
    assert list(traced) == ["%a", "%b"]
    stored = expected(given)["a"].reshape(1, 2, 256, 2)
    assert (traced["%a"] == stored[:, :, 1:255].transpose(0, 3, 1, 2)).all()
    assert (traced["%b"] == expected(given)["b"].reshape(2, 512)).all()


def test_halo_layout():
    info = ValueInfo("x", (2, 3, 4, 5), "NHWC-halo", (1, 2, 3, 4))
    logical = np.arange(120).reshape(2, 3, 4, 5)
    physical = np.pad(logical.transpose(0, 2, 3, 1), ((0, 0), (1, 3), (2, 4), (0, 0)))
    assert (info.logical(physical.reshape(2 * 8, 11 * 3)) == logical).all()


def test_bench_and_profile(bundle):
    times = bundle.bench(5)
    assert len(times) == 5
    assert min(times) > 0
    steps = bundle.profile(3, inputs())
    assert len(steps) == len(bundle.manifest.steps) == 6
    assert [step.location for step in bundle.manifest.steps] == [f"node{i}" for i in range(1, 7)]


def test_a_bundle_written_anew_in_its_folder_runs_the_new_code(contents, tmp_path):
    """Although the library of the old one is still loaded."""
    given = inputs()
    old = write_bundle(tmp_path / "net", contents)
    assert (old.run(given)["y"] == expected(given)["y"]).all()
    steps = list(PROGRAM.steps)
    steps[3] = replace(steps[3], inputs=("c", "c"))
    program = replace(PROGRAM, steps=steps)
    new = write_bundle(
        tmp_path / "net", replace(contents, program=program, compiled=build_object(program, TARGET, prefix="net"))
    )
    c = expected(given)["c"].astype(np.int32)
    assert (new.run(given)["y"] == np.minimum(c + c, 255)).all()


def test_manifest_round_trip_and_content(bundle, contents):
    manifest = load_bundle(bundle.path).manifest
    assert manifest == bundle.manifest
    assert manifest.inputs == contents.inputs
    assert manifest.outputs == contents.outputs
    assert dict(manifest.values) == dict(contents.values)
    assert manifest.weight_bytes == (bundle.path / "weights.bin").stat().st_size
    assert manifest.metadata == {"model": "small"}
    assert set(manifest.versions) == {"qcompiler", "apache-tvm", "xdsl", "numpy"}
    files = {p.relative_to(bundle.path).as_posix() for p in bundle.path.rglob("*") if p.is_file()}
    assert files == set(manifest.files) | {"manifest.json"}
    own = {"libnet.so", "libnet.a", "model.h", "weights.bin", "main.c", "CMakeLists.txt"}
    assert own | {"ir/000_import.mlir", "report.json"} == set(manifest.files)


def test_running_needs_no_tvm(bundle, tmp_path):
    np.savez(tmp_path / "x.npz", **inputs())
    script = (
        "import sys, numpy as np; from qcompiler.bundle import load_bundle;"
        f"b = load_bundle({str(bundle.path)!r}); x = dict(np.load({str(tmp_path / 'x.npz')!r}));"
        "np.save(sys.argv[1], b.run(x)['y']); assert 'tvm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "y.npy")], check=True)
    assert (np.load(tmp_path / "y.npy") == expected(inputs())["y"]).all()


C_PROGRAM = r"""
#include <stdalign.h>
#include <stdio.h>
#include "model.h"

static alignas(NET_ALIGNMENT) uint8_t weights[NET_WEIGHTS_BYTES], arena[NET_ARENA_BYTES];
static alignas(NET_ALIGNMENT) NET_INPUT0_TYPE x[NET_INPUT0_BYTES / sizeof(NET_INPUT0_TYPE)];
static alignas(NET_ALIGNMENT) NET_INPUT1_TYPE z[NET_INPUT1_BYTES / sizeof(NET_INPUT1_TYPE)];
static alignas(NET_ALIGNMENT) NET_OUTPUT0_TYPE y[NET_OUTPUT0_BYTES / sizeof(NET_OUTPUT0_TYPE)];
static alignas(NET_ALIGNMENT) NET_OUTPUT1_TYPE real[NET_OUTPUT1_BYTES / sizeof(NET_OUTPUT1_TYPE)];
static const int shape[NET_INPUT0_RANK] = NET_INPUT0_SHAPE;
static const float scale = NET_INPUT0_SCALE;

static int load(const char* path, void* to, size_t bytes) {
  FILE* file = fopen(path, "rb");
  int ok = file && fread(to, 1, bytes, file) == bytes;
  if (file) fclose(file);
  return ok;
}

int main(int argc, char** argv) {
  const void* inputs[NET_INPUTS] = {x, z};
  void* outputs[NET_OUTPUTS] = {y, real};
  if (argc != 5 || !load(argv[1], weights, sizeof weights)) return 1;
  if (!load(argv[2], x, sizeof x) || !load(argv[3], z, sizeof z)) return 2;
  if (shape[3] != 256 || scale != 0.1f || NET_INPUT0_ZERO_POINT != 7) return 3;
  if (net_run(inputs, outputs, weights, arena) != 0) return 4;
  FILE* file = fopen(argv[4], "wb");
  return fwrite(y, 1, sizeof y, file) != sizeof y || fwrite(real, 1, sizeof real, file) != sizeof real;
}
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_a_c_program_gives_the_same_bytes(bundle, tmp_path):
    (tmp_path / "main.c").write_text(C_PROGRAM)
    library = bundle.path / bundle.manifest.library
    command = ["gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "main.c", "-o", "main", f"-I{bundle.path}"]
    subprocess.run([*command, library, f"-Wl,-rpath,{bundle.path}"], cwd=tmp_path, check=True)
    given = inputs()
    for name, array in zip("xz", given.values(), strict=True):
        array.tofile(tmp_path / name)
    subprocess.run(["./main", bundle.path / "weights.bin", "x", "z", "out"], cwd=tmp_path, check=True)
    found = bundle.run(given)
    assert (tmp_path / "out").read_bytes() == found["y"].tobytes() + found["real"].tobytes()
    strict = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror"]
    own = [bundle.path / "main.c", bundle.path / bundle.manifest.archive, "-lm"]
    subprocess.run(["gcc", *strict, *own, "-o", "example"], cwd=tmp_path, check=True)
    subprocess.run(["./example", bundle.path / "weights.bin", "x", "z", "y", "real"], cwd=tmp_path, check=True)
    for name, array in found.items():
        assert (tmp_path / name).read_bytes() == array.tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: {"z": x["z"]}, r"inputs are named \['z'\], expected \['first \"x\"', 'z'\]"),
        (lambda x: {**x, "more": x["z"]}, "inputs are named"),
        (lambda x: {**x, "z": x["z"][0]}, r"input 'z' is uint8\[1, 4, 256\], expected uint8\[1, 1, 4, 256\]"),
        (lambda x: {**x, "z": x["z"].astype(np.float32)}, r"input 'z' is float32.*expected uint8"),
    ],
)
def test_inputs_that_do_not_fit(bundle, change, message):
    for call in (bundle.run, bundle.trace):
        with pytest.raises(BundleError, match=message):
            call(change(inputs()))


@pytest.fixture
def copy(bundle, tmp_path) -> Path:
    return Path(shutil.copytree(bundle.path, tmp_path / "copy"))


@pytest.mark.parametrize("name", ["libnet.so", "weights.bin", "model.h", "ir/000_import.mlir"])
def test_altered_file(copy, name):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} was altered: its SHA-256 is"):
        load_bundle(copy)


def test_missing_file(copy):
    (copy / "weights.bin").unlink()
    with pytest.raises(BundleError, match=r"weights\.bin cannot be read \(No such file"):
        load_bundle(copy)


def test_folder_without_manifest(tmp_path):
    with pytest.raises(BundleError, match=r"is not a bundle: cannot read manifest\.json"):
        load_bundle(tmp_path / "nothing")


def drop_library(manifest: dict) -> None:
    del manifest["files"]["libnet.so"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=99), "bundle format 99, expected 2"),
        (lambda m: m.pop("inputs"), "not a bundle manifest"),
        (lambda m: m["inputs"][0].pop("shape"), "not a bundle manifest"),
        (lambda m: m.update(extra=1), r"unknown fields \['extra'\]"),
        (drop_library, r"lists no hash of libnet\.so"),
    ],
)
def test_bad_manifest(copy, change, message):
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=message):
        load_bundle(copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "\xff"])
def test_manifest_that_is_no_json_object(copy, text):
    (copy / "manifest.json").write_text(text, encoding="latin-1")
    with pytest.raises(BundleError, match="not a bundle"):
        load_bundle(copy)


def test_library_for_another_machine(contents, tmp_path, monkeypatch):
    monkeypatch.setattr("qcompiler.bundle.write.link_shared", lambda _, library, *__: library.write_bytes(b"?"))
    bundle = write_bundle(tmp_path / "net", contents)
    with pytest.raises(BundleError, match=r"cannot be loaded on this machine .* compiled for .*x86_64"):
        bundle.run(inputs())


def test_cpu_that_lacks_a_feature(contents, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: sse2 avx2\n")
    monkeypatch.setattr("qcompiler.bundle.runtime.CPUINFO", tmp_path / "cpuinfo")
    bundle = write_bundle(tmp_path / "net", replace(contents, cpu_flags=("avx2", "avx512f")))
    with pytest.raises(BundleError, match=r"needs the CPU features avx512f, which this machine lacks"):
        bundle.run(inputs())
    (tmp_path / "cpuinfo").unlink()
    assert (bundle.run(inputs())["y"] == expected(inputs())["y"]).all()


def listing(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def test_an_older_bundle_is_replaced(contents, tmp_path):
    write_bundle(tmp_path / "net", contents)
    bundle = write_bundle(tmp_path / "net", replace(contents, files={"new": "text"}))
    assert "new" in bundle.manifest.files
    assert not (tmp_path / "net" / "report.json").exists()
    assert listing(tmp_path)[0] == "net"
    assert len(list(tmp_path.iterdir())) == 1


def test_other_folders_are_not_replaced(contents, tmp_path):
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "precious").write_text("data")
    (tmp_path / "file").write_text("data")
    for name in ("net", "file"):
        with pytest.raises(BundleError, match="exists and is not a bundle; choose another folder"):
            write_bundle(tmp_path / name, contents)
    assert listing(tmp_path) == ["file", "net", "net/precious"]


def test_nothing_is_left_after_a_failure(contents, tmp_path):
    write_bundle(tmp_path / "net", contents)
    before = listing(tmp_path)
    broken = replace(contents, files={"copied": tmp_path / "does-not-exist"})
    with pytest.raises(BundleError, match=r"cannot write the bundle .*No such file"):
        write_bundle(tmp_path / "net", broken)
    assert listing(tmp_path) == before
    load_bundle(tmp_path / "net")


def test_failed_exchange_restores_the_old_bundle(contents, tmp_path, monkeypatch):
    write_bundle(tmp_path / "net", contents)
    before = listing(tmp_path)
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(BundleError, match="Input/output error"):
        write_bundle(tmp_path / "net", contents)
    assert listing(tmp_path) == before


def test_parent_that_is_a_file(contents, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match=r"cannot write the bundle .*(Not a directory|File exists)"):
        write_bundle(tmp_path / "file" / "net", contents)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_parent(contents, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(BundleError, match="Permission denied"):
        write_bundle(tmp_path / "net", contents)


def test_full_disk(contents, tmp_path, monkeypatch):
    """A limit on the size of files stands for the full disk."""
    monkeypatch.setattr("qcompiler.bundle.write.link_shared", lambda _, library, *__: library.write_bytes(b""))
    old_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    old_handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old_limit[1]))
    try:
        with pytest.raises(BundleError, match=r"cannot write the bundle .*File too large"):
            write_bundle(tmp_path / "net", replace(contents, files={"large": bytes(200_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old_limit)
        signal.signal(signal.SIGXFSZ, old_handler)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("name", ["../x", "/x", "manifest.json", "a/../x", "./x", "a//b", "libnet.so"])
def test_bad_names_of_further_files(contents, tmp_path, name):
    with pytest.raises(ValueError, match="cannot be the name"):
        write_bundle(tmp_path / "net", replace(contents, files={name: ""}))


def test_descriptions_that_do_not_fit_the_program(contents, tmp_path):
    wrong = [
        {"inputs": contents.inputs[:1]},
        {"inputs": (replace(contents.inputs[0], dtype="int8"), contents.inputs[1])},
        {"outputs": (replace(contents.outputs[0], shape=(4, 255)), contents.outputs[1])},
        {"values": {"%a": ValueInfo("a", (3, 3))}},
        {"values": {"%a": ValueInfo("a", (1, 1, 4, 256), "NHWC-halo", (1, 1, 1, 1))}},
    ]
    for change in wrong:
        with pytest.raises(ValueError, match=r"does not fit|describe"):
            write_bundle(tmp_path / "net", replace(contents, **change))


def test_program_without_constants_or_arena(tmp_path):
    buffers = {name: Buffer(name, (4, 256), "uint8") for name in ("a", "b", "y")}
    step = replace(PROGRAM.steps[2], inputs=("a", "b"), outputs=("y",))
    program = Program(buffers, ["a", "b"], ["y"], [step])
    tensors = {name: TensorInfo(name, name, (4, 256), "uint8") for name in buffers}
    bundle = write_bundle(
        tmp_path / "net",
        BundleContents(program, build_object(program, TARGET), TARGET, (tensors["a"], tensors["b"]), (tensors["y"],)),
    )
    x = np.full((4, 256), 200, np.uint8)
    assert (bundle.run({"a": x, "b": x})["y"] == 255).all()
