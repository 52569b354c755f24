"""Relative noise power and its SQNR in dB."""

from __future__ import annotations

import math

_FLOOR = 1e-30
"""Noise below this is taken as none: 300 dB."""


def decibel(noise: float) -> float:
    """SQNR in dB of a relative noise power; 300 at most."""
    return -10 * math.log10(max(noise, _FLOOR))


def noise_of(sqnr: float) -> float:
    """Relative noise power of an SQNR in dB."""
    return 10 ** (-sqnr / 10)
