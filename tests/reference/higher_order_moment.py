"""Higher-order moment matching with the moment tensors written out, from Chen et al. (2020), equation 3."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def moment_tensor(rows: Array, order: int) -> Array:
    """Mean over the rows of the p-fold outer product: p axes of d entries."""
    total = np.zeros((rows.shape[1],) * order)
    for row in rows:
        outer = np.ones(())
        for _ in range(order):
            outer = np.multiply.outer(outer, row)
        total += outer
    return total / len(rows)


def higher_order_moment(x: Array, y: Array, order: int) -> float:
    gap = moment_tensor(x, order) - moment_tensor(y, order)
    return float((gap**2).sum() / x.shape[1] ** order)


def sampled(x: Array, y: Array, indices: NDArray[np.int64]) -> float:
    """Equation 7: the drawn entries alone."""
    gap = moment_tensor(x, indices.shape[1]) - moment_tensor(y, indices.shape[1])
    return float(np.mean([gap[tuple(entry)] ** 2 for entry in indices]))
