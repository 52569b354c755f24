"""Places that cannot be written: what was there stays whole."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from bad_input import Fails, compiling, tree, write


def test_output_that_is_something_else(here: Path, fails: Fails) -> None:
    """Only a bundle or an empty folder is replaced."""
    os.mkdir("photos")
    write("photos/a.jpg", b"precious")
    assert "photos" in fails(*compiling(out="photos"))
    assert "model.onnx" in fails(*compiling(out="model.onnx"))
    os.symlink("photos", "link")
    assert "link" in fails(*compiling(out="link"))


@pytest.mark.parametrize("out", ["data.npz/new", "/proc/qcompiler/new", "/dev/null/new", "n" * 300])
def test_output_that_cannot_be_made(here: Path, fails: Fails, out: str) -> None:
    assert out.split("/")[-1] in fails(*compiling(out=out))
    assert "error" in fails("opt", "model.onnx", "-p", "canonicalize", "-o", f"{out}.mlir")
    assert "error" in fails("opt", "model.onnx", "-p", "canonicalize", "--dump-ir", out)


def test_unwritable_folder(here: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails) -> None:
    """As for a user who may not write; a privileged one may write everywhere, so the system's answer is given here."""

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    monkeypatch.setattr(os, "mkdir", refuse)
    assert "Permission denied" in fails(*compiling())


def limited(folder: Path, largest: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that can write no file of more than `largest` bytes, as on a disk that fills up."""
    code = (
        "import resource, sys; from qcompiler.cli import main\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest}, {largest}))\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("largest", [3000, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 14_000))])
def test_disk_that_fills_up(here_bundle: Path, largest: int) -> None:
    before = tree(here_bundle)
    done = limited(here_bundle, largest, *compiling(out="out"))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stdout == ""
    assert tree(here_bundle) == before, "the older bundle is whole"


def test_disk_that_fills_up_while_running(here_bundle: Path) -> None:
    write("y.npz", b"older output")
    write("old.mlir", b"older text")
    before = tree(here_bundle)
    for arguments in (
        ["run", "out", "--input", "data.npz", "--output", "y.npz"],
        ["opt", "model.onnx", "-p", "canonicalize", "-o", "old.mlir"],
    ):
        done = limited(here_bundle, 100, *arguments)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("error: ")
        assert tree(here_bundle) == before


def test_no_linker(here: Path, monkeypatch: pytest.MonkeyPatch, fails: Fails) -> None:
    monkeypatch.setenv("PATH", str(here))
    assert "install" in fails(*compiling())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (compiling(data="nothing.npz"), "nothing.npz"),
        (["opt", "data.npz"], "data.npz"),
        (["run", "model.onnx", "--input", "data.npz", "--output", "y.npz"], "not a bundle"),
        (["inspect", "nothing"], "nothing"),
    ],
)
def test_the_installed_command(here: Path, arguments: list[str], expected: str) -> None:
    before = tree(here)
    command = [sys.executable, "-c", "import sys; from qcompiler.cli import main; sys.exit(main())", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert tree(here) == before
