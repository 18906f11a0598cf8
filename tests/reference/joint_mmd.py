"""Joint MMD by loops over pairs, from Long et al. (2017), equation 8, with Gaussian factors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def similarity(a: Sequence[Array], b: Sequence[Array], i: int, j: int, sigmas: Sequence[float]) -> float:
    product = 1.0
    for rows, others, sigma in zip(a, b, sigmas):
        product *= float(np.exp(-np.sum((rows[i] - others[j]) ** 2) / (2 * sigma**2)))
    return product


def joint_mmd(x: Sequence[Array], y: Sequence[Array], sigmas: Sequence[float], *, unbiased: bool = False) -> float:
    def mean(a: Sequence[Array], b: Sequence[Array], drop: bool) -> float:
        pairs = [(i, j) for i in range(len(a[0])) for j in range(len(b[0])) if not (drop and i == j)]
        return sum(similarity(a, b, i, j, sigmas) for i, j in pairs) / len(pairs)

    return mean(x, x, unbiased) + mean(y, y, unbiased) - 2 * mean(x, y, False)


def linear(x: Sequence[Array], y: Sequence[Array], sigmas: Sequence[float]) -> float:
    """Equation 9: quadruples of disjoint pairs."""
    total, pairs = 0.0, len(x[0]) // 2
    for p in range(pairs):
        i, j = 2 * p, 2 * p + 1
        total += similarity(x, x, i, j, sigmas) + similarity(y, y, i, j, sigmas)
        total -= similarity(x, y, i, j, sigmas) + similarity(x, y, j, i, sigmas)
    return total / pairs
