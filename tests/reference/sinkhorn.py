"""Entropic transport by plain Sinkhorn iterations run to convergence, and exact transport by linear programming."""

from __future__ import annotations

import numpy as np
import scipy.optimize
import scipy.special
from numpy.typing import NDArray

Array = NDArray[np.float64]


def costs(x: Array, y: Array, power: int) -> Array:
    return np.array([[np.linalg.norm(p - q) ** power for q in y] for p in x])


def _log_sum_exp(values: Array, axis: int) -> Array:
    top = values.max(axis)
    return top + np.log(np.exp(values - np.expand_dims(top, axis)).sum(axis))


def entropic(cost: Array, a: Array, b: Array, eps: float, iterations: int = 5_000) -> float:
    """<P, C> + eps KL(P | a b^T) at the plan that alternating scalings in the log domain converge to."""
    f, g = np.zeros(len(a)), np.zeros(len(b))
    for _ in range(iterations):
        before = f
        f = -eps * _log_sum_exp(np.log(b) + (g - cost) / eps, 1)
        g = -eps * _log_sum_exp(np.log(a)[:, None] + (f[:, None] - cost) / eps, 0)
        if np.abs(f - before).max() < 1e-12:
            break
    plan = np.exp((f[:, None] + g - cost) / eps) * a[:, None] * b
    assert np.abs(plan.sum(1) - a).max() < 1e-10
    return float((plan * cost).sum() + eps * scipy.special.rel_entr(plan, a[:, None] * b).sum())


def divergence(x: Array, y: Array, a: Array, b: Array, eps: float, power: int) -> float:
    across = entropic(costs(x, y, power), a, b, eps)
    return across - (entropic(costs(x, x, power), a, a, eps) + entropic(costs(y, y, power), b, b, eps)) / 2


def of_itself(cost: Array, a: Array, eps: float) -> float:
    """:func:`entropic` of a sample with itself: one potential, averaged with its own update, settles at once."""
    f = np.zeros(len(a))
    for _ in range(5_000):
        before = f
        f = (f - eps * _log_sum_exp(np.log(a) + (f - cost) / eps, 1)) / 2
        if np.abs(f - before).max() < 1e-13:
            break
    plan = np.exp((f[:, None] + f - cost) / eps) * a[:, None] * a
    assert np.abs(plan.sum(1) - a).max() < 1e-10
    return float((plan * cost).sum() + eps * scipy.special.rel_entr(plan, a[:, None] * a).sum())


def exact(cost: Array, a: Array, b: Array) -> float:
    """min <P, C> over plans with these margins."""
    n, m = cost.shape
    rows, columns = np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))
    solved = scipy.optimize.linprog(
        cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([a, b]), bounds=(0, None)
    )
    return float(solved.fun)
