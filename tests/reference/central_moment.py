"""Central moment discrepancy by loops, from Zellinger et al. (2017), definition 1."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def central_moment(rows: Array, feature: int, order: int) -> float:
    values = rows[:, feature].tolist()
    mean = math.fsum(values) / len(values)
    return math.fsum((value - mean) ** order for value in values) / len(values)


def central_moment_discrepancy(x: Array, y: Array, orders: int, low: float, high: float) -> float:
    width = high - low
    features = range(x.shape[1])
    total = math.sqrt(math.fsum((x[:, f].mean() - y[:, f].mean()) ** 2 for f in features)) / width
    for order in range(2, orders + 1):
        gaps = [central_moment(x, f, order) - central_moment(y, f, order) for f in features]
        total += math.sqrt(math.fsum(g**2 for g in gaps)) / width**order
    return total
