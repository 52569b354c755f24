"""The constant store: every array of a module, by name, outside the IR's text.

Arrays are read-only and a name never changes its array, so passes share weights instead of copying them and a dump
only has to write what earlier dumps have not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from qcompiler.errors import IRError


def resource_name(text: str) -> str:
    """`text` as a bare identifier, which MLIR demands of a resource's name."""
    name = re.sub(r"[^A-Za-z0-9_$.]", "_", text)
    return name if re.match(r"[A-Za-z_]", name) else "_" + name


class ConstantStore(Mapping[str, np.ndarray]):
    """Named, read-only arrays."""

    def __init__(self, arrays: Mapping[str, np.ndarray] | None = None) -> None:
        self._arrays: dict[str, np.ndarray] = dict(arrays or {})

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def add(self, name: str, array: np.ndarray) -> str:
        """Stores `array` under `name`, made an identifier and unique; returns the name it got."""
        unique = base = resource_name(name)
        number = 1
        while unique in self._arrays:
            unique, number = f"{base}.{number}", number + 1
        array = np.asarray(array)
        if array.flags.writeable:
            array = array.copy() if array.base is not None else array
            array.flags.writeable = False
        self._arrays[unique] = array
        return unique

    def put(self, name: str, array: np.ndarray) -> None:
        """Sets a side record (such as calibration statistics), which no op refers to and which may be replaced."""
        self._arrays[name] = array

    def copy(self) -> ConstantStore:
        """A store of the same arrays, to which names can be added independently."""
        return ConstantStore(self._arrays)

    def save(self, path: Path, names: set[str] | None = None) -> None:
        """Writes the arrays, or those in `names`, as safetensors.

        Raises:
            IRError: the file cannot be written.
        """
        chosen = self._arrays if names is None else {n: self._arrays[n] for n in sorted(names)}
        arrays = {n: np.ascontiguousarray(a).reshape(a.shape) for n, a in chosen.items()}
        try:
            save_file(arrays, path)
        except (OSError, SafetensorError) as error:
            raise IRError(f"{path}: cannot write the constants: {error}") from None

    def load(self, path: Path) -> None:
        """Adds the arrays of a safetensors file, memory-mapped.

        Raises:
            IRError: the file is missing or is not a safetensors file.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                self._arrays.update({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise IRError(f"{path}: cannot read the constants of the module: {error}") from None
