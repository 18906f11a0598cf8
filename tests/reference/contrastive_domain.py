"""Contrastive domain discrepancy by loops, from Kang et al. (2019), equations 3 to 5, with one Gaussian."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


def class_pair(x: Array, y: Array, x_labels: Labels, y_labels: Labels, first: int, second: int, sigma: float) -> float:
    """Equation 3: e1 + e2 - 2 e3, each a ratio of sums over indicator functions."""

    def ratio(a: Array, b: Array, a_labels: Labels, b_labels: Labels, a_class: int, b_class: int) -> float:
        numerator, denominator = 0.0, 0
        for i in range(len(a)):
            for j in range(len(b)):
                indicator = int(a_labels[i] == a_class and b_labels[j] == b_class)
                numerator += indicator * np.exp(-np.sum((a[i] - b[j]) ** 2) / (2 * sigma**2))
                denominator += indicator
        return float(numerator / denominator)

    e1 = ratio(x, x, x_labels, x_labels, first, first)
    e2 = ratio(y, y, y_labels, y_labels, second, second)
    return e1 + e2 - 2 * ratio(x, y, x_labels, y_labels, first, second)


def contrastive_domain_discrepancy(x: Array, y: Array, x_labels: Labels, y_labels: Labels, sigma: float) -> float:
    """Equation 5 over the classes that occur; negative labels are no class."""
    x_classes = sorted(set(x_labels[x_labels >= 0].tolist()))
    y_classes = sorted(set(y_labels[y_labels >= 0].tolist()))
    values = {(a, b): class_pair(x, y, x_labels, y_labels, a, b, sigma) for a in x_classes for b in y_classes}
    intra = [value for (a, b), value in values.items() if a == b]
    inter = [value for (a, b), value in values.items() if a != b]
    return (float(np.mean(intra)) if intra else 0.0) - (float(np.mean(inter)) if inter else 0.0)


def soft(x: Array, y: Array, x_member: Array, y_member: Array, sigma: float) -> float:
    """The same with shares (rows, classes) in the place of the indicators."""

    def ratio(a: Array, b: Array, u: Array, v: Array) -> float:
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b))]
        summed = sum(u[i] * v[j] * np.exp(-np.sum((a[i] - b[j]) ** 2) / (2 * sigma**2)) for i, j in pairs)
        return float(summed / (u.sum() * v.sum()))

    intra, inter = [], []
    for first, u in enumerate(x_member.T):
        for second, v in enumerate(y_member.T):
            if u.sum() > 0 and v.sum() > 0:
                value = ratio(x, x, u, u) + ratio(y, y, v, v) - 2 * ratio(x, y, u, v)
                (intra if first == second else inter).append(value)
    return (float(np.mean(intra)) if intra else 0.0) - (float(np.mean(inter)) if inter else 0.0)
