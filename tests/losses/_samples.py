"""Samples that several test files share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def reference_sample() -> tuple[Tensor, Tensor]:
    """The documented input of the library's reference values: (32, 8) each, float64."""
    rng = np.random.default_rng(20260101)
    x = rng.standard_normal((32, 8))
    y = 1.3 * rng.standard_normal((32, 8)) + 0.5
    return torch.from_numpy(x), torch.from_numpy(y)


def unequal_sample(n: int = 9, m: int = 6, d: int = 3, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two float64 samples of different sizes, the second wider and shifted."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=(n, d))), torch.from_numpy(1.4 * rng.normal(size=(m, d)) + 0.6)
