"""Joint transport in float64: plain Sinkhorn steps in the log domain on the cost of DeepJDOT."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

Array = NDArray[np.float64]


def joint_transport(
    x: Array, y: Array, labels: list[int], logits: Array, alpha: float, lam: float, eps: float
) -> float:
    """<P, C> + eps KL(P | 1 / nm) at the plan to which the steps settle."""
    n, m = len(x), len(y)
    log_q = logits - logsumexp(logits, axis=1, keepdims=True)
    cost = np.zeros((n, m))
    for i in range(n):
        for j in range(m):
            cost[i, j] = alpha * ((x[i] - y[j]) ** 2).sum() - lam * log_q[j, labels[i]]
    f, g = np.zeros(n), np.zeros(m)
    for _ in range(3_000):
        before = f
        f = -eps * logsumexp((g - cost) / eps - np.log(m), axis=1)
        g = -eps * logsumexp((f[:, None] - cost) / eps - np.log(n), axis=0)
        if np.abs(f - before).max() < 1e-13:
            break
    plan = np.exp((f[:, None] + g - cost) / eps) / (n * m)
    return float((plan * cost).sum() + eps * (plan * np.log(plan * n * m)).sum())
