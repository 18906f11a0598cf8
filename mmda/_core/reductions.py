"""Means, log-sum-exps and softmaxes over unmasked entries.

Masks are bool, True = keep. Padding may hold any values, NaN and infinities included: results and gradients there are
exactly zero. A reduction over an empty row gives zero, not NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.masking import safe_divide


def masked_mean(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Mean of ``x`` over ``dim`` where ``mask`` (same shape as ``x``) is True; zero for empty rows."""
    kept = torch.where(mask, x, torch.zeros((), dtype=x.dtype, device=x.device))
    return safe_divide(kept.sum(dim), mask.sum(dim).to(x.dtype))


def masked_logsumexp(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """log sum exp over ``dim`` where ``mask`` is True; zero for empty rows."""
    floor = torch.finfo(x.dtype).min
    some = mask.any(dim)
    filled = torch.where(mask, x, torch.full((), floor, dtype=x.dtype, device=x.device))
    top = filled.detach().amax(dim, keepdim=True)
    total = torch.where(mask, (filled - top).exp(), torch.zeros((), dtype=x.dtype, device=x.device)).sum(dim)
    one = torch.ones((), dtype=x.dtype, device=x.device)
    value = torch.where(some, total, one).log() + torch.where(some, top.squeeze(dim), 0 * one)
    return torch.where(some, value, 0 * one)


def masked_log_softmax(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Log-softmax over the kept entries; zero elsewhere."""
    floor = torch.full((), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device)
    value = torch.where(mask, x, floor).log_softmax(dim)
    return torch.where(mask, value, torch.zeros_like(floor))


def masked_softmax(x: Tensor, mask: Tensor, dim: int) -> Tensor:
    """Softmax over the kept entries; zero elsewhere, and all zero for empty rows."""
    floor = torch.full((), torch.finfo(x.dtype).min, dtype=x.dtype, device=x.device)
    value = torch.where(mask, x, floor).softmax(dim)  # uniform for empty rows
    return torch.where(mask, value, torch.zeros_like(floor))
