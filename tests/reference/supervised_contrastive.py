"""Supervised contrastive loss in float64 loops, from equation 2 of Khosla et al. (2020)."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def supervised_contrastive(z: NDArray[np.float64], labels: list[int], temperature: float, normalize: bool) -> float:
    """Mean over the rows that have another row of their label."""
    if normalize:
        z = np.stack([row / math.sqrt(math.fsum(v * v for v in row)) for row in z])
    losses = []
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        positives = [j for j in others if labels[j] == labels[i] >= 0]
        if positives:
            total = math.fsum(math.exp(float(z[i] @ z[j]) / temperature) for j in others)
            losses.append(-math.fsum(float(z[i] @ z[j]) / temperature - math.log(total) for j in positives))
            losses[-1] /= len(positives)
    return math.fsum(losses) / len(losses) if losses else 0.0
