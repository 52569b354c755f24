"""Pass `calibrate`: runs the float model on calibration data and records statistics of its tensors."""

from __future__ import annotations

import itertools
import operator
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from xdsl.dialects.builtin import DictionaryAttr, IntegerAttr, ModuleOp, StringAttr, i64
from xdsl.ir import SSAValue

from qcompiler.calibration.statistics import TensorStatistics
from qcompiler.errors import CalibrationError
from qcompiler.exporters.onnx_export import export_onnx, save_onnx
from qcompiler.ir.graph import is_activation
from qcompiler.ir.pointwise import Pointwise
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import body, is_float, size, value_names
from qcompiler.passes.fusion import inner_values
from qcompiler.pipeline import CompilerContext, QuantPass, Stage

METHODS = ("minmax", "moving-average", "percentile", "entropy", "mse")
_ATTRIBUTE = "q.calibration"


def save_statistics(store: ConstantStore, name: str, statistics: TensorStatistics) -> None:
    """Puts the statistics of the value `name` into the store, beside the constants."""
    for field, array in statistics.to_arrays().items():
        store.put(f"calibration/{name}/{field}", array)


def load_statistics(store: ConstantStore, name: str) -> TensorStatistics | None:
    """Statistics of the value `name`, None if it was not observed."""
    prefix = f"calibration/{name}/"
    arrays = {key.removeprefix(prefix): store[key] for key in store if key.startswith(prefix)}
    return TensorStatistics.from_arrays(arrays) if arrays else None


def calibration_method(module: ModuleOp) -> str:
    """How ranges are to be taken from the statistics, as `calibrate` recorded it."""
    recorded = module.attributes.get(_ATTRIBUTE)
    method = recorded.data["method"] if isinstance(recorded, DictionaryAttr) else StringAttr("minmax")
    assert isinstance(method, StringAttr)
    return method.data


@dataclass(frozen=True)
class Calibrate(QuantPass):
    """Runs the float model on the calibration data and records statistics of its tensors.

    `method` says how ranges are taken from the statistics later: minmax, moving-average, percentile, entropy, mse.
    `limit` uses only that many samples. Memory does not grow with their number.
    """

    name: ClassVar[str] = "calibrate"
    requires: ClassVar = (Stage.FLOAT,)
    ensures: ClassVar = Stage.CALIBRATED
    method: str = "minmax"
    limit: int | None = None

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        from qcompiler.calibration.runner import calibrate

        if self.method not in METHODS:
            raise CalibrationError(f"unknown calibration method '{self.method}'; known: {', '.join(METHODS)}")
        if ctx.calibration is None:
            raise CalibrationError(f"{ctx.source}: calibrate needs calibration data; give it with --calibration")
        names = value_names(module)
        observed = [names[v] for v in observable(module, ctx.store)]
        model = export_onnx(module, ctx.store)
        feeds = itertools.islice(ctx.calibration, self.limit)
        total = self.limit if self.limit is not None else operator.length_hint(ctx.calibration) or None
        tracked = ctx.progress.track(feeds, "calibrating", total)
        with tempfile.TemporaryDirectory() as folder:
            saved = save_onnx(model, Path(folder) / "float.onnx")
            statistics = calibrate(saved[0], observed, tracked, progress=lambda done, of: None)
        for name, value in statistics.items():
            save_statistics(ctx.store, name, value)
        samples = max((s.samples for s in statistics.values()), default=0)
        module.attributes[_ATTRIBUTE] = DictionaryAttr(
            {"method": StringAttr(self.method), "samples": IntegerAttr(samples, i64)}
        )


def observable(module: ModuleOp, store: ConstantStore) -> list[SSAValue]:
    """Float values that depend on the inputs and may have to be stored as integers."""
    block = body(module)
    inner = inner_values(module, store, Pointwise.of(module, store))
    values = [*block.args, *(r for op in block.ops for r in op.results)]
    return [v for v in values if is_activation(v) and is_float(v) and size(v) > 0 and v not in inner]
