"""The documents say what the code does: dumps are current, examples compile and run, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import qcompiler
from qcompiler.pipeline import CompilerContext, PassManager, parse
from qcompiler.targets.spec import resolve_target

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
DIGITS = REPOSITORY / "examples" / "digits"
PAGES = sorted(DOCS.glob("*.md"))


def loaded(name: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def without_numbers(text: str) -> str:
    """Scales and the figures of reasons may differ in their last digits from one CPU to the next."""
    return re.sub(r"-?\d+\.\d+(e[+-]\d+)?(:\d+)?|pad_value = -?\d+|zero_point = -?\d+", "#", text)


@pytest.mark.parametrize("page", ["passes.md", "reading-a-dump.md"])
def test_dumps_are_current(page: str) -> None:
    snippets = loaded("snippets", DOCS / "snippets.py")
    found = snippets.BLOCK.findall((DOCS / page).read_text(encoding="utf-8"))
    assert len(found) >= 6
    for _, name, text, _ in found:
        assert without_numbers(text) == without_numbers(snippets.dump(name) + "\n"), (
            f"{page}: the dump '{name}' is out of date; run python docs/snippets.py"
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_every_pass_is_documented() -> None:
    from qcompiler.passes import PASSES

    headings = " ".join(re.findall(r"^## (.*)$", (DOCS / "passes.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(PASSES) <= set(headings.split())


def test_the_pipeline_is_that_of_compile() -> None:
    from qcompiler.api import lowering_passes, quantizing_passes
    from qcompiler.options import QuantizeOptions

    front = quantizing_passes(QuantizeOptions())
    names = ", ".join(p.name for p in (*front, *lowering_passes()))
    assert names in " ".join((DOCS / "passes.md").read_text(encoding="utf-8").split())


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_c_example_gives_what_python_gives(tmp_path: Path) -> None:
    bundle = qcompiler.compile(
        DIGITS / "digits.onnx", calibration=DIGITS / "calibration.npz", output=tmp_path / "OUT", limit=8
    )
    (tmp_path / "main.c").write_text(blocks("bundle.md", "c")[0], encoding="utf-8")
    image = np.random.default_rng(0).random((1, 1, 8, 8), np.float32)
    image.tofile(tmp_path / "image.f32")
    text = (DOCS / "bundle.md").read_text(encoding="utf-8")
    for command in re.findall(r"^    ((?:cc|\./program) .*)$", text, re.MULTILINE):
        done = subprocess.run(command.split(), cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    expected = bundle.run({"image": image})["logits"]
    assert np.array_equal(np.array(done.stdout.split(), np.float32).reshape(expected.shape), expected)
    keys = set(re.findall(r"`(\w+)`", text[text.index("## manifest.json") :]))
    manifest = qcompiler.load_bundle(tmp_path / "OUT").manifest
    assert set(vars(manifest)) <= keys, "every key of the manifest is explained"


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with the target and the pass of targets.md."""
    package = tmp_path / "my_package"
    package.mkdir()
    points: dict[str, list[EntryPoint]] = {}
    for block in blocks("targets.md", "toml"):
        for group, name, value in re.findall(r'entry-points\."(.+?)"\]\n(\S+) = "(.+?)"', block):
            points.setdefault(group, []).append(EntryPoint(name, value, group))
    for block in blocks("targets.md", "python"):
        file = re.match(r"# my_package/(\w+\.py)", block)
        assert file is not None
        (package / file[1]).write_text(block, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    for module in ("qcompiler.pipeline", "qcompiler.targets.spec"):
        monkeypatch.setattr(f"{module}.entry_points", lambda group: points[group])


@pytest.mark.usefixtures("outside")
def test_target_and_pass_from_outside() -> None:
    assert resolve_target("dsp").rounding == "fixed2"
    model = qcompiler.import_onnx(DIGITS / "digits.onnx")
    quantized = qcompiler.quantize(model, DIGITS / "calibration.npz", target="dsp", limit=4, keep_float=["classifier"])
    assert 'rounding = "fixed2"' in quantized.model.text()
    context = CompilerContext()
    PassManager(parse("list-float{limit=3}")).run(quantized.model, context)
    assert len(context.notes) == 1
    assert "classifier" in context.notes[0]
