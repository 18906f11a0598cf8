"""Look over the built site as a reader without a network would: ``python docs/check_pages.py docs/_build/html``.

Links and their anchors lead somewhere and say where, images exist, say what they show and are turned over in the dark,
headings are in order, formulas have their renderer beside them, nothing is fetched from elsewhere, wide tables scroll
by themselves, pages are light, and the search knows the names in papers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: A page with its pictures weighs no more, in bytes; source listings of long modules are the heaviest text.
PAGE_LIMIT = 600_000
WITH_IMAGES = 2_000_000

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
QUOTED = {"code", "pre", "script", "style", "svg", "textarea", "title"}
#: Tables of an index, a name a row.
NARROW = {"genindextable", "modindextable", "indextable", "domainindex-table"}
#: Pictures whose lightness is turned over in the dark, and a sign that needs no more than its lines.
FRAMED = {"framed", "sphx-glr-single-img", "sphx-glr-multi-img", "toggler"}
#: Marks of text that was written for the builder and reached the reader.
RAW = re.compile(r"\\\(|\\\[|\\begin\{|\$\$|:(?:func|class|mod|meth|ref|doc|math|attr|data):`|``\w")
#: Coloured words of listings, half of all elements: nothing is asked of them.
LISTING = re.compile("<pre>.*?</pre>", re.DOTALL)
COLOURS = re.compile('<span(?: class="[^"]*")?>|</span>')
#: Link texts that say nothing of where they lead.
VAGUE = {"", "here", "click here", "link", "this", "this page", "more", "read more"}
#: Files fetched in a page's behalf, by element: the attribute that names them.
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "audio": "src"}
#: What people search for, and the end of the name of the page that they want.
SEARCHED = {
    "DAN": "losses.mmd_loss",
    "KID": "losses.polynomial_mmd_loss",
    "JAN": "losses.joint_mmd_loss",
    "DSAN": "losses.local_mmd_loss",
    "CAN": "losses.contrastive_domain_discrepancy_loss",
    "Deep CORAL": "losses.coral_loss",
    "CMD": "losses.central_moment_discrepancy_loss",
    "HoMM": "losses.higher_order_moment_loss",
    "SWD": "losses.sliced_wasserstein_loss",
    "DeepJDOT": "losses.joint_transport_loss",
    "DANN": "losses.domain_adversarial_loss",
    "CDAN": "losses.conditional_adversarial_loss",
    "WDGRL": "losses.WassersteinCriticLoss",
    "MDD": "losses.margin_disparity_loss",
    "MCD": "losses.classifier_discrepancy_loss",
    "AFN": "losses.adaptive_feature_norm_loss",
    "BSP": "losses.batch_spectral_penalty_loss",
    "MCC": "losses.minimum_class_confusion_loss",
    "BNM": "losses.batch_nuclear_norm_loss",
    "TENT": "losses.entropy_loss",
    "SHOT": "losses.information_maximisation_loss",
    "ATDOC": "losses.neighbour_pseudo_labels",
    "VAT": "losses.virtual_adversarial_loss",
    "OSBP": "losses.open_set_loss",
    "PADA": "losses.partial_class_weight",
    "IWAN": "losses.partial_row_weight",
    "GRL": "layers.gradient_reversal",
    "AdaBN": "layers.adapt_batch_norm",
    "DSBN": "layers.DomainSpecificBatchNorm2d",
    "memory bank": "layers.MemoryBank",
    "CLIP": "losses.info_nce_loss",
    "SimCLR": "losses.nt_xent_loss",
    "SigLIP": "losses.sigmoid_contrastive_loss",
    "SupCon": "losses.supervised_contrastive_loss",
    "Barlow Twins": "losses.cross_correlation_loss",
    "VICReg": "losses.variance_covariance_loss",
    "CCA": "linear.CCA",
    "Lightning": "guide/ecosystem",
    "Accelerate": "guide/ecosystem",
    "FSDP": "guide/ecosystem",
    "scikit-learn": "guide/ecosystem",
    "torchmetrics": "guide/ecosystem",
    "MMDLoss": "losses.mmd_loss",
    "CORALLoss": "losses.coral_loss",
}


class Page(HTMLParser):
    """What one file says of itself; ``faults`` are those that need no other file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.images: list[str] = []
        self.faults: list[str] = []
        self.refresh = False
        self._open: list[tuple[str, bool, bool]] = []  # name, quotes its text, scrolls by itself
        self._level = 0
        self._headings = 0
        self._card = False
        self._formulas = 0
        self._link_text: str | None = None
        self._bare_item = False  # inside an item of a list, before anything in it
        self._head: dict[str, str] = {}
        text = path.read_text(encoding="utf-8")
        self.feed(LISTING.sub(lambda found: COLOURS.sub("", found[0]), text))
        self.close()
        self._finish(len(text.encode()))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        classes = set(found.get("class", "").split())
        _, quoted, scrolls = self._open[-1] if self._open else ("", False, False)
        self._bare_item = tag == "li"
        if "id" in found:
            # the box around a table repeats the table's id
            if found["id"] in self.ids and not (tag == "table" and scrolls):
                self.faults.append(f"two elements have the id {found['id']!r}")
            self.ids.add(found["id"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
            self._link_text = found.get("aria-label") or found.get("title") or ""
        if tag == "img":
            self.images.append(found.get("src", ""))
            if not (found.get("alt", "").strip() or (self._card and "alt" in found)):
                self.faults.append(f"the image {found.get('src')} has no alternative text")
            elif re.search(r"\.(png|svg|jpe?g|gif|webp)$|/", found["alt"]):
                self.faults.append(f"the image {found.get('src')} has a file name for its alternative text")
            if not (self._card or classes & FRAMED):
                self.faults.append(f"the image {found.get('src')} stays white in the dark")
            if self._link_text is not None:
                self._link_text += found.get("alt", "")
        if tag == "link" and set(found.get("rel", "").split()) & {"stylesheet", "preload", "icon", "preconnect"}:
            self.fetched.append(found.get("href", ""))
        if found.get(FETCHED.get(tag, "")):
            self.fetched.append(found[FETCHED[tag]])
        if tag == "html":
            self._head["lang"] = found.get("lang", "")
        if tag == "meta" and "name" in found:
            self._head[found["name"]] = found.get("content", "")
        if tag == "meta" and found.get("http-equiv", "").lower() == "refresh":
            self.refresh = True
        if re.fullmatch("h[1-6]", tag):
            self._heading(int(tag[1]))
        if tag == "table" and not scrolls and not classes & NARROW:
            self.faults.append("a table is not in a box that scrolls by itself")
        if "math" in classes:
            self._formulas += 1
        if "sphx-glr-thumbcontainer" in classes:
            self._card = True  # its title stands below the picture
        if tag not in VOID:
            quoted = quoted or tag in QUOTED or "math" in classes
            self._open.append((tag, quoted, scrolls or bool(classes & {"table-wrapper", "highlight"})))

    def _heading(self, level: int) -> None:
        if level == 1:
            self._headings += 1
        if level > self._level + 1:
            self.faults.append(f"a heading of level {level} follows one of level {self._level}")
        self._level = level

    def handle_endtag(self, tag: str) -> None:
        if tag == "li" and self._bare_item:
            self.faults.append("an empty item of a list, as of a dash or of a letter and a full stop")
        self._bare_item = False
        if tag == "a" and self._link_text is not None:
            text = self._link_text.strip().lower()
            if text in VAGUE:
                self.faults.append(f"a link to {self.links[-1]} has " + (f"the text {text!r}" if text else "no text"))
            self._link_text = None
        if any(name == tag for name, _, _ in reversed(self._open)):
            while self._open.pop()[0] != tag:
                pass

    def handle_data(self, data: str) -> None:
        self._bare_item = self._bare_item and not data.strip()
        if self._link_text is not None:
            self._link_text += data
        name, quoted, _ = self._open[-1] if self._open else ("", False, False)
        if name == "title":
            self._head["title"] = data.strip()
        if not quoted:
            for mark in RAW.finditer(data):
                around = data[max(mark.start() - 20, 0) : mark.end() + 20].strip()
                self.faults.append(f"unrendered markup: {around!r}")

    def _finish(self, weight: int) -> None:
        if self.refresh:
            return
        if self._headings != 1:
            self.faults.append(f"{self._headings} headings of level 1")
        self.faults += [f"no {name}" for name in ("lang", "title", "viewport") if not self._head.get(name)]
        if self._formulas and not any("mathjax" in name and "://" not in name for name in self.fetched):
            self.faults.append("formulas without the script that draws them")
        if weight > PAGE_LIMIT:
            self.faults.append(f"{weight:,} bytes of text")


def _place(page: Path, link: str) -> Path:
    """The file that a relative link means."""
    path = unquote(urlsplit(link).path)
    return Path(os.path.normpath(page.parent / path)) if path else page


def lost(site: Path, words: Mapping[str, str]) -> list[str]:
    """One line for each word whose page the search would not name first: by an index entry, a title or an object."""
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text[text.index("{") : text.rindex("}") + 1])
    found: dict[str, set[str]] = {}
    for kind in ("indexentries", "alltitles"):
        for entry, places in index[kind].items():
            found.setdefault(entry.lower(), set()).update(index["docnames"][place[0]] for place in places)
    for objects in index["objects"].values():
        for page, *_, name in objects:
            found.setdefault(name.lower(), set()).add(index["docnames"][page])
    return [
        f"search.html: {word!r} does not lead to {page}"
        for word, page in words.items()
        if not any(each.endswith(page) for each in found.get(word.lower(), ()))
    ]


def check(site: Path) -> list[str]:
    """One line a fault, ``page: what is wrong``; empty where there is none."""
    site = site.resolve()
    pages = {path: Page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}
    if not pages:
        return [f"{site}: no pages"]
    files = {each for each in site.rglob("*") if each.is_file()}
    faults = []
    for path, page in pages.items():
        own = list(page.faults)
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            place = _place(path, link)
            if place not in files:
                own.append(f"the link {link} leads nowhere")
            elif parts.fragment and place in pages and unquote(parts.fragment) not in pages[place].ids:
                own.append(f"the link {link} has no such anchor")
        for name in dict.fromkeys(page.fetched):
            parts = urlsplit(name)
            if parts.scheme not in ("", "data") or parts.netloc:
                own.append(f"{name} is fetched from elsewhere")
            elif not parts.scheme and _place(path, name) not in files:
                own.append(f"the file {name} is missing")
        local = {_place(path, name) for name in page.images if not urlsplit(name).scheme}
        weight = path.stat().st_size + sum(each.stat().st_size for each in local & files)
        if weight > WITH_IMAGES:
            own.append(f"{weight:,} bytes with its images")
        faults += [f"{path.relative_to(site)}: {fault}" for fault in dict.fromkeys(own)]
    for sheet in sorted(site.rglob("*.css")):
        for name in re.findall(r"""(?:@import|url\()\s*["']?((?:https?:)?//[^"')\s]+)""", sheet.read_text("utf-8")):
            faults.append(f"{sheet.relative_to(site)}: {name} is fetched from elsewhere")
    return faults


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="folder of the built pages")
    place = parser.parse_args().site
    found = check(place) + lost(place, SEARCHED)
    print("\n".join(found) or "every page is sound")
    sys.exit(bool(found))
