"""Losses on predictions in float64 loops, written from the papers' formulas."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softmax(row: Array) -> Array:
    """exp(z) / sum exp(z) of one row."""
    shifted = [math.exp(z - max(row)) for z in row]
    return np.array([e / math.fsum(shifted) for e in shifted])


def entropy(p: Array) -> float:
    """- sum p log p."""
    return -math.fsum(q * math.log(q) for q in p if q > 0)


def mean_entropy(logits: Array) -> float:
    """Grandvalet & Bengio."""
    return math.fsum(entropy(softmax(z)) for z in logits) / len(logits)


def mutual_information(logits: Array) -> float:
    """I(row; class) = sum over rows and classes of p(i, k) log(p(i, k) / (p(i) p(k))), rows equally likely."""
    p = np.stack([softmax(z) for z in logits])
    n, k = p.shape
    joint = p / n
    marginal = joint.sum(0)
    return math.fsum(
        joint[i, c] * math.log(joint[i, c] / (marginal[c] / n)) for i in range(n) for c in range(k) if joint[i, c] > 0
    )


def margin_disparity(
    source: Array, source_adversary: Array, target: Array, target_adversary: Array, gamma: float
) -> float:
    """D_gamma of the paper: the target's log(1 - sigma) plus gamma times the source's log sigma."""
    on_source = [math.log(softmax(a)[int(np.argmax(f))]) for f, a in zip(source, source_adversary)]
    on_target = [math.log(1 - softmax(a)[int(np.argmax(f))]) for f, a in zip(target, target_adversary)]
    return math.fsum(on_target) / len(on_target) + gamma * math.fsum(on_source) / len(on_source)


def classifier_discrepancy(first: Array, second: Array) -> float:
    """d(p1, p2) = 1/K sum |p1k - p2k|, averaged over the rows."""
    total = 0.0
    for a, b in zip(first, second):
        total += sum(abs(p - q) for p, q in zip(softmax(a), softmax(b))) / len(a)
    return total / len(first)


def class_confusion(logits: Array, temperature: float, entropies: list[float] | None = None) -> float:
    """The paper's steps: rescaled probabilities, weights summing to the batch size, correlation, normalisation."""
    p = np.stack([softmax(z / temperature) for z in logits])
    n, k = p.shape
    h = [entropy(row) for row in p] if entropies is None else entropies
    certainty = [1 + math.exp(-value) for value in h]
    weights = np.diag([n * c / sum(certainty) for c in certainty])
    confusion = p.T @ weights @ p
    total = 0.0
    for j in range(k):
        for other in range(k):
            if other != j:
                total += confusion[j, other] / confusion[j].sum()
    return total / k


def nuclear_norm(logits: Array) -> float:
    """Sum of the singular values of the probabilities over the number of rows, by LAPACK in float64."""
    p = np.stack([softmax(z) for z in logits])
    return float(np.linalg.svd(p, compute_uv=False).sum() / len(p))


def smooth_nuclear_norm(logits: Array, smoothing: float) -> float:
    """The same with each singular value s as s^2 / sqrt(s^2 + smoothing^2)."""
    p = np.stack([softmax(z) for z in logits])
    return math.fsum(s**2 / math.hypot(s, smoothing) for s in np.linalg.svd(p, compute_uv=False)) / len(p)
