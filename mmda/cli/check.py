"""``mmda check``: :mod:`mmda.vmr.check`."""

from __future__ import annotations

from collections.abc import Sequence

from mmda.vmr.check import main as check_main


def main(arguments: Sequence[str]) -> int:
    """Check annotations and features, and report errors."""
    return check_main(["check", *arguments], program="mmda")
