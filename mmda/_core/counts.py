"""Total row weight and weighted centre of samples."""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.masking import safe_divide


def pooled_centre(x: Tensor, y: Tensor, x_weight: Tensor | None, y_weight: Tensor | None) -> Tensor:
    """Weighted mean of both samples, detached. Subtracting it does not change distances."""
    x, y = x.detach(), y.detach()
    x_sum = x.sum(0) if x_weight is None else x_weight.detach() @ x
    y_sum = y.sum(0) if y_weight is None else y_weight.detach() @ y
    if x_weight is None and y_weight is None:
        return (x_sum + y_sum).div_(x.shape[0] + y.shape[0])
    return safe_divide(x_sum + y_sum, total_weight(x, x_weight) + total_weight(y, y_weight))


def median_centre(x: Tensor, y: Tensor, x_weight: Tensor | None, y_weight: Tensor | None) -> Tensor:
    """Featurewise median of the kept rows of both samples, detached; robust to outliers."""
    rows = torch.cat([x.detach(), y.detach()])
    if x_weight is not None or y_weight is not None:
        kept = [
            torch.ones_like(side[:, 0], dtype=torch.bool) if weight is None else weight.detach() > 0
            for side, weight in ((x, x_weight), (y, y_weight))
        ]
        rows = torch.where(torch.cat(kept).unsqueeze(1), rows, torch.nan)
    return rows.nanmedian(0).values.nan_to_num()


def total_weight(x: Tensor, weight: Tensor | None) -> Tensor:
    """Sum of the row weights, or the number of rows."""
    return torch.full((), float(x.shape[0]), dtype=x.dtype, device=x.device) if weight is None else weight.sum()


def zero_if_empty(
    value: Tensor, x: Tensor, y: Tensor, weights: tuple[Tensor | None, Tensor | None], unbiased: bool
) -> Tensor:
    """``value``, or 0 if the total weight of a sample is 0 (at most 1 for an unbiased estimator)."""
    if weights[0] is None and weights[1] is None:
        return value
    least = 1 if unbiased else 0
    both = (total_weight(x, weights[0]) > least) & (total_weight(y, weights[1]) > least)
    return torch.where(both, value, 0 * value)
