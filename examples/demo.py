"""Handwritten digits: a classifier goes from float ONNX to int8 on this machine.

python examples/demo.py [OUT]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

import qcompiler.errors
from qcompiler.cli.output import bytes_text, print_table
from qcompiler.cli.progress import progress
from qcompiler.interpreter import Interpreter
from qcompiler.model import Model
from qcompiler.report.bundle import describe_bundle
from qcompiler.report.speed import QDQ, open_session, time_bundle

DIGITS = Path(os.path.relpath(Path(__file__).parent / "digits"))
MODEL = DIGITS / "digits.onnx"


def main(output: Path) -> None:
    print(f"Compiling {MODEL.name} for this machine, calibrated on {DIGITS.name}/calibration.npz")
    with progress() as shown:
        bundle = qcompiler.compile(MODEL, calibration=DIGITS / "calibration.npz", output=output, progress=shown)
        shown.step("time")
        times = {t.name: t.median_ms for t in time_bundle(bundle, 200, MODEL, shown)}

    test = np.load(DIGITS / "test.npz")
    name = bundle.manifest.inputs[0].name
    images, labels = test[name], test["labels"]
    found = [bundle.run({name: image[None]}) for image in images]
    description = describe_bundle(bundle)
    program = Interpreter(Model.load(output / description.dumps[-1]))
    same = sum(agree(program.run({name: x[None]}), y) for x, y in zip(images, found, strict=True))

    compiled = description.code_bytes + description.weight_bytes
    scores = {
        "onnxruntime fp32": (run_onnx(MODEL, name, images), MODEL.stat().st_size),
        "onnxruntime int8 (QDQ)": (run_onnx(output / QDQ, name, images), (output / QDQ).stat().st_size),
        "qcompiler int8": (np.concatenate([next(iter(y.values())) for y in found]), compiled),
    }
    table = [
        (title, f"{np.mean(y.argmax(1) == labels):.2%}", bytes_text(size), f"{1000 * times[title]:.1f} us")
        for title, (y, size) in scores.items()
    ]
    print()
    print_table(f"{len(images)} test images, one thread", ("", ">accuracy", ">size", ">time an image"), table)
    last = description.dumps[-1]
    print(f"Compiled code and the interpreter on {last} agree bit for bit on {same} of {len(images)} images.")
    print(f"The IR after each pass lies in {output}/ir/. Go on with")
    command = os.path.relpath(Path(sys.executable).parent / "qcompiler")
    print(f"  {command} inspect {output}")
    print(f"  {command} compare {output} --reference {MODEL} --data {DIGITS}/test.npz")


def agree(expected: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(array, found[name]) for name, array in expected.items())


def run_onnx(path: Path, name: str, images: np.ndarray) -> np.ndarray:
    session = open_session(path, path)
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-out"))
    except qcompiler.errors.QCompilerError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
