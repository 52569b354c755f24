"""Bad data through the command line and from Python: for calibration, and to run on."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from bad_input import F32, Fails, compiling, plain, samples, write

import qcompiler
from qcompiler.errors import QCompilerError


def _npz(**arrays: object) -> Callable[[], None]:
    return lambda: np.savez("bad.npz", **arrays)  # type: ignore[arg-type]


def _spoilt(index: tuple[int, ...], value: float) -> np.ndarray:
    x = samples()
    x[index] = value
    return x


def _cut() -> None:
    np.savez("bad.npz", x=samples(64))
    content = Path("bad.npz").read_bytes()
    write("bad.npz", content[: len(content) // 2])


def _flipped() -> None:
    """A stored byte differs from its checksum."""
    np.savez("bad.npz", x=samples(64))
    content = bytearray(Path("bad.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    write("bad.npz", bytes(content))


def _with_text() -> None:
    with zipfile.ZipFile("bad.npz", "w") as archive:
        archive.writestr("x.npy", "no array")


CALIBRATION: dict[str, tuple[Callable[[], object], list[str]]] = {
    "missing": (lambda: None, ["bad.npz", "o such file"]),
    "no arrays": (_npz(), ["bad.npz", "no arrays"]),
    "no samples": (_npz(x=np.zeros((0, 3, 8, 8), F32)), ["bad.npz", "at least one sample"]),
    "wrong name": (_npz(picture=samples(), label=np.zeros(4)), ["bad.npz", "'x'", "picture"]),
    "wrong shape": (_npz(x=np.zeros((4, 3, 8, 9), F32)), ["bad.npz", "[1, 3, 8, 8]", "[4, 3, 8, 9]"]),
    "channels last": (_npz(x=np.zeros((4, 8, 8, 3), F32)), ["bad.npz", "transpose"]),
    "text": (_npz(x=np.array(["a", "b"])), ["bad.npz", "'x'", "no numbers"]),
    "objects": (_npz(x=np.array([{}, {}], object)), ["bad.npz", "'x'", "no numbers"]),
    "complex": (_npz(x=samples().astype(np.complex64)), ["bad.npz", "'x'", "complex64"]),
    "too large": (_npz(x=samples().astype(np.float64) * 1e300), ["bad.npz", "'x'", "float32"]),
    "NaN": (_npz(x=_spoilt((2, 1, 3, 3), np.nan)), ["bad.npz", "sample 2", "'x'", "NaN"]),
    "infinity": (_npz(x=_spoilt((1, 0, 0, 0), np.inf)), ["bad.npz", "sample 1", "infinity"]),
    "not a zip file": (lambda: write("bad.npz", b"x" * 100), ["bad.npz"]),
    "empty file": (lambda: write("bad.npz", b""), ["bad.npz"]),
    "cut off": (_cut, ["bad.npz"]),
    "damaged": (_flipped, ["bad.npz"]),
    "no array inside": (_with_text, ["bad.npz"]),
    "empty folder": (lambda: os.mkdir("bad.npz"), ["bad.npz", "empty folder"]),
    "folder of pictures": (lambda: (os.mkdir("bad.npz"), write("bad.npz/a.jpg", b"")), ["bad.npz", ".jpg"]),
}


@pytest.mark.parametrize("case", CALIBRATION)
def test_calibration(case: str, fails: Fails) -> None:
    make, expected = CALIBRATION[case]
    make()
    message = fails(*compiling(data="bad.npz"))
    for words in expected:
        assert words in message


def test_no_calibration(fails: Fails) -> None:
    assert "calibration" in fails("compile", "model.onnx", "-o", "new")
    assert "calibration" in fails("opt", "model.onnx", "-p", "canonicalize,calibrate")


def test_calibration_from_python() -> None:
    model = qcompiler.import_onnx
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(plain(), f"{folder}/model.onnx")
        model = qcompiler.import_onnx(f"{folder}/model.onnx")
    cases: list[tuple[object, str]] = [
        ([], "empty"),
        (iter([]), "empty"),
        ([{}], "no arrays"),
        ([{"y": samples(1), "z": samples(1)}], "'x'"),
        ([{"x": samples(3)}], "3 samples"),
        ([samples(1), 5], "found int"),
        (5, "found int"),
    ]
    for calibration, expected in cases:
        with pytest.raises(QCompilerError, match=expected):
            qcompiler.quantize(model, calibration)  # type: ignore[arg-type]


INPUTS: dict[str, tuple[Callable[[], object], list[str]]] = {
    name: CALIBRATION[name]
    for name in ("missing", "no arrays", "no samples", "wrong name", "wrong shape", "text", "NaN", "cut off", "damaged")
}


@pytest.mark.parametrize("case", INPUTS)
def test_input_of_run(case: str, here_bundle: Path, fails: Fails) -> None:
    make, expected = INPUTS[case]
    make()
    write("y.npz", b"older output")
    for words in expected:
        assert words in fails("run", "out", "--input", "bad.npz", "--output", "y.npz")
    assert "bad.npz" in fails("compare", "out", "--reference", "model.onnx", "--data", "bad.npz")
