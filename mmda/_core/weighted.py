"""Log-sums and shares under weights. What counts 0 never matters, and nothing left gives a number, never NaN."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_logsumexp(x: Tensor, weight: Tensor) -> Tensor:
    """log sum_j w_ij exp(x_ij) over the last axis; zero where no weight is positive."""
    some = weight > 0
    floor = torch.full((), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device)
    top = torch.where(some, x.detach(), floor).amax(-1, keepdim=True)
    shifted = torch.where(some, x - top, torch.zeros_like(top))
    total = (torch.where(some, weight, torch.zeros_like(weight)) * shifted.exp()).sum(-1)
    any_left = some.any(-1)
    value = torch.where(any_left, total, torch.ones_like(total)).log() + top.squeeze(-1)
    return torch.where(any_left, value, torch.zeros_like(value))


def row_shares(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Weights that sum to one; equal ones where none is left, so that the problem stays defined."""
    equal = torch.full_like(rows[:, 0], 1 / rows.shape[0])
    if weight is None:
        return equal
    total = weight.sum()
    some = total > 0
    return torch.where(some, weight / torch.where(some, total, torch.ones_like(total)), equal)
