"""The explorer's page: what it shows is what the dumps say; it opens from disk, by keyboard, for all readers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import AXE, needs_chromium, run_page

import qcompiler
from qcompiler.cli import main
from qcompiler.model import Model
from qcompiler.report.changes import changes
from qcompiler.report.compare import compare
from qcompiler.report.explore.layout import layered
from qcompiler.report.nodes import nodes_of

DIGITS = Path(__file__).resolve().parents[1] / "examples" / "digits"
SECONDS = 3.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the digit classifier, `OUT`, and its page, `report.html`."""
    place = tmp_path_factory.mktemp("explore")
    calibration = DIGITS / "calibration.npz"
    options = {"limit": 16, "assign_precision": False, "keep_float": ["residual/add"]}
    qcompiler.compile(DIGITS / "digits.onnx", calibration=calibration, output=place / "OUT", **options)
    arguments = ["--data", str(DIGITS / "test.npz"), "--limit", "4", "--measure"]
    assert main(["explore", str(place / "OUT"), "-o", str(place / "report.html"), *arguments]) == 0
    return place


@pytest.fixture(scope="module")
def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def content(page: str) -> dict[str, Any]:
    return content_of(page)


def content_of(page: str) -> dict[str, Any]:
    """The document in a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_the_page_needs_nothing_else(page: str) -> None:
    own = page[: page.index('<script type="application/json"')]
    assert not re.search(r"(?:src|href)=|@import|url\((?!#)", own.replace('href="#inspector"', ""))
    assert "Permission to use, copy, modify" in page, "the library's licence"
    assert len(page) < 1_000_000


def test_passes_are_the_dumps(folder: Path, content: dict[str, Any]) -> None:
    dumps = sorted((folder / "OUT" / "ir").glob("*.mlir"))
    assert [p["name"] for p in content["passes"]] == [d.stem.partition("_")[2] for d in dumps]
    for dump, shown in list(zip(dumps, content["passes"], strict=True))[::4]:
        nodes = nodes_of(Model.load(dump))
        assert [content["names"][name] for _, _, name in shown["nodes"]] == [n.name for n in nodes]
        items = [content["contents"][index] for _, index, _ in shown["nodes"]]
        assert [item["op"] for item in items] == [n.op for n in nodes]
        assert [item.get("why", "") for item in items] == [n.why for n in nodes]
        ids = dict(zip((n.name for n in nodes), (entry[0] for entry in shown["nodes"]), strict=True))
        names = {t.name: n.name for n in nodes for t in n.results}
        read = [[ids[names[name]] for name in n.operands if name] for n in nodes]
        assert [[i for i in item.get("operands", []) if i is not None] for item in items] == read
        drawn = sum(item["part"] != "constant" for item in items)
        assert drawn == len(content["layouts"][shown["layout"]]["places"])


def test_types_errors_histograms_and_costs(folder: Path, content: dict[str, Any]) -> None:
    last = content["passes"][-1]
    by_name = {content["names"][name]: (i, content["contents"][c]) for i, c, name in last["nodes"]}
    number, conv = by_name["residual1/relu"]
    kind = content["types"][conv["types"][0]]
    bundle = qcompiler.load_bundle(folder / "OUT")
    (stored,) = (v for v in bundle.manifest.values.values() if v.location.endswith("residual1/relu"))
    assert kind["scale"] == [pytest.approx(stored.scale, rel=1e-4)] * 2
    assert kind["zero"] == [stored.zero_point] * 2
    assert (kind["lo"], kind["hi"]) == (0, pytest.approx(255 * (stored.scale or 0), rel=1e-4))
    assert conv["numbers"]["hi"] <= content["histograms"][str(number)]["hi"] * 1.001
    assert sum(content["histograms"][str(number)]["counts"]) == pytest.approx(16 * 4 * 4 * 32, rel=1e-3)
    measured = compare(bundle, DIGITS / "digits.onnx", DIGITS / "test.npz", 4)
    expected = {layer.name: layer.sqnr_db for layer in measured.layers}
    assert {"residual2/norm", "stem/relu", "classifier"} <= expected.keys()
    for name, found in expected.items():
        assert content["errors"][str(by_name[name][0])][0] == pytest.approx(found, rel=1e-3)
    assert [c["rule"] for c in content["costs"]] == [step.rule for step in bundle.manifest.steps]
    assert all(c["id"] is not None and c["ms"] > 0 for c in content["costs"])
    assert by_name["residual/add"][1]["attributes"]["q.float"]
    assert by_name["residual/add"][1]["part"] == "float"


def test_places_do_not_overlap_and_edges_go_down() -> None:
    random = np.random.default_rng(0)
    edges = sorted({(int(random.integers(max(0, b - 9), b)), b) for b in range(1, 60) for _ in range(2)})
    widths = [float(w) for w in random.integers(40, 200, 60)]
    found = layered(widths, edges, 78)
    places = found.places
    assert all(places[a][1] < places[b][1] for a, b in edges)
    for a in range(60):
        for b in range(a):
            if places[a][1] == places[b][1]:
                assert abs(places[a][0] - places[b][0]) >= (widths[a] + widths[b]) / 2 + 23.9
    for (a, b), line in zip(edges, found.lines, strict=True):
        assert (line[0], line[-1]) == (places[a], places[b])
    assert layered([], [], 78).places == {}


_VIEWS = """
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
(async () => {
  const found = {};
  for (const hash of HASHES) {
    location.hash = hash;
    await wait(200);
    const result = await axe.run(document, { resultTypes: ["violations"] });
    found[hash] = result.violations.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map((n) => n.html).join(" ")}`);
  }
  report(found);
})();
"""


@needs_chromium
def test_accessible(page: str, tmp_path: Path) -> None:
    """axe-core finds nothing to complain about in any view."""
    views = ["view=layers", "view=partition", "view=help", "view=graph", "view=graph&pass=12&beside=11"]
    hashes = [*views, "view=graph&node=residual1/relu", "view=graph&pass=11&beside=12&node=stem/relu"]
    script = AXE.read_text(encoding="utf-8") + _VIEWS.replace("HASHES", json.dumps(hashes))
    assert run_page(page, script, tmp_path) == {view: [] for view in hashes}


_KEYBOARD = """
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const press = (key) =>
  document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const seen = () => document.querySelector("#inspector h2").textContent;
(async () => {
  const found = {};
  press("/");
  found.focus = document.activeElement.id;
  document.activeElement.value = "residual1 conv";
  document.activeElement.dispatchEvent(new Event("input"));
  found.listed = [...document.querySelectorAll("#found button")].map((b) => b.textContent);
  press("Enter");
  found.taken = seen();
  found.inspector = document.querySelector("#inspector").textContent;
  found.histogram = document.querySelector("#inspector svg").getAttribute("aria-label");
  const graph = [...document.querySelectorAll(".pane svg")].at(-1);
  graph.focus();
  press("ArrowUp");
  found.up = seen();
  press("ArrowDown");
  found.down = seen();
  found.active = document.getElementById(graph.getAttribute("aria-activedescendant")).getAttribute("aria-label");
  press("[");
  found.before = document.querySelector("#pass").value;
  location.hash = "pass=12&beside=11";
  await wait(200);
  found.marks = {};
  for (const mark of ["added", "changed", "removed"])
    found.marks[mark] = [...new Set([...document.querySelectorAll(`.node.${mark}`)].map((n) => n.__data__.name))];
  document.querySelector('nav a[data-view="layers"]').click();
  await wait(200);
  document.querySelector('[data-column="measured"]').click();
  found.worst = document.querySelector("#layers tbody button").textContent;
  found.sorted = document.activeElement.dataset.column;
  report(found);
})();
"""


@needs_chromium
def test_by_keyboard(page: str, folder: Path, content: dict[str, Any], tmp_path: Path) -> None:
    found = run_page(page, _KEYBOARD, tmp_path)
    assert found["focus"] == "find"
    assert found["taken"] == "residual1/relu"
    assert "residual1/relu q.conv" in found["listed"]
    for words in ("scale", "zero point", "u8", "expected if affine, dB", "measured", "milliseconds", "Read by"):
        assert words in found["inspector"], words
    assert re.fullmatch(r"Values from \S+ to \S+; the type holds \S+ to \S+, \S+ % of them", found["histogram"])
    assert (found["up"], found["down"]) == ("pool", "pool#2"), "the first of its readers"
    assert found["active"].startswith("q.transpose, pool#2")
    assert found["before"] == str(len(content["passes"]) - 2)
    assert found["sorted"] == "measured"
    last = {content["names"][name]: content["errors"].get(str(i)) for i, _, name in content["passes"][-1]["nodes"]}
    assert found["worst"] == min((error[0], name) for name, error in last.items() if error)[1]
    old, new = (next((folder / "OUT" / "ir").glob(f"*_{n}.mlir")) for n in ("insert-qdq", "integerize"))
    names = {
        content["names"][n]
        for p in content["passes"][11:13]
        for _, c, n in p["nodes"]
        if content["contents"][c]["part"] != "constant"
    }
    expected = {kind: set() for kind in ("added", "removed")}
    for change in changes(Model.load(old), Model.load(new)):
        if change.kind in expected and change.name in names:
            expected[change.kind].add(change.name)
    assert {kind: set(found["marks"][kind]) for kind in expected} == expected
    assert "stem/relu" in found["marks"]["changed"]


@needs_chromium
@pytest.mark.slow
@pytest.mark.models
@pytest.mark.parametrize(("name", "limit"), [("mobilenetv2", 1_500_000), ("yolox_nano", 4_000_000)])
def test_large_pages_open_quickly(catalogue: Any, name: str, limit: int, tmp_path: Path) -> None:
    """Under three seconds from the start of the navigation to the laid-out graph, of the last pass and the largest."""
    model = catalogue.MODELS[name]
    options = {"limit": 4, "weight_rounding": "nearest", "assign_precision": False}
    qcompiler.compile(model.path(), calibration=list(model.calibration(limit=4)), output=tmp_path / "OUT", **options)
    assert main(["explore", str(tmp_path / "OUT"), "-o", str(tmp_path / "report.html")]) == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(text) < limit
    script = (
        "document.body.getBoundingClientRect(); report([performance.now(), document.querySelectorAll('.node').length]);"
    )
    largest = [p["name"] for p in content_of(text)["passes"]].index("insert-qdq")
    for address, nodes in (("", 60), (f"#pass={largest}&beside={largest + 1}", 200)):
        milliseconds, drawn = run_page(text, script, tmp_path, patient=False, address=address)
        assert drawn > nodes
        assert milliseconds < SECONDS * 1e3
    hashes = ["view=layers", "view=partition", "view=graph"]
    script = AXE.read_text(encoding="utf-8") + _VIEWS.replace("HASHES", json.dumps(hashes))
    assert run_page(text, script, tmp_path) == {view: [] for view in hashes}


def test_bad_input(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["missing"], [str(folder / "OUT"), "--data", "missing.npz"]):
        assert main(["explore", *arguments, "-o", str(tmp_path / "report.html")]) == 2
        assert "missing" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
