r"""The contrastive losses as formulas over the matrix of all logits, in plain operations that every transform knows.

What is given and what is asked, as named tuples, stands here too: the sweep over tiles
(:mod:`mmda._engine.logit_sweep`) computes the same numbers. Formulas and meaning of counts and masks are those of
:func:`mmda.losses.info_nce_loss`, :func:`mmda.losses.nt_xent_loss` and :func:`mmda.losses.sigmoid_contrastive_loss`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mmda._core.masking import safe_divide, weighted_logsumexp
from mmda._core.rows import normalized_rows


class Pairs(NamedTuple):
    """Two lists of rows and what is known about their pairs. The first four may carry a gradient.

    Attributes:
        a: anchors (n, d).
        b: candidates (m, d).
        temperature: scalar, what the products are divided by; None: ``Contrast.tau``.
        bias: scalar, for ``"sigmoid"``; None: 0.
        a_count: how often each anchor counts (n,); None: once. Rows that count 0 are zeros.
        b_count: the same of the candidates (m,).
        positive_mask: which candidates are positives of each anchor (n, m), bool; None: all that have a weight.
        positive_weight: how much they are (n, m); None: 1. With neither, row i belongs to row i, and n = m.
        negative_mask: which may be negatives (n, m), bool; None: all.
    """

    a: Tensor
    b: Tensor
    temperature: Tensor | None = None
    bias: Tensor | None = None
    a_count: Tensor | None = None
    b_count: Tensor | None = None
    positive_mask: Tensor | None = None
    positive_weight: Tensor | None = None
    negative_mask: Tensor | None = None

    @property
    def own(self) -> bool:
        """Whether row i belongs to row i and to no other."""
        return self.positive_mask is None and self.positive_weight is None

    @property
    def plain(self) -> bool:
        """Whether every row counts once and all others are negatives."""
        return all(t is None for t in self[4:])


class Contrast(NamedTuple):
    """Which number, of which logits.

    Attributes:
        kind: ``"info_nce"``, ``"symmetric"`` (the mean of both directions), ``"nt_xent"`` or ``"sigmoid"``.
        several: ``"mean"`` or ``"sum"`` over several positives.
        unit: compare directions: every row is divided by its length.
        tau: the temperature, where it is no tensor.
        block: rows of a tile; 0: by kind and device.
    """

    kind: str
    several: str = "mean"
    unit: bool = False
    tau: float = 1.0
    block: int = 0


def dense(pairs: Pairs, how: Contrast) -> Tensor:
    """The number from the matrix of all logits: O(n m) memory."""
    a, b, learned, bias = pairs[:4]
    temperature = how.tau if learned is None else learned
    if how.unit:
        a, b = normalized_rows(a), normalized_rows(b)
    if how.kind == "nt_xent":
        rows = torch.cat([a, b])
        similarity = (rows / temperature) @ rows.T
        return _plain_list(similarity) if pairs.plain else _list(similarity, pairs)
    similarity = (a / temperature) @ b.T
    if how.kind == "sigmoid":
        similarity = similarity if bias is None else similarity + bias
        return _plain_pairwise(similarity) if pairs.plain else _pairwise(similarity, pairs)
    both = how.kind == "symmetric"
    return _plain_softmax(similarity, both) if pairs.plain else _softmax(similarity, pairs, both, how.several)


def _plain_softmax(s: Tensor, both: bool) -> Tensor:
    partner = torch.arange(s.shape[0], device=s.device)
    one_way = F.cross_entropy(s, partner)
    return (one_way + F.cross_entropy(s.T, partner)) / 2 if both else one_way


def _plain_list(s: Tensor) -> Tensor:
    others = s.masked_fill(own_pairs(s), -torch.inf)
    return (others.logsumexp(1) - s.diagonal(s.shape[0] // 2).repeat(2)).mean()


def _plain_pairwise(s: Tensor) -> Tensor:
    sign = torch.where(own_pairs(s), -1.0, 1.0).to(s.dtype)
    return -F.logsigmoid(-sign * s).sum() / s.shape[0]


def _softmax(s: Tensor, pairs: Pairs, both: bool, several: str) -> Tensor:
    share = positive_share(pairs, s.dtype)
    a_count, b_count = counts(pairs.a, pairs.a_count), counts(pairs.b, pairs.b_count)
    value = _one_way(s, share, pairs.negative_mask, a_count, b_count, several)
    if not both:
        return value
    q, allowed = (None if t is None else t.T for t in (share, pairs.negative_mask))
    return (value + _one_way(s.T, q, allowed, b_count, a_count, several)) / 2


def _one_way(
    s: Tensor, q: Tensor | None, allowed: Tensor | None, row_count: Tensor, column_count: Tensor, several: str
) -> Tensor:
    """Mean over rows that have a positive; with positives ``q`` or None for row i of row i."""
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


def _list(s: Tensor, pairs: Pairs) -> Tensor:
    n = pairs.a.shape[0]
    count = counts(pairs.a, pairs.a_count).repeat(2)
    zero = torch.zeros_like(s)
    itself = own_pairs(s)
    # A row is not among its own candidates, its twins are.
    twins = (count - 1).clamp_min(0).expand_as(s)
    present = torch.where(itself, twins, count.expand_as(s))
    allowed = None if pairs.negative_mask is None else pairs.negative_mask.repeat(2, 2)
    if pairs.positive_mask is None:
        partner = itself.roll(n, 1)
        share = partner.to(s.dtype)
        others = torch.where(partner, twins, present)
        columns = (others if allowed is None else torch.where(allowed, others, zero)) + share
    else:
        chosen = pairs.positive_mask.repeat(2, 2)
        share = torch.where(chosen, present, zero)
        columns = present if allowed is None else torch.where(allowed | chosen, present, zero)
    total = share.sum(1)
    each = weighted_logsumexp(s, columns) - safe_divide((share * s).sum(1), total)
    kept = torch.where(total > 0, count, torch.zeros_like(count))
    return safe_divide((kept * torch.where(kept > 0, each, torch.zeros_like(each))).sum(), kept.sum())


def _pairwise(s: Tensor, pairs: Pairs) -> Tensor:
    share = positive_share(pairs, s.dtype)
    a_count, b_count = counts(pairs.a, pairs.a_count), counts(pairs.b, pairs.b_count)
    negative = negative_counts(s, share, pairs.negative_mask, b_count)
    if share is None:
        positive = (own_pairs(s) & (b_count > 0)).to(s.dtype)
    else:
        positive = share * b_count
    each = -(positive * F.logsigmoid(s) + negative * F.logsigmoid(-s)).sum(1)
    return safe_divide(a_count @ each, a_count.sum())


def counts(rows: Tensor, count: Tensor | None) -> Tensor:
    """``count``, or ones."""
    return torch.ones(rows.shape[0], dtype=rows.dtype, device=rows.device) if count is None else count


def own_pairs(like: Tensor) -> Tensor:
    """The diagonal, bool."""
    return torch.eye(like.shape[0], dtype=torch.bool, device=like.device)


def positive_share(pairs: Pairs, dtype: torch.dtype) -> Tensor | None:
    """How much each candidate is a positive of each anchor (n, m), zero off the rows that count; None: row i of row i.

    What masks hide may hold anything.
    """
    mask, weight = pairs.positive_mask, pairs.positive_weight
    if mask is None and weight is None:
        return None
    zero = torch.zeros((), dtype=dtype, device=pairs.a.device)
    if weight is None:
        share = mask.to(dtype)  # type: ignore[union-attr]
    else:
        share = weight.to(dtype) if mask is None else torch.where(mask, weight.to(dtype), zero)
    if pairs.a_count is not None:
        share = torch.where((pairs.a_count > 0).unsqueeze(1), share, zero)
    if pairs.b_count is not None:
        share = torch.where((pairs.b_count > 0).unsqueeze(0), share, zero)
    return share


def negative_counts(like: Tensor, share: Tensor | None, negative_mask: Tensor | None, count: Tensor) -> Tensor:
    """How often each column is a negative of each row (n, m), where column j counts ``count[j]``.

    Positives (``share`` > 0; None: row i of row i) are none. Without ``share``, the twins of a column that counts
    more than once are negatives as every other row is.
    """
    each = count.expand_as(like)
    if share is None:
        twins = (count - 1).clamp_min(0)
        each = torch.where(own_pairs(like), twins.expand_as(like), each)
    else:
        each = torch.where(share > 0, torch.zeros_like(like), each)
    return each if negative_mask is None else torch.where(negative_mask, each, torch.zeros_like(like))
