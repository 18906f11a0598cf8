"""``mmda shift``: :mod:`mmda.shift`."""

from __future__ import annotations

from collections.abc import Sequence

from mmda.shift import main as shift_main


def main(arguments: Sequence[str]) -> int:
    """Measure the shift between the features of two domains."""
    return shift_main(arguments, program="mmda shift")
