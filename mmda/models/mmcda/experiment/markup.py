"""A self-contained HTML page: no scripts, network, fonts or image files; light and dark colours.

Every function escapes the text it is given and returns HTML.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape

#: All colours are variables, so that one rule sets the dark colours.
_STYLE = """\
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#59636e;--back:#fff;--panel:#f4f6f8;--line:#d3d9df;
--blind:#9aa4af;--closed:#5d9272;--labels:#b3a477;--trained:#3b7dd8;--full:#d26a1e;--truth:#e07b39;--answer:#2a9d62}
@media (prefers-color-scheme:dark){:root{--ink:#e3e6ea;--soft:#a3adb8;--back:#14171b;--panel:#1d2127;--line:#38404a;
--blind:#77818c;--closed:#6fae8a;--labels:#a79869;--trained:#68a0ee;--full:#ee8d45;--truth:#ee9455;--answer:#45c184}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem 1rem 4rem;max-width:66rem;color:var(--ink);background:var(--back);
font:16px/1.5 system-ui,sans-serif;overflow-wrap:break-word}
h1{font-size:1.6rem;line-height:1.25}h2{margin-top:2.5rem;border-bottom:1px solid var(--line)}h3{margin-top:1.8rem}
p,li,figcaption,.soft{max-width:46rem}.soft,figcaption{color:var(--soft);font-size:.9rem}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}tbody th{font-weight:400;background:var(--back)}
table.words td{text-align:left;white-space:normal;overflow-wrap:anywhere}
thead th{font-weight:600}tr.full th,tr.full td{font-weight:600}
figure{margin:1rem 0}svg{display:block;width:100%;height:6rem;background:var(--panel);overflow:visible}
.axis{display:flex;justify-content:space-between;color:var(--soft);font-size:.8rem}
.bar{display:grid;grid-template-columns:15rem 1fr 6.5rem;gap:.6rem;align-items:center;margin:.2rem 0;font-size:.9rem}
.track{position:relative;height:1.05rem;background:var(--panel)}
.fill,.whisker{position:absolute;left:0;top:0;bottom:0}.whisker{top:45%;bottom:45%;background:var(--ink);opacity:.65}
.number{text-align:right;font-variant-numeric:tabular-nums}td{font-variant-numeric:tabular-nums}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(14rem,1fr));gap:1rem}
.panels figure{margin:0}.panels svg{height:4rem}
.key{white-space:nowrap;margin-right:.9em}
.key i{display:inline-block;width:.9em;height:.9em;margin-right:.35em;vertical-align:-.1em}
@media (max-width:40rem){.bar{grid-template-columns:1fr 6.5rem}.bar .track{grid-row:2;grid-column:1/3}}
"""


def page(title: str, parts: Iterable[str]) -> bytes:
    """An HTML document with ``parts``, which are HTML, as its body."""
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
    )
    return "\n".join((head, element("h1", title), *parts, "</main></body></html>\n")).encode()


def element(name: str, text: str, kind: str = "") -> str:
    """Text inside ``<name>``."""
    return f"<{name}{_class(kind)}>{escape(text)}</{name}>"


def _class(kind: str) -> str:
    return f' class="{escape(kind)}"' if kind else ""


def listed(lines: Sequence[str]) -> str:
    """A list of lines; an empty string without lines."""
    return f"<ul>{''.join(element('li', line) for line in lines)}</ul>" if lines else ""


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str = "", strong: str = "", kind: str = ""
) -> str:
    """A table that scrolls horizontally if wider than the screen; the row named ``strong`` is highlighted."""
    body = "".join(
        f"<tr{_class('full' if strong and row[0] == strong else '')}>"
        f'<th scope="row">{escape(row[0])}</th>{"".join(element("td", cell) for cell in row[1:])}</tr>'
        for row in rows
    )
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    above = element("p", caption, "soft") if caption else ""  # a caption would be as wide as the table
    named = f' aria-label="{escape(caption)}"' if caption else ""
    top = f"<thead><tr>{top}</tr></thead>" if head else ""
    whole = f"<table{_class(kind)}{named}>{top}<tbody>{body}</tbody></table>"
    return f'{above}<div class="scroll" tabindex="0">{whole}</div>'


def settings(values: Mapping[str, object], caption: str) -> str:
    """A table of names and values, in the given order."""
    return table((), [(name, _plain(value)) for name, value in values.items()], caption=caption, kind="words")


def _plain(value: object) -> str:
    return "none" if value is None or value in ("", [], {}) else str(value)


def folded(summary: str, inside: str) -> str:
    """A collapsed section, opened by a click on its summary."""
    return f"<details>{element('summary', summary)}{inside}</details>"


def keys(names: Mapping[str, str]) -> str:
    """A legend: label to colour variable of the style sheet."""
    marks = (
        f'<span class="key"><i style="background:var(--{colour})"></i>{escape(name)}</span>'
        for name, colour in names.items()
    )
    return f'<p class="soft">{" ".join(marks)}</p>'


def bars(rows: Sequence[tuple[str, str, float, tuple[float, float] | None, str]]) -> str:
    """Horizontal bars, each with name, colour variable, length in [0, 1], ends of its interval, and text."""
    return "".join(
        f'<div class="bar"><span>{escape(name)}</span><span class="track">'
        f'<span class="fill" style="width:{_percent(share)};background:var(--{colour})"></span>'
        f'{"" if ends is None else _whisker(ends)}</span><span class="number">{escape(text)}</span></div>'
        for name, colour, share, ends, text in rows
    )


def _percent(share: float) -> str:
    return f"{100 * min(1.0, max(0.0, share)):.2f}%"


def _whisker(ends: tuple[float, float]) -> str:
    low, high = (min(1.0, max(0.0, end)) for end in ends)
    return f'<span class="whisker" style="left:{_percent(low)};width:{_percent(high - low)}"></span>'


def curve(
    edges: Sequence[float],
    heights: Sequence[float],
    *,
    label: str,
    truth: Sequence[tuple[float, float]] = (),
    answer: tuple[float, float] | None = None,
) -> str:
    """A step curve over time, true moments as bands, the answer as a bar below; ``label`` is its text for screen
    readers."""
    start, span = edges[0], (edges[-1] - edges[0]) or 1.0
    low, high = min(heights), max(heights)
    x = [1000 * (edge - start) / span for edge in edges]
    y = [6 + 76 * (high - value) / ((high - low) or 1.0) for value in heights]
    path = f"M{x[0]:.1f},{y[0]:.1f}" + "".join(f"V{at:.1f}H{to:.1f}" for at, to in zip(y, x[1:]))
    inside = [_band(moment, start, span, (0, 100), "truth", 0.3) for moment in truth]
    if answer is not None:
        inside.append(_band(answer, start, span, (90, 8), "answer", 1))
    inside.append(_line(path))
    return _drawing(label, "".join(inside)) + _axis(f"{edges[0]:.1f} s", f"{edges[-1]:.1f} s")


def _band(
    moment: tuple[float, float], start: float, span: float, place: tuple[float, float], colour: str, opacity: float
) -> str:
    left, right = (min(1000.0, max(0.0, 1000 * (end - start) / span)) for end in moment)
    width, (top, height) = max(right - left, 2.0), place
    box = f'x="{left:.1f}" y="{top:g}" width="{width:.1f}" height="{height:g}"'
    return f'<rect {box} fill="var(--{colour})" opacity="{opacity:g}"/>'


def _line(path: str) -> str:
    stroke = 'fill="none" stroke="var(--trained)" stroke-width="2" vector-effect="non-scaling-stroke"'
    return f'<path d="{path}" {stroke}/>'


def _drawing(label: str, inside: str) -> str:
    """An SVG that stretches to the available width; line widths stay constant and it contains no text."""
    return (
        f'<svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">{inside}</svg>'
    )


def _axis(left: str, right: str) -> str:
    return f'<div class="axis" aria-hidden="true"><span>{escape(left)}</span><span>{escape(right)}</span></div>'


def panel(name: str, steps: Sequence[float], values: Sequence[float]) -> str:
    """A small curve with its first and last value; gaps where a value is not finite."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    span = (steps[-1] - steps[0]) or 1.0
    path, broken = "", True
    for step, value in zip(steps, values):
        if not math.isfinite(value):
            broken = True
            continue
        x, y = 1000 * (step - steps[0]) / span, 8 + 84 * (high - value) / ((high - low) or 1.0)
        path += f"{'M' if broken else 'L'}{x:.1f},{y:.1f}"
        broken = False
    if len(finite) == 1:
        path += "h1000"
    text = f"{values[0]:.3g} at step {steps[0]:g}, {values[-1]:.3g} at step {steps[-1]:g}"
    return (
        f"<figure>{element('b', name)}{_drawing(f'{name}: {text}', _line(path))}{element('figcaption', text)}</figure>"
    )
