"""Triplet ranking: the positive is more similar than the negatives by a margin."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mmda._core.checks import check_choice, check_number
from mmda._core.masking import full_precision, safe_divide
from mmda._engine.logit_pairs import counts, negative_counts, positive_share
from mmda._math.contrastive import candidate_rows, with_masks
from mmda.losses._pair_modules import CandidatesModule

Negatives = Literal["hardest", "semi_hard", "all"]
_NEGATIVES = ("hardest", "semi_hard", "all")


def triplet_ranking_loss(
    anchor: Tensor,
    positive: Tensor,
    *,
    margin: float = 0.2,
    negatives: Negatives = "hardest",
    symmetric: bool = True,
    normalize: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    candidate_mask: Tensor | None = None,
    positive_mask: Tensor | None = None,
    negative_mask: Tensor | None = None,
) -> Tensor:
    r"""Mean hinge loss of positives against negatives with a margin; lower means better ranked.

    With :math:`s_{ij} = \cos(x_i, y_j)`, positive similarity :math:`s_i^+ = s_{ii}` (the least similar one of several
    positives) and the negatives :math:`N_i`,

    .. math::

       L_{x \to y} = \frac{1}{n} \sum_i \ell_i, \qquad h(s) = \max(0, m - s_i^+ + s)

    - ``"hardest"``: :math:`\ell_i = h(\max_{j \in N_i} s_{ij})`,
    - ``"semi_hard"``: the same over the :math:`j \in N_i` with :math:`s_{ij} < s_i^+`,
    - ``"all"``: :math:`\ell_i` is the mean of :math:`h(s_{ij})` over :math:`N_i`,

    With ``symmetric``, :math:`L = (L_{x \to y} + L_{y \to x}) / 2`, the second term with the roles exchanged.

    Args:
        anchor: anchor features x.
        positive: candidates y; without ``positive_mask``, row i belongs to anchor i.
        margin: m > 0.
        negatives: which negatives to use.
        symmetric: average both directions; False scores only anchors against candidates.
        normalize: use cosine similarity (rows of length one); False uses plain inner products.
        weight: pair weights, for both anchor and candidate: 2 counts a pair twice (the copy is a negative, like every
            other row), 0 leaves it out. With n != m, anchor weights.
        mask: bool, True = valid pair. Padding may hold anything. With n != m, of the anchors only.
        candidate_mask: bool, True = valid candidate; defaults to ``mask`` if n = m; required together with ``mask``
            otherwise.
        positive_mask: bool, True where candidate j is a positive of anchor i.
        negative_mask: bool, True where candidate j may be a negative of anchor i; all by default.

    Shape:
        ``anchor`` (n, d), ``positive`` (m, d), or with masks (b, t, d), whose rows are flattened; ``weight`` and
        ``mask`` (n,) or (b, t), ``candidate_mask`` (m,) or (b, t); masks of pairs (n, m).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input). Anchors without a positive are left out of the mean; anchors
        without a (semi-hard) negative add zero.

    Raises:
        ValueError: wrong shapes, a margin that is not positive, n != m without ``positive_mask``,
            or with ``mask`` but without ``candidate_mask``.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O(n m d) time, O(n m) memory. Value and gradient are zero once every positive leads by the margin. Equally hard
        negatives share the gradient. Differs from the paper (VSE++): averages over the batch and the two directions
        instead of summing.

    Example:
        >>> import torch
        >>> rows = torch.eye(3)
        >>> triplet_ranking_loss(rows, rows).item()
        0.0
        >>> round(triplet_ranking_loss(rows, rows.roll(1, 0)).item(), 4)  # 0.2 - 0 + 1
        1.2

    References:
        Faghri et al., "VSE++: Improving Visual-Semantic Embeddings with Hard Negatives", BMVC 2018, equations 5
        (``"all"``) and 6 (``"hardest"``); Schroff et al., "FaceNet", CVPR 2015, equation 4 (``"semi_hard"``).
    """
    caller = "triplet_ranking_loss"
    check_number(caller, "margin", margin, above=0.0)
    check_choice(caller, "negatives", negatives, _NEGATIVES)
    with full_precision(anchor):
        pairs = candidate_rows(caller, anchor, positive, weight, mask, candidate_mask, normalize=normalize)
        pairs = with_masks(caller, pairs, positive_mask, negative_mask)
        similarity = pairs.a @ pairs.b.T
        share = positive_share(pairs, similarity.dtype)
        x_count, y_count = counts(pairs.a, pairs.a_count), counts(pairs.b, pairs.b_count)
        value = _one_way(similarity, share, negative_mask, x_count, y_count, margin, negatives)
        if symmetric:
            turned = (None if share is None else share.T, None if negative_mask is None else negative_mask.T)
            value = (value + _one_way(similarity.T, *turned, y_count, x_count, margin, negatives)) / 2
        return value


def _one_way(
    s: Tensor,
    share: Tensor | None,
    negative_mask: Tensor | None,
    row_count: Tensor,
    column_count: Tensor,
    margin: float,
    negatives: Negatives,
) -> Tensor:
    negative = negative_counts(s, share, negative_mask, column_count)
    if share is None:
        own, has_positive = s.diagonal(), column_count > 0
    else:
        ceiling = torch.full((), torch.finfo(s.dtype).max, dtype=s.dtype, device=s.device)
        has_positive = (share > 0).any(1)
        own = torch.where(share > 0, s, ceiling).amin(1)
        own = torch.where(has_positive, own, torch.zeros_like(own))
    gap = margin - own.unsqueeze(1) + s
    if negatives == "all":
        each = safe_divide((negative * gap.clamp_min(0)).sum(1), negative.sum(1))
    else:
        allowed = negative > 0
        if negatives == "semi_hard":
            allowed = allowed & ~(s >= own.unsqueeze(1))  # also keeps NaN
        each = torch.where(allowed, gap, torch.zeros_like(gap)).amax(1).clamp_min(0)
    kept = torch.where(has_positive, row_count, torch.zeros_like(row_count))
    return safe_divide(kept @ each, kept.sum())


class TripletRankingLoss(CandidatesModule):
    """Module form of :func:`triplet_ranking_loss`, which documents the formula, shapes and errors.

    Args:
        margin: m > 0.
        negatives: ``"hardest"``, ``"semi_hard"`` or ``"all"``.
        symmetric: average both directions.
        normalize: divide rows by their length.

    Example:
        >>> TripletRankingLoss(negatives="all")
        TripletRankingLoss(margin=0.2, negatives='all', symmetric=True, normalize=True)
    """

    _function = staticmethod(triplet_ranking_loss)

    def __init__(
        self,
        *,
        margin: float = 0.2,
        negatives: Negatives = "hardest",
        symmetric: bool = True,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        check_number("TripletRankingLoss", "margin", margin, above=0.0)
        check_choice("TripletRankingLoss", "negatives", negatives, _NEGATIVES)
        self.margin = margin
        self.negatives: Negatives = negatives
        self.symmetric = symmetric
        self.normalize = normalize
