"""Statistics of calibration in a file: reused while model and data are the same, merged from shards, or given in
place of data.

The file is a safetensors file of `calibration/<value>/<field>` arrays; its metadata hold the hashes of the float
model and of the data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from qcompiler.calibration.statistics import TensorStatistics
from qcompiler.errors import CalibrationError

_FORMAT = "qcompiler calibration 1"
_PREFIX = "calibration/"


@dataclass(frozen=True)
class SavedCalibration:
    """Statistics by value name, and of what: hashes of the float model and of the data of each shard, in order."""

    model: str
    data: tuple[str, ...]
    statistics: dict[str, TensorStatistics]
    source: str = "the saved calibration"

    def __iter__(self) -> Iterator[Mapping[str, np.ndarray]]:
        """Refuses: there are no samples.

        Raises:
            CalibrationError: always.
        """
        raise CalibrationError(f"{self.source} holds statistics alone, and a pass needs samples; give it the data")

    @property
    def has_tails(self) -> bool:
        return all(s.has_tails for s in self.statistics.values())

    def merge(self, later: SavedCalibration) -> SavedCalibration:
        """Of the samples of both, those of `later` behind.

        Raises:
            CalibrationError: they are of different models, or observed different values.
        """
        if self.model != later.model:
            raise CalibrationError(
                f"{self.source} and {later.source} are of different models; calibrate both shards on the same one"
            )
        if self.statistics.keys() != later.statistics.keys() or self.has_tails != later.has_tails:
            raise CalibrationError(
                f"{self.source} and {later.source} observed different values; calibrate both with the same options"
            )
        both = {name: s.merge(later.statistics[name]) for name, s in self.statistics.items()}
        return SavedCalibration(self.model, self.data + later.data, both, self.source)

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all.

        Raises:
            CalibrationError: it cannot be written.
        """
        arrays = {
            f"{_PREFIX}{name}/{field}": np.ascontiguousarray(array).reshape(array.shape)
            for name, statistics in self.statistics.items()
            for field, array in statistics.to_arrays().items()
        }
        metadata = {"format": _FORMAT, "model": self.model, "data": json.dumps(self.data)}
        temporary = path.with_name(f".{path.name}.tmp")
        try:
            save_file(arrays, temporary, metadata)
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            raise CalibrationError(f"{path}: cannot write the statistics: {error}") from None

    @staticmethod
    def load(path: Path) -> SavedCalibration:
        """Reads a file of `save`.

        Raises:
            CalibrationError: it is missing, damaged, or something else.
        """
        fields: dict[str, dict[str, np.ndarray]] = {}
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise ValueError(f"its format is {metadata.get('format')!r}, expected {_FORMAT!r}")
                for key in file.keys():  # noqa: SIM118
                    name, _, field = key.removeprefix(_PREFIX).rpartition("/")
                    fields.setdefault(name, {})[field] = file.get_tensor(key)
            statistics = {name: TensorStatistics.from_arrays(arrays) for name, arrays in fields.items()}
            return SavedCalibration(metadata["model"], tuple(json.loads(metadata["data"])), statistics, str(path))
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise CalibrationError(
                f"{path}: cannot be read as saved calibration: {error}; delete it, or make it anew with "
                f"qcompiler calibrate"
            ) from None


def hash_of_files(files: Sequence[Path]) -> str:
    """SHA-256 of the contents of files, in order."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def hash_of_feeds(feeds: Iterable[Mapping[str, np.ndarray]]) -> str:
    """SHA-256 of all samples: names, types, shapes and elements."""
    digest = hashlib.sha256()
    for feed in feeds:
        for name in sorted(feed):
            array = np.ascontiguousarray(feed[name])
            digest.update(f"{name} {array.dtype} {array.shape} ".encode())
            digest.update(array.tobytes())
        digest.update(b"\n")
    return digest.hexdigest()
