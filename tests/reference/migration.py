"""What three public libraries compute, in float64 loops written from their documentation and published behaviour.

pytorch-adapt 0.0.83 (`MMDLoss`), tllib (`MultipleKernelMaximumMeanDiscrepancy`, `CorrelationAlignmentLoss`), skada
0.6.0 (`dan_loss`). Each loop was compared once with the library itself on random batches (pytorch-adapt and skada as
installed, tllib from its published source) and agreed to 1e-12.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]


def _lower_median(values: list[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def _squared(a: Rows, b: Rows) -> float:
    return float(((a - b) ** 2).sum())


def _mean_over_pairs(kernel: Callable[[Rows, Rows], float], x: Rows, y: Rows, *, same: bool) -> float:
    total, count = 0.0, 0
    for i in range(len(x)):
        for j in range(len(y)):
            if not (same and i == j):
                total, count = total + kernel(x[i], y[j]), count + 1
    return total / count


def pytorch_adapt_mmd(
    x: Rows, y: Rows, scales: Sequence[float], *, linear: bool, bandwidth: float | None = None
) -> float:
    """Average of exp(-c d^2 / h), h the lower median of all squared distances among the source's rows."""
    h = _lower_median([_squared(a, b) for a in x for b in x]) if bandwidth is None else bandwidth

    def kernel(a: Rows, b: Rows) -> float:
        return sum(math.exp(-c * _squared(a, b) / h) for c in scales) / len(scales)

    if linear:
        terms = [
            kernel(x[2 * i], x[2 * i + 1])
            + kernel(y[2 * i], y[2 * i + 1])
            - kernel(x[2 * i], y[2 * i + 1])
            - kernel(x[2 * i + 1], y[2 * i])
            for i in range(len(x) // 2)
        ]
        return sum(terms) / len(terms)
    within = _mean_over_pairs(kernel, x, x, same=True) + _mean_over_pairs(kernel, y, y, same=True)
    return within - 2 * _mean_over_pairs(kernel, x, y, same=False)


def pytorch_adapt_jmmd(xs: Sequence[Rows], ys: Sequence[Rows], scales: Sequence[float], *, linear: bool) -> float:
    """The same with the product over layers of such averages, each with the h of its own source rows."""
    medians = [_lower_median([_squared(a, b) for a in x for b in x]) for x in xs]

    def kernel(first: Sequence[Rows], i: int, second: Sequence[Rows], j: int) -> float:
        product = 1.0
        for a, b, h in zip(first, second, medians):
            product *= sum(math.exp(-c * _squared(a[i], b[j]) / h) for c in scales) / len(scales)
        return product

    n, m = len(xs[0]), len(ys[0])
    if linear:
        pairs = [(2 * i, 2 * i + 1) for i in range(n // 2)]
        terms = [
            kernel(xs, i, xs, j) + kernel(ys, i, ys, j) - kernel(xs, i, ys, j) - kernel(xs, j, ys, i) for i, j in pairs
        ]
        return sum(terms) / len(terms)
    within_x = sum(kernel(xs, i, xs, j) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_y = sum(kernel(ys, i, ys, j) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_x + within_y - 2 * sum(kernel(xs, i, ys, j) for i in range(n) for j in range(m)) / (n * m)


def tllib_mmd(x: Rows, y: Rows, alphas: Sequence[float], *, linear: bool) -> float:
    """Sum of exp(-d^2 / (2 alpha mean d^2)), the mean over all pooled pairs; 2 / (n - 1) on top."""
    pooled = np.concatenate([x, y])
    n = len(x)
    mean = sum(_squared(a, b) for a in pooled for b in pooled) / len(pooled) ** 2

    def kernel(a: Rows, b: Rows) -> float:
        return sum(math.exp(-_squared(a, b) / (2 * alpha * mean)) for alpha in alphas)

    if linear:
        following = [(i + 1) % n for i in range(n)]
        within = {(i, j) for i, j in enumerate(following)}
        cells = {(i, j) for i, j in enumerate(following)} | {(j, i) for i, j in enumerate(following)}  # written once
        value = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in within)
        return (value - sum(kernel(x[i], y[j]) for i, j in cells)) / n + 2 / (n - 1)
    within = _mean_over_pairs(kernel, x, x, same=True) + _mean_over_pairs(kernel, y, y, same=True)
    return within - 2 * _mean_over_pairs(kernel, x, y, same=False) + 2 / (n - 1)


def tllib_coral(x: Rows, y: Rows) -> float:
    """Mean squared difference of the covariances' entries plus that of the means' entries."""
    covariance = np.cov(x, rowvar=False) - np.cov(y, rowvar=False)
    return float((covariance**2).mean() + ((x.mean(0) - y.mean(0)) ** 2).mean())


def skada_dan(x: Rows, y: Rows, sigmas: Sequence[float] | None = None, *, eps: float = 1e-7) -> float:
    """Sum of exp(-d / sigma_j), d not squared, biased; by default sigmas around the source's lower median distance."""
    if sigmas is None:
        median = _lower_median([math.sqrt(_squared(a, b)) for a in x for b in x]) + eps
        sigmas = [2.0 ** (-8 + j / 2) * median for j in range(33)]

    def kernel(a: Rows, b: Rows) -> float:
        return sum(math.exp(-math.sqrt(_squared(a, b)) / sigma) for sigma in sigmas)

    within = _mean_over_pairs(kernel, x, x, same=False) + _mean_over_pairs(kernel, y, y, same=False)
    return within - 2 * _mean_over_pairs(kernel, x, y, same=False)
