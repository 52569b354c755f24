"""Calibration data: whatever the user has, as an iterable of checked model inputs, one sample at a time."""

from __future__ import annotations

import difflib
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from qcompiler.errors import CalibrationError

Feed = dict[str, np.ndarray]
Inputs = Mapping[str, tuple[Sequence[int], Any]]

_MEMORY = "the calibration data"
_UNREADABLE = (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error)


def open_calibration(source: Any, inputs: Inputs, limit: int | None = None) -> Iterable[Feed]:
    """Feeds `{input name: array}` of exactly the model's shapes and dtypes, from any of:

    * the path of a `.npz` file with one array an input, or of a `.npy` file for a model with one input. An
      array of the input's shape is one sample; `[N, *shape[1:]]` and `[N, *shape]` are split into samples;
    * the path of a folder of such files, taken in the order of their names;
    * a dict of such arrays, or the array itself for a model with one input;
    * an iterable of dicts, each one sample (of bare arrays for a model with one input). An iterator is read
      once and its samples are kept; an object that can be iterated anew is not kept.

    A single array may have any name if the model has one input; arrays beside those of the inputs are
    ignored. Files are read sample by sample, anew on each pass.

    Args:
        source: the data.
        inputs: `{name: (shape, dtype)}` of the model, static shapes.
        limit: at most so many samples: evenly spaced ones where the number is known, else the first ones.

    Returns:
        an iterable for any number of passes; `operator.length_hint` knows its length where that is known. A model
        without inputs has one sample, an empty one, whatever the source.

    Raises:
        CalibrationError: no data, a wrong name, shape or dtype, NaN or infinity. What headers show is found
            at once, the rest when the sample is reached; the message names file, sample and input.
    """
    if limit is not None and limit < 1:
        raise CalibrationError(f"at least 1 calibration sample is needed, the limit is {limit}")
    if not inputs:
        return [{}]
    if isinstance(source, str | os.PathLike):
        return _Stored(_open_path(Path(source), inputs), inputs, limit)
    if isinstance(source, np.ndarray):
        source = {"the array": source}
    if isinstance(source, Mapping):
        columns = {name: _Array(np.asarray(value)) for name, value in source.items()}
        return _Stored([_part(_MEMORY, columns, inputs)], inputs, limit)
    if not isinstance(source, Iterable):
        raise CalibrationError(
            f"calibration data must be a path, a dict of arrays or an iterable of such dicts, "
            f"found {type(source).__name__}"
        )
    if isinstance(source, Iterator):
        source = list(islice(source, limit))
    return _Streamed(source, inputs, limit)


class _Stored:
    """Samples of arrays whose shapes are known."""

    def __init__(self, parts: Sequence[_Part], inputs: Inputs, limit: int | None) -> None:
        self._parts, self._inputs = parts, inputs
        self._chosen = _spread(sum(part.samples for part in parts), limit, parts[0].label)

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[Feed]:
        chosen, first = list(self._chosen), 0
        for part in self._parts:
            own = [i - first for i in chosen if first <= i < first + part.samples]
            for i, sample in zip(own, part.read(own), strict=True):
                yield _checked(sample, self._inputs, f"{part.label}, sample {i}")
            first += part.samples


class _Streamed:
    """Samples that come as one dict each, from an object that can be iterated anew."""

    def __init__(self, source: Iterable[Any], inputs: Inputs, limit: int | None) -> None:
        self._source, self._inputs, self._limit = source, inputs, limit
        self._chosen = _spread(len(source), limit, _MEMORY) if isinstance(source, Sized) else None

    def __length_hint__(self) -> int:
        return len(self._chosen) if self._chosen is not None else 0

    def __iter__(self) -> Iterator[Feed]:
        wanted = None if self._chosen is None else set(self._chosen)
        found = False
        for i, item in enumerate(islice(self._source, self._limit) if wanted is None else self._source):
            found = True
            if wanted is not None and i not in wanted:
                continue
            label = f"calibration sample {i}"
            if isinstance(item, np.ndarray):
                item = {"the array": item}
            if not isinstance(item, Mapping):
                raise CalibrationError(f"{label}: expected a dict of arrays by input name, found {type(item).__name__}")
            part = _part(label, {name: _Array(np.asarray(value)) for name, value in item.items()}, self._inputs)
            if part.samples != 1:
                raise CalibrationError(
                    f"{label}: holds {part.samples} samples; an iterable must give one a dict "
                    f"(pass a single dict of stacked arrays instead)"
                )
            yield _checked(next(part.read([0])), self._inputs, label)
        if not found:
            raise CalibrationError(f"{_MEMORY}: empty, at least one sample is needed")


def _spread(total: int, limit: int | None, label: str) -> list[int]:
    """All indices, or `limit` evenly spaced ones: files are often ordered by class."""
    if total == 0:
        raise CalibrationError(f"{label}: empty, at least one sample is needed")
    count = total if limit is None else min(limit, total)
    return [i * total // count for i in range(count)]


@dataclass(frozen=True)
class _Array:
    """An array in memory."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> np.dtype:
        return self.values.dtype

    def rows(self, chosen: Sequence[int], samples: int, shape: Sequence[int]) -> Iterator[np.ndarray]:
        rows = self.values.reshape(samples, *shape)
        for i in chosen:
            yield rows[i]


@dataclass(frozen=True)
class _Member:
    """An array in a .npz file, compressed or not, or a .npy file, of which one sample at a time is read.

    It is not mapped into memory, where all that was read would count as the process's own.
    """

    path: Path
    member: str | None
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool

    def rows(self, chosen: Sequence[int], samples: int, shape: Sequence[int]) -> Iterator[np.ndarray]:
        if self.fortran:
            yield from _Array(self._load()).rows(chosen, samples, shape)
            return
        size = prod(shape) * self.dtype.itemsize
        with _opened(self.path, self.member) as stream:
            _read_header(stream)
            begin = stream.tell()
            for i in chosen:
                stream.seek(begin + i * size)
                data = stream.read(size)
                if len(data) != size:
                    raise EOFError(f"{self.member or self.path.name} ends inside sample {i}")
                yield np.frombuffer(data, self.dtype).reshape(shape)

    def _load(self) -> np.ndarray:
        with _opened(self.path, self.member) as stream:
            return np.lib.format.read_array(stream)


@contextmanager
def _opened(path: Path, member: str | None) -> Iterator[Any]:
    if member is None:
        with path.open("rb") as stream:
            yield stream
        return
    with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
        yield stream


def _read_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


@dataclass(frozen=True)
class _Part:
    """Columns of one file, by input name, all with the same number of samples."""

    label: str
    columns: Mapping[str, _Array | _Member]
    shapes: Mapping[str, Sequence[int]]
    samples: int

    def read(self, chosen: Sequence[int]) -> Iterator[Feed]:
        """The samples of ascending indices, raw."""
        rows = [column.rows(chosen, self.samples, self.shapes[name]) for name, column in self.columns.items()]
        try:
            for values in zip(*rows, strict=True):
                yield dict(zip(self.columns, values, strict=True))
        except _UNREADABLE as error:
            raise CalibrationError(f"{self.label}: cannot be read, the file is damaged: {error}") from None


def _open_path(path: Path, inputs: Inputs) -> list[_Part]:
    if not path.exists():
        raise CalibrationError(f"{path}: no such file or folder of calibration data")
    if not path.is_dir():
        return [_open_file(path, inputs)]
    files = sorted(file for file in path.iterdir() if file.suffix in (".npz", ".npy"))
    if not files:
        others = sorted({file.suffix or file.name for file in path.iterdir()})
        raise CalibrationError(
            f"{path}: expected .npz or .npy files, found {', '.join(others) or 'an empty folder'}; "
            f"preprocess the samples into arrays as the model takes them"
        )
    return [_open_file(file, inputs) for file in files]


def _open_file(path: Path, inputs: Inputs) -> _Part:
    columns: dict[str, _Array | _Member] = {}
    try:
        if path.suffix == ".npy":
            with path.open("rb") as stream:
                shape, fortran, dtype = _read_header(stream)
                stored = os.fstat(stream.fileno()).st_size - stream.tell()
            if stored < prod(shape) * dtype.itemsize:
                raise EOFError(f"it holds {stored} bytes of {prod(shape) * dtype.itemsize}")
            columns[path.stem] = _Member(path, None, shape, dtype, fortran)
        elif path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    with archive.open(member) as stream:
                        shape, fortran, dtype = _read_header(stream)
                    columns[member.removesuffix(".npy")] = _Member(path, member, shape, dtype, fortran)
        else:
            raise CalibrationError(f"{path}: expected a .npz or .npy file, or a folder of them")
    except _UNREADABLE as error:
        raise CalibrationError(f"{path}: cannot be read as {path.suffix} file: {error}") from None
    return _part(str(path), columns, inputs)


def _part(label: str, columns: Mapping[str, _Array | _Member], inputs: Inputs) -> _Part:
    """Assigns columns to inputs and counts samples. Raises CalibrationError on a wrong name or shape."""
    if not columns:
        raise CalibrationError(f"{label}: holds no arrays")
    if len(inputs) == 1 and len(columns) == 1:
        columns = dict(zip(inputs, columns.values(), strict=True))
    for name in inputs:
        if name not in columns:
            near = difflib.get_close_matches(name, columns, 1)
            raise CalibrationError(
                f"{label}: no array for input {name!r}; expected {_names(inputs)}, found {_names(columns)}"
                + (f"; did you mean {near[0]!r}? Rename it to {name!r}" if near else "")
            )
        if columns[name].dtype.kind not in "fiub":
            raise CalibrationError(
                f"{label}: input {name!r} expects {np.dtype(inputs[name][1])}, "
                f"found {columns[name].dtype}, which holds no numbers"
            )
    counts = {name: _sample_count(label, name, columns[name].shape, list(shape)) for name, (shape, _) in inputs.items()}
    if len(set(counts.values())) > 1:
        found = ", ".join(f"{name!r} {count}" for name, count in counts.items())
        raise CalibrationError(f"{label}: the inputs differ in their number of samples: {found}")
    return _Part(
        label,
        {name: columns[name] for name in inputs},
        {name: shape for name, (shape, _) in inputs.items()},
        next(iter(counts.values())),
    )


def _names(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _sample_count(label: str, name: str, found: Sequence[int], expected: Sequence[int]) -> int:
    found = list(found)
    if found == expected or (expected[:1] == [1] and found == expected[1:]):
        return 1
    if len(found) == len(expected) + 1 and found[1:] == expected:
        return found[0]
    if expected and len(found) == len(expected) and found[1:] == expected[1:] and found[0] % expected[0] == 0:
        return found[0] // expected[0]
    hint = "transpose its axes" if found and sorted(found[1:]) == sorted(expected[1:]) else "reshape it"
    raise CalibrationError(
        f"{label}: input {name!r} expects shape {expected}, or samples of it stacked along the first axis, "
        f"found {found}; {hint}"
    )


def _checked(sample: Feed, inputs: Inputs, label: str) -> Feed:
    """The sample in the dtypes of the inputs. Raises CalibrationError on lossy casts, NaN and infinity."""
    return {
        name: _cast(sample[name], np.dtype(dtype), f"{label}, input {name!r}") for name, (_, dtype) in inputs.items()
    }


def _cast(values: np.ndarray, dtype: np.dtype, label: str) -> np.ndarray:
    kind = values.dtype.kind
    if kind == "f" and not np.isfinite(values).all():
        what = "NaN" if np.isnan(values).any() else "infinity"
        raise CalibrationError(f"{label}: holds {what} in {int((~np.isfinite(values)).sum())} elements")
    with np.errstate(over="ignore", invalid="ignore"):
        cast = np.asarray(values, dtype, order="C")
        exact = (
            np.isfinite(cast).all() if kind == dtype.kind == "f" else np.array_equal(cast.astype(values.dtype), values)
        )
    if not exact:
        raise CalibrationError(
            f"{label}: expected {dtype}, found {values.dtype} with values that {dtype} cannot hold exactly; "
            f"convert them"
        )
    return cast
