"""Recipes and accuracy goals on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from test_recipe import FEEDS, PROTO

from qcompiler.cli import main
from qcompiler.recipe import Recipe


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.onnx, data.npz, r.toml and the bundle `out` of them."""
    folder = tmp_path_factory.mktemp("recipes")
    onnx.save(PROTO, folder / "model.onnx")
    np.savez(folder / "data.npz", x=np.stack([feed["x"] for feed in FEEDS]))
    (folder / "r.toml").write_text(
        '[defaults]\npolicy = "affine"\nequalize = true\n\n'
        '[[layer]]\nmatch = "relu1*"\nscheme = "symmetric"\nreason = "a test"\n'
    )
    assert main(compiling(folder, "out", "--recipe", f"{folder}/r.toml")) == 0
    return folder


def compiling(folder: Path, out: str, *more: str) -> list[str]:
    return ["compile", f"{folder}/model.onnx", "--calibration", f"{folder}/data.npz", "-o", f"{folder}/{out}", *more]


def test_a_recipe_and_what_is_given_besides(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = Recipe.load(work / "out" / "recipe.toml")
    assert (found.defaults["policy"], found.defaults["equalize"]) == ("affine", True)
    assert found.layers[0].match == "relu1*" and found.model == "model.onnx"
    more = ("--recipe", f"{work}/r.toml", "--policy", "auto", "--no-equalize", "--per-tensor", "--smooth", "--json")
    assert main(compiling(work, "other", *more, "--bias-correction", "none", "--no-assign-precision")) == 0
    assert json.loads(capsys.readouterr().out)["program"]["integer"]["q.conv"] == 2
    settings = Recipe.load(work / "other" / "recipe.toml").defaults
    assert (settings["policy"], settings["equalize"], settings["weights"]) == ("auto", False, "per-tensor")
    assert (settings["smooth"], settings["bias_correction"], settings["assign_precision"]) == (0.5, "none", False)


def test_show(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in ("out", "r.toml"):
        assert main(["recipe", "show", f"{work}/{path}"]) == 0
        text = capsys.readouterr().out
        assert "1 rule\n" in text
        assert all(words in text for words in ("policy", "affine", "relu1*", "scheme symmetric", "a test"))
    assert main(["recipe", "show", f"{work}/r.toml", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["layers"] == [{"match": "relu1*", "scheme": "symmetric", "reason": "a test", "sqnr": None}]


def test_diff(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "other.toml").write_text(
        '[defaults]\npolicy = "auto"\nequalize = true\n[[layer]]\nmatch = "relu1*"\nprecision = "int8"\n'
    )
    assert main(["recipe", "diff", f"{work}/r.toml", f"{work}/other.toml", "--json"]) == 0
    found = [tuple(entry.values()) for entry in json.loads(capsys.readouterr().out)]
    assert found == [
        ("defaults", "policy", "affine", "auto"),
        ("relu1*", "scheme", "symmetric", None),
        ("relu1*", "precision", None, "int8"),
    ]
    assert main(["recipe", "diff", f"{work}/r.toml", f"{work}/r.toml"]) == 0
    assert "ask for the same" in capsys.readouterr().out


def test_check(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe", "check", f"{work}/r.toml", f"{work}/model.onnx", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"match": "relu1*", "asks": "scheme symmetric", "layers": 1}]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[layer]]\nmatch = "relu9.node"\nprecision = "int8"', "no node or input is called so; did you mean 'relu"),
        ('[[layer]]\nmatch = "x"\nprecision = "int9"', "precision is 'int9', expected one of int8, int16"),
        ('[[layer]]\nmatch = "x"\nrange = [1, 0]', "range is [1, 0], expected [low, high] with low < high"),
        ('[[layer]]\nmatch = "x"\nmethod = "best"', "unknown calibration method"),
        ('[[layer]]\nmatch = "x"\nmethod = "outlier"', "needs statistics of its own; set it in"),
        ('[[layer]]\nmatch = "x"\nweights = "per-row"', "expected per-tensor, per-channel or per-group:N"),
        ("[[layer]]\nmatch = 3", "match is 3, expected a string"),
        ('[defaults]\npolici = "auto"', "unknown key 'polici'; did you mean 'policy'"),
        ("[defaults]\nequalize = 1", "equalize is 1, expected true or false"),
        ("layer = 3", "'layer' must be tables"),
        ("version = 9", "a recipe of version 9, expected 1"),
        ("= 3", "not a TOML file"),
    ],
)
def test_bad_recipes(work: Path, tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    assert message in refused(capsys, "recipe", "check", str(path), f"{work}/model.onnx")
    assert message in refused(capsys, *compiling(work, "new", "--recipe", str(path)))
    assert not (work / "new").exists()


def test_recipes_that_cannot_be_read(work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nothing.toml" in refused(capsys, *compiling(work, "new", "--recipe", "nothing.toml"))
    (tmp_path / "noise.toml").write_bytes(b"\xff\xfe\x00")
    assert "it is not text" in refused(capsys, "recipe", "show", str(tmp_path / "noise.toml"))
    assert "manifest" in refused(capsys, "recipe", "show", str(tmp_path))
    (tmp_path / "wide.toml").write_text('[[layer]]\nmatch = "x"\nprecision = "int16"\n')
    arguments = ["recipe", "check", f"{tmp_path}/wide.toml", f"{work}/model.onnx", "--profile", "tensorrt"]
    assert "takes no activations of 16 bits" in refused(capsys, *arguments)


def test_goals(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, goal in enumerate((["--min-sqnr", "20dB"], ["--accuracy-drop", "0.5%"])):
        file = work / f"goal{number}.toml"
        assert main(compiling(work, f"goal{number}", *goal, "--write-recipe", str(file))) == 0
        assert "the search names" in capsys.readouterr().out
        assert Recipe.load(file) == Recipe.load(work / f"goal{number}" / "recipe.toml")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--min-sqnr", "loud"], "expected a number of dB such as 20dB, got 'loud'"),
        (["--accuracy-drop", "half"], "expected a share such as 0.5% or 0.005, got 'half'"),
        (["--min-sqnr", "20", "--accuracy-drop", "1%"], "not allowed with argument"),
    ],
)
def test_wrong_goals(work: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(compiling(work, "new", *more))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_reports_count_kinds_of_storage_and_explain_exceptions(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "kinds.toml").write_text(
        '[[layer]]\nmatch = "gemm*"\nprecision = "float32"\n[[layer]]\nmatch = "relu3*"\nprecision = "int16"\n'
    )
    assert main(compiling(work, "kinds", "--recipe", f"{work}/kinds.toml")) == 0
    text = capsys.readouterr().out
    assert "1 in 16 bits symmetric" in text
    assert "    16 bits: relu3.node: 16 bits: the recipe asks for it" in text
    assert "    float: gemm6.node: kept in float by the recipe (float32)" in text
    assert "calibrated on 8 samples, method mse; over the last half of them ranges grew by" in text
    assert main(["inspect", f"{work}/kinds", "--json"]) == 0
    program = json.loads(capsys.readouterr().out)["program"]
    assert program["storages"]["16 bits symmetric"] == 1
    assert program["calibration"]["samples"] == 8 and "worst_half" in program["calibration"]
    chosen = next(row for row in program["tensors"] if row["name"] == "relu1.node" and row["why"])
    assert {"lo", "hi", "db", "affine_db", "symmetric_db"} <= chosen["numbers"].keys()
    assert main(["inspect", f"{work}/kinds"]) == 0
    assert "figures, dB" in capsys.readouterr().out
