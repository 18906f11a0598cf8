"""The sigmoid loss as a dense formula."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmda._core.masking import safe_divide
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
    s = s if pairs.bias is None else s + pairs.bias
    if pairs.plain:
        sign = torch.where(own_pairs(s), -1.0, 1.0).to(s.dtype)
        return -F.logsigmoid(-sign * s).sum() / s.shape[0]
    share = positive_share(pairs, s.dtype)
    a_count, b_count = counts(pairs.a, pairs.a_count), counts(pairs.b, pairs.b_count)
    negative = negative_counts(s, share, pairs.negative_mask, b_count)
    positive = (own_pairs(s) & (b_count > 0)).to(s.dtype) if share is None else share * b_count
    each = -(positive * F.logsigmoid(s) + negative * F.logsigmoid(-s)).sum(1)
    return safe_divide(a_count @ each, a_count.sum())


SIGMOID = ContrastiveSweep("sigmoid", _dense)
