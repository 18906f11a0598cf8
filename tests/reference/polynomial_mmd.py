"""Squared MMD with a polynomial kernel in float64 loops, from Binkowski et al. (2018)."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def polynomial_mmd(x: Array, y: Array, degree: int, scale: float, offset: float, unbiased: bool) -> float:
    """Means of k over pairs within x, within y, and across."""

    def k(a: Array, b: Array) -> float:
        return (scale * math.fsum(u * v for u, v in zip(a, b)) + offset) ** degree

    def within(rows: Array) -> float:
        pairs = [(i, j) for i, j in itertools.product(range(len(rows)), repeat=2) if i != j or not unbiased]
        return math.fsum(k(rows[i], rows[j]) for i, j in pairs) / len(pairs)

    return within(x) + within(y) - 2 * math.fsum(k(a, b) for a in x for b in y) / (len(x) * len(y))
