"""Digits that a result needs and its terms may not have: what float32 cannot tell is computed again in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmda._core.transforms import values_are_known

#: A float32 result below this share of the terms that made it has lost too many digits: rounding is some 1e-8 of them.
LOST = 1e-5


def with_enough_digits(compute: Callable[[torch.dtype], Tensor], *rows: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``compute(dtype)``, a sum of terms of size one; in float64 where it comes out so small that their rounding shows.

    So it is wherever nobody can look: in compiled graphs and function transforms.
    """
    if dtype == torch.float32 and values_are_known(*rows):
        value = compute(dtype)
        if not abs(float(value.detach())) < LOST:
            return value
    return compute(torch.float64).to(dtype)
