"""InfoNCE in one or both directions, as a dense formula."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmda._core.masking import safe_divide
from mmda._core.weighted import weighted_logsumexp
from mmda._engine.logit_pairs import (
    Contrast,
    Pairs,
    counts,
    negative_counts,
    own_pairs,
    positive_share,
    similarities,
    without_padding,
)
from mmda._engine.logit_sweep import ContrastiveSweep


def _dense(pairs: Pairs, how: Contrast) -> Tensor:
    """The loss from the full logit matrix: O(n m) memory."""
    pairs = without_padding(pairs)
    s = similarities(pairs, how)
    both = how.kind == "symmetric"
    if pairs.plain:
        partner = torch.arange(s.shape[0], device=s.device)
        one_way = F.cross_entropy(s, partner)
        return (one_way + F.cross_entropy(s.T, partner)) / 2 if both else one_way
    q, allowed = positive_share(pairs, s.dtype), pairs.negative_mask
    a_count, b_count = counts(pairs.a, pairs.a_count), counts(pairs.b, pairs.b_count)
    one_way = _one_way(s, q, allowed, a_count, b_count, how.several)
    if not both:
        return one_way
    q, allowed = (None if t is None else t.T for t in (q, allowed))
    return (one_way + _one_way(s.T, q, allowed, b_count, a_count, how.several)) / 2


def _one_way(
    s: Tensor, q: Tensor | None, allowed: Tensor | None, row_count: Tensor, column_count: Tensor, several: str
) -> Tensor:
    """Mean over rows that have a positive, with positive weights ``q`` (None: row i is the positive of row i)."""
    negative = negative_counts(s, q, allowed, column_count)
    if q is None:
        each = weighted_logsumexp(s, negative + own_pairs(s).to(s.dtype)) - s.diagonal()
        has_positive = column_count > 0
    else:
        numerator = q * column_count
        total = numerator.sum(1)
        has_positive = total > 0
        each = weighted_logsumexp(s, torch.where(q > 0, column_count.expand_as(s), negative))
        if several == "mean":
            each = each - safe_divide((numerator * s).sum(1), total)
        else:
            each = each - weighted_logsumexp(s, numerator)
    kept = torch.where(has_positive, row_count, torch.zeros_like(row_count))
    return safe_divide((kept * torch.where(kept > 0, each, torch.zeros_like(each))).sum(), kept.sum())


INFO_NCE = ContrastiveSweep("info_nce", _dense)
