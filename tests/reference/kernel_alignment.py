"""Centred kernel alignment with linear kernels, from the traces of centred Gram matrices in float64."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def kernel_alignment(x: Array, z: Array) -> float:
    n = len(x)
    h = np.eye(n) - np.full((n, n), 1 / n)
    k, l = h @ (x @ x.T) @ h, h @ (z @ z.T) @ h  # noqa: E741
    return float(1 - np.trace(k @ l) / np.sqrt(np.trace(k @ k) * np.trace(l @ l)))
