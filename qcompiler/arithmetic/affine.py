"""The affine map between real values and stored integers: `real = scale * (stored - zero_point)`.

Scales are float32 and positive, zero points are integers inside the storage range. Every formula that follows
a choice of scale uses the stored float32 value, never the float64 value it was rounded from.
"""

from __future__ import annotations

import re

import numpy as np

_TINY = float(np.finfo(np.float32).tiny)
_HUGE = float(np.finfo(np.float32).max)


def storage_range(storage: str) -> tuple[int, int]:
    """Smallest and largest stored integer of a storage type `u2`..`u16`, `i2`..`i16`, `u32` or `i32`."""
    signed, bits = _parse_storage(storage)
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)


def storage_dtype(storage: str) -> np.dtype:
    """The numpy dtype that holds a storage type; types below 8 bits are held one value a byte."""
    signed, bits = _parse_storage(storage)
    width = 8 if bits <= 8 else 16 if bits <= 16 else 32
    return np.dtype(f"{'int' if signed else 'uint'}{width}")


def _parse_storage(storage: str) -> tuple[bool, int]:
    match = re.fullmatch(r"([iu])(\d+)", storage)
    bits = int(match[2]) if match else 0
    if match is None or not (2 <= bits <= 16 or bits == 32):
        raise ValueError(f"unknown storage type {storage!r}: expected i or u and 2..16 or 32 bits, as in 'u8'")
    return match[1] == "i", bits


def choose_affine(lo: float, hi: float, qmin: int, qmax: int) -> tuple[np.float32, int]:
    """Scale and zero point that map `[lo, hi]`, extended to contain 0, onto `[qmin, qmax]`.

    An empty range (`lo > hi`) and one so small that the scale would be subnormal give scale 1, zero point 0.
    Raises ValueError if the range is NaN or not finite.
    """
    scale, zero_point = choose_affine_per_channel(np.asarray([lo]), np.asarray([hi]), qmin, qmax)
    return scale[0], int(zero_point[0])


def choose_symmetric(lo: float, hi: float, qmin: int, qmax: int) -> tuple[np.float32, int]:
    """Scale for `[lo, hi]` with a fixed zero point: 0 if `qmin < 0`, else the midpoint (128 of 0..255).

    The scale is `max(|lo|, |hi|) / (qmax - zero_point)`, so both ends fit, and unsigned storage has the scale
    that signed storage of the same width would have. Degenerate ranges as in `choose_affine`.
    """
    scale, zero_point = choose_symmetric_per_channel(np.asarray([lo]), np.asarray([hi]), qmin, qmax)
    return scale[0], int(zero_point[0])


def choose_affine_per_channel(lo: np.ndarray, hi: np.ndarray, qmin: int, qmax: int) -> tuple[np.ndarray, np.ndarray]:
    """`choose_affine` on arrays of ranges: float32 scales and int32 zero points of the same shape."""
    lo, hi = _extended_range(lo, hi)
    scale, degenerate = _stored_scale((hi - lo) / (qmax - qmin))
    zero_point = np.clip(np.rint(qmin - lo / scale.astype(np.float64)), qmin, qmax)
    return scale, np.where(degenerate, 0, zero_point).astype(np.int32)


def choose_symmetric_per_channel(lo: np.ndarray, hi: np.ndarray, qmin: int, qmax: int) -> tuple[np.ndarray, np.ndarray]:
    """`choose_symmetric` on arrays of ranges: float32 scales and int32 zero points of the same shape."""
    lo, hi = _extended_range(lo, hi)
    zero_point = 0 if qmin < 0 else (qmin + qmax + 1) // 2
    scale, _ = _stored_scale(np.maximum(-lo, hi) / (qmax - zero_point))
    return scale, np.full(scale.shape, zero_point, np.int32)


def _extended_range(lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lo, hi = np.asarray(lo, np.float64), np.asarray(hi, np.float64)
    empty = lo > hi
    lo, hi = np.where(empty, 0.0, np.minimum(lo, 0.0)), np.where(empty, 0.0, np.maximum(hi, 0.0))
    if not (np.isfinite(lo).all() and np.isfinite(hi).all()):
        raise ValueError("the range of a tensor must be finite")
    return lo, hi


def _stored_scale(scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The scale rounded to float32, with 1 where it would be subnormal, and where that was the case."""
    if np.any(scale > _HUGE):
        raise ValueError(f"the scale {scale.max()} leaves float32")
    degenerate = scale < _TINY
    return np.where(degenerate, 1.0, scale).astype(np.float32), degenerate


def along_axis(values: np.ndarray | np.generic | float, axis: int | None, rank: int) -> np.ndarray:
    """A scalar, or a vector reshaped to broadcast along `axis` of a tensor of that rank.

    With `axis` None the values are returned as they are and follow numpy's broadcasting.
    """
    values = np.asarray(values)
    if axis is None or values.ndim == 0:
        return values
    if values.ndim != 1:
        raise ValueError(f"values along an axis must be a vector, not of shape {values.shape}")
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def quantize(
    x: np.ndarray,
    scale: np.ndarray | float,
    zero_point: np.ndarray | int,
    qmin: int,
    qmax: int,
    dtype: np.dtype | type,
    axis: int | None = None,
) -> np.ndarray:
    """ONNX QuantizeLinear: `int(clamp(rne(x / scale) + zero_point))`, all in float32 up to the conversion.

    `x` is float32; `scale` and `zero_point` are scalars, or vectors along `axis`. Infinities and values too
    large saturate, NaN gives `qmin`. Storage wider than 16 bits is not exact in float32 and is refused with
    ValueError.
    """
    if max(-qmin, qmax) > 0xFFFF:
        raise ValueError("quantize is defined for storage of at most 16 bits")
    x = np.asarray(x, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        y = x / along_axis(np.asarray(scale, np.float32), axis, x.ndim)
        y = np.rint(y) + along_axis(np.asarray(zero_point, np.float32), axis, x.ndim)
    # fmax and fmin return the operand that is not NaN.
    return np.fmin(np.fmax(y, np.float32(qmin)), np.float32(qmax)).astype(dtype)


def dequantize(
    q: np.ndarray, scale: np.ndarray | float, zero_point: np.ndarray | int, axis: int | None = None
) -> np.ndarray:
    """ONNX DequantizeLinear: subtract in int32, convert to float32, one float32 multiply."""
    q = np.asarray(q)
    difference = q.astype(np.int32) - along_axis(np.asarray(zero_point, np.int32), axis, q.ndim)
    return difference.astype(np.float32) * along_axis(np.asarray(scale, np.float32), axis, q.ndim)
