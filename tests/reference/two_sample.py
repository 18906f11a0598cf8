"""Two-sample tests by loops and by enumeration of every relabelling, from the papers, in float64 numpy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Similarity = Callable[[Array, Array], float]


def gaussian(sigma: float) -> Similarity:
    return lambda a, b: math.exp(-float(((a - b) ** 2).sum()) / (2 * sigma**2))


def mmd(x: Array, y: Array, k: Similarity, *, unbiased: bool) -> float:
    """Gretton et al. (2012), equations 3 and 5, sum by sum."""
    n, m, least = len(x), len(y), int(unbiased)
    within_x = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if not (unbiased and i == j))
    within_y = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if not (unbiased and i == j))
    across = sum(k(a, b) for a in x for b in y)
    return within_x / (n * (n - least)) + within_y / (m * (m - least)) - 2 * across / (n * m)


def every_relabelling(x: Array, y: Array, k: Similarity, *, unbiased: bool) -> Array:
    """The statistic of each choice of len(x) rows of the pooled sample, sorted."""
    pooled = np.concatenate([x, y])
    values = []
    for chosen in itertools.combinations(range(len(pooled)), len(x)):
        others = [i for i in range(len(pooled)) if i not in chosen]
        values.append(mmd(pooled[list(chosen)], pooled[others], k, unbiased=unbiased))
    return np.sort(np.array(values))


def core(x: Array, y: Array, k: Similarity) -> Array:
    """h of Gretton et al. (2012), equation 4, on paired rows."""
    n = len(x)
    return np.array(
        [[k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i]) for j in range(n)] for i in range(n)]
    )


def every_swap(x: Array, y: Array, k: Similarity, *, unbiased: bool) -> Array:
    """The statistic of paired rows after each way of exchanging x_i and y_i, sorted: the rows are exchanged."""
    values = []
    for signs in itertools.product((False, True), repeat=len(x)):
        swap = np.array(signs)[:, None]
        h = core(np.where(swap, y, x), np.where(swap, x, y), k)
        values.append(statistic_of_core(h, unbiased=unbiased))
    return np.sort(np.array(values))


def statistic_of_core(h: Array, *, unbiased: bool) -> float:
    n = len(h)
    total = sum(h[i, j] for i in range(n) for j in range(n) if not (unbiased and i == j))
    return float(total / (n * (n - 1) if unbiased else n * n))


def power_criterion(h: Array, stabiliser: float) -> float:
    """Liu et al. (2020), equation 5 under the root of equation 3."""
    n = len(h)
    rows = [sum(h[i, j] for j in range(n)) for i in range(n)]
    variance = 4 / n**3 * sum(r**2 for r in rows) - 4 / n**4 * sum(rows) ** 2
    return statistic_of_core(h, unbiased=True) / math.sqrt(max(variance, 0.0) + stabiliser)
