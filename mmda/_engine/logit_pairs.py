"""What the contrastive losses are given and asked for, and what counts and masks of pairs mean in their formulas.

Counts and masks mean what :func:`mmda.losses.info_nce_loss`, :func:`mmda.losses.nt_xent_loss` and
:func:`mmda.losses.sigmoid_contrastive_loss` say of them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmda._core.masking import zero_padding
from mmda._core.transforms import carries_slope


class Pairs(NamedTuple):
    """Two lists of rows and what is known about their pairs. The first four may carry a gradient.

    Attributes:
        a: anchors (n, d).
        b: candidates (m, d).
        temperature: scalar, what the products are divided by; None: ``Contrast.tau``.
        bias: scalar, for ``"sigmoid"``; None: 0.
        a_count: how often each anchor counts (n,); None: once. Rows that count 0 may hold anything.
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


def without_padding(pairs: Pairs) -> Pairs:
    """The pairs with zeros in rows that count 0, unless counts are differentiated: then that was seen to before."""
    rows = (
        x if count is None or carries_slope(count) else zero_padding(x, count != 0)
        for x, count in zip(pairs[:2], pairs[4:6])
    )
    return pairs._replace(a=next(rows), b=next(rows))


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


def twins(count: Tensor, allowed: Tensor | None) -> Tensor:
    """How many repetitions of each row there are beside it, where these are ``allowed`` as candidates."""
    more = (count - 1).clamp_min_(0)
    return more if allowed is None else more.mul_(allowed)
