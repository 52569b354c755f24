"""Bundles for ARM CPUs: what is in the folder, how C calls it, and how it runs here, in the emulator."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from bad_input import Fails, compiling
from small_graphs import Graph
from small_program import small_program

import qcompiler
from qcompiler.bundle import BundleContents, EmulatedBundle, TensorInfo, load_emulated, write_bundle
from qcompiler.bundle.link import link_shared
from qcompiler.cli import main
from qcompiler.errors import BundleError, TargetError
from qcompiler.lowering.aot import build_object
from qcompiler.targets.spec import resolve_target, target_names
from qcompiler.targets.toolchain import AARCH64_LINUX
from qcompiler.verify import integer_program, verify

REPOSITORY = Path(__file__).resolve().parents[1]
DIGITS = REPOSITORY / "examples" / "digits"
PAGE = (REPOSITORY / "docs" / "arm.md").read_text(encoding="utf-8")
GCC = "aarch64-linux-gnu-gcc"
LIBC = {"memcpy", "memmove", "memset"}
LIBM = {"expf", "exp", "powf", "tanhf", "erff", "logf", "sqrtf", "floorf", "roundf", "fmaxf", "fminf"}

needs_tools = pytest.mark.skipif(
    shutil.which(GCC) is None or shutil.which("qemu-aarch64") is None, reason=f"needs {AARCH64_LINUX.install}"
)
pytestmark = needs_tools


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT, compiled for arm-cpu from the digit classifier, and image.f32, whose logits the tests compute."""
    folder = tmp_path_factory.mktemp("arm")
    code = main(
        [
            *("compile", str(DIGITS / "digits.onnx"), "--calibration", str(DIGITS / "calibration.npz")),
            *("--limit", "8", "-o", str(folder / "OUT"), "--target", "arm-cpu"),
        ]
    )
    assert code == 0
    images(1)[0].tofile(folder / "image.f32")
    return folder


@pytest.fixture(scope="module")
def bundle(folder: Path) -> EmulatedBundle:
    return load_emulated(folder / "OUT")


@pytest.fixture(scope="module")
def embedded(bundle: EmulatedBundle, tmp_path_factory: pytest.TempPathFactory) -> EmulatedBundle:
    """The same program with the weights in the libraries."""
    output = tmp_path_factory.mktemp("embedded") / 'folder, "quoted"' / "OUT"
    options = {"limit": 8, "target": "arm-cpu", "embed_weights": True}
    calibration = DIGITS / "calibration.npz"
    qcompiler.compile(DIGITS / "digits.onnx", calibration=calibration, output=output, **options)
    return load_emulated(output)


def images(count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).random((count, 1, 1, 8, 8), np.float32))


def expected(bundle: EmulatedBundle, image: np.ndarray) -> np.ndarray:
    return qcompiler.interpret(integer_program(bundle), {"image": image})["logits"]


def call(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


# ------------------------------------------------------------------------------------------------------ from C


def test_the_documented_example_gives_the_integers_of_the_interpreter(bundle: EmulatedBundle, folder: Path) -> None:
    for command in re.findall(rf"^    ((?:{GCC}|qemu-aarch64) .*)$", PAGE, re.MULTILINE):
        call(*command.split(), cwd=folder)
    assert (folder / "logits.f32").read_bytes() == expected(bundle, images(1)[0]).tobytes()


def test_the_example_is_strict_c_and_tells_what_is_wrong(bundle: EmulatedBundle, tmp_path: Path) -> None:
    strict = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror", "-static", "-o", "example"]
    call(GCC, *strict, bundle.path / "main.c", bundle.path / "libmodel.a", "-lm", cwd=tmp_path)
    (tmp_path / "short").write_bytes(bytes(255))
    (tmp_path / "long").write_bytes(bytes(257))
    weights = str(bundle.path / "weights.bin")
    for arguments, message in (
        ([], "usage: .* weights.bin INPUT... OUTPUT... .1 inputs, 1 outputs."),
        ([weights, "missing", "y"], "missing: cannot be read, or does not hold 256 bytes"),
        ([weights, "short", "y"], "short: cannot be read"),
        ([weights, "long", "y"], "long: cannot be read"),
    ):
        command = ["qemu-aarch64", "./example", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode != 0
        assert re.search(message, done.stderr)


def test_weights_linked_in(embedded: EmulatedBundle, bundle: EmulatedBundle, folder: Path, tmp_path: Path) -> None:
    assert not (embedded.path / "weights.bin").exists()
    call(GCC, "-static", "-o", "example", embedded.path / "main.c", embedded.path / "libmodel.a", cwd=tmp_path)
    call("qemu-aarch64", "./example", folder / "image.f32", "logits.f32", cwd=tmp_path)
    image = images(1)[0]
    logits = expected(bundle, image)
    assert (tmp_path / "logits.f32").read_bytes() == logits.tobytes()
    assert np.array_equal(embedded.run({"image": image})["logits"], logits)
    for library, option in (("libmodel.a", "-g"), ("libmodel.so", "-D")):
        found = re.search(r"^(\w+) R model_weights$", symbols(embedded.path / library, option), re.MULTILINE)
        assert found is not None
        assert int(found[1], 16) % embedded.manifest.alignment == 0


def test_shared_library(bundle: EmulatedBundle, folder: Path, tmp_path: Path) -> None:
    library = bundle.path / "libmodel.so"
    call(GCC, "-o", "example", bundle.path / "main.c", library, f"-Wl,-rpath,{bundle.path}", cwd=tmp_path)
    arguments = [bundle.path / "weights.bin", folder / "image.f32", "logits.f32"]
    call("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "./example", *arguments, cwd=tmp_path)
    assert (tmp_path / "logits.f32").read_bytes() == expected(bundle, images(1)[0]).tobytes()


def test_linker_without_a_compiler(bundle: EmulatedBundle, tmp_path: Path) -> None:
    """As ld.lld alone would do it."""
    alone = replace(AARCH64_LINUX, compilers=(("no-such-gcc",),), linkers=(("aarch64-linux-gnu-ld",),))
    call("aarch64-linux-gnu-ar", "x", bundle.path / "libmodel.a", cwd=tmp_path)
    link_shared(sorted(tmp_path.glob("*.o")), tmp_path / "libmodel.so", ["model_run"], alone)
    assert re.findall(r" T (\w+)$", symbols(tmp_path / "libmodel.so", "-D"), re.MULTILINE) == ["model_run"]
    with pytest.raises(TargetError, match=r"no C compiler found \(looked for no-such-gcc in PATH\)"):
        _ = alone.compiler


def test_the_call_compiles_as_documented(bundle: EmulatedBundle, tmp_path: Path) -> None:
    (tmp_path / "call.c").write_text(blocks("c")[0])
    call(GCC, "-std=c11", "-Wall", "-Wextra", "-Werror", "-c", f"-I{bundle.path}", "call.c", cwd=tmp_path)


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs cmake")
def test_cmake_builds_the_example_and_a_project_of_ones_own(
    bundle: EmulatedBundle, folder: Path, tmp_path: Path
) -> None:
    commands = [line.split() for line in re.findall(r"^    (cmake .*)$", PAGE, re.MULTILINE)]
    assert len(commands) == 2
    (tmp_path / "OUT").symlink_to(bundle.path)
    (tmp_path / "app.c").write_text(
        '#include "model.h"\nint main(void) { return MODEL_INPUTS - 1; }\n' + blocks("c")[0]
    )
    lines = ["cmake_minimum_required(VERSION 3.13)", "project(app C)", "add_executable(app app.c)", *blocks("cmake")]
    (tmp_path / "CMakeLists.txt").write_text("\n".join(lines))
    for command in commands:
        call(*command, cwd=tmp_path)
    arguments = [bundle.path / "weights.bin", folder / "image.f32", "logits.f32"]
    call("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "build/example", *arguments, cwd=tmp_path)
    assert (tmp_path / "logits.f32").read_bytes() == expected(bundle, images(1)[0]).tobytes()
    own = ["own" if word == "build" else "." if word == "OUT" else word for command in commands for word in command]
    call(*own[: len(commands[0])], cwd=tmp_path)
    call(*own[len(commands[0]) :], cwd=tmp_path)
    call("qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "own/app", cwd=tmp_path)


# ----------------------------------------------------------------------------------------------- what it depends on


def symbols(library: Path, option: str) -> str:
    return call("aarch64-linux-gnu-nm", option, library, cwd=library.parent)


def test_libraries_need_no_runtime(bundle: EmulatedBundle) -> None:
    """Nothing undefined but libm and libc; only the entries are visible; no relocation of code, no writable code."""
    inside = symbols(bundle.path / "libmodel.a", "-g")
    undefined = set(re.findall(r"^ +U (\w+)$", inside, re.MULTILINE))
    defined = set(re.findall(r"^\w+ T (\w+)$", inside, re.MULTILINE))
    assert undefined - defined <= LIBC | LIBM
    assert {"model_run", "model_trace", "model_step"} <= defined
    outside = symbols(bundle.path / "libmodel.so", "-D")
    assert set(re.findall(r" T (\w+)$", outside, re.MULTILINE)) == {"model_run", "model_trace", "model_step"}
    dynamic = call("aarch64-linux-gnu-readelf", "-dlW", bundle.path / "libmodel.so", cwd=bundle.path)
    assert "SONAME" in dynamic
    assert "TEXTREL" not in dynamic
    assert set(re.findall(r"NEEDED.*\[(.*)\]", dynamic)) <= {"libm.so.6", "libc.so.6"}
    assert "RWE" not in dynamic


def test_constants_of_the_header(bundle: EmulatedBundle, tmp_path: Path) -> None:
    manifest = bundle.manifest
    (x,), (y,) = manifest.inputs, manifest.outputs
    numbers = {
        "ALIGNMENT": 64,
        "WEIGHTS_BYTES": (bundle.path / "weights.bin").stat().st_size,
        "WEIGHTS_EMBEDDED": 0,
        "ARENA_BYTES": manifest.arena_bytes,
        "TRACE_ARENA_BYTES": manifest.trace_arena_bytes,
        "STEPS": len(manifest.steps),
        "INPUTS": 1,
        "OUTPUTS": 1,
        "INPUT0_RANK": 4,
        "INPUT0_BYTES": x.nbytes,
        "INPUT0_OFFSET": 0,
        "INPUTS_BYTES": 256,
        "OUTPUT0_RANK": 2,
        "OUTPUT0_BYTES": y.nbytes,
        "OUTPUTS_BYTES": 64,
    }
    checks = "".join(f'_Static_assert(MODEL_{name} == {value}, "{name}");\n' for name, value in numbers.items())
    checks += "const int shape[] = MODEL_INPUT0_SHAPE; const char* name = MODEL_INPUT0_NAME;\n"
    checks += '_Static_assert(sizeof shape == 16 && sizeof(MODEL_OUTPUT0_TYPE) == 4, "types");\n'
    (tmp_path / "check.c").write_text(f'#include "model.h"\n{checks}')
    call(GCC, "-std=c11", "-Werror", "-fsyntax-only", f"-I{bundle.path}", "check.c", cwd=tmp_path)


# -------------------------------------------------------------------------------------------------- in the emulator


def test_samples_in_one_process(bundle: EmulatedBundle) -> None:
    feeds = [{"image": image} for image in images(5)]
    logits = [expected(bundle, feed["image"]) for feed in feeds]
    for mode, repeats in (("run", 1), ("step", 2), ("trace", 1)):
        done = bundle.execute(mode, feeds, repeats=repeats)
        assert all(np.array_equal(d.outputs["logits"], y) for d, y in zip(done, logits, strict=True))
        assert {d.arena.size for d in done} == {bundle.manifest.trace_arena_bytes if mode == "trace" else 0}
    assert all(np.array_equal(d["logits"], y) for d, y in zip(bundle.run_many(feeds), logits, strict=True))
    assert bundle.execute("run", []) == []
    assert list(bundle.run_many([])) == []


def test_options_of_the_emulator(bundle: EmulatedBundle) -> None:
    with pytest.raises(BundleError, match="qemu-aarch64 ended with code"):
        bundle.execute("run", [{"image": images(1)[0]}], options=["-no-such-option"])


def test_cpu_without_the_instructions(bundle: EmulatedBundle) -> None:
    """The emulated core has those of the target, and no others."""
    assert bundle.toolchain.emulator[1:] == ("-cpu", "cortex-a76")
    with pytest.raises(BundleError, match="Illegal instruction"):
        bundle.execute("run", [{"image": images(1)[0]}], options=["-cpu", "cortex-a53"])


def test_trace_has_the_values_of_the_ir(bundle: EmulatedBundle) -> None:
    traced = bundle.trace({"image": images(1)[0]}, logical=True)
    assert list(traced) == list(bundle.manifest.values)
    assert {array.shape for array in traced.values()} == {value.shape for value in bundle.manifest.values.values()}


def test_several_inputs_and_outputs_and_another_prefix(tmp_path: Path) -> None:
    program, reference = small_program()
    spec = resolve_target("arm-cpu")
    machine = {"kind": "llvm", "mtriple": "aarch64-linux-gnu"}
    shape = (1, 1, 4, 256)
    contents = BundleContents(
        program=program,
        compiled=build_object(program, machine, prefix="net"),
        target={"name": "arm-cpu", **machine},
        inputs=(TensorInfo("x", "x", shape, "uint8"), TensorInfo("z", "z", shape, "uint8")),
        outputs=(TensorInfo("y", "y", (4, 256), "uint8"), TensorInfo("real", "real", (1024,), "float32")),
        toolchain=spec.toolchain,
    )
    write_bundle(tmp_path / "net", contents)
    bundle = load_emulated(tmp_path / "net")
    rng = np.random.default_rng(0)
    for _ in range(2):
        x, z = (rng.integers(0, 256, shape, dtype=np.uint8) for _ in range(2))
        wanted = reference(x.reshape(4, 256), z.reshape(4, 256))
        traced = bundle.trace({"x": x, "z": z})
        for name, array in wanted.items():
            assert np.array_equal(traced[name].reshape(4, 256), array)


def test_product_of_two_activations(tmp_path: Path) -> None:
    """The right-hand side is packed, and its columns are summed, at run time."""
    g = Graph(x=(2, 9, 64), z=(2, 33, 64))
    x, z = (g("MatMul", name, g.weight(64, columns)) for name, columns in (("x", 33), ("z", 21)))
    onnx.save(g.proto(g("MatMul", x, z)), tmp_path / "product.onnx")
    rng = np.random.default_rng(0)
    feeds = [{name: rng.normal(1, 1, shape).astype(np.float32) for name, shape in g.inputs.items()} for _ in range(4)]
    qcompiler.compile(tmp_path / "product.onnx", calibration=feeds, output=tmp_path / "OUT", target="arm-cpu")
    emulated = load_emulated(tmp_path / "OUT")
    assert any("packed" in step.rule for step in emulated.manifest.steps)
    result = verify(emulated, feeds)
    assert result.exact
    assert result.samples == 4


@pytest.mark.parametrize("command", ["run", "verify", "compare"])
def test_command(command: str, folder: Path, bundle: EmulatedBundle, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(folder / "x.npz", image=np.stack(images(4)))
    data = ["--data", f"{folder}/x.npz"]
    arguments = {
        "run": ["--input", f"{folder}/x.npz", "--output", f"{folder}/y.npz"],
        "verify": data,
        "compare": [*data, "--reference", f"{DIGITS}/digits.onnx"],
    }
    assert main([command, f"{folder}/OUT", "--emulate", "--json", *arguments[command]]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["samples"] == 4
    if command == "run":
        logits = np.load(folder / "y.npz")["logits"]
        assert np.array_equal(logits, np.concatenate([expected(bundle, image) for image in images(4)]))
    elif command == "verify":
        assert found["exact"] and found["tensors"] >= 4 * 10
    else:
        assert found["outputs"][0]["sqnr_db"] > 10


def test_inspect_names_features_and_arena(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", f"{folder}/OUT"]) == 0
    text = capsys.readouterr().out
    assert "needs      CPU with asimd, asimdhp, asimddp" in text
    ratio = re.search(r"arena +.*, ([\d.]+) times the .* that live at the same time", text)
    assert ratio is not None
    assert 1.0 <= float(ratio[1]) <= 1.2


def test_every_core_is_documented() -> None:
    named = set(re.findall(r"`(arm-cpu[\w:-]*)`", PAGE))
    assert {name for name in target_names() if name.startswith("arm-cpu")} <= named


# ------------------------------------------------------------------------------------------------------ what fails


@pytest.fixture
def arm(here: Path, folder: Path) -> Path:
    """The working folder of `fails` with a copy of the bundle, `out`, and data for it."""
    shutil.copytree(folder / "OUT", here / "out")
    np.savez(here / "x.npz", image=np.stack(images(2)))
    return here


RUN = ["run", "out", "--input", "x.npz", "--output", "y.npz"]


def test_no_cross_compiler(here: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    message = fails(*compiling("--target", "arm-cpu"))
    assert f"no linker found (looked for {GCC}" in message
    assert AARCH64_LINUX.install in message
    assert "no C compiler found" in fails(*compiling("--target", "arm-cpu", "--embed-weights"))


def test_no_emulator(arm: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    message = fails(*RUN, "--emulate")
    assert "no emulator found (looked for qemu-aarch64 in PATH)" in message
    assert AARCH64_LINUX.install in message


def test_bundle_of_another_machine(arm: Path, fails: Fails, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for arguments in (RUN, ["verify", "out", "--data", "x.npz"], ["bench", "out"]):
        message = fails(*arguments)
        assert "out is for arm-cpu, and this machine is x86_64" in message
        assert "--emulate" in message


def test_bundle_of_this_machine_needs_no_emulator(good: Path) -> None:
    with pytest.raises(BundleError, match="is for host, which has no emulator; run it without --emulate"):
        qcompiler.load_bundle(good / "out", emulate=True)


@pytest.mark.parametrize("name", ["libmodel.a", "libmodel.so", "weights.bin", "main.c", "manifest.json"])
def test_truncated_file(arm: Path, fails: Fails, name: str) -> None:
    content = (arm / "out" / name).read_bytes()
    (arm / "out" / name).write_bytes(content[: len(content) // 2])
    assert name in fails(*RUN, "--emulate")


def test_time_of_an_emulator_is_refused(bundle: EmulatedBundle) -> None:
    for method in (bundle.bench, bundle.profile):
        with pytest.raises(BundleError, match="whose time says nothing about arm-cpu"):
            method(3)


def test_folder_of_programs_that_others_may_write_to(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fresh = load_emulated(folder / "OUT")
    place = fresh.program.parent
    assert place.parent == tmp_path
    assert load_emulated(folder / "OUT").program == fresh.program
    place.chmod(0o777)
    with pytest.raises(BundleError, match="not a folder that this user alone may write to"):
        _ = load_emulated(folder / "OUT").program


def test_toolchain_whose_compiler_fails(
    bundle: EmulatedBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    broken = replace(AARCH64_LINUX, compilers=(("false",),))
    with pytest.raises(TargetError, match=r"linking .* failed: false"):
        _ = EmulatedBundle(bundle.path, bundle.manifest, broken).program
