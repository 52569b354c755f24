"""Fixtures of several tests: the pretrained models; for bad input a folder with a model, data and a bundle, and the
command that must fail."""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from bad_input import Fails, plain, samples
from real_models import SHARED

from qcompiler.cli import main


@pytest.fixture(scope="module")
def catalogue() -> Iterator[Any]:
    """The module that knows the pretrained models and their data."""
    if not (SHARED / "eval" / "realmodels.py").exists():
        pytest.skip(f"the pretrained models are not at {SHARED}")
    sys.path.insert(0, str(SHARED / "eval"))
    yield importlib.import_module("realmodels")
    sys.path.remove(str(SHARED / "eval"))


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, data and the bundle of them, to copy from."""
    folder = tmp_path_factory.mktemp("good")
    onnx.save(plain(), folder / "model.onnx")
    np.savez(folder / "data.npz", x=samples())
    code = main(["compile", f"{folder}/model.onnx", "--calibration", f"{folder}/data.npz", "-o", f"{folder}/out"])
    assert code == 0
    return folder


@pytest.fixture
def here(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with copies of model and data; temporary files lie in it as well."""
    folder = tmp_path / "work"
    folder.mkdir()
    for name in ("model.onnx", "data.npz"):
        shutil.copy(good / name, folder)
    monkeypatch.chdir(folder)
    (folder / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "tmp"))
    return folder


@pytest.fixture
def here_bundle(good: Path, here: Path) -> Path:
    """`here` with a copy of the bundle, `out`."""
    shutil.copytree(good / "out", here / "out")
    return here


@pytest.fixture
def fails(here: Path, capfd: pytest.CaptureFixture[str]) -> Fails:
    return Fails(here, capfd)
