"""Two models in one C program: each with a prefix of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import Graph

import qcompiler
from qcompiler.bundle import Bundle
from qcompiler.cli import main
from qcompiler.errors import PipelineError

NAMES = ("detector", "Classifier2")
APP = """
#include <stdio.h>
#include "detector/model.h"
#include "Classifier2/model.h"

static _Alignas(DETECTOR_ALIGNMENT) float x[DETECTOR_INPUT0_BYTES / 4], between[DETECTOR_OUTPUT0_BYTES / 4];
static _Alignas(CLASSIFIER2_ALIGNMENT) float y[CLASSIFIER2_OUTPUT0_BYTES / 4];
static _Alignas(64) unsigned char arena[DETECTOR_ARENA_BYTES + CLASSIFIER2_ARENA_BYTES + 64];

int main(void) {
  if (fread(x, 1, sizeof x, stdin) != sizeof x) return 1;
  if (detector_set_threads(2) < 1 || Classifier2_set_threads(2) < 1) return 2;
  if (detector_run((const void*[]){x}, (void*[]){between}, detector_weights, arena)) return 3;
  if (Classifier2_run((const void*[]){between}, (void*[]){y}, Classifier2_weights, arena)) return 4;
  return fwrite(y, 1, sizeof y, stdout) != sizeof y;
}
"""
BUILD = """
cmake_minimum_required(VERSION 3.13)
project(app C)
add_executable(app app.c)
foreach(name detector Classifier2)
  add_subdirectory(${name})
  target_link_libraries(app PRIVATE ${name})
endforeach()
target_include_directories(app PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})
"""


def feeds() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.normal(0, 1, (4, 64)).astype(np.float32)} for _ in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(NAMES):
        g = Graph(seed=seed, x=(4, 64))
        onnx.save(g.proto(g("Relu", g("MatMul", "x", g.weight(64, 64)))), folder / f"{name}.onnx")
        options = {"prefix": name, "embed_weights": True, "threads": True}
        qcompiler.compile(folder / f"{name}.onnx", calibration=feeds(), output=folder / name, **options)
    return folder


@pytest.mark.skipif(shutil.which("cmake") is None, reason="needs apt-get install cmake")
def test_one_program_runs_both(folder: Path) -> None:
    (folder / "app.c").write_text(APP, encoding="utf-8")
    (folder / "CMakeLists.txt").write_text(BUILD, encoding="utf-8")
    for command in (["-S", folder, "-B", folder / "build"], ["--build", folder / "build"]):
        subprocess.run(["cmake", *command], check=True, capture_output=True)
    x = feeds()[0]["x"]
    done = subprocess.run([folder / "build" / "app"], input=x.tobytes(), check=True, capture_output=True)
    first, second = (qcompiler.load_bundle(folder / name) for name in NAMES)
    (between,) = first.run({"x": x}).values()
    (wanted,) = second.run({"x": between}).values()
    assert done.stdout == wanted.tobytes()


def test_names_and_libraries_have_the_prefix(folder: Path) -> None:
    for name in NAMES:
        bundle = qcompiler.load_bundle(folder / name)
        assert {f"lib{name}.so", f"lib{name}.a", "model.h"} <= set(bundle.manifest.files)
        listed = subprocess.run(
            ["nm", "-g", "--defined-only", folder / name / f"lib{name}.a"], check=True, capture_output=True, text=True
        )
        strong = re.findall(r"^\w+ [BDRT] (\w+)$", listed.stdout, re.MULTILINE)
        assert f"{name}_run" in strong
        assert all(symbol.startswith(f"{name}_") for symbol in strong)


def test_drivers_of_a_gpu_have_their_own_names(folder: Path) -> None:
    objects = []
    for name in NAMES:
        options = {"target": "mali", "prefix": name}
        model, output = folder / f"{name}.onnx", folder / f"mali-{name}"
        driver: Bundle = qcompiler.compile(model, calibration=feeds(), output=output, **options)
        objects.append(folder / f"{name}.o")
        subprocess.run(["cc", "-std=c11", "-c", driver.path / "model.c", "-o", objects[-1]], check=True)
    subprocess.run(["ld", "-r", *objects, "-o", folder / "both.o"], check=True, capture_output=True)


@pytest.mark.parametrize("prefix", ["", "2nd", "a-b", "a b", "\N{GREEK SMALL LETTER ALPHA}"])
def test_prefixes_that_c_does_not_take(prefix: str, folder: Path) -> None:
    with pytest.raises(PipelineError, match=r"cannot begin the names of C functions: expected letters, digits"):
        qcompiler.compile(folder / "detector.onnx", calibration=feeds(), output=folder / "bad", prefix=prefix)
    assert not (folder / "bad").exists()


def test_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(folder / "x.npz", x=np.stack([feed["x"] for feed in feeds()]))
    model = [str(folder / "detector.onnx"), "--calibration", str(folder / "x.npz")]
    assert main(["compile", *model, "-o", str(folder / "OUT"), "--prefix", "net"]) == 0
    assert qcompiler.load_bundle(folder / "OUT").manifest.prefix == "net"
    capsys.readouterr()
    assert main(["compile", *model, "-o", str(folder / "OUT2"), "--prefix", "net!"]) == 2
    assert "'net!' cannot begin the names of C functions" in capsys.readouterr().err
    assert not (folder / "OUT2").exists()
