"""Pass `calibrate`: runs the float model on calibration data and records statistics of its tensors."""

from __future__ import annotations

import itertools
import operator
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, FloatAttr, IntegerAttr, ModuleOp, StringAttr, f64, i64
from xdsl.ir import Attribute, SSAValue

from qcompiler.calibration.cache import SavedCalibration, hash_of_feeds, hash_of_files
from qcompiler.calibration.convergence import convergence
from qcompiler.calibration.ranges import parse_method
from qcompiler.calibration.statistics import TensorStatistics
from qcompiler.errors import CalibrationError
from qcompiler.exporters.onnx_export import export_onnx, save_onnx
from qcompiler.ir.graph import is_activation
from qcompiler.ir.pointwise import Pointwise
from qcompiler.ir.store import ConstantStore
from qcompiler.ir.values import body, is_float, size, value_names
from qcompiler.passes.fusion import inner_values
from qcompiler.pipeline import CompilerContext, QuantPass, Stage

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

    `method` says how ranges are taken from the statistics later: minmax, moving-average, percentile (or
    percentile:99.99), entropy, mse, outlier. `limit` uses only that many samples. Memory does not grow with their
    number. `cache`: a file whose statistics are used if they are of this model and data, and which is written if not.
    """

    name: ClassVar[str] = "calibrate"
    requires: ClassVar = (Stage.FLOAT, Stage.CALIBRATED)
    ensures: ClassVar = Stage.CALIBRATED
    method: str = "minmax"
    limit: int | None = None
    cache: str | None = None

    def run(self, ctx: CompilerContext, module: ModuleOp) -> None:
        try:
            method, _ = parse_method(self.method)
        except ValueError as error:
            raise CalibrationError(str(error)) from None
        if ctx.calibration is None:
            raise CalibrationError(f"{ctx.source}: calibrate needs calibration data; give it with --calibration")
        found = self._statistics(ctx, module, tails=method == "outlier")
        for name, value in found.statistics.items():
            save_statistics(ctx.store, name, value)
        samples = max((s.samples for s in found.statistics.values()), default=0)
        recorded: dict[str, Attribute] = {
            "method": StringAttr(self.method),
            "samples": IntegerAttr(samples, i64),
            "model": StringAttr(found.model),
            "data": ArrayAttr([StringAttr(shard) for shard in found.data]),
        }
        if (moved := convergence(found.statistics)) is not None:
            recorded |= {key: FloatAttr(round(value, 6), f64) for key, value in asdict(moved).items()}
            if moved.needs_more:
                ctx.notes.append(
                    f"calibration has not settled: over the last half of the {samples} samples the median range grew "
                    f"by {moved.median_half:.1%} of its width, the worst by {moved.worst_half:.1%}; give more samples"
                )
        module.attributes[_ATTRIBUTE] = DictionaryAttr(recorded)

    def _statistics(self, ctx: CompilerContext, module: ModuleOp, tails: bool) -> SavedCalibration:
        names = value_names(module)
        observed = [names[v] for v in observable(module, ctx.store)]
        with tempfile.TemporaryDirectory() as folder:
            saved = save_onnx(export_onnx(module, ctx.store), Path(folder) / "float.onnx")
            model = hash_of_files(saved)
            if isinstance(ctx.calibration, SavedCalibration):
                if reason := _unlike(ctx.calibration, model, None, observed, tails):
                    raise CalibrationError(f"{ctx.calibration.source} does not fit {ctx.source}: {reason}")
                return ctx.calibration
            assert ctx.calibration is not None
            data = hash_of_feeds(itertools.islice(ctx.calibration, self.limit)) if self.cache else ""
            if self.cache and Path(self.cache).exists():
                cached = SavedCalibration.load(Path(self.cache))
                reason = _unlike(cached, model, data, observed, tails)
                if reason is None:
                    return cached
                ctx.notes.append(f"{self.cache} was made anew: {reason}")
            statistics = self._run_model(ctx, saved[0], observed, tails)
        found = SavedCalibration(model, (data,) if data else (), statistics)
        if self.cache:
            found.save(Path(self.cache))
        return found

    def _run_model(
        self, ctx: CompilerContext, model: Path, observed: list[str], tails: bool
    ) -> dict[str, TensorStatistics]:
        from qcompiler.calibration.runner import calibrate

        assert ctx.calibration is not None
        feeds = itertools.islice(ctx.calibration, self.limit)
        total = self.limit if self.limit is not None else operator.length_hint(ctx.calibration) or None
        tracked = ctx.progress.track(feeds, "calibrating", total)
        return calibrate(model, observed, tracked, progress=lambda done, of: None, tails=tails)


def _unlike(saved: SavedCalibration, model: str, data: str | None, observed: list[str], tails: bool) -> str | None:
    """Why saved statistics cannot be used, None if they can."""
    if saved.model != model:
        return "it was made with another model, or other passes before calibration"
    if data is not None and saved.data != (data,):
        return "it was made with other data"
    if set(observed) != saved.statistics.keys():
        return "it was made with other values observed"
    if tails and not saved.has_tails:
        return "it lacks what method 'outlier' needs"
    return None


def observable(module: ModuleOp, store: ConstantStore) -> list[SSAValue]:
    """Float values that depend on the inputs and may have to be stored as integers."""
    block = body(module)
    inner = inner_values(module, store, Pointwise.of(module, store))
    values = [*block.args, *(r for op in block.ops for r in op.results)]
    return [v for v in values if is_activation(v) and is_float(v) and size(v) > 0 and v not in inner]
