"""Runs a page of the explorer in headless Chromium, with a script of the test's own at its end."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt-get install chromium")
AXE = Path(__file__).parent / "fixtures" / "axe" / "axe.min.js"
"""axe-core 4.14.1 of Deque Systems, Mozilla Public License 2.0."""

_REPORT = """
const report = (found) => {
  const place = document.createElement("pre");
  place.id = "result";
  place.textContent = JSON.stringify(found);
  document.body.append(place);
};
"""


def run_page(page: str, script: str, folder: Path, *, patient: bool = True, address: str = "") -> Any:
    """What the script hands to its function `report`.

    A `patient` browser waits for what the script starts; its clock is not the real one then.
    """
    path = folder / "page.html"
    path.write_text(page.replace("</body>", f"<script>{_REPORT}{script}</script></body>"), encoding="utf-8")
    assert CHROMIUM is not None
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,900", "--dump-dom"]
    if patient:
        options.append("--virtual-time-budget=60000")
    command = [CHROMIUM, *options, f"--user-data-dir={folder / 'profile'}", f"file://{path}{address}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))
