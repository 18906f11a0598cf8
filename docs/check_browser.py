"""Look at the built site in a browser, as its readers do: ``python docs/check_browser.py docs/_build/html``.

Chromium or Chrome opens every page at the width of a phone in dark and at that of a desk in light. Text stands out from
what lies behind it (a contrast of 4.5, of large text 3: WCAG 2.1, AA), nothing is wider than the window, and what can
be clicked or typed into has a name. The search page is asked for the names in papers: the page that each means has to
be among the first two results. Where there is no browser, it says so and ends.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from check_pages import SEARCHED

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
QUIET = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
#: The colours that each width is looked at in.
WIDTHS = {"390": ["dark"], "1280": ["light"]}
HITS = 2
#: Listings of modules' sources are pages of one colour scheme each: a few stand for all.
LISTINGS = "_modules"
LOOK = b'<!doctype html><html lang="en"><body><script type="module" src="/look.js"></script></body></html>'


class _Server(ThreadingHTTPServer):
    """The site, and beside it the script that looks at it."""

    daemon_threads = True

    def __init__(self, site: Path, asked: Mapping[str, Any]) -> None:
        super().__init__(("127.0.0.1", 0), functools.partial(_Handler, directory=str(site)))
        script = Path(__file__).with_name("look.js").read_bytes()
        self.own = {
            "/look": ("text/html", LOOK),
            "/look.js": ("text/javascript", script),
            "/look.json": ("application/json", json.dumps(asked).encode()),
        }
        self.found: dict[str, dict[str, list[str]]] = {"pages": {}, "words": {}}
        self.ended = threading.Event()


class _Handler(SimpleHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        if self.path not in self.server.own:
            super().do_GET()
            return
        kind, content = self.server.own[self.path]
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        kind, *found = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()
        if kind == "end":
            self.server.ended.set()
        else:
            self.server.found[kind][found[0]] = found[1]

    def log_message(self, format: str, *args: object) -> None:
        pass


def look(
    site: Path, browser: str, pages: Sequence[str], words: Mapping[str, str], *, timeout: float = 3600
) -> list[str]:
    """One line a fault: of the pages, and of words whose page is not among the first results."""
    asked = {"pages": [f"/{page}" for page in pages], "words": list(words), "widths": WIDTHS, "hits": HITS}
    with _Server(site, asked) as server, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/look"
        # a debugging port keeps a headless browser open; without one it ends when the page has loaded
        options = [*QUIET, f"--user-data-dir={profile}", "--remote-debugging-port=0", "--window-size=1300,1000"]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen([browser, *options, address], **silent) as run:
            ended = server.ended.wait(timeout)
            run.terminate()
        server.shutdown()
        found = server.found
    done = f"{len(found['pages'])} of {len(pages)} pages and {len(found['words'])} of {len(words)} words"
    lines = [] if ended else [f"{browser} looked at {done} in {timeout:g} s"]
    lines += [f"{page.removeprefix('/')}: {fault}" for page, faults in found["pages"].items() for fault in faults]
    for word, hits in found["words"].items():
        if not any(hit.endswith(f"{words[word]}.html") for hit in hits):
            lines.append(f"search.html: {word!r} finds {', '.join(hits) or 'nothing'} before {words[word]}")
    return lines


def pages_of(site: Path) -> list[str]:
    """The pages to open: all but most listings of sources and pages that lead on to others."""
    every = sorted(page.relative_to(site) for page in site.rglob("*.html") if "_static" not in page.parts)
    listings = [page for page in every if page.parts[0] == LISTINGS]
    left = {*listings[3:], *(page for page in every if 'http-equiv="refresh"' in (site / page).read_text("utf-8"))}
    return [page.as_posix() for page in every if page not in left]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="folder of the built pages")
    parser.add_argument("pages", nargs="*", help="pages to open, relative to it (default: all)")
    options = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print("no Chromium or Chrome: not looked at")
        sys.exit()
    pages = options.pages or pages_of(options.site)
    faults = look(options.site, browser, pages, SEARCHED)
    print("\n".join(faults) or f"{len(pages)} pages and {len(SEARCHED)} words look right")
    sys.exit(bool(faults))
