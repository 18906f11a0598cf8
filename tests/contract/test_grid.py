"""The committed page shows the grid that the suite holds."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from tests.contract.cases import discover
from tests.contract.grid import main, page

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "grid.rst"


def test_the_committed_grid_is_the_current_one() -> None:
    committed = PAGE.read_text(encoding="utf-8").splitlines()
    change = list(difflib.unified_diff(committed, page().splitlines(), "docs/grid.rst", "the suite", lineterm="", n=0))
    assert not change, "\n".join([*change[:40], "python -m tests.contract.grid --write docs/grid.rst"])


def test_the_grid_is_wide_enough() -> None:
    cases, unknown = discover()
    assert not unknown
    assert len({case.module for case in cases}) >= 30


def test_writing_and_printing_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--write", str(tmp_path / "grid.rst")])
    main([])
    assert (tmp_path / "grid.rst").read_text(encoding="utf-8") == capsys.readouterr().out
