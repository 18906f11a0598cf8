"""Shared fixtures: the folder of real data, and one thread, so that parallel tests do not compete for cores."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets: ``$MMDA_DATA``, else ``../shared/data`` next to the checkout."""
    root = Path(os.environ.get("MMDA_DATA", ROOT.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"real data not found at {root}; set MMDA_DATA to run this test")
    return root
