"""The committed pages match the grid of the suite."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from tests.contract.cases import discover
from tests.contract.grid import COMMAND, main, pages

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


def test_the_committed_grid_is_the_current_one() -> None:
    held = {path.relative_to(DOCS).as_posix() for path in [DOCS / "grid.rst", *DOCS.glob("grid/*.rst")]}
    current = pages()
    assert held == current.keys(), COMMAND
    change = [
        line
        for name, text in current.items()
        for line in difflib.unified_diff(
            (DOCS / name).read_text(encoding="utf-8").splitlines(), text.splitlines(), name, "the suite", "", "", 0, ""
        )
    ]
    assert not change, "\n".join([*change[:40], COMMAND])


def test_the_grid_is_wide_enough() -> None:
    cases, unknown = discover()
    assert not unknown
    assert len({case.module for case in cases}) >= 30


def test_writing_and_printing_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "grid").mkdir()
    (tmp_path / "grid" / "old.rst").write_text("of a family that is gone")
    main(["--write", str(tmp_path / "grid.rst")])
    main([])
    printed = capsys.readouterr().out
    written = [tmp_path / "grid.rst", *(tmp_path / "grid").iterdir()]
    assert len(written) == len(pages())
    assert all(path.read_text(encoding="utf-8") in printed for path in written)


def test_a_row_fits_on_a_phone() -> None:
    """Each row is one line, with at most a dozen narrow columns."""
    for text in pages().values():
        rows = [line for line in text.splitlines() if line.startswith('   "``')]
        assert rows
        assert all(len(line.rpartition('",')[2].split(",")) <= 12 for line in rows)
