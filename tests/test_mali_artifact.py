"""Bundles with an OpenCL driver: the driver's results, its cache, memory without copies, and how C builds it."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mali_driver import STRICT, build_example, build_stub, call, needs_gcc, needs_opencl
from small_device import SIZE, SOURCE, reference, small_bundle, small_device

import qcompiler
from qcompiler.bundle import Bundle, EmulatedBundle, load_emulated
from qcompiler.cli import main
from qcompiler.errors import BundleError
from qcompiler.targets.toolchain import AARCH64_LINUX
from qcompiler.verify import integer_program

REPOSITORY = Path(__file__).resolve().parents[1]
DIGITS = REPOSITORY / "examples" / "digits"
PAGE = (REPOSITORY / "docs" / "mali.md").read_text(encoding="utf-8")
OCLGRIND = Path("/usr/lib/oclgrind/liboclgrind-rt-icd.so")
CROSS = "aarch64-linux-gnu-gcc"
pytestmark = needs_gcc


def sample(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, SIZE, dtype=np.uint8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return small_bundle(tmp_path_factory.mktemp("mali") / "OUT")


@pytest.fixture(scope="module")
def emulated(bundle: Bundle) -> EmulatedBundle:
    return load_emulated(bundle.path)


@pytest.fixture(scope="module")
def example(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_example(bundle.path, tmp_path_factory.mktemp("example"))


# ------------------------------------------------------------------------------------------------ on PoCL, from Python


@needs_opencl
def test_results_and_every_tensor(emulated: EmulatedBundle) -> None:
    samples = [sample(seed) for seed in range(3)]
    results = list(emulated.run_many({"x": x} for x in samples))
    traces = list(emulated.trace_many({"x": x} for x in samples))
    for x, result, trace in zip(samples, results, traces, strict=True):
        expected = reference(small_device(), x)
        assert np.array_equal(result["y"], expected["y"])
        assert all(np.array_equal(trace[name], value) for name, value in expected.items())
        assert np.array_equal(trace["x"], x)
    assert np.array_equal(emulated.trace({"x": samples[0]}, logical=True)["%a"], traces[0]["a"].reshape(2, -1))


@needs_opencl
def test_options_of_the_compiler(tmp_path: Path) -> None:
    source = SOURCE.replace("return", "").replace("/ 16", "/ DIVISOR")
    bundle = load_emulated(small_bundle(tmp_path / "OUT", source=source).path)
    with pytest.raises(BundleError, match="cannot compile the kernels"):
        bundle.run({"x": sample(0)})
    (found,) = bundle.execute("run", [{"x": sample(0)}], options=["-DDIVISOR=16", "-DMORE=1"])
    assert np.array_equal(found.outputs["y"], reference(small_device(), sample(0))["y"])


@needs_opencl
def test_kernels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    whole = small_device().launches
    large = replace(whole[0], global_size=(16384, 1, 1), local_size=(16384, 1, 1))
    bundle = load_emulated(small_bundle(tmp_path / "large", launches=(large, *whole[1:])).path)
    with pytest.raises(BundleError, match=r"kernel scale has work-groups of 16384 items, .* runs it with"):
        bundle.run({"x": sample(0)})
    bundle = load_emulated(small_bundle(tmp_path / "wanting", extensions=("cl_arm_magic",)).path)
    with pytest.raises(BundleError, match="lacks the extension cl_arm_magic, which the kernels need"):
        bundle.run({"x": sample(0)})


@needs_opencl
def test_more_memory_than_there_is(tmp_path: Path) -> None:
    device = small_device()
    plan = replace(device.plan, arena_bytes=1 << 50)
    bundle = load_emulated(small_bundle(tmp_path / "OUT", plan=plan).path)
    with pytest.raises(BundleError, match=r"allows buffers of .* bytes, the model needs one of 1125899906842624"):
        bundle.run({"x": sample(0)})


# -------------------------------------------------------------------------------------------------------- on PoCL, in C


@needs_opencl
def test_the_example_and_its_cache(bundle: Bundle, example: Path, tmp_path: Path) -> None:
    sample(1).tofile(tmp_path / "x")
    arguments = ("-c", "cache", bundle.path, "x", "y")
    assert "program compiled in" in call(example, *arguments, cwd=tmp_path)
    assert (tmp_path / "y").read_bytes() == reference(small_device(), sample(1))["y"].tobytes()
    (tmp_path / "y").unlink()
    printed = call(example, "-p", *arguments, cwd=tmp_path)
    assert "program loaded in" in printed
    assert re.findall(r"us  (\w+)  (.*)", printed) == [("scale", "node1"), ("scale", 'node "2"'), ("add", "node3")]
    assert (tmp_path / "y").read_bytes() == reference(small_device(), sample(1))["y"].tobytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "x", "y"]


def test_a_cache_that_does_not_fit_is_made_anew(bundle: Bundle, example: Path, tmp_path: Path) -> None:
    build_stub(tmp_path)
    sample(1).tofile(tmp_path / "x")
    cache = tmp_path / "cache"

    def start(**environment: str) -> str:
        call_ = (example, "-l", "./stub.so", "-c", "cache", bundle.path, "x", "y")
        return re.findall(r"program (\w+) in", call(*call_, cwd=tmp_path, **environment))[0]

    assert [start(), start()] == ["compiled", "loaded"]
    good = cache.read_bytes()
    assert len(good) == 8 + 3 * 8 + 16
    for bad in (
        b"",
        good[:20],
        good[:-1],
        good + b"\0",
        b"?" + good[1:],
        good[:-1] + b"?",
        good[:9] + b"?" + good[10:],
    ):
        cache.write_bytes(bad)
        assert [start(), start()] == ["compiled", "loaded"]
        assert cache.read_bytes() == good
    assert start(STUB_BINARY="17") == "compiled"  # the driver does not take what an older one wrote
    assert start(STUB_BINARY="17") == "loaded"
    cache.unlink()
    cache.mkdir()
    assert start() == "compiled"
    assert list(cache.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "stub.so", "x", "y"]


IN_PLACE = """
#include <stdio.h>
#include <string.h>
#include "model.h"
static char kernels[MODEL_KERNELS_BYTES];
static uint8_t weights[MODEL_WEIGHTS_BYTES], output[MODEL_OUTPUT0_BYTES];
#define EXPECT(condition) if (!(condition)) return __LINE__
static size_t read_file(const char* path, void* data, size_t bytes) {
  FILE* file = fopen(path, "rb");
  size_t found = file ? fread(data, 1, bytes, file) : 0;
  if (file) fclose(file);
  return found;
}
int main(void) {
  EXPECT(read_file("kernels.cl", kernels, sizeof kernels) && read_file("weights.bin", weights, sizeof weights));
  model_options options = {.kernels = kernels, .weights = weights};
  model_instance *one, *two;
  EXPECT(!model_open(&options, &one) && !model_open(&options, &two));
  EXPECT(model_get_statistics(one)->cache == MODEL_CACHE_NONE);
  memset(weights, 0, sizeof weights);
  void* memory;
  const void *inputs[] = {NULL}, *result, *again;
  void *outputs[] = {NULL}, *copied[] = {output};
  EXPECT(!model_map_input(one, 0, &memory) && read_file("x", memory, MODEL_INPUT0_BYTES));
  EXPECT(!model_run(one, inputs, outputs));
  EXPECT(!model_map_output(one, 0, &result) && !model_map_output(one, 0, &again) && result == again);
  fwrite(result, 1, MODEL_OUTPUT0_BYTES, stdout);
  inputs[0] = memory = output; /* another input, copied, then the same again without a copy */
  memset(output, 9, sizeof output);
  EXPECT(!model_run(two, inputs, outputs));
  inputs[0] = NULL;
  EXPECT(!model_run(two, inputs, copied) && !model_map_output(two, 0, &result));
  EXPECT(!memcmp(result, output, sizeof output));
  EXPECT(!model_run(one, inputs, copied));
  fwrite(output, 1, MODEL_OUTPUT0_BYTES, stdout);
  model_close(one);
  model_close(two);
  return 0;
}
"""


@needs_opencl
def test_memory_that_is_not_copied_and_two_instances(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "in_place.c").write_text(IN_PLACE)
    program = build_example(bundle.path, tmp_path, source=tmp_path / "in_place.c")
    for name in ("kernels.cl", "weights.bin"):
        shutil.copy(bundle.path / name, tmp_path)
    sample(2).tofile(tmp_path / "x")
    call("sh", "-c", f"{program} > y", cwd=tmp_path)
    assert (tmp_path / "y").read_bytes() == 2 * reference(small_device(), sample(2))["y"].tobytes()


# ------------------------------------------------------------------------------------------------ compilers and CMake


def test_the_folder(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert (manifest.driver, manifest.kernels, manifest.code) == ("opencl", 2, "kernels.cl")
    assert [step.kernel for step in manifest.steps] == ["scale", "scale", "add"]
    assert manifest.own_files == set(manifest.files)
    header = (bundle.path / "model.h").read_text()
    assert f"#define MODEL_KERNELS_BYTES {len(SOURCE)}" in header
    assert "#define MODEL_OUTPUT0_ZERO_POINT 3" in header


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs apt-get install g++")
def test_the_header_is_one_of_cxx_too(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "use.cc").write_text(
        '#include "model.h"\nint use(model_instance* m) { return model_run(m, {}, {}); }\n'
    )
    call("g++", "-Wall", "-Werror", f"-I{bundle.path}", "-c", "use.cc", cwd=tmp_path)


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs apt-get install cmake")
def test_cmake(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.13)\nproject(app C)\n"
        f'add_subdirectory("{bundle.path}" model)\nadd_executable(app "{bundle.path}/main.c")\n'
        "target_link_libraries(app PRIVATE model)\n"
    )
    compiler = CROSS if shutil.which(CROSS) else "gcc"
    for source in (bundle.path, tmp_path):
        build = tmp_path / f"build-{source.name}"
        call("cmake", "-S", source, "-B", build, "-DCMAKE_SYSTEM_NAME=Linux", f"-DCMAKE_C_COMPILER={compiler}")
        call("cmake", "--build", build)
        assert (build / ("example" if source == bundle.path else "app")).exists()


@pytest.mark.skipif(
    shutil.which(CROSS) is None or shutil.which("qemu-aarch64") is None, reason=f"needs {AARCH64_LINUX.install}"
)
def test_for_the_phones_processor(bundle: Bundle, tmp_path: Path) -> None:
    """Cross-compiled, it says that there is no OpenCL library, and runs with one, here the stub."""
    call(CROSS, *STRICT, "-o", "example", bundle.path / "main.c", bundle.path / "model.c", "-ldl", cwd=tmp_path)
    build_stub(tmp_path, CROSS)
    sample(1).tofile(tmp_path / "x")
    start = ("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "./example")
    assert "error 1: no OpenCL library found" in call(*start, bundle.path, "x", "y", cwd=tmp_path, code=1)
    printed = call(*start, "-p", "-c", "cache", "-l", "./stub.so", bundle.path, "x", "y", cwd=tmp_path)
    assert "stub: program compiled in" in printed
    assert "objects left: 0" in printed


# ------------------------------------------------------------------------------------------- of a compiled model


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT, compiled for `mali` from the digit classifier."""
    folder = tmp_path_factory.mktemp("digits")
    assert compile_digits(folder / "OUT") == 0
    return folder


def compile_digits(output: Path, *options: str) -> int:
    data = ("--calibration", str(DIGITS / "calibration.npz"), "--limit", "8")
    return main(["compile", "-q", str(DIGITS / "digits.onnx"), *data, "-o", str(output), "--target", "mali", *options])


@needs_opencl
def test_commands_on_a_compiled_model(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, data = str(digits / "OUT"), str(DIGITS / "test.npz")
    assert main(["verify", out, "--emulate", "--data", data, "--limit", "4"]) == 0
    assert "4 samples, 48 integer tensors" in capsys.readouterr().out
    assert main(["run", out, "--emulate", "-q", "--input", data, "--output", str(digits / "y.npz")]) == 0
    images, logits = np.load(data)["image"], np.load(digits / "y.npz")["logits"]
    expected = qcompiler.interpret(integer_program(qcompiler.load_bundle(out)), {"image": images[:1]})["logits"]
    assert np.array_equal(logits[:1], expected)
    reference = ("--reference", str(DIGITS / "digits.onnx"), "--data", data, "--limit", "4")
    assert main(["compare", out, "--emulate", *reference]) == 0
    assert "Outputs" in capsys.readouterr().out


def test_the_report_names_layers_that_suit_a_cpu_better(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(digits / "OUT")]) == 0
    assert re.search(
        r"note +better left on the CPU, though the GPU runs it: .*classifier.* less than 16 work-items, one warp",
        capsys.readouterr().out,
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--threads", "mali is a GPU, which shares its work by itself"),
        ("--embed-weights", "from weights.bin; leave out"),
    ],
)
def test_options_for_cpus_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, message: str
) -> None:
    assert compile_digits(tmp_path / "OUT", option) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_work_groups_from_a_file(digits: Path, tmp_path: Path) -> None:
    """The documented file, with one size changed."""
    (code,) = re.findall(r"```python\n(bundle = qcompiler.load_bundle\(\"OUT\"\)\nsizes.*?)```", PAGE, re.DOTALL)
    file = tmp_path / "FILE.json"
    code = code.replace('"OUT"', repr(str(digits / "OUT"))).replace('"FILE.json"', repr(str(file)))
    exec(code, {"qcompiler": qcompiler, "json": json, "Path": Path})
    sizes = json.loads(file.read_text())
    sizes[next(kernel for kernel in sizes if "mali_conv" in kernel)] = [2, 4, 1]
    file.write_text(json.dumps(sizes))
    assert compile_digits(tmp_path / "OUT", "--work-groups", str(file)) == 0
    found = {one.kernel: list(one.local_size) for one in qcompiler.load_bundle(tmp_path / "OUT").manifest.launches}
    assert found == sizes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("{", "is no JSON file"),
        ("[]", "expected an object such as"),
        ('{"k1": [8, 8]}', "kernel k1: expected three positive integers .* got .8, 8."),
        ('{"k1": [8, 0, 1]}', "kernel k1: expected three positive integers"),
        ('{"k1": [64, 32, 1]}', "kernel k1: .* product is at most 1024"),
        ('{"k1": [8.0, 8, 1]}', "kernel k1: expected three positive integers"),
        ('{"k1": [8, 8, 1]}', "for kernel k1, which the program does not have"),
    ],
)
def test_bad_work_groups(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, message: str) -> None:
    file = tmp_path / "FILE.json"
    if content is not None:
        file.write_text(content)
    assert compile_digits(tmp_path / "OUT", "--work-groups", str(file)) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "OUT").exists()


def test_work_groups_are_for_gpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compile_digits(tmp_path / "OUT", "--work-groups", "FILE.json", "--target", "host") == 2
    assert "host has no work-groups" in capsys.readouterr().err


def test_bench_prints_estimates(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(digits / "OUT"), "--emulate"]) == 0
    printed = capsys.readouterr().out
    assert "estimates from the kernels' code, no measurements" in printed
    assert "346,432" in printed
    assert main(["bench", str(digits / "OUT"), "--emulate", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["target"] == "mali"
    launches = qcompiler.load_bundle(digits / "OUT").manifest.launches
    assert [one["kernel"] for one in document["estimates"]] == [launch.kernel for launch in launches]
    for option in (["--reference", str(DIGITS / "digits.onnx")], ["--threads", "2"]):
        assert main(["bench", str(digits / "OUT"), "--emulate", *option]) == 2
        assert f"leave out {option[0]}" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------- the documentation


@needs_opencl
def test_the_documented_commands(digits: Path) -> None:
    np.random.default_rng(0).random((1, 1, 8, 8), np.float32).tofile(digits / "image.f32")
    for command in re.findall(r"^    ((?:gcc|./example) .*)$", PAGE, re.MULTILINE):
        call(*command.split(), cwd=digits)
    image = np.fromfile(digits / "image.f32", np.float32).reshape(1, 1, 8, 8)
    program = integer_program(qcompiler.load_bundle(digits / "OUT"))
    expected = qcompiler.interpret(program, {"image": image})["logits"]
    assert (digits / "logits.f32").read_bytes() == expected.tobytes()


def test_the_documented_code_compiles(digits: Path, tmp_path: Path) -> None:
    (code,) = re.findall(r"```c\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "app.c").write_text(code)
    call("gcc", *STRICT, f"-I{digits / 'OUT'}", "-c", "app.c", cwd=tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(not OCLGRIND.exists(), reason="needs apt-get install oclgrind")
def test_no_access_outside_of_buffers(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under oclgrind, which does find one in a kernel that reads past the end of everything."""
    for name, value in {"DATA_RACES": "1", "LOG": str(tmp_path / "log")}.items():
        monkeypatch.setenv(f"OCLGRIND_{name}", value)
    monkeypatch.setenv("OCL_ICD_VENDORS", str(OCLGRIND))
    image = np.random.default_rng(0).random((1, 1, 8, 8), np.float32)
    bundle = qcompiler.load_bundle(digits / "OUT", emulate=True)
    bundle.build_options = ("-DQCOMPILER_NO_DOT",)  # oclgrind announces the dot product that it does not have
    bundle.run({"image": image})
    assert (tmp_path / "log").read_text() == ""
    bad = small_bundle(tmp_path / "bad", source=SOURCE.replace("a[i] + b[i]", "a[i] + b[i + 2000]"))
    load_emulated(bad.path).run({"x": sample(0)})
    assert "Invalid read of size 1 at global memory address" in (tmp_path / "log").read_text()
