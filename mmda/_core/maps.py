"""Feature maps as rows, one per position."""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.checks import check_mask, check_weight
from mmda._core.rows import as_rows


def as_map_rows(
    caller: str, argument: str, x: Tensor, *, mask: Tensor | None, weight: Tensor | None, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    """:func:`as_rows` that also accepts feature maps ``(b, c, h, w)``: every position is a row of c features."""
    if isinstance(x, Tensor) and x.ndim == 4:
        places = (x.shape[0], *x.shape[2:])
        if mask is not None:
            check_mask(caller, argument + "_mask", mask, places)
            mask = mask.reshape(-1)
        if weight is not None:
            check_weight(caller, argument + "_weight", weight, places)
            weight = weight.reshape(-1)
        x = x.movedim(1, 3).reshape(-1, x.shape[1])
    return as_rows(caller, argument, x, mask=mask, weight=weight, dtype=dtype)
