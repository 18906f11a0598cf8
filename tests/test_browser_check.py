"""The look at built pages in a browser sees each known fault, and none on a page without."""

from __future__ import annotations

import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"

if not (DOCS / "check_browser.py").exists():
    pytest.skip("no documentation in this checkout", allow_module_level=True)

PAGE = """<html lang="en"><style>
body { color: #222; background: #fff } body[data-theme=dark] { color: #ddd; background: #111 }
</style><body><h1>Title</h1><p>text</p><button title="menu"></button>%s</body></html>"""

FAULTS = {
    '<p style="color: #aaa">faint</p>': "light: p has a contrast of 2.32: rgb(170, 170, 170) on rgb(255,255,255)",
    '<p style="color: #333">dark</p>': "dark: p has a contrast of 1.49: rgb(51, 51, 51) on rgb(17,17,17)",
    '<div style="width: 900px">wide</div>': "390 pixels: 518 too wide",
    '<input id="words">': "input#words. has no name",
}

#: A search page whose first results are those of its query.
SEARCH = """<body><p class="search-summary"></p><div id="search-results"><ul class="search"></ul></div><script>
for (const page of new URLSearchParams(location.search).get("q").split(" "))
  document.querySelector("ul").innerHTML += `<li><a href="api/${page}.html">${page}</a></li>`;
document.querySelector("p").innerText = "Search finished, found some pages";
</script></body>"""


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    monkeypatch.syspath_prepend(str(DOCS))
    names = runpy.run_path(str(DOCS / "check_browser.py"))
    sys.modules.pop("check_pages", None)
    browser = next(filter(None, map(shutil.which, names["BROWSERS"])), None)
    if browser is None:
        pytest.skip("no Chromium or Chrome")
    return lambda site, pages, words: names["look"](site, browser, pages, words, timeout=600)


def test_every_fault_is_seen(tmp_path: Path, look: Callable[..., list[str]]) -> None:
    pages = {f"{k}.html": body for k, body in enumerate(["", *FAULTS])}
    for name, body in pages.items():
        (tmp_path / name).write_text(PAGE % body, encoding="utf-8")
    (tmp_path / "search.html").write_text(SEARCH, encoding="utf-8")
    found = look(tmp_path, list(pages), {"a b c": "b", "a b d": "d"})
    assert "search.html: 'a b d' finds /api/a.html, /api/b.html before d" in found
    assert [line for line in found if line.startswith("0.html")] == []
    for name, body in list(pages.items())[1:]:
        assert f"{name}: {FAULTS[body]}" in found
    assert len([line for line in found if "search" in line]) == 1


def test_some_pages_of_the_built_site(look: Callable[..., list[str]]) -> None:
    """Where ``make docs`` has built it, as ``make test`` does first; ``make look`` opens every page."""
    site = DOCS / "_build" / "html"
    names = ["index", "losses", "grid", "guide/which_alignment", "auto_gallery/index", "api/generated/mmda.linear.CCA"]
    pages = [f"{name}.html" for name in names]
    if not all((site / page).exists() for page in pages):
        pytest.skip("make docs builds the pages")
    if any(each.stat().st_mtime > (site / "index.html").stat().st_mtime for each in (DOCS / "_static").iterdir()):
        pytest.skip("built before the last change of the sheets")
    assert look(site, pages, {"DANN": "losses.domain_adversarial_loss", "memory bank": "layers.MemoryBank"}) == []
