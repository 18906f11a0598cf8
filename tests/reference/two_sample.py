"""Two-sample tests by loops and by enumeration of every relabelling, from the papers, in float64 numpy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

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


def exact_p_value(source: list[int], target: list[int], gram: Array, *, unbiased: bool) -> float:
    """Share of all splits with T at least the observed one, where row values repeat: by enumeration of their counts.

    ``source`` and ``target`` say how often each value comes, ``gram`` how similar two values are. The counts of one
    sample are multivariate hypergeometric.
    """
    n, m, least = sum(source), sum(target), int(unbiased)
    pooled = np.array(source) + np.array(target)
    similar = gram.astype(np.longdouble)
    smaller = min(n, m)

    def statistic(a: Array, b: Array) -> np.longdouble:
        k, rest = int(a.sum()), int(b.sum())
        within = [c @ similar @ c - least * (c @ similar.diagonal()) for c in (a, b)]
        value: np.longdouble = within[0] / (k * (k - least)) + within[1] / (rest * (rest - least))
        return value - 2 * (a @ similar @ b) / (k * rest)

    def draws(left: int, sizes: list[int]) -> Iterator[tuple[int, ...]]:
        if len(sizes) == 1:
            if left <= sizes[0]:
                yield (left,)
            return
        for first in range(min(left, sizes[0]) + 1):
            for others in draws(left - first, sizes[1:]):
                yield (first, *others)

    observed = statistic(np.array(source, np.longdouble), np.array(target, np.longdouble))
    reached = 0
    for counts in draws(smaller, [int(c) for c in pooled]):
        a = np.array(counts, np.longdouble)
        if statistic(a, pooled - a) >= observed - 1e-13 * np.abs(similar).max():
            reached += math.prod(math.comb(int(c), drawn) for c, drawn in zip(pooled, counts))
    return reached / math.comb(n + m, smaller)
