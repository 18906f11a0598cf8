"""The Fréchet distance of two Gaussians from covariances and their square roots in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def root(covariance: Array) -> Array:
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T)


def frechet_distance(x: Array, y: Array, smoothing: float) -> float:
    a, b = (np.cov(rows, rowvar=False, bias=True).reshape(rows.shape[1], -1) for rows in (x, y))
    traces = np.trace(a), np.trace(b)
    sigma = np.linalg.svd(root(a) @ root(b), compute_uv=False)
    epsilon = smoothing * np.sqrt(traces[0] * traces[1])
    overlap = (sigma**2 / np.sqrt(sigma**2 + epsilon**2)).sum()
    gap = ((x.mean(0) - y.mean(0)) ** 2).sum()
    return float(gap + traces[0] + traces[1] - 2 * overlap)
