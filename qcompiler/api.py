"""The functions that `import qcompiler` offers: import, quantize, compile, run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.model import Model
from qcompiler.pipeline import CompilerContext, PassManager, PassRecord, Progress, parse

if TYPE_CHECKING:
    from qcompiler.bundle import Bundle


QUANTIZE = "canonicalize,fold-batch-norm,canonicalize,calibrate{{{calibrate}}},choose-scheme{{{scheme}}},correct-bias,insert-qdq"
"""From the float graph to quantize and dequantize around every op that is to run in integers."""

QUANTIZED = "import-qdq,canonicalize"
"""Instead of QUANTIZE, for a model that has QuantizeLinear and DequantizeLinear already."""

LOWER = "integerize,legalize{{{legalize}}},fold-zero-point,plan-layout,cse,dce"
"""From there to the integer program of a target."""


@dataclass
class Quantized:
    """What `quantize` made: the integer program, the QDQ form it came from, and how it went."""

    model: Model
    qdq: Model
    records: list[PassRecord] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
