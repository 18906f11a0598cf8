"""Entropies of similarity rows and of spans, and the divergence of VAT, in float64 loops."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def entropy(scores: list[float]) -> float:
    """Of the softmax of the scores."""
    top = max(scores)
    total = math.fsum(math.exp(s - top) for s in scores)
    p = [math.exp(s - top) / total for s in scores]
    return -math.fsum(q * math.log(q) for q in p if q > 0)


def similarity_entropy(a: Array, c: Array, temperature: float, normalize: bool) -> float:
    """Mean over anchors."""
    if normalize:
        a, c = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, c))
    return math.fsum(entropy([float(u @ v) / temperature for v in c]) for u in a) / len(a)


def span_entropy(start: Array, end: Array, clips: list[int], normalised: bool) -> float:
    """Mean over videos of the first ``clips`` clips each."""
    values = []
    for u, v, t in zip(start, end, clips):
        scores = [u[s] + v[e] for s in range(t) for e in range(s, t)]
        most = math.log(len(scores)) if normalised and len(scores) > 1 else 1.0
        values.append(entropy(scores) / most)
    return math.fsum(values) / len(values)


def divergence(plain: Array, moved: Array) -> float:
    """Mean KL(softmax(plain) || softmax(moved))."""

    def log_p(z: Array) -> list[float]:
        top = max(z)
        return [v - top - math.log(math.fsum(math.exp(w - top) for w in z)) for v in z]

    pairs = [zip(log_p(a), log_p(b)) for a, b in zip(plain, moved)]
    return math.fsum(math.exp(p) * (p - q) for row in pairs for p, q in row) / len(plain)
