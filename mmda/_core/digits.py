"""Recompute a result in float64 if float32 cancellation has made it inaccurate."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmda._core.transforms import values_are_known

#: A float32 result below this fraction of its terms has lost too many digits, since rounding is some 1e-8 of the terms.
LOST = 1e-5


def with_enough_digits(compute: Callable[[torch.dtype], Tensor], *rows: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``compute(dtype)``, a sum of terms of order one; in float64 if the float32 result is dominated by rounding.

    Always float64 in compiled graphs and function transforms, where the result cannot be inspected.
    """
    if dtype == torch.float32 and values_are_known(*rows):
        value = compute(dtype)
        if not abs(float(value.detach())) < LOST:
            return value
    return compute(torch.float64).to(dtype)
