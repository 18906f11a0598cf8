"""Adaptive feature norm in float64 loops (Xu et al., 2019)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def stepwise(rows: Array, before: list[float] | None, step: float) -> float:
    """Mean squared gap of each length to what it was, plus the step."""
    lengths = [math.hypot(*row) for row in rows]
    wanted = [r + step for r in (lengths if before is None else before)]
    return math.fsum((length - w) ** 2 for length, w in zip(lengths, wanted)) / len(rows)


def hard(rows: Array, radius: float) -> float:
    """Squared gap of the mean length to the radius."""
    return (math.fsum(math.hypot(*row) for row in rows) / len(rows) - radius) ** 2
