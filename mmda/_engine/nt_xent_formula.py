"""NT-Xent, each row identifying its positives in one list of rows, as a dense formula.

The list is the concatenation of both views, with masks for the pairs of one view; or only the first view.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.masking import safe_divide
from mmda._core.weighted import weighted_logsumexp
from mmda._engine.logit_pairs import Contrast, Pairs, counts, own_pairs, similarities, without_padding
from mmda._engine.logit_sweep import ContrastiveSweep


def _dense(pairs: Pairs, how: Contrast) -> Tensor:
    """The loss from the full logit matrix: O(n^2) memory."""
    pairs = without_padding(pairs)
    s = similarities(pairs, how, joined=True)
    if not pairs.plain:
        return _masked(s, pairs)
    others = s.masked_fill(own_pairs(s), -torch.inf)
    return (others.logsumexp(1) - s.diagonal(s.shape[0] // 2).repeat(2)).mean()


def _masked(s: Tensor, pairs: Pairs) -> Tensor:
    n, copies = pairs.a.shape[0], copies_of(pairs)
    count = counts(pairs.a, pairs.a_count).repeat(copies)
    zero = torch.zeros_like(s)
    itself = own_pairs(s)
    # A row is not its own candidate, but its copies are.
    twins = (count - 1).clamp_min(0).expand_as(s)
    present = torch.where(itself, twins, count.expand_as(s))
    allowed = None if pairs.negative_mask is None else pairs.negative_mask.repeat(copies, copies)
    if pairs.positive_mask is None:
        partner = itself.roll(n, 1)
        share = partner.to(s.dtype)
        others = torch.where(partner, twins, present)
        columns = (others if allowed is None else torch.where(allowed, others, zero)) + share
    else:
        chosen = pairs.positive_mask.repeat(copies, copies)
        share = torch.where(chosen, present, zero)
        columns = present if allowed is None else torch.where(allowed | chosen, present, zero)
    total = share.sum(1)
    each = weighted_logsumexp(s, columns) - safe_divide((share * s).sum(1), total)
    kept = torch.where(total > 0, count, torch.zeros_like(count))
    return safe_divide((kept * torch.where(kept > 0, each, torch.zeros_like(each))).sum(), kept.sum())


def copies_of(pairs: Pairs) -> int:
    """The number of times the masks repeat along the list."""
    return 2 if pairs.b.shape[0] else 1


NT_XENT = ContrastiveSweep("nt_xent", _dense)
