"""The grid of promises as a page: ``python -m tests.contract.grid --write docs/grid.rst``.

Rows are what :mod:`tests.contract.cases` discovers, columns the conditions, cells what the suite asserts: kept,
an exception from :mod:`tests.contract.exceptions`, or not a question for this call. The page is a function of these
declarations alone; that each cell is true is what ``tests/contract/test_contract.py`` runs, that the committed page is
the current one is what ``tests/contract/test_grid.py`` compares.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.contract.cases import NOT_IN_GRID, Case, discover
from tests.contract.conditions import CONDITIONS, Condition
from tests.contract.exceptions import EXCUSES, Excuse, excuse_for

KEPT, SILENT = "✓", "·"

HEAD = """The grid
========

.. Written by ``python -m tests.contract.grid --write docs/grid.rst``; a test compares.

Every exported loss and layer under every condition people train in. A row is a module, or a setting of it that takes
another path; a column is a condition, spelled out under its table; a cell is a test that runs with the suite:

- ✓ the promise is kept;
- a number is a documented exception, explained below the table; the suite asserts that it behaves as it says;
- · the call has no such argument, or makes no such claim.

{rows} rows ({modules} exported modules and functions), {columns} conditions, {cells} tested cells, {exceptions} of them
exceptions.
"""


def mark(case: Case, condition: Condition) -> str | Excuse:
    if not condition.applies(case):
        return SILENT
    return excuse_for(case, condition.name) or KEPT


def families() -> dict[str, list[Condition]]:
    found: dict[str, list[Condition]] = {}
    for condition in CONDITIONS.values():
        found.setdefault(condition.family, []).append(condition)
    return found


def lines(cases: list[Case]) -> Iterator[str]:
    marks = [mark(case, condition) for case in cases for condition in CONDITIONS.values()]
    yield HEAD.format(
        rows=len(cases),
        modules=len({case.module for case in cases}),
        columns=len(CONDITIONS),
        cells=sum(m != SILENT for m in marks),
        exceptions=sum(isinstance(m, Excuse) for m in marks),
    )
    for family, conditions in families().items():
        yield family
        yield "-" * len(family)
        yield ""
        yield from table(cases, conditions)
        for condition in conditions:
            where = " (where there is a GPU)" if condition.needs_gpu else ""
            yield f"- **{condition.title}**{where}: {condition.promise}"
        yield ""
    if NOT_IN_GRID:
        yield "Exported, but no row"
        yield "--------------------"
        yield ""
        for name, reason in sorted(NOT_IN_GRID.items()):
            yield f"- ``{name}``: {reason}."
        yield ""


def table(cases: list[Case], conditions: list[Condition]) -> Iterator[str]:
    used: list[Excuse] = []
    body = []
    for case in cases:
        cells = []
        for condition in conditions:
            entry = mark(case, condition)
            if isinstance(entry, Excuse):
                if entry not in used:
                    used.append(entry)
                entry = str(used.index(entry) + 1)
            cells.append(entry)
        if any(cell != SILENT for cell in cells):
            body.append((f"``{case.name}``", cells))
    yield ".. list-table::"
    yield "   :header-rows: 1"
    yield "   :stub-columns: 1"
    yield "   :class: grid"
    yield ""
    for name, cells in [("", [condition.title for condition in conditions]), *body]:
        yield f"   * - {name}".rstrip()
        for cell in cells:
            yield f"     - {cell}"
    yield ""
    for number, excuse in enumerate(used, start=1):
        told = f"; raises ``{excuse.raises.__name__}``" if excuse.raises in (ValueError, TypeError) else ""
        yield f"{number}. {excuse.reason[0].upper()}{excuse.reason[1:]}{told}."
    if used:
        yield ""


def page() -> str:
    return "\n".join(lines(discover()[0])).rstrip() + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.contract.grid", description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page here instead of printing it")
    chosen = parser.parse_args(arguments)
    if chosen.write is None:
        sys.stdout.write(page())
    else:
        chosen.write.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()

__all__ = ["EXCUSES", "main", "page"]
