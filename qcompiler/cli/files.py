"""Files that commands read and write."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import qcompiler
from qcompiler.errors import BundleError
from qcompiler.model import Model


def open_model(path: Path) -> Model:
    """A dump of the IR, or an ONNX model."""
    return Model.load(path) if path.suffix == ".mlir" else qcompiler.import_onnx(path)


def dumps_of(bundle: Path) -> list[Path]:
    """The dumps of a bundle, in order; the last one is its program.

    Raises:
        BundleError: it has none, or is no bundle.
    """
    qcompiler.load_bundle(bundle)
    found = sorted((bundle / "ir").glob("[0-9][0-9][0-9]_*.mlir"))
    if not found:
        raise BundleError(f"{bundle}: its ir folder holds no dumps; compile the model again")
    return found


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when all is written, and leaves nothing if that fails."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
        try:
            yield file
            file.flush()
            os.chmod(file.name, 0o666 & ~_umask())
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
