"""Wasserstein critic with gradient penalty (WDGRL) for the critic f(x) = tanh(w . x), whose gradient is known."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def critic(row: Array, w: Array) -> float:
    return math.tanh(math.fsum(row * w))


def wasserstein_critic(x: Array, y: Array, w: Array, mixing: Array, penalty: float) -> float:
    """Both sides and points between them carry the penalty; the smaller side is taken again from its first row."""
    value = math.fsum(critic(row, w) for row in y) / len(y) - math.fsum(critic(row, w) for row in x) / len(x)
    between = [share * x[t % len(x)] + (1 - share) * y[t % len(y)] for t, share in enumerate(mixing)]
    points = [*x, *y, *between]
    lengths = [(1 - critic(row, w) ** 2) * math.hypot(*w) for row in points]
    return value + penalty * math.fsum((length - 1) ** 2 for length in lengths) / len(points)
