"""The compiler inside TVM: its passes as `tvm.transform.Pass`, its programs as Relax modules (docs/tvm.md)."""

from __future__ import annotations

import tvm_ffi

from qcompiler import errors
from qcompiler.tvm.lower import Lower, pipeline, target
from qcompiler.tvm.partition import Partition
from qcompiler.tvm.quantize import Quantize, passes
from qcompiler.tvm.regions import region_model, regions
from qcompiler.tvm.schedule import schedule_rules
from qcompiler.tvm.tune import tune

__all__ = [
    "Lower",
    "Partition",
    "Quantize",
    "passes",
    "pipeline",
    "region_model",
    "regions",
    "schedule_rules",
    "target",
    "tune",
]

for _kind in vars(errors).values():
    if isinstance(_kind, type):  # so that they leave a pass as they were raised in it
        tvm_ffi.register_error(_kind)
