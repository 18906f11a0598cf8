"""A finished run that several tests read."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.experiment._folders import SMOKE, run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished smoke run."""
    folder: Path = tmp_path_factory.mktemp("smoke") / "out"
    assert run([*SMOKE, "--output", str(folder)]) == 0
    return folder
