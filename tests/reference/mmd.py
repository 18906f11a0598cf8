"""Squared maximum mean discrepancy by loops, from Gretton et al. (2012), equations 3 and 5 and lemma 14."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Similarity = Callable[[Array, Array], float]


def gaussian(sigma: float, scales: Sequence[float] = (1.0,)) -> Similarity:
    return lambda a, b: math.fsum(math.exp(-(math.dist(a, b) ** 2) / (2 * s * sigma**2)) for s in scales) / len(scales)


def laplacian(sigma: float, scales: Sequence[float] = (1.0,)) -> Similarity:
    return lambda a, b: math.fsum(math.exp(-math.dist(a, b) / (sigma * s**0.5)) for s in scales) / len(scales)


def rational_quadratic(sigma: float, alpha: float, scales: Sequence[float] = (1.0,)) -> Similarity:
    return lambda a, b: (
        math.fsum((1 + math.dist(a, b) ** 2 / (2 * alpha * s * sigma**2)) ** -alpha for s in scales) / len(scales)
    )


def energy(a: Array, b: Array) -> float:
    return -math.dist(a, b)


def mean_of_all(k: Similarity, x: Array, y: Array) -> float:
    return math.fsum(k(a, b) for a in x for b in y) / (len(x) * len(y))


def mean_of_different(k: Similarity, x: Array) -> float:
    return math.fsum(k(a, b) for a, b in itertools.permutations(x, 2)) / (len(x) * (len(x) - 1))


def biased(k: Similarity, x: Array, y: Array) -> float:
    return mean_of_all(k, x, x) + mean_of_all(k, y, y) - 2 * mean_of_all(k, x, y)


def unbiased(k: Similarity, x: Array, y: Array) -> float:
    return mean_of_different(k, x) + mean_of_different(k, y) - 2 * mean_of_all(k, x, y)


def linear(k: Similarity, x: Array, y: Array) -> float:
    """The last row of an odd sample has no partner."""
    total = 0.0
    for i in range(0, len(x) - 1, 2):
        total += k(x[i], x[i + 1]) + k(y[i], y[i + 1]) - k(x[i], y[i + 1]) - k(x[i + 1], y[i])
    return total / (len(x) // 2)


def gaussian_gradient(x: Array, y: Array, sigma: float) -> tuple[Array, Array]:
    """Gradient of :func:`biased` for each row: that of the Gaussian k(a, b) at a is -k (a - b) / sigma^2."""
    k, n, m = gaussian(sigma), len(x), len(y)

    def slope(a: Array, b: Array) -> Array:
        return -k(a, b) * (a - b) / sigma**2

    by_x = [2 * (sum(slope(a, b) for b in x) / n - sum(slope(a, b) for b in y) / m) / n for a in x]
    by_y = [2 * (sum(slope(a, b) for b in y) / m - sum(slope(a, b) for b in x) / n) / m for a in y]
    return np.array(by_x), np.array(by_y)


def median_distance(x: Array, y: Array) -> float:
    """Over the pooled rows, each pair once."""
    return float(np.median([math.dist(a, b) for a, b in itertools.combinations([*x, *y], 2)]))
