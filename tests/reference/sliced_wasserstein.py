"""Sliced Wasserstein distance on samples repeated to a common size, where sorting is optimal."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def wasserstein_1d(u: Array, v: Array, order: int) -> float:
    """W_p^p: every value repeated until both sides have lcm(n, m) of them, then sorted and paired."""
    size = math.lcm(len(u), len(v))
    first = np.sort(np.repeat(u, size // len(u)))
    second = np.sort(np.repeat(v, size // len(v)))
    return float(np.mean(np.abs(first - second) ** order))


def sliced_wasserstein(x: Array, y: Array, directions: Array, order: int) -> float:
    return float(np.mean([wasserstein_1d(x @ theta, y @ theta, order) for theta in directions]))
