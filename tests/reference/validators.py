"""Validators in float64 loops and enumerations, written from the papers' formulas."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Array = NDArray[np.float64]


def _cosine(a: Array, b: Array) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def neighbourhood_density(rows: Array, temperature: float) -> float:
    """Saito et al.: the entropy of each row's distribution over the other rows, averaged."""
    total = 0.0
    for i in range(len(rows)):
        scores = [math.exp(_cosine(rows[i], rows[j]) / temperature) for j in range(len(rows)) if j != i]
        p = [s / math.fsum(scores) for s in scores]
        total -= math.fsum(q * math.log(q) for q in p if q > 0)
    return total / len(rows)


def density_ratio(source: Array, target: Array, at: Array, penalty: float) -> Array:
    """The same penalised logistic regression by a general-purpose optimiser."""
    pooled = np.concatenate([source, target])
    centre, spread = pooled.mean(0), pooled.std(0)
    x = (pooled - centre) / spread
    sign = np.array([-1.0] * len(source) + [1.0] * len(target))

    def objective(w: Array) -> tuple[float, Array]:
        margin = sign * (x @ w[:-1] + w[-1])
        value = np.logaddexp(0, -margin).sum() + penalty / 2 * (w[:-1] ** 2).sum()
        slope = -sign / (1 + np.exp(margin))
        return value, np.append(x.T @ slope + penalty * w[:-1], slope.sum())

    found = minimize(objective, np.zeros(x.shape[1] + 1), jac=True, method="BFGS", options={"gtol": 1e-9})
    logit = (at - centre) / spread @ found.x[:-1] + found.x[-1]
    p = 1 / (1 + np.exp(-logit))
    return len(source) / len(target) * p / (1 - p)


def dev_risk(losses: Array, weight: Array) -> float:
    """You et al.: mean(wl) + eta mean(w) - eta with eta = - Cov(wl, w) / Var(w)."""
    weighted = losses * weight
    eta = -np.cov(weighted, weight, ddof=1)[0, 1] / np.var(weight, ddof=1)
    return float(weighted.mean() + eta * weight.mean() - eta)


def recall(anchor: Array, positive: Array, n: int, identity: list[int]) -> float:
    """Sort all partners of each anchor; a hit is one of the right ones among the first n, counting wrong ones only."""
    hits = 0
    for i in range(len(anchor)):
        order = sorted(range(len(positive)), key=lambda j: -_cosine(anchor[i], positive[j]))
        hits += [identity[j] == identity[i] for j in order].index(True) < n
    return hits / len(anchor)


def pair_loss(anchor: Array, positive: Array, temperature: float, identity: list[int]) -> float:
    """Both directions of the cross-entropy, duplicates left out of the denominators."""
    n, total = len(anchor), 0.0
    for i in range(n):
        allowed = [j for j in range(n) if j == i or identity[j] != identity[i]]
        own = math.exp(_cosine(anchor[i], positive[i]) / temperature)
        forward = math.fsum(math.exp(_cosine(anchor[i], positive[j]) / temperature) for j in allowed)
        backward = math.fsum(math.exp(_cosine(anchor[j], positive[i]) / temperature) for j in allowed)
        total -= math.log(own / forward) + math.log(own / backward)
    return total / (2 * n)


def span_entropy(start: Array, end: Array, kept: list[int]) -> float:
    """One video: list every span, normalise, sum."""
    scores = [math.exp(start[s] + end[e]) for s in kept for e in kept if s <= e]
    p = [v / math.fsum(scores) for v in scores]
    return -math.fsum(q * math.log(q) for q in p)


def span_constancy(spans: Array, tolerance: float) -> float:
    """The most popular answer's share of followers."""
    followers = [
        sum(1 for j, b in enumerate(spans) if j != i and max(abs(a[0] - b[0]), abs(a[1] - b[1])) <= tolerance)
        for i, a in enumerate(spans)
    ]
    return max(followers) / (len(spans) - 1)


def mixed_accuracies(
    predict: Callable[[Array], int], rows: Array, order: list[int], share: float
) -> tuple[float | None, float | None]:
    """Hu et al.: the accuracy on mixtures with a partner predicted alike, and with one predicted otherwise."""
    found: dict[bool, list[bool]] = {True: [], False: []}
    for i, j in enumerate(order):
        if i != j:
            own, other = predict(rows[i]), predict(rows[j])
            found[own == other].append(predict(share * rows[i] + (1 - share) * rows[j]) == own)
    within, across = (sum(f) / len(f) if f else None for f in (found[True], found[False]))
    return within, across
