"""Saved calibration: reused for the same model and data alone, merged from shards, given in place of data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import Graph, feeds_of, outputs, passed, run_passes

import qcompiler
from qcompiler.calibration.cache import SavedCalibration
from qcompiler.calibration.convergence import convergence
from qcompiler.cli import main
from qcompiler.errors import CalibrationError
from qcompiler.frontends.onnx_import import import_graph


def proto(scale: float = 0.3) -> onnx.ModelProto:
    g = Graph(x=(1, 3, 8, 8))
    y = g("Relu", g("Conv", "x", g.weight(4, 3, 3, 3, scale=scale)))
    return g.proto(g("Conv", y, g.weight(2, 4, 1, 1)))


def saved(path: Path, feeds: object, method: str = "minmax", scale: float = 0.3) -> list[str]:
    """Notes of a run of `calibrate` with this cache."""
    context = run_passes(import_graph(proto(scale)), f'canonicalize,calibrate{{method={method} cache="{path}"}}', feeds)  # type: ignore[arg-type]
    return [note for note in context.notes if "anew" in note]


def test_a_cache_is_used_or_made_anew_with_a_note(tmp_path: Path) -> None:
    path, feeds = tmp_path / "c.safetensors", feeds_of(proto())
    assert not saved(path, feeds)
    before = path.stat().st_mtime_ns
    assert not saved(path, feeds) and path.stat().st_mtime_ns == before
    assert "other data" in saved(path, feeds[:3])[0]
    assert "another model" in saved(path, feeds[:3], scale=0.4)[0]
    assert "outlier" in saved(path, feeds[:3], "outlier", 0.4)[0]
    assert not saved(path, feeds[:3], "outlier", 0.4)


def test_a_damaged_cache_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    path.write_bytes(b"no safetensors")
    with pytest.raises(CalibrationError, match="cannot be read as saved calibration"):
        saved(path, feeds_of(proto()))


def test_shards_equal_one_run_and_stand_for_the_data(tmp_path: Path) -> None:
    feeds = feeds_of(proto(), count=5)
    a, b, whole = (tmp_path / f"{name}.safetensors" for name in "abw")
    for path, part in ((a, feeds[:2]), (b, feeds[2:]), (whole, feeds)):
        saved(path, part, "outlier")
    both = SavedCalibration.load(a).merge(SavedCalibration.load(b))
    both.save(a)
    both, one = SavedCalibration.load(a), SavedCalibration.load(whole)
    for name, statistics in one.statistics.items():
        for field, array in statistics.to_arrays().items():
            found = both.statistics[name].to_arrays()[field]
            np.testing.assert_allclose(found, array, rtol=1e-12 if "decayed" in field else 0, err_msg=field)
    assert convergence(both.statistics) == convergence(one.statistics)
    pipeline = "canonicalize,calibrate{method=entropy},choose-scheme"
    text = [passed(import_graph(proto()), pipeline, data).text() for data in (both, one)]  # type: ignore[arg-type]
    assert text[0].replace(both.data[0], "").count("q.types") == text[1].count("q.types") > 0
    with pytest.raises(CalibrationError, match=r"does not fit .*another model"):
        passed(import_graph(proto(0.4)), pipeline, both)  # type: ignore[arg-type]
    with pytest.raises(CalibrationError, match="statistics alone"):
        list(both)


def test_shards_of_unlike_models_do_not_merge(tmp_path: Path) -> None:
    for name, scale in (("a", 0.3), ("b", 0.4)):
        saved(tmp_path / name, feeds_of(proto()), scale=scale)
    with pytest.raises(CalibrationError, match="different models"):
        SavedCalibration.load(tmp_path / "a").merge(SavedCalibration.load(tmp_path / "b"))


def test_shards_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    feeds = feeds_of(proto(), count=4)
    onnx.save(proto(), str(tmp_path / "m.onnx"))
    for name, part in (("a", feeds[:2]), ("b", feeds[2:])):
        np.savez(tmp_path / f"{name}.npz", x=np.stack([f["x"] for f in part]))
        arguments = ["calibrate", f"{tmp_path}/m.onnx", "--calibration", f"{tmp_path}/{name}.npz"]
        assert main([*arguments, "-o", f"{tmp_path}/{name}.safetensors", "-q"]) == 0
    merge = ["merge-calibration", f"{tmp_path}/a.safetensors", f"{tmp_path}/b.safetensors"]
    assert main([*merge, "-o", f"{tmp_path}/all.safetensors"]) == 0
    assert "4 samples" in capsys.readouterr().out
    model = qcompiler.import_onnx(tmp_path / "m.onnx")
    # Precision and rounding are measured on samples, which saved statistics do not hold.
    options = {"assign_precision": False, "weight_rounding": "nearest"}
    found = [qcompiler.quantize(model, data, **options).model for data in (tmp_path / "all.safetensors", feeds)]
    for old, new in zip(*(outputs(m, feeds) for m in found), strict=True):
        np.testing.assert_array_equal(old["conv2"], new["conv2"])
