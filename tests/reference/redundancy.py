"""Barlow Twins, VICReg, alignment and uniformity in float64 loops, from the papers and the authors' constants."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def cross_correlation(a: Array, b: Array, redundancy: float, eps: float) -> float:
    """Sum over pairs of features of (C_ij - [i = j])^2, off the diagonal times ``redundancy``."""
    n, d = a.shape

    def standard(x: Array) -> Array:
        mean = [math.fsum(x[:, i]) / n for i in range(d)]
        spread = [math.sqrt(math.fsum((v - mean[i]) ** 2 for v in x[:, i]) / n + eps) for i in range(d)]
        return np.array([[(x[r, i] - mean[i]) / spread[i] for i in range(d)] for r in range(n)])

    a, b = standard(a), standard(b)
    total = 0.0
    for i in range(d):
        for j in range(d):
            c = math.fsum(a[r, i] * b[r, j] for r in range(n)) / n
            total += (1 - c) ** 2 if i == j else redundancy * c**2
    return total


def variance_covariance(
    a: Array, p: Array, invariance: float, variance: float, covariance: float, margin: float, eps: float
) -> float:
    """The weighted sum of the three terms."""
    n, d = a.shape
    total = invariance * math.fsum(((a - p) ** 2).ravel()) / (n * d)
    for z in (a, p):
        c = np.cov(z, rowvar=False)
        total += variance / 2 * math.fsum(max(0.0, margin - math.sqrt(c[i, i] + eps)) for i in range(d)) / d
        total += covariance * math.fsum(c[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d
    return total


def alignment_uniformity(a: Array, p: Array, uniformity: float, sharpness: float) -> float:
    """Mean squared distance of the pairs, and the log of the mean Gaussian potential of each side."""
    a, p = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, p))
    n = len(a)
    total = math.fsum(((a - p) ** 2).ravel()) / n
    for z in (a, p):
        pairs = [math.exp(-sharpness * ((z[i] - z[j]) ** 2).sum()) for i in range(n) for j in range(n) if i != j]
        total += uniformity / 2 * math.log(math.fsum(pairs) / len(pairs))
    return total
