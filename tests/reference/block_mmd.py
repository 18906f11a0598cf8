"""The B-test's statistic (Zaremba et al., 2013): the unbiased squared MMD of each block, averaged."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tests.reference.mmd import Similarity, unbiased

Array = NDArray[np.float64]


def block_mmd(k: Similarity, x: Array, y: Array, block_rows: int) -> float:
    """Both sides in order, in as many blocks as the smaller side has full ones, and the last rows left over."""
    blocks = max(min(len(x), len(y)) // block_rows, 1)
    n, m = len(x) // blocks, len(y) // blocks
    return math.fsum(unbiased(k, x[b * n :][:n], y[b * m :][:m]) for b in range(blocks)) / blocks
