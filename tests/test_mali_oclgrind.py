"""Mali's kernels under oclgrind, which watches every access to memory: all tests of operations, run again on it.

Its search for uninitialized values stays off: it ends at the first `freeze`, an instruction of LLVM that it does not
know.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from opencl_device import missing

OCLGRIND = Path("/usr/lib/oclgrind/liboclgrind-rt-icd.so")
TESTS = Path(__file__).parent
OPERATIONS = {
    "test_host_elementwise.py": "mali",
    "test_host_movement.py": "mali",
    "test_host_pool.py": "mali",
    "test_mali_float.py": "not resize",
    "test_mali_kernels.py": "not test_source",
    "test_mali_program.py": "plain",
}
"""Files, and which of their tests are Mali's."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.skipif(not OCLGRIND.exists(), reason="needs apt-get install oclgrind"),
]


def watched(log: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs Python with oclgrind as the only OpenCL device; what it finds is in `log`."""
    environment = {"OCL_ICD_VENDORS": str(OCLGRIND), "OCLGRIND_LOG": str(log), "OCLGRIND_DATA_RACES": "1"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=TESTS,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=560,
        check=False,
    )


@pytest.mark.parametrize("file", OPERATIONS)
def test_operations(file: str, tmp_path: Path) -> None:
    """No invalid access and no race in any kernel of the tests of operations, and the same integers."""
    options = ["-n0", "-p", "no:cacheprovider", "-k", OPERATIONS[file]]
    done = watched(tmp_path / "log", "-m", "pytest", *options, str(TESTS / file))
    assert done.returncode == 0, done.stdout[-2000:]
    assert re.search(r"\d+ passed", done.stdout) and "skipped" not in done.stdout, done.stdout[-500:]
    assert (tmp_path / "log").read_text() == ""


def test_faults_are_found(tmp_path: Path) -> None:
    """An access past the end, and two work-items that write the same byte."""
    done = watched(tmp_path / "log", __file__)
    assert done.returncode == 0, done.stderr[-2000:]
    found = (tmp_path / "log").read_text()
    assert "Invalid read of size 1 at global memory address" in found
    assert "Write-write data race at global memory address" in found


def run_faulty_kernels() -> None:
    """The kernels of `small_device` with a fault in each."""
    from opencl_device import run_program
    from small_device import SIZE, SOURCE, small_device

    source = SOURCE.replace("a[i] + b[i]", "a[i] + b[i + 5000]").replace("y[i] = ", "y[i / 2] = ")
    run_program(small_device(source=source), [np.ones(SIZE, np.uint8)], [np.zeros(SIZE, np.uint8)])


if __name__ == "__main__":
    run_faulty_kernels()
