"""Local MMD by loops, from Zhu et al. (2021), equations 5 to 7, with one Gaussian."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def local_mmd(x: Array, y: Array, x_member: Array, y_member: Array, sigma: float) -> float:
    """Members are (rows, classes); mean over the classes that both sides have."""
    values = []
    for c in range(x_member.shape[1]):
        x_total, y_total = x_member[:, c].sum(), y_member[:, c].sum()
        if x_total == 0 or y_total == 0:
            continue
        # the pooled rows with signed weights: the squared norm of the difference of two mean embeddings
        rows = np.concatenate([x, y])
        signed = np.concatenate([x_member[:, c] / x_total, -y_member[:, c] / y_total])
        value = 0.0
        for i in range(len(rows)):
            for j in range(len(rows)):
                distance = np.sum((rows[i] - rows[j]) ** 2)
                value += signed[i] * signed[j] * np.exp(-distance / (2 * sigma**2))
        values.append(value)
    return float(np.mean(values)) if values else 0.0
