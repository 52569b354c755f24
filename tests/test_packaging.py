"""The package as others get it: complete, buildable, and working in an environment of its own."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TREES = {"qcompiler": "qcompiler", "passes": "qcompiler/passes", "targets": "qcompiler/targets"}
"""Folders of the repository and what they are in the installed package."""


def installed_files() -> set[str]:
    """Paths in the installed package of all modules of the repository."""
    return {
        f"{package}/{file.relative_to(ROOT / folder).as_posix()}"
        for folder, package in TREES.items()
        for file in (ROOT / folder).rglob("*.py")
    }


def test_all_packages_are_listed() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.rpartition("/")[0].replace("/", ".") for path in installed_files()}
    assert sorted(listed) == sorted(folders)


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel built from it with the build tools of this environment."""
    try:
        version("build")
        usable = int(version("setuptools").split(".")[0]) >= 77
    except PackageNotFoundError:
        usable = False
    if not usable:
        pytest.skip("needs the packages build and setuptools>=77: pip install -e '.[dev]'")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT))
    return folder


def run(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.slow
def test_wheel_and_sdist_are_complete(distributions: Path) -> None:
    with zipfile.ZipFile(next(distributions.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    assert {name for name in names if name.endswith(".py")} == installed_files()
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {f"qcompiler/bundle/c/{name}" for name in ("main.c", "emulated.c", "CMakeLists.txt")} <= names
    with tarfile.open(next(distributions.glob("*.tar.gz"))) as sdist:
        members = {name.partition("/")[2] for name in sdist.getnames()}
    assert {
        "LICENSE",
        "README.md",
        "Makefile",
        "passes/canonicalize.py",
        "tests/test_packaging.py",
    } <= members


@pytest.mark.slow
def test_wheel_works_alone(distributions: Path, tmp_path: Path) -> None:
    """In a new environment that has the dependencies, but not this repository, on its path."""
    run(sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env"))
    python = tmp_path / "env" / "bin" / "python"
    wheel = next(distributions.glob("*.whl"))
    run(sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", str(wheel))
    packages = run(str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    command = str(python.parent / "qcompiler")
    assert "compile" in run(command, "--help", cwd=tmp_path)
    assert "integerize" in run(command, "opt", "--list-passes", cwd=tmp_path)
    code = (
        "import qcompiler, qcompiler.passes, qcompiler.targets.host.spec as spec\n"
        "qcompiler.compile, qcompiler.load_bundle\n"
        "print(qcompiler.__file__, qcompiler.passes.__file__, spec.__file__, sep='\\n')"
    )
    for file in run(str(python), "-c", code, cwd=tmp_path).split():
        assert file.startswith(packages)
