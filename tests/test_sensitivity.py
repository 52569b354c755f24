"""The table of sensitivities: from Python and from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from small_graphs import feeds_of
from test_assign_precision import outlier

from qcompiler.cli import main
from qcompiler.frontends.onnx_import import import_graph
from qcompiler.ir.values import body
from qcompiler.sensitivity import Sensitivity, measure_sensitivity


@pytest.fixture(scope="module")
def measured() -> Sensitivity:
    proto = outlier("Mul")
    return measure_sensitivity(import_graph(proto), feeds_of(proto, 6), samples=3)


def test_the_worst_site_comes_first(measured: Sensitivity) -> None:
    assert measured.samples == 3
    worst = measured.sites[0]
    assert (worst.name, worst.kind, worst.op, worst.obstacle) == ("relu1.node", "activation", "onnx.Relu", "")
    assert [site.alone for site in measured.sites] == sorted(site.alone for site in measured.sites)
    assert worst.alone < 15 and worst.without > measured.total + 5


def test_weights_activations_and_constants_are_sites(measured: Sensitivity) -> None:
    assert {site.kind for site in measured.sites} == {"activation", "weight", "constant"}
    blocked = [site.obstacle for site in measured.sites if site.obstacle]
    assert blocked and all("takes operands of 8 bits" in reason for reason in blocked)


def test_figures_stand_on_the_ops(measured: Sensitivity) -> None:
    keys = {
        key
        for op in body(measured.model.module).ops
        if "q.numbers" in op.attributes
        for key in op.attributes["q.numbers"].data
    }  # type: ignore[attr-defined]
    assert keys >= {"sensitivity", "weight_sensitivity", "constant_sensitivity"}


def test_command_prints_a_table_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proto = outlier("Mul")
    onnx.save(proto, tmp_path / "m.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([feed["x"] for feed in feeds_of(proto)]))
    arguments = ["sensitivity", str(tmp_path / "m.onnx"), "--calibration", str(tmp_path / "data.npz"), "-q"]
    assert main([*arguments, "--top", "2"]) == 0
    text = capsys.readouterr().out
    assert "dB at the outputs with everything quantized, on 4 samples" in text
    assert "activation of onnx.Relu" in text and "possible" in text
    assert main([*arguments, "--json", "--samples", "2"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["samples"] == 2
    assert document["sites"][0]["name"] == "relu1.node"


def test_command_without_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(outlier("Mul"), tmp_path / "m.onnx")
    assert main(["sensitivity", str(tmp_path / "m.onnx"), "--calibration", str(tmp_path / "none.npz")]) == 2
    assert "no such file or folder of calibration data" in capsys.readouterr().err
