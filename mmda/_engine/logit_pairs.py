"""Inputs and settings of the contrastive losses, and the meaning of weights and pair masks in their formulas.

Weights and masks are defined in :func:`mmda.losses.info_nce_loss`, :func:`mmda.losses.nt_xent_loss` and
:func:`mmda.losses.sigmoid_contrastive_loss`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mmda._core.masking import zero_padding
from mmda._core.transforms import carries_slope
from mmda._core.unit_rows import normalized_rows


class Pairs(NamedTuple):
    """Anchors, candidates, weights and pair masks. Only the first four fields may require a gradient.

    Attributes:
        a: anchors (n, d).
        b: candidates (m, d).
        temperature: scalar divisor of the products; None: ``Contrast.tau``.
        bias: scalar, for ``"sigmoid"``; None: 0.
        a_count: anchor weights (n,); None: ones. Rows of weight 0 may hold anything.
        b_count: candidate weights (m,).
        positive_mask: which candidates are positives of each anchor (n, m), bool; None: all with a positive weight.
        positive_weight: weights of the positives (n, m); None: 1. With neither, row i belongs to row i, and n = m.
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
        """Whether row i is the only positive of row i."""
        return self.positive_mask is None and self.positive_weight is None

    @property
    def plain(self) -> bool:
        """Whether there are no weights or masks."""
        return all(t is None for t in self[4:])


def without_padding(pairs: Pairs) -> Pairs:
    """The pairs with zeros in rows of weight 0; rows whose weights require a gradient were zeroed beforehand."""
    rows = (
        x if count is None or carries_slope(count) else zero_padding(x, count != 0)
        for x, count in zip(pairs[:2], pairs[4:6])
    )
    return pairs._replace(a=next(rows), b=next(rows))


class Contrast(NamedTuple):
    """Settings: which loss, from which logits.

    Attributes:
        kind: ``"info_nce"``, ``"symmetric"`` (the mean of both directions), ``"nt_xent"`` or ``"sigmoid"``.
        several: ``"mean"`` or ``"sum"`` over several positives.
        unit: normalise every row to length one.
        tau: the temperature, if it is not a tensor.
        block: rows per tile; 0 chooses by loss and device.
    """

    kind: str
    several: str = "mean"
    unit: bool = False
    tau: float = 1.0
    block: int = 0


def similarities(pairs: Pairs, how: Contrast, *, joined: bool = False) -> Tensor:
    """Products of the anchors with the candidates over the temperature (n, m); ``joined``: of both in one list."""
    a, b = (normalized_rows(rows) if how.unit else rows for rows in pairs[:2])
    if joined:
        a = b = torch.cat((a, b))
    return (a / (how.tau if pairs.temperature is None else pairs.temperature)) @ b.T


def counts(rows: Tensor, count: Tensor | None) -> Tensor:
    """``count``, or ones."""
    return torch.ones(rows.shape[0], dtype=rows.dtype, device=rows.device) if count is None else count


def own_pairs(like: Tensor) -> Tensor:
    """Bool mask of the diagonal."""
    return torch.eye(like.shape[0], dtype=torch.bool, device=like.device)


def positive_share(pairs: Pairs, dtype: torch.dtype) -> Tensor | None:
    """Weight of each candidate as a positive of each anchor (n, m), zero for rows of weight 0; None: the identity.

    Masked entries may hold any values.
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
    """Weight of each column as a negative of each row (n, m), where column j has weight ``count[j]``.

    Zero for positives (``share`` > 0; None: the diagonal). Without ``share``, a column of weight w adds its w - 1
    copies as negatives of its own row.
    """
    each = count.expand_as(like)
    if share is None:
        twins = (count - 1).clamp_min(0)
        each = torch.where(own_pairs(like), twins.expand_as(like), each)
    else:
        each = torch.where(share > 0, torch.zeros_like(like), each)
    return each if negative_mask is None else torch.where(negative_mask, each, torch.zeros_like(like))


def twins(count: Tensor, allowed: Tensor | None) -> Tensor:
    """Number of further copies of each row, count - 1, if they are ``allowed`` as candidates."""
    more = (count - 1).clamp_min_(0)
    return more if allowed is None else more.mul_(allowed)
