"""Domain-adversarial losses in float64 loops, from the papers' formulas."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tests.reference.predictions import entropy, softmax

Array = NDArray[np.float64]


def binary(source: Array, target: Array, u: Array | None = None, v: Array | None = None) -> float:
    """- (E log(1 - D(source)) + E log D(target)) / 2 with D the sigmoid of a logit."""
    u = np.ones(len(source)) if u is None else u
    v = np.ones(len(target)) if v is None else v
    on_source = -math.fsum(w * math.log(1 - 1 / (1 + math.exp(-a))) for a, w in zip(source, u)) / math.fsum(u)
    on_target = -math.fsum(w * math.log(1 / (1 + math.exp(-b))) for b, w in zip(target, v)) / math.fsum(v)
    return (on_source + on_target) / 2


def categorical(logits: Array, index: list[int]) -> float:
    """Mean over the domains that occur of the mean - log p(domain) over their rows."""
    means = []
    for k in sorted(set(index)):
        rows = [i for i, own in enumerate(index) if own == k]
        means.append(-math.fsum(math.log(softmax(logits[i])[k]) for i in rows) / len(rows))
    return math.fsum(means) / len(means)


def conditional(source: Array, target: Array, source_classes: Array, target_classes: Array) -> float:
    """CDAN+E: the same with weights 1 + exp(-H(g))."""
    u = np.array([1 + math.exp(-entropy(softmax(g))) for g in source_classes])
    v = np.array([1 + math.exp(-entropy(softmax(g))) for g in target_classes])
    return binary(source, target, u, v)


def outer(rows: Array, classes: Array) -> Array:
    """What the conditional discriminator sees: feature i times p_k at place d k + i."""
    return np.array([[f * p for p in softmax(g) for f in row] for row, g in zip(rows, classes)])


def random_outer(rows: Array, classes: Array, of_features: Array, of_classes: Array) -> Array:
    """CDAN's randomised map: products of two projections over the square root of their number."""
    p = np.array([softmax(g) for g in classes])
    return (rows @ of_features) * (p @ of_classes) / math.sqrt(of_features.shape[1])
