"""Weighted log-sum-exp and normalised weights. Entries of weight 0 are ignored; empty rows never give NaN."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_logsumexp(x: Tensor, weight: Tensor) -> Tensor:
    """log sum_j w_ij exp(x_ij) over the last axis; zero if no weight is positive."""
    some = weight > 0
    floor = torch.full((), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device)
    top = torch.where(some, x.detach(), floor).amax(-1, keepdim=True)
    shifted = torch.where(some, x - top, torch.zeros_like(top))
    total = (torch.where(some, weight, torch.zeros_like(weight)) * shifted.exp()).sum(-1)
    any_left = some.any(-1)
    value = torch.where(any_left, total, torch.ones_like(total)).log() + top.squeeze(-1)
    return torch.where(any_left, value, torch.zeros_like(value))


def row_shares(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Weights normalised to sum to one; uniform if their sum is zero, so that the problem stays defined."""
    equal = torch.full_like(rows[:, 0], 1 / rows.shape[0])
    if weight is None:
        return equal
    total = weight.sum()
    some = total > 0
    return torch.where(some, weight / torch.where(some, total, torch.ones_like(total)), equal)
