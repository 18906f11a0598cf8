"""Deep CORAL in float64 loops, from equations 1 to 3 of the paper."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def covariance(rows: Array) -> Array:
    """(D^T D - (1^T D)^T (1^T D) / n) / (n - 1), entry by entry, on rows shifted by their first (no cancellation)."""
    rows = rows - rows[0]
    n, d = rows.shape
    out = np.empty((d, d))
    for a in range(d):
        for b in range(d):
            product = math.fsum(rows[i, a] * rows[i, b] for i in range(n))
            out[a, b] = (product - math.fsum(rows[:, a]) * math.fsum(rows[:, b]) / n) / (n - 1)
    return out


def coral(x: Array, y: Array) -> float:
    """Squared Frobenius distance over 4 d^2."""
    d = x.shape[1]
    return math.fsum(((covariance(x) - covariance(y)) ** 2).ravel()) / (4 * d * d)


def mean_gap(x: Array, y: Array) -> float:
    """Squared distance of the means over 4 d."""
    return math.fsum((x.mean(0) - y.mean(0)) ** 2) / (4 * x.shape[1])
