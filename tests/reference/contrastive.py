"""Losses on paired rows in float64 loops, from the papers' formulas. Counts do not exist here: repeat the rows."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Pairs = NDArray[np.bool_]


def cosine(a: Array, b: Array) -> float:
    return math.fsum(a * b) / math.sqrt(math.fsum(a * a) * math.fsum(b * b))


def cosines(x: Array, y: Array) -> Array:
    return np.array([[cosine(a, b) for b in y] for a in x])


def log_sum_exp(values: list[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(v - top) for v in values))


def info_nce(
    s: Array,
    q: Array | None = None,
    negative: Pairs | None = None,
    *,
    several: str = "mean",
    symmetric: bool = False,
) -> float:
    """From similarities over temperature: each row finds its positives among positives and negatives."""
    n, m = s.shape
    q = np.eye(n, m) if q is None else q
    negative = np.ones((n, m), dtype=bool) if negative is None else negative
    each = []
    for i in range(n):
        positives = [j for j in range(m) if q[i, j] > 0]
        if not positives:
            continue
        partition = log_sum_exp([s[i, j] for j in range(m) if q[i, j] > 0 or negative[i, j]])
        if several == "mean":
            total = math.fsum(q[i, j] for j in positives)
            each.append(-math.fsum(q[i, j] / total * (s[i, j] - partition) for j in positives))
        else:
            each.append(partition - log_sum_exp([s[i, j] + math.log(q[i, j]) for j in positives]))
    value = math.fsum(each) / len(each) if each else 0.0
    if symmetric:
        value = (value + info_nce(s.T, q.T, negative.T, several=several)) / 2
    return value


def sigmoid(s: Array, bias: float, positive: Pairs | None = None, negative: Pairs | None = None) -> float:
    """From similarities over temperature: binary cross-entropy of every pair, over the number of rows."""
    n, m = s.shape
    positive = np.eye(n, m, dtype=bool) if positive is None else positive
    negative = np.ones((n, m), dtype=bool) if negative is None else negative
    terms = []
    for i in range(n):
        for j in range(m):
            if positive[i, j] or negative[i, j]:
                z = 1 if positive[i, j] else -1
                terms.append(math.log1p(math.exp(-z * (s[i, j] + bias))))
    return math.fsum(terms) / n


def inner(a: Array, b: Array) -> float:
    return math.fsum(a * b)


def nt_xent(
    x: Array,
    y: Array,
    temperature: float,
    positive: Pairs | None = None,
    negative: Pairs | None = None,
    *,
    normalize: bool = True,
) -> float:
    """Every one of 2n rows finds its positives among all others; masks are over pairs."""
    n = len(x)
    rows = np.concatenate([x, y])
    similarity = cosine if normalize else inner
    each = []
    for u in range(2 * n):
        others = [v for v in range(2 * n) if v != u]
        if positive is None:
            wanted = [(u + n) % (2 * n)]
        else:
            wanted = [v for v in others if positive[u % n, v % n]]
        if not wanted:
            continue
        kept = [v for v in others if v in wanted or negative is None or negative[u % n, v % n]]
        partition = log_sum_exp([similarity(rows[u], rows[v]) / temperature for v in kept])
        each.append(math.fsum(partition - similarity(rows[u], rows[v]) / temperature for v in wanted) / len(wanted))
    return math.fsum(each) / len(each)


def triplet(
    s: Array,
    margin: float,
    negatives: str,
    positive: Pairs | None = None,
    negative: Pairs | None = None,
    *,
    symmetric: bool = True,
) -> float:
    """Hinge against the hardest, the hardest that is less similar than the positive, or each negative."""
    n, m = s.shape
    positive = np.eye(n, m, dtype=bool) if positive is None else positive
    negative = np.ones((n, m), dtype=bool) if negative is None else negative
    each = []
    for i in range(n):
        own = [s[i, j] for j in range(m) if positive[i, j]]
        if not own:
            continue
        least = min(own)
        against = [s[i, j] for j in range(m) if negative[i, j] and not positive[i, j]]
        if negatives == "semi_hard":
            against = [v for v in against if v < least]
        if negatives != "all":
            against = [max(against)] if against else []
        hinges = [max(0.0, margin - least + v) for v in against]
        each.append(math.fsum(hinges) / len(hinges) if hinges else 0.0)
    value = math.fsum(each) / len(each)
    if symmetric:
        value = (value + triplet(s.T, margin, negatives, positive.T, negative.T, symmetric=False)) / 2
    return value


def prototype(
    rows: Array, shares: Array, others: Array, other_shares: Array, temperature: float, *, normalize: bool = True
) -> float:
    """Rows against the normalised class sums of the others' normalised rows; or all as they are, against means."""
    present = [k for k in range(shares.shape[1]) if other_shares[:, k].sum() > 0]
    unit = [o / math.sqrt(math.fsum(o * o)) if normalize else o for o in others]
    prototypes = {k: sum(a * o for a, o in zip(other_shares[:, k], unit)) / other_shares[:, k].sum() for k in present}
    similarity = cosine if normalize else inner
    each = []
    for row, share in zip(rows, shares):
        total = math.fsum(share[k] for k in present)
        if total == 0:
            continue
        s = {k: similarity(row, prototypes[k]) / temperature for k in present}
        partition = log_sum_exp(list(s.values()))
        each.append(math.fsum(share[k] * (partition - s[k]) for k in present) / total)
    return math.fsum(each) / len(each) if each else 0.0
