"""Write the grid as documentation pages: ``python -m tests.contract.grid --write docs/grid.rst``.

Rows are the cases of :mod:`tests.contract.cases`, columns the conditions, and cells what the suite asserts: the
condition holds, it is an exception from :mod:`tests.contract.entries`, or it does not apply. ``docs/grid.rst`` has one
column per family and ``docs/grid/`` one page per family. ``tests/contract/test_contract.py`` tests each cell, and
``tests/contract/test_grid.py`` checks that the committed pages are up to date.
"""

from __future__ import annotations

import argparse
import string
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

from tests.contract.cases import NOT_IN_GRID, Case, discover, excuse_for
from tests.contract.conditions import CONDITIONS, FAMILIES, Condition
from tests.contract.entry import Excuse

KEPT, SILENT = "✓", "·"
COMMAND = "python -m tests.contract.grid --write docs/grid.rst"

HEAD = """The grid
========

.. Written by ``{command}``; a test compares.

Every exported loss and layer under the conditions of training. A row is a module, or a setting of it that uses another
code path; a column is a family of conditions, whose page has one column per condition and its statement; a cell stands
for tests of the suite:

- ✓ all conditions of the family hold;
- a number counts documented exceptions: the suite asserts that they behave as the family's page says;
- · the call has no such argument, or makes no such claim.

{rows} rows ({modules} exported modules and functions), {columns} conditions, {cells} tested cells, {exceptions} of them
exceptions.
"""

PAGE = """{title}
{line}

.. Written by ``{command}``; a test compares.

{about}

A family of :doc:`the grid <../grid>`: ✓ the condition holds, a number is an exception explained below the table, · the
call has no such argument or makes no such claim.
"""


def mark(case: Case, condition: Condition) -> str | Excuse:
    if not condition.applies(case):
        return SILENT
    return excuse_for(case, condition.name) or KEPT


def key(family: ModuleType) -> str:
    return family.__name__.rpartition(".")[2]


def conditions_of(family: ModuleType) -> list[Condition]:
    return [condition for condition in CONDITIONS.values() if condition.check.__module__ == family.__name__]


def table(heads: Iterable[str], rows: Iterable[tuple[str, list[str]]]) -> Iterator[str]:
    """A ``csv-table`` with one line per row."""
    yield ".. csv-table::"
    yield "   :header-rows: 1"
    yield "   :stub-columns: 1"
    yield "   :class: grid"
    yield ""
    yield "   " + ",".join(["", *heads])
    for name, cells in rows:
        if any(cell != SILENT for cell in cells):
            yield f'   "``{name}``",' + ",".join(cells)
    yield ""


def overview(cases: list[Case]) -> Iterator[str]:
    marks = [mark(case, condition) for case in cases for condition in CONDITIONS.values()]
    yield HEAD.format(
        command=COMMAND,
        rows=len(cases),
        modules=len({case.module for case in cases}),
        columns=len(CONDITIONS),
        cells=sum(m != SILENT for m in marks),
        exceptions=sum(isinstance(m, Excuse) for m in marks),
    )
    heads = [f":doc:`{family.HEAD} <grid/{key(family)}>`" for family in FAMILIES]
    yield from table(heads, ((case.name, [count(case, family) for family in FAMILIES]) for case in cases))
    yield "The families:"
    yield ""
    yield ".. toctree::"
    yield "   :maxdepth: 1"
    yield ""
    yield from (f"   grid/{key(family)}" for family in FAMILIES)
    yield ""
    if NOT_IN_GRID:
        yield "Exported, but no row:"
        yield ""
        for name, reason in sorted(NOT_IN_GRID.items()):
            yield f"- ``{name}``: {reason}."


def count(case: Case, family: ModuleType) -> str:
    marks = [mark(case, condition) for condition in conditions_of(family)]
    if all(m == SILENT for m in marks):
        return SILENT
    return str(sum(isinstance(m, Excuse) for m in marks) or KEPT)


def family_page(cases: list[Case], family: ModuleType) -> Iterator[str]:
    conditions = conditions_of(family)
    title = conditions[0].family
    about = (family.__doc__ or "").strip().partition(": ")[2]
    about = about[0].upper() + about[1:]
    yield PAGE.format(title=title, line="=" * len(title), about=about, command=COMMAND)
    letters = string.ascii_lowercase[: len(conditions)]
    used: list[str] = []
    rows = []
    for case in cases:
        cells = []
        for condition in conditions:
            entry = mark(case, condition)
            if isinstance(entry, Excuse):
                reason = told(entry)
                if reason not in used:
                    used.append(reason)
                entry = str(used.index(reason) + 1)
            cells.append(entry)
        rows.append((case.name, cells))
    yield from table(letters, rows)
    for letter, condition in zip(letters, conditions):
        where = " (where there is a GPU)" if condition.needs_gpu else ""
        yield f"| **{letter}**: **{condition.title}**{where}: {condition.promise}"
    yield ""
    yield from (f"{number}. {reason}" for number, reason in enumerate(used, start=1))


def told(excuse: Excuse) -> str:
    raises = f"; raises ``{excuse.raises.__name__}``" if excuse.raises in (ValueError, TypeError) else ""
    return f"{excuse.reason[0].upper()}{excuse.reason[1:]}{raises}."


def pages() -> dict[str, str]:
    """Every page by its name relative to the overview's folder."""
    cases = discover()[0]
    found = {"grid.rst": overview(cases)}
    found |= {f"grid/{key(family)}.rst": family_page(cases, family) for family in FAMILIES}
    return {name: "\n".join(lines).rstrip() + "\n" for name, lines in found.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.contract.grid", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="grid.rst", help="write here and beside instead of printing")
    chosen = parser.parse_args(arguments)
    if chosen.write is None:
        sys.stdout.write("\n".join(pages().values()))
        return
    folder = chosen.write.with_suffix("")
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.rst"):
        old.unlink()
    for name, text in pages().items():
        (chosen.write if name == "grid.rst" else folder / Path(name).name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
