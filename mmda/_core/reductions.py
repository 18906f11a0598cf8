"""Means, log-sums and softmaxes over what masks and weights keep.

Masks are bool, True = keep. What padding holds never matters, NaN and infinities included: values and gradients on
padding are exactly zero. A reduction over an empty row gives zero, never NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.masking import safe_divide


def masked_mean(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Mean of ``x`` over ``dim`` where ``mask`` (same shape as ``x``) is True; zero where none is."""
    kept = torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))
    return safe_divide(kept.sum(dim), mask.sum(dim).to(x.dtype))


def masked_logsumexp(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """log sum exp over ``dim`` where ``mask`` is True; zero where none is."""
    floor = torch.finfo(x.dtype).min
    some = mask.any(dim)
    filled = torch.where(mask, x, torch.full((), floor, dtype=x.dtype, device=x.device))
    top = filled.detach().amax(dim, keepdim=True)
    total = torch.where(mask, (filled - top).exp(), torch.zeros((), dtype=x.dtype, device=x.device)).sum(dim)
    one = torch.ones((), dtype=x.dtype, device=x.device)
    value = torch.where(some, total, one).log() + torch.where(some, top.squeeze(dim), 0 * one)
    return torch.where(some, value, 0 * one)


def masked_log_softmax(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Log-softmax over the kept entries; zero on the others."""
    clean = torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))
    value = clean - masked_logsumexp(clean, mask, dim).unsqueeze(dim)
    return torch.where(mask, value, torch.zeros((), dtype=x.dtype, device=x.device))


def masked_softmax(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Softmax over the kept entries; zero on the others, all zero where none is kept."""
    floor = torch.full((), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device)
    value = torch.where(mask, x, floor).softmax(dim)  # even where none is kept
    return torch.where(mask, value, torch.zeros_like(floor))


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
