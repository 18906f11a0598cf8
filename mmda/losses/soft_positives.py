"""Soft positives from text similarity, so that near-duplicate captions are not full negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.checks import check_features, check_number
from mmda._core.masking import full_precision, working_dtype
from mmda._core.unit_rows import normalized_rows


@torch.no_grad()
def text_similarity_weight(texts: Tensor, *, threshold: float = 0.8, strength: float = 1.0) -> Tensor:
    r"""Weight of each caption's partner as a positive of every other caption, from the similarity of their texts.

    .. math:: q_{ij} = \beta \max\Bigl(0, \frac{\cos(e_i, e_j) - \theta}{1 - \theta}\Bigr) \quad (i \ne j), \qquad
              q_{ii} = 1

    Args:
        texts: e, sentence embeddings of the captions in the order of the pairs; from a frozen encoder, not the one
            being trained.
        threshold: :math:`\theta` in [-1, 1), cosine above which captions are partial positives.
        strength: :math:`\beta` in [0, 1], weight of an identical caption relative to the anchor's own.

    Shape:
        (n, d); result (n, n).

    Returns:
        Weights in [0, 1], symmetric, without a gradient: the ``positive_weight`` of :func:`info_nce_loss`, which then
        splits each anchor's target over its positives and uses none of them as a negative. In your own loss, multiply
        the weights of negatives by ``1 - q``.

    Raises:
        ValueError: another shape, a setting out of its range.

    Notes:
        O(n^2 d) time, O(n^2) memory. For exact duplicates use :func:`duplicate_mask`.

    Example:
        >>> import torch
        >>> texts = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
        >>> text_similarity_weight(texts, threshold=0.6)
        tensor([[1.0000, 0.5000, 0.0000],
                [0.5000, 1.0000, 0.0000],
                [0.0000, 0.0000, 1.0000]])
    """
    caller = "text_similarity_weight"
    check_features(caller, "texts", texts)
    check_number(caller, "threshold", threshold, at_least=-1, below=1)
    check_number(caller, "strength", strength, at_least=0, at_most=1)
    with full_precision(texts):
        rows = normalized_rows(texts.detach().to(working_dtype(texts)))
        cosine = rows @ rows.transpose(0, 1)
        weight = strength * ((cosine - threshold) / (1 - threshold)).clamp(0, 1)
        return weight.fill_diagonal_(1)
