"""The command line: every command for real on a small model, JSON, one clear message for bad input."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import qcompiler
from qcompiler.cli import main
from qcompiler.cli.output import bytes_text

SAMPLES = 6


def small_model(rows: int | str = 8) -> onnx.ModelProto:
    """Conv, Relu, a global mean, Flatten, Gemm; node names are conv, relu, mean, flat, gemm."""
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["m"], "mean"),
        helper.make_node("Flatten", ["m"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "v", "a"], ["y"], "gemm"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, rows, 8])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 5])],
        [weight("w", 4, 3, 3, 3), weight("b", 4), weight("v", 4, 5), weight("a", 5)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model.onnx, data.npz (x and labels), and out/, compiled by the command."""
    folder = tmp_path_factory.mktemp("cli")
    onnx.save(small_model(), folder / "model.onnx")
    x = np.random.default_rng(1).standard_normal((SAMPLES, 3, 8, 8)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, labels=np.arange(SAMPLES))
    assert main(compile_arguments(folder, "out")) == 0
    return folder


def compile_arguments(folder: Path, out: str, *more: str) -> list[str]:
    model, data = str(folder / "model.onnx"), str(folder / "data.npz")
    return ["compile", model, "--calibration", data, "-o", str(folder / out), *more]


def document(capsys: pytest.CaptureFixture[str]) -> object:
    captured = capsys.readouterr()
    assert captured.err == ""
    return json.loads(captured.out)


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one message of a command that must end with code 2 and print nothing else."""
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    return captured.err


def test_compile_reports_the_program(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(compile_arguments(work, "again", "--json", "--limit", "2", "--dump-ir", str(work / "dumps"))) == 0
    report = document(capsys)
    assert report["program"]["integer"]["q.conv"] == 1
    assert report["program"]["float"] == {}
    assert report["passes"][0]["name"] == "import"
    assert report["weight_bytes"] > 0
    assert sorted(f.name for f in (work / "dumps").glob("*.mlir"))[0] == "000_import.mlir"
    again = qcompiler.load_bundle(work / "again")
    assert again.manifest.inputs[0].shape == (1, 3, 8, 8)


def test_compile_prints_a_summary(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(compile_arguments(work, "summary", "--keep-float", "gemm", "--per-tensor", "--policy", "affine")) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for words in ("1 q.conv", "1 onnx.Gemm", "library", "weights", "ir/000_import.mlir"):
        assert words in captured.out


def test_compile_takes_shapes(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(small_model("rows"), tmp_path / "model.onnx")
    (tmp_path / "data.npz").write_bytes((work / "data.npz").read_bytes())
    assert "rows" in failure(capsys, *compile_arguments(tmp_path, "out"))
    assert not (tmp_path / "out").exists()
    assert main(compile_arguments(tmp_path, "out", "--shape", "x=1x3x8x8")) == 0


def test_run_equals_the_interpreter(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = np.load(work / "data.npz")["x"]
    arguments = ["run", str(work / "out"), "--input", str(work / "data.npz"), "--output", str(work / "y.npz")]
    assert main([*arguments, "--json"]) == 0
    report = document(capsys)
    assert report["samples"] == SAMPLES
    assert report["arrays"] == {"y": {"shape": [SAMPLES, 5], "dtype": "float32"}}
    found = np.load(work / "y.npz")["y"]
    quantized = qcompiler.quantize(qcompiler.import_onnx(work / "model.onnx"), work / "data.npz")
    expected = [qcompiler.interpret(quantized, {"x": x[None]})["y"] for x in data]
    assert np.array_equal(found, np.concatenate(expected))


def test_run_on_one_sample_keeps_its_shape(work: Path) -> None:
    np.savez(work / "one.npz", x=np.load(work / "data.npz")["x"][:1])
    assert main(["run", str(work / "out"), "--input", str(work / "one.npz"), "--output", str(work / "one_y.npz")]) == 0
    assert np.load(work / "one_y.npz")["y"].shape == (1, 5)


def test_opt_continues_from_every_dump(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dumps = sorted((work / "out" / "ir").glob("*.mlir"))
    final = without_header(dumps[-1].read_text())
    assert len(dumps) > 8
    for dump in dumps:
        header = [line for line in dump.read_text().splitlines()[:4] if line.startswith("// continue: ")]
        if not header or "calibrate" in header[0]:
            continue
        pipeline = header[0].split("'")[1]
        assert main(["opt", str(dump), "-p", pipeline, "--calibration", str(work / "data.npz")]) == 0
        assert without_header(capsys.readouterr().out) == final


def without_header(text: str) -> str:
    return "".join(line for line in text.splitlines(keepends=True) if not line.startswith("//"))


def test_opt_saves_text_and_constants(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, saved = str(work / "model.onnx"), work / "saved.mlir"
    data = ["--calibration", str(work / "data.npz")]
    assert main(["opt", source, "-p", "canonicalize,calibrate{method=mse limit=3}", *data, "-o", str(saved)]) == 0
    assert capsys.readouterr().out == ""
    assert main(["opt", str(saved), "-p", "choose-scheme,insert-qdq,integerize", "--timing", "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["stage"] == "integer"
    assert [p["name"] for p in report["passes"]] == ["import", "choose-scheme", "insert-qdq", "integerize"]
    assert "insert-qdq" in captured.err
    assert sorted(f.name for f in work.glob("saved.*")) == ["saved.mlir", "saved.safetensors"]


def test_opt_verifies_only(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["opt", str(work / "out" / "ir" / "000_import.mlir"), "--verify-only"]) == 0
    assert capsys.readouterr() == ("", "")


def test_opt_lists_passes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["opt", "--list-passes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 13
    assert all(len(line.split()) > 3 and line.endswith(".") for line in lines), lines
    assert main(["opt", "--list-passes", "--json"]) == 0
    assert document(capsys).keys() == {line.split()[0] for line in lines}


@pytest.mark.parametrize("path", ["out", "model.onnx", "out/ir/000_import.mlir", "out/ir/*_dce.mlir"])
def test_inspect(work: Path, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = work.glob(path)
    assert main(["inspect", str(found)]) == 0
    text = capsys.readouterr().out
    assert "multiply-adds" in text
    assert main(["inspect", str(found), "--json"]) == 0
    report = document(capsys)
    program = report["program"] if path == "out" else report
    total = 4 * 3 * 9 * 64 + 4 * 5
    assert program["integer_macs"] + program["float_macs"] == total
    assert [i["name"] for i in program["inputs"]] == ["x"]


def test_inspect_gives_reasons(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(work / "out"), "--json"]) == 0
    program = document(capsys)["program"]
    relu = next(t for t in program["tensors"] if t["name"] == "relu" and t["op"] == "q.conv")
    assert relu["storage"] == "u8"
    assert relu["why"].startswith(("affine: ", "symmetric: "))
    weights = {w["op"]: w for w in program["weights"]}
    assert weights["q.conv"]["channels"] == 4
    largest = np.abs(numpy_helper.to_array(small_model().graph.initializer[0])).max(axis=(1, 2, 3)) / 127
    assert weights["q.conv"]["scale"] == pytest.approx([largest.min(), largest.max()], rel=1e-6)


def test_inspect_names_what_stays_float(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(compile_arguments(work, "mixed", "--keep-float", "gemm", "--json")) == 0
    program = document(capsys)["program"]
    assert [(f["name"], f["op"], f["why"]) for f in program["floats"]] == [
        ("gemm", "onnx.Gemm", "kept in float by the recipe (float32)")
    ]
    assert program["float_macs"] == 20


def test_compare(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--reference", str(work / "model.onnx"), "--data", str(work / "data.npz")]
    assert main(["compare", str(work / "out"), *arguments, "--json", "--limit", "4"]) == 0
    report = document(capsys)
    assert report["samples"] == 4
    layers = {layer["name"]: layer for layer in report["layers"]}
    assert layers["relu"]["sqnr_db"] > 25
    assert layers["relu"]["shape"] == [1, 4, 8, 8]
    assert report["outputs"][0]["name"] == "y"
    assert report["outputs"][0]["sqnr_db"] > 20
    assert main(["compare", str(work / "out"), *arguments]) == 0
    assert "SQNR dB" in capsys.readouterr().out


def test_verify(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data", str(work / "data.npz"), "--limit", "3"]
    assert main(["verify", str(work / "out"), *data, "--json"]) == 0
    report = document(capsys)
    assert (report["exact"], report["samples"], report["differences"]) == (True, 3, [])
    assert report["tensors"] > 3
    assert main(["verify", str(work / "out"), *data]) == 0
    assert "all equal to the interpreter's" in capsys.readouterr().out


def test_verify_refuses_a_bundle_that_does_not_compute_its_ir(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another clamp in the IR, and the manifest's hash with it: only running both shows the difference."""
    altered = tmp_path / "altered"
    shutil.copytree(work / "out", altered)
    dump = sorted((altered / "ir").glob("*.mlir"))[-1]
    text = dump.read_text()
    assert "clamp = array<i64: 0, 255>" in text
    dump.write_text(text.replace("clamp = array<i64: 0, 255>", "clamp = array<i64: 0, 9>"))
    manifest = json.loads((altered / "manifest.json").read_text())
    manifest["files"][f"ir/{dump.name}"] = hashlib.sha256(dump.read_bytes()).hexdigest()
    (altered / "manifest.json").write_text(json.dumps(manifest))
    assert main(["verify", str(altered), "--data", str(work / "data.npz"), "--limit", "1"]) == 2
    assert "does not compute its IR's integers" in capsys.readouterr().err


def test_bench(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", str(work / "out"), "--reference", str(work / "model.onnx"), "--repeats", "3"]
    assert main([*arguments, "--json"]) == 0
    rows = document(capsys)
    assert [row["name"] for row in rows] == ["qcompiler int8", "onnxruntime int8 (QDQ)", "onnxruntime fp32"]
    assert all(row["median_ms"] >= row["min_ms"] > 0 for row in rows)
    assert rows[0]["ratio"] == 1.0
    assert main(arguments) == 0
    assert "onnxruntime fp32" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------- bad input


def test_truncated_model(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = (work / "model.onnx").read_bytes()
    (tmp_path / "model.onnx").write_bytes(content[: len(content) // 2])
    (tmp_path / "data.npz").write_bytes((work / "data.npz").read_bytes())
    assert str(tmp_path / "model.onnx") in failure(capsys, *compile_arguments(tmp_path, "out"))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["data.npz", "model.onnx"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--policy", "best"], "best"),
        (["--method", "guess"], "guess"),
        (["--rounding", "up"], "up"),
        (["--target", "toaster"], "toaster"),
    ],
)
def test_wrong_options(work: Path, more: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in failure(capsys, *compile_arguments(work, "wrong", *more))
    assert not (work / "wrong").exists()


def test_calibration_that_does_not_fit(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = str(work / "model.onnx"), tmp_path / "out"
    bad = {
        "shape": {"x": np.zeros((2, 3, 8, 9), np.float32)},
        "nan": {"x": np.full((2, 3, 8, 8), np.nan, np.float32)},
        "name": {"picture": np.zeros((2, 3, 8, 8), np.float32), "label": np.zeros(2)},
    }
    for name, arrays in bad.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)  # type: ignore[arg-type]
        message = failure(capsys, "compile", model, "--calibration", str(tmp_path / f"{name}.npz"), "-o", str(out))
        assert f"{name}.npz" in message
    assert "calibration" in failure(capsys, "compile", model, "-o", str(out))
    assert "missing.npz" in failure(capsys, "compile", model, "--calibration", "missing.npz", "-o", str(out))
    assert not out.exists()


def test_syntax_error_names_line_and_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.mlir"
    file.write_text('builtin.module {\n  func.func @main() {\n    "q.conv"(%x) : nonsense\n  }\n}\n')
    assert f"{file}:3:" in failure(capsys, "opt", str(file))


@pytest.mark.parametrize("pipeline", ["nonsense", "calibrate{method=", "integerize", "calibrate{speed=3}"])
def test_wrong_pipeline(work: Path, pipeline: str, capsys: pytest.CaptureFixture[str]) -> None:
    failure(capsys, "opt", str(work / "out" / "ir" / "000_import.mlir"), "-p", pipeline)


def test_missing_input(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ["--output", str(tmp_path / "y.npz")]
    message = failure(capsys, "run", str(work / "out"), "--input", str(tmp_path / "x.npz"), *output)
    assert message == f"error: {tmp_path / 'x.npz'}: No such file or directory\n"


def test_dumps_inside_the_bundle(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for dumps in (work / "nest", work / "nest" / "ir"):
        assert "ir/" in failure(capsys, *compile_arguments(work, "nest", "--dump-ir", str(dumps)))
    assert not (work / "nest").exists()


def test_opt_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--list-passes" in failure(capsys, "opt")


def test_altered_bundle(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import shutil

    shutil.copytree(work / "out", tmp_path / "out")
    with open(tmp_path / "out" / "weights.bin", "r+b") as file:
        file.write(b"\xff")
    message = failure(
        capsys,
        "run",
        str(tmp_path / "out"),
        "--input",
        str(work / "data.npz"),
        "--output",
        str(tmp_path / "y.npz"),
    )
    assert "weights.bin" in message
    assert not (tmp_path / "y.npz").exists()
    assert "manifest.json" in failure(capsys, "inspect", str(tmp_path))


def test_output_that_cannot_be_written(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    blocked = str(tmp_path / "file" / "out")
    model, data = str(work / "model.onnx"), str(work / "data.npz")
    assert blocked in failure(capsys, "compile", model, "--calibration", data, "-o", blocked)
    assert "file" in failure(capsys, "run", str(work / "out"), "--input", data, "--output", blocked)
    assert "file" in failure(capsys, "opt", model, "-o", blocked)
    assert "file" in failure(capsys, "opt", model, "-p", "canonicalize", "--dump-ir", blocked)
    assert [f.name for f in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk(work: Path) -> None:
    """Text for a full disk: the message, not a traceback."""
    command = [sys.executable, "-c", "import sys; from qcompiler.cli import main; sys.exit(main())"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*command, "opt", "--list-passes"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("shape", ["x", "x=1x0", "x=axb", "=1x3"])
def test_wrong_shape_option(work: Path, shape: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(compile_arguments(work, "out", "--shape", shape))
    assert stop.value.code == 2
    assert "1x3x224x224" in capsys.readouterr().err


def test_comparison_with_another_model(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = small_model()
    other.graph.input[0].name = other.graph.node[0].input[0] = "z"
    onnx.save(other, tmp_path / "other.onnx")
    reference = ["--reference", str(tmp_path / "other.onnx")]
    data = ["--data", str(work / "data.npz")]
    assert "other.onnx" in failure(capsys, "compare", str(work / "out"), *reference, *data)
    assert "other.onnx" in failure(capsys, "bench", str(work / "out"), *reference)


def test_interruption(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qcompiler.api.load_bundle", interrupt)
    assert main(["bench", str(work / "out")]) == 130


def test_faults_keep_their_traceback(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("qcompiler.api.load_bundle", fail)
    with pytest.raises(ZeroDivisionError):
        main(["bench", str(work / "out")])


# --------------------------------------------------------------------------------------------------- the rest


def test_help_imports_little() -> None:
    code = (
        "import sys; from qcompiler.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'tvm', 'onnxruntime', 'onnx', 'xdsl', 'networkx', 'rich', 'numpy'} & set(sys.modules)\n"
        "sys.exit(' '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for command in ("compile", "run", "opt", "inspect", "compare", "verify", "bench"):
        assert command in done.stdout


def test_progress_is_silent_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    from qcompiler.cli.progress import progress

    with progress() as shown:
        shown.step("phase")
        assert list(shown.track(range(3), "items", 3)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal() -> None:
    from io import StringIO

    from rich.console import Console
    from rich.progress import Progress as Bars

    from qcompiler.cli.progress import TerminalProgress

    stream = StringIO()
    with Bars(console=Console(file=stream, force_terminal=True, width=80)) as bars:
        shown = TerminalProgress(bars)
        shown.step("first [phase]")
        assert list(shown.track(iter("ab"), "items", None)) == ["a", "b"]
        shown.step("second")
        shown.finish()
    assert "first [phase]" in stream.getvalue()
    assert "second" in stream.getvalue()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (999_499, "999 kB"),
        (999_500, "1 MB"),
        (4_560_000_000, "4.56 GB"),
    ],
)
def test_bytes_text(count: int, text: str) -> None:
    assert bytes_text(count) == text
