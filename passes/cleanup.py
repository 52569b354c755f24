"""Passes `cse` and `dce`: xDSL's own, which work on every operation that is pure."""

from __future__ import annotations

from dataclasses import dataclass

from xdsl.transforms.common_subexpression_elimination import CommonSubexpressionElimination
from xdsl.transforms.dead_code_elimination import DeadCodeElimination


@dataclass(frozen=True)
class MergeEqual(CommonSubexpressionElimination):
    """Merges operations with equal operands and attributes."""


@dataclass(frozen=True)
class EraseDead(DeadCodeElimination):
    """Erases operations whose results nobody reads."""
