"""Small element types: codes, values and rounding, against ml_dtypes."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from qcompiler.arithmetic.formats import FLOATS, NAMES, SMALL_INTEGERS, decode, encode, float_format, presented, stored


def magnitudes(name: str) -> np.ndarray:
    """Every finite value, the middles between them, their neighbours, and what lies beyond."""
    values = float_format(name).values
    values = np.unique(np.abs(values[np.isfinite(values)])).astype(np.float64)
    middles = np.append((values[1:] + values[:-1]) / 2, 1.5 * values[-1] - 0.5 * values[-2])
    points = np.concatenate([values, middles]).astype(np.float32)
    points = np.concatenate([points, np.nextafter(points, np.float32(np.inf)), np.nextafter(points, np.float32(0))])
    return np.concatenate([points, np.float32([1e-40, 1e9, 3e38])])


@pytest.mark.parametrize("name", FLOATS)
def test_encode_rounds_as_ml_dtypes(name: str) -> None:
    x = magnitudes(name)
    x = np.concatenate([x, -x])
    kind = np.dtype(getattr(ml_dtypes, name))
    assert np.array_equal(encode(x, name, saturate=False), x.astype(kind).view(np.uint8))
    largest = np.float32(ml_dtypes.finfo(kind).max)
    assert np.array_equal(encode(x, name), np.clip(x, -largest, largest).astype(kind).view(np.uint8))


@pytest.mark.parametrize("name", FLOATS)
def test_encode_of_what_is_not_finite(name: str) -> None:
    kind = np.dtype(getattr(ml_dtypes, name))
    infinities = np.float32([np.inf, -np.inf])
    largest = np.float32(ml_dtypes.finfo(kind).max)
    assert np.array_equal(decode(encode(infinities, name), name), [largest, -largest])
    assert np.array_equal(encode(infinities, name, saturate=False), infinities.astype(kind).view(np.uint8))
    assert encode(np.float32([np.nan]), name)[0] == float_format(name).nan


@pytest.mark.parametrize("name", FLOATS)
def test_encode_of_decode_gives_the_code(name: str) -> None:
    codes = np.arange(1 << FLOATS[name]).astype(np.uint8)
    codes = codes[np.isfinite(decode(codes, name))]
    assert np.array_equal(encode(decode(codes, name), name), codes)


@pytest.mark.parametrize("name", NAMES)
def test_presented_and_stored_are_inverse(name: str) -> None:
    if name in SMALL_INTEGERS:
        info = ml_dtypes.iinfo(getattr(ml_dtypes, name))
        array = np.arange(int(info.min), int(info.max) + 1).astype(SMALL_INTEGERS[name])
    else:
        array = np.arange(1 << FLOATS[name]).astype(np.uint8)
    array = np.stack([array, array[::-1]])
    shown = presented(array, name)
    assert shown.dtype == getattr(ml_dtypes, name)
    assert shown.shape == array.shape
    assert np.array_equal(stored(shown), array)
    assert np.array_equal(stored(array), array)
    assert presented(array, "") is array
    scalar = presented(array[0, 0], name)
    assert scalar.shape == ()
