"""Losses with pseudo-labels and with an unknown class in float64 loops (ATDOC, OSBP)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softmax(z: Array) -> list[float]:
    top = max(z)
    total = math.fsum(math.exp(v - top) for v in z)
    return [math.exp(v - top) / total for v in z]


def self_training(logits: Array, labels: list[int], confidence: list[float], smoothing: float) -> float:
    """Mean of confidence times cross-entropy with the smoothed label; rows without a label add 0."""
    total = 0.0
    for z, label, c in zip(logits, labels, confidence):
        p = softmax(z)
        if label >= 0:
            rest = math.fsum(math.log(q) for q in p) / len(p)
            total -= c * ((1 - smoothing) * math.log(p[label]) + smoothing * rest)
    return total / len(labels)


def open_set(logits: Array, boundary: float) -> float:
    """Mean cross-entropy of the last class's probability with the boundary."""
    unknown = [softmax(z)[-1] for z in logits]
    return -math.fsum(boundary * math.log(p) + (1 - boundary) * math.log(1 - p) for p in unknown) / len(unknown)
