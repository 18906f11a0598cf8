"""Recompute a result in float64 if float32 cancellation has made it inaccurate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from mmda._core.transforms import values_are_known

#: A float32 result below this fraction of its terms has lost too many digits, since rounding is some 1e-7 of the terms.
LOST = 1e-4


def with_enough_digits(
    compute: Callable[[torch.dtype], Tensor], *rows: Tensor | None, dtype: torch.dtype, bounded: bool = True
) -> Tensor:
    """``compute(dtype)``, a sum of terms of order one; in float64 if the float32 result is dominated by rounding or not
    finite.

    Always float64 in compiled graphs and function transforms, where the result cannot be inspected, and where the terms
    are not ``bounded``.
    """
    if dtype == torch.float32 and bounded and values_are_known(*rows):
        value = compute(dtype)
        if LOST <= abs(float(value.detach())) < math.inf:
            return value
    return compute(torch.float64).to(dtype)


def widened_where_lost(compute: Callable[..., Tensor | None], *tensors: Tensor | None, dtype: torch.dtype) -> Tensor:
    """``compute(*tensors, look=True)``, or ``look=False`` in float64 if that returns None because float32 is
    inaccurate, or is not finite.

    Always float64 in compiled graphs and function transforms, where values cannot be inspected.
    """
    if dtype == torch.float32 and values_are_known(*tensors):
        value = compute(*tensors, look=True)
        if value is not None and math.isfinite(float(value.detach())):
            return value
    wide: list[Any] = [None if t is None else t.double() for t in tensors]
    return cast(Tensor, compute(*wide, look=False)).to(dtype)
