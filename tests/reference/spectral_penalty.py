"""Batch spectral penalty from LAPACK's singular values (Chen et al., 2019)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def spectral_penalty(source: NDArray[np.float64], target: NDArray[np.float64], count: int) -> float:
    """Sum of the largest squared singular values of both."""
    return float(sum((np.linalg.svd(x, compute_uv=False)[:count] ** 2).sum() for x in (source, target)))
