"""The check of the built pages detects each known fault, and reports none on a valid page."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "docs" / "check_pages.py"

if not SCRIPT.exists():
    pytest.skip("no documentation in this checkout", allow_module_level=True)

SCRIPT_NAMES = runpy.run_path(str(SCRIPT))
CHECK: Callable[[Path], list[str]] = SCRIPT_NAMES["check"]

HEAD = (
    '<html lang="en"><head><meta name="viewport" content="w"><title>T</title>'
    '<link rel="stylesheet" href="_static/s.css"><script src="_static/mathjax/m.js"></script></head><body>'
)
BODY = (
    '<h1 id="top">A</h1><h2>B</h2><p>C <span class="math">\\(x\\)</span> <code>``x``</code> <a href="#top">up</a>'
    ' <a href="b.html#there">b</a> <a href="https://example.org">out</a></p>'
    '<img class="framed" src="_images/i.png" alt="a curve">'
    '<div class="table-wrapper" id="t"><table id="t"></table></div><pre><span class="k">$$</span></pre>'
    '<div class="sphx-glr-thumbcontainer"><img src="_images/i.png" alt=""></div>'
    "<ul><li>one</li><li><b>two</b></li></ul>"
)


def site(folder: Path, body: str = BODY, head: str = HEAD) -> Path:
    (folder / "_static" / "mathjax").mkdir(parents=True)
    (folder / "_images").mkdir()
    (folder / "_static" / "s.css").write_text("b { background: url(x.png) }", encoding="utf-8")
    (folder / "_static" / "mathjax" / "m.js").touch()
    (folder / "_images" / "i.png").write_bytes(b"i" * 1_000)
    (folder / "a.html").write_text(head + body, encoding="utf-8")
    (folder / "b.html").write_text(head + '<h1>B</h1><p id="there">x</p>', encoding="utf-8")
    return folder


def test_a_sound_page_has_no_fault(tmp_path: Path) -> None:
    assert CHECK(site(tmp_path)) == []
    assert CHECK(tmp_path / "none") == [f"{tmp_path / 'none'}: no pages"]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('"#top"', '"#bottom"', "the link #bottom has no such anchor"),
        ("b.html#there", "b.html#here", "the link b.html#here has no such anchor"),
        ("b.html#there", "c.html", "the link c.html leads nowhere"),
        (">up<", "><", "a link to #top has no text"),
        (">up<", ">Here<", "a link to #top has the text 'here'"),
        ('i.png" alt="a curve"', 'j.png" alt="a curve"', "the file _images/j.png is missing"),
        (' alt="a curve"', "", "the image _images/i.png has no alternative text"),
        ("a curve", "_images/i.png", "the image _images/i.png has a file name for its alternative text"),
        (' alt="">', ">", "the image _images/i.png has no alternative text"),
        (' class="framed"', "", "the image _images/i.png stays white in the dark"),
        ("h1", "h2", "0 headings of level 1"),
        ("<h2>B</h2>", "<h1>B</h1>", "2 headings of level 1"),
        ("h2", "h3", "a heading of level 3 follows one of level 1"),
        ('<span class="math">', "<span>", r"unrendered markup: '\\(x\\)'"),
        ("<p>C", "<p>:func:`f`", "unrendered markup: ':func:`f`'"),
        ("_static/mathjax/m.js", "_static/s.css", "formulas without the script that draws them"),
        ("_static/s.css", "https://fonts.example/s.css", "https://fonts.example/s.css is fetched from elsewhere"),
        ("_static/s.css", "_static/none.css", "the file _static/none.css is missing"),
        ('class="table-wrapper" id="t"', "", "a table is not in a box that scrolls by itself"),
        ('id="top"', 'id="t"', "two elements have the id 't'"),
        ("one", "\n", "an empty item of a list, as of a dash or of a letter and a full stop"),
        (' lang="en"', "", "no lang"),
        ("<title>T</title>", "", "no title"),
        ("viewport", "other", "no viewport"),
        ("C ", "C " * 300_001, "bytes of text"),
    ],
)
def test_a_fault_is_seen(tmp_path: Path, old: str, new: str, fault: str) -> None:
    assert old in HEAD + BODY
    found = CHECK(site(tmp_path, BODY.replace(old, new), HEAD.replace(old, new)))
    assert any(line.startswith("a.html: ") and line.endswith(fault) for line in found), found


def test_heavy_pictures_and_sheets_that_fetch_are_seen(tmp_path: Path) -> None:
    site(tmp_path)
    (tmp_path / "_images" / "i.png").write_bytes(b"i" * 2_000_001)
    (tmp_path / "_static" / "s.css").write_text("@import url('//fonts.example/f.css');", encoding="utf-8")
    heavy, fetched = CHECK(tmp_path)
    assert heavy.startswith("a.html: 2,0")
    assert heavy.endswith("bytes with its images")
    assert fetched == "_static/s.css: //fonts.example/f.css is fetched from elsewhere"


def test_words_that_the_search_does_not_lead_to_their_page_are_seen(tmp_path: Path) -> None:
    index = {
        "docnames": ["names", "api/losses.joint_mmd_loss"],
        "indexentries": {"jan": [[1, "index-0", True]]},
        "alltitles": {"Names in papers": [[0, None]]},
        "objects": {"mmda.losses": [[1, 1, 1, "", "JointMMDLoss"]]},
        "terms": {"cdan": 0},
    }
    (tmp_path / "searchindex.js").write_text(f"Search.setIndex({json.dumps(index)})", encoding="utf-8")
    page = "losses.joint_mmd_loss"
    found = SCRIPT_NAMES["lost"](
        tmp_path, {"JAN": page, "JointMMDLoss": page, "names in papers": "names", "CDAN": "names"}
    )
    assert found == ["search.html: 'CDAN' does not lead to names"]
