"""Cross-entropy over a matrix of logits whose diagonal holds the known pairs."""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._checks import check_mask, check_weight
from mmda._masking import masked_logsumexp, safe_divide


def pair_cross_entropy(logits: Tensor, candidates: Tensor, counts: Tensor) -> Tensor:
    """Mean of both directions of -log softmax of the diagonal, each softmax over the row's (column's) candidates.

    ``logits`` (n, n), ``candidates`` (n, n) bool (the diagonal is always one), ``counts`` (n,) how often each
    pair counts; a pair that counts 0 is no candidate of the others either.
    """
    n = logits.shape[0]
    diagonal = torch.eye(n, dtype=torch.bool, device=logits.device)
    present = counts > 0
    allowed = (candidates & present.unsqueeze(0) & present.unsqueeze(1)) | diagonal
    own = logits.diagonal()
    log_counts = torch.where(present, counts, torch.ones_like(counts)).log()
    # A pair that counts twice stands for two equal pairs, in the denominators of the others too. Its own twin is
    # a duplicate, hence no negative: the diagonal enters once.
    bias = torch.where(diagonal, torch.zeros_like(logits), log_counts.unsqueeze(0).expand_as(logits))
    rows = masked_logsumexp(logits + bias, allowed, 1) - own
    columns = masked_logsumexp(logits + bias.T, allowed, 0) - own
    each = (rows + columns) / 2
    return safe_divide((torch.where(present, each, torch.zeros_like(each)) * counts).sum(), counts.sum())


def candidate_mask(caller: str, n: int, negative_mask: Tensor | None, device: torch.device) -> Tensor:
    """Which off-diagonal pairs serve as negatives; all by default."""
    if negative_mask is None:
        return torch.ones(n, n, dtype=torch.bool, device=device)
    check_mask(caller, "negative_mask", negative_mask, (n, n))
    return negative_mask


def pair_counts(caller: str, n: int, mask: Tensor | None, weight: Tensor | None, like: Tensor) -> Tensor:
    """How often each of n pairs counts, from a validity mask and a weight."""
    counts = torch.ones(n, dtype=like.dtype, device=like.device)
    if weight is not None:
        check_weight(caller, "weight", weight, (n,))
        counts = weight.to(like.dtype)
    if mask is not None:
        check_mask(caller, "mask", mask, (n,))
        counts = torch.where(mask, counts, torch.zeros_like(counts))
    return counts
