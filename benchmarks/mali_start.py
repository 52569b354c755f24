"""What the cache of compiled kernels saves: the example of a bundle for Mali, started from source and then from it.

    python benchmarks/mali_start.py OUT

OUT is a bundle of a Mali target. Times are of this machine's OpenCL device, PoCL or another, not of a phone.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from qcompiler import load_bundle
from qcompiler.bundle import Manifest
from qcompiler.bundle.link import link_driver
from qcompiler.targets.toolchain import NATIVE

STARTS = 3


def main(bundle: Path) -> None:
    manifest = load_bundle(bundle).manifest
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        link_driver(bundle / "main.c", bundle, folder / "example", NATIVE)
        for number in range(1 + STARTS):
            program, seconds = start(bundle.absolute(), manifest, folder)
            print(f"start {number}: program {program} ms, example as a whole {seconds:.2f} s")


def start(bundle: Path, manifest: Manifest, folder: Path) -> tuple[str, float]:
    """How the program was made, in words, with milliseconds; and seconds of the whole run on zeros."""
    inputs = [f"input{i}" for i in range(len(manifest.inputs))]
    for name, tensor in zip(inputs, manifest.inputs, strict=True):
        np.zeros(tensor.nbytes, np.uint8).tofile(folder / name)
    outputs = [f"output{i}" for i in range(len(manifest.outputs))]
    command = ["./example", "-c", "cache", str(bundle), *inputs, *outputs]
    begin = time.perf_counter()
    # PoCL keeps kernels of its own in a folder; a new one makes the first start one from source.
    environment = {**os.environ, "POCL_CACHE_DIR": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - begin
    found = re.search(r"program (\w+ in [\d.]+) ms", done.stdout)
    assert found is not None
    return found[1], seconds


if __name__ == "__main__":
    main(Path(sys.argv[1]))
