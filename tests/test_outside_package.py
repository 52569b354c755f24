"""An outside package, installed beside the compiler, adds a pass and a target by its entry points alone."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import qcompiler
from qcompiler.cli import main
from qcompiler.pipeline import describe_passes
from qcompiler.report.nodes import nodes_of
from qcompiler.targets.spec import target_names

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "tests" / "fixtures" / "shift-machine"
PAGE = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the repository's `examples`; the package is installed as `pip install -e` would."""
    place = tmp_path_factory.mktemp("outside")
    shutil.copytree(PACKAGE, place / "package")
    command = [sys.executable, "-c", "import setuptools; setuptools.setup()", "-q", "egg_info"]
    done = subprocess.run(command, cwd=place / "package", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (place / "examples").symlink_to(REPOSITORY / "examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(place / "package")
        patch.chdir(place)
        yield place
    for name in [name for name in sys.modules if name.partition(".")[0] == "shift_machine"]:
        del sys.modules[name]


def test_the_page_shows_the_package() -> None:
    shown = re.findall(r"```(?:toml|python)\n(.*?)```", PAGE, re.DOTALL)[:4]
    files = ("pyproject.toml", *(f"shift_machine/{name}.py" for name in ("shift_scales", "target", "kernels")))
    assert shown == [(PACKAGE / name).read_text(encoding="utf-8") for name in files]


@pytest.mark.usefixtures("folder")
def test_pass_and_target_are_known() -> None:
    assert describe_passes()["shift-scales"] == "Rounds the scales of activations up to powers of two."
    assert "shift" in target_names()


def test_the_text_test_of_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = re.findall(r"```mlir\n(.*?)```", PAGE, re.DOTALL)
    (folder / "test.mlir").write_text(text, encoding="utf-8")
    command = re.search(r"// RUN: qcompiler opt %s -p '(.*)'", text)
    wanted = re.search(r"// CHECK: (.*)", text)
    assert command is not None and wanted is not None
    assert main(["opt", str(folder / "test.mlir"), "-p", command[1]]) == 0
    assert wanted[1] in capsys.readouterr().out


def test_the_target_compiles_and_its_integers_are_the_interpreters(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in re.findall(r"^    qcompiler ((?:compile|inspect|verify) .*)$", PAGE, re.MULTILINE):
        assert main(command.split()) == 0
    printed = capsys.readouterr().out
    expected = re.search(r"kernels    (5 generic-conv[^`]*?)\n\n    (16 samples.*)\n", PAGE)
    assert expected is not None
    assert " ".join(expected[1].split()) in printed
    assert expected[2] in printed
    last = max((folder / "OUT" / "ir").glob("*.mlir"))
    assert main(["opt", str(last), "-p", "shift-scales"]) == 2
    refused = re.search(r"error: (pass shift-scales requires.*)", PAGE)
    assert refused is not None
    assert refused[1] in capsys.readouterr().err


def test_pass_and_target_together(folder: Path) -> None:
    program = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[3]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(program, "extending.md", "exec"), {})
    assert printed.getvalue() == "True\n"
    bundle = qcompiler.load_bundle(folder / "OUT")
    (program_dump,) = (bundle.path / "ir").glob("*.mlir")
    kinds = [t.quantized for n in nodes_of(qcompiler.model.Model.load(program_dump)) for t in n.results]
    scales = [float(scale) for kind in kinds if kind is not None for scale in kind.scales.reshape(-1)]
    assert scales and all(scale.hex().startswith("0x1.0000000000000p") for scale in scales)
