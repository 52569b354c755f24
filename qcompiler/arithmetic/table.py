"""Unary functions of 8-bit and 16-bit tensors as tables: computed once in float64, exact on every target after."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from qcompiler.arithmetic.affine import along_axis, storage_dtype, storage_range

Function = Callable[[np.ndarray], np.ndarray]
"""float64 array to float64 array of the same shape."""


def build_table(
    function: Function,
    scale_x: float,
    zero_point_x: int,
    storage_x: str,
    scale_y: np.ndarray | float,
    zero_point_y: int,
    lo: int,
    hi: int,
    storage_y: str,
) -> np.ndarray:
    """Stored output for every stored input, index `q - qmin`: 256 entries for 8 bits, 65,536 for 16.

    With a vector of scales `scale_y`, one such table a channel, `[channels, entries]`.

    `clamp(rne(function(scale_x * (q - zero_point_x)) / scale_y) + zero_point_y, lo, hi)` in float64.
    Infinities saturate; NaN (the logarithm of a negative number) gives `lo`.
    """
    qmin, qmax = storage_range(storage_x)
    real = float(scale_x) * np.arange(qmin - int(zero_point_x), qmax - int(zero_point_x) + 1, dtype=np.float64)
    with np.errstate(all="ignore"):
        divisor = np.asarray(scale_y, np.float64)[..., None]
        y = np.rint(np.asarray(function(real), np.float64) / divisor) + int(zero_point_y)
    return np.fmin(np.fmax(y, lo), hi).astype(storage_dtype(storage_y))


def apply_table(q: np.ndarray, table: np.ndarray, qmin: int, axis: int | None = None) -> np.ndarray:
    """`table[q - qmin]`; with an `axis`, `table[c, q - qmin]` for index `c` of that axis of `q`."""
    if axis is not None:
        channel = along_axis(np.arange(len(table)) * table.shape[1], axis, q.ndim)
        return np.take(table, q.astype(np.int32) - qmin + channel)
    if q.dtype.itemsize > 1 or table.dtype.itemsize > 1:
        return np.take(table, q.astype(np.int32) - qmin)
    by_byte = np.zeros(256, table.dtype)
    by_byte[np.arange(qmin, qmin + len(table)) & 0xFF] = table
    # Several times faster than indexing.
    translated = bytearray(np.ascontiguousarray(q)).translate(by_byte.tobytes())
    return np.frombuffer(translated, table.dtype).reshape(q.shape)


def function(op_name: str, **attributes: float | str) -> Function:
    """The float64 function of an ONNX operator, with its attributes (ONNX defaults apply).

    `Clip` takes `min` and `max`, `Pow` takes `exponent`, which ONNX passes as inputs. `Silu` is `Swish` with
    `alpha` 1. Raises ValueError for an operator that has no table, and TypeError for an attribute it lacks.
    """
    if op_name not in FUNCTIONS:
        raise ValueError(f"no table function for {op_name!r}; there is one for {', '.join(sorted(FUNCTIONS))}")
    return FUNCTIONS[op_name](**attributes)


def _plain(f: Function) -> Callable[[], Function]:
    return lambda: f


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, x)


def _erf(x: np.ndarray) -> np.ndarray:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _leaky_relu(alpha: float = 0.01) -> Function:
    return lambda x: np.where(x < 0, alpha * x, x)


def _thresholded_relu(alpha: float = 1.0) -> Function:
    return lambda x: np.where(x > alpha, x, 0.0)


def _elu(alpha: float = 1.0) -> Function:
    return lambda x: np.where(x < 0, alpha * np.expm1(x), x)


def _celu(alpha: float = 1.0) -> Function:
    return lambda x: np.maximum(x, 0) + np.minimum(0, alpha * np.expm1(x / alpha))


def _selu(alpha: float = 1.67326319217681884765625, gamma: float = 1.05070102214813232421875) -> Function:
    return lambda x: gamma * np.where(x <= 0, alpha * np.expm1(x), x)


def _hard_sigmoid(alpha: float = 0.2, beta: float = 0.5) -> Function:
    return lambda x: np.clip(alpha * x + beta, 0, 1)


def _gelu(approximate: str = "none") -> Function:
    if approximate == "none":
        return lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2)))
    if approximate == "tanh":
        return lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    raise ValueError(f"Gelu knows approximate 'none' and 'tanh', not {approximate!r}")


def _swish(alpha: float = 1.0) -> Function:
    return lambda x: x * _sigmoid(alpha * x)


def _clip(min: float = -math.inf, max: float = math.inf) -> Function:
    return lambda x: np.minimum(np.maximum(x, min), max)


def _pow(exponent: float) -> Function:
    return lambda x: np.power(x, float(exponent))


FUNCTIONS: dict[str, Callable[..., Function]] = {
    "Abs": _plain(np.abs),
    "Ceil": _plain(np.ceil),
    "Celu": _celu,
    "Clip": _clip,
    "Cos": _plain(np.cos),
    "Elu": _elu,
    "Erf": _plain(_erf),
    "Exp": _plain(np.exp),
    "Floor": _plain(np.floor),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "Identity": _plain(lambda x: x),
    "LeakyRelu": _leaky_relu,
    "Log": _plain(np.log),
    "Mish": _plain(lambda x: x * np.tanh(_softplus(x))),
    "Neg": _plain(np.negative),
    "Pow": _pow,
    "Reciprocal": _plain(np.reciprocal),
    "Relu": _plain(lambda x: np.maximum(x, 0)),
    "Round": _plain(np.rint),
    "Selu": _selu,
    "Sigmoid": _plain(_sigmoid),
    "Sign": _plain(np.sign),
    "Silu": _plain(_swish()),
    "Sin": _plain(np.sin),
    "Softplus": _plain(_softplus),
    "Softsign": _plain(lambda x: x / (1 + np.abs(x))),
    "Sqrt": _plain(np.sqrt),
    "Swish": _swish,
    "Tanh": _plain(np.tanh),
    "ThresholdedRelu": _thresholded_relu,
}
"""ONNX operator name to a factory that takes its attributes and returns the function."""
