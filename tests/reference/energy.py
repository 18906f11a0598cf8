"""Half the energy distance by loops, from Székely & Rizzo (2013), equation 2."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def energy_distance(x: Array, y: Array, exponent: float = 1.0, *, unbiased: bool = False) -> float:
    def total(a: Array, b: Array) -> float:
        return float(sum(np.linalg.norm(p - q) ** exponent for p in a for q in b))

    n, m = len(x), len(y)
    x_pairs, y_pairs = (n * (n - 1), m * (m - 1)) if unbiased else (n * n, m * m)
    return total(x, y) / (n * m) - total(x, x) / (2 * x_pairs) - total(y, y) / (2 * y_pairs)
