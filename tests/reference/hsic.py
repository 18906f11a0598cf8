"""HSIC from its definitions: a trace with the centring matrix, and a mean over quadruples of different pairs."""

from __future__ import annotations

from itertools import permutations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def gram(rows: Array, sigma: float) -> Array:
    return np.array([[np.exp(-np.sum((a - b) ** 2) / (2 * sigma**2)) for b in rows] for a in rows])


def biased(k: Array, l: Array) -> float:  # noqa: E741
    """Gretton et al. (2007), equation 4."""
    n = len(k)
    centring = np.eye(n) - np.ones((n, n)) / n
    return float(np.trace(k @ centring @ l @ centring) / n**2)


def unbiased(k: Array, l: Array) -> float:  # noqa: E741
    """Song et al. (2012), the U-statistic behind equation 5: k_ij (l_ij + l_qr - 2 l_iq) over different i, j, q, r."""
    quadruples = list(permutations(range(len(k)), 4))
    total = sum(k[i, j] * (l[i, j] + l[q, r] - 2 * l[i, q]) for i, j, q, r in quadruples)
    return float(total / len(quadruples))
