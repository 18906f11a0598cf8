"""Batch normalisation by domain, one value at a time in float64."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def values_of(x: Array, domain: list[int], mask: NDArray[np.bool_], which: int, channel: int) -> list[float]:
    """All kept values (n, d, p) of one domain's channel."""
    return [
        float(x[i, channel, p])
        for i in range(x.shape[0])
        for p in range(x.shape[2])
        if domain[i] == which and mask[i, p]
    ]


def moments(values: list[float]) -> tuple[float, float]:
    """Mean and biased variance."""
    mean = math.fsum(values) / len(values)
    return mean, math.fsum((v - mean) ** 2 for v in values) / len(values)


def normalise(x: Array, domain: list[int], mask: NDArray[np.bool_], weight: Array, bias: Array, eps: float) -> Array:
    """Training-mode output; zeros where the mask is False."""
    out = np.zeros_like(x)
    for i in range(x.shape[0]):
        for channel in range(x.shape[1]):
            mean, variance = moments(values_of(x, domain, mask, domain[i], channel))
            for p in range(x.shape[2]):
                if mask[i, p]:
                    z = (x[i, channel, p] - mean) / math.sqrt(variance + eps)
                    out[i, channel, p] = weight[domain[i], channel] * z + bias[domain[i], channel]
    return out
