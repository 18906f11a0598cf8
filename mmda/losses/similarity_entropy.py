"""Entropy of similarity rows: test-time adaptation of retrieval (TENT)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmda._core.masking import full_precision, safe_divide
from mmda._core.weighted import weighted_logsumexp
from mmda._engine.logit_pairs import counts
from mmda._math.contrastive import candidate_rows, check_temperature
from mmda.layers.temperature import LearnableTemperature
from mmda.losses._tempered import CosineModule


def similarity_entropy_loss(
    anchor: Tensor,
    positive: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    normalize: bool = True,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
    candidate_mask: Tensor | None = None,
) -> Tensor:
    r"""Mean entropy of each anchor's softmax over all candidates (TENT for retrieval); lower means more confident.

    .. math:: L = - \frac{1}{n} \sum_i \sum_j p_{ij} \log p_{ij}, \qquad
              p_{ij} = \frac{\exp(s_{ij})}{\sum_l \exp(s_{il})}, \qquad s_{ij} = \cos(a_i, c_j) / \tau

    Args:
        anchor: a, for example queries.
        positive: c, the candidates. Rows are not paired, so their number may differ.
        temperature: :math:`\tau` > 0, a number or a scalar tensor.
        normalize: use cosine similarity (rows of length one); False uses plain inner products.
        weight: weights of the anchors, and if n = m of the candidates too: 2 counts a row twice, 0 leaves it out.
        mask: bool, True = keep; of the anchors, and if n = m of the candidates too.
        candidate_mask: mask of the candidates; required together with ``mask`` if n != m.

    Shape:
        ``anchor`` (n, d), ``positive`` (m, d), or with a mask (b, t, d), whose rows are flattened; ``weight`` and
        ``mask`` (n,) or (b, t).

    Returns:
        Scalar in [0, log m], float32 (float64 for float64 input). Zero where no row is left.

    Raises:
        ValueError: wrong shapes, a temperature that is not positive; n != m with ``mask`` but without
            ``candidate_mask``.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O(n m d) time, O(n m) memory. The loss uses no labels, so retrieving the same candidate for every anchor
        minimises it too. Train only :func:`~mmda.layers.affine_parameters`, for few steps, and monitor
        :func:`mmda.validators.pair_retrieval_recall` on labelled data.

    Example:
        >>> import torch
        >>> rows = torch.eye(3)
        >>> print(f"{similarity_entropy_loss(rows, rows):.4f}")
        0.0000
        >>> print(f"{similarity_entropy_loss(rows, rows, temperature=1e6):.4f}")  # log 3
        1.0986

    References:
        Wang, Shelhamer, Liu, Olshausen & Darrell, "Tent: Fully Test-Time Adaptation by Entropy Minimization", ICLR
        2021: the entropy, in the paper of class predictions.
    """
    caller = "similarity_entropy_loss"
    check_temperature(caller, temperature)
    with full_precision(anchor):
        pairs = candidate_rows(caller, anchor, positive, weight, mask, candidate_mask, normalize=normalize)
        if isinstance(temperature, Tensor):
            temperature = temperature.to(pairs.a.dtype)
        similarity = (pairs.a / temperature) @ pairs.b.transpose(0, 1)
        count = counts(pairs.b, pairs.b_count).expand_as(similarity)
        log_total = weighted_logsumexp(similarity, count).unsqueeze(1)
        some = count > 0
        gap = torch.where(some, log_total - similarity, torch.zeros_like(similarity))
        entropy = (torch.where(some, count, torch.zeros_like(count)) * (-gap).exp() * gap).sum(1)
        each = counts(pairs.a, pairs.a_count)
        return safe_divide((each * entropy).sum(), each.sum())


class SimilarityEntropyLoss(CosineModule):
    """Module form of :func:`similarity_entropy_loss` (TENT), which documents the formula, shapes and errors.

    Args:
        temperature: a number, a scalar tensor (registered as a buffer, or as a parameter if it is one), or a
            :class:`~mmda.layers.LearnableTemperature`.
        normalize: divide rows by their length.

    Example:
        >>> SimilarityEntropyLoss(temperature=0.1)
        SimilarityEntropyLoss(temperature=0.1, normalize=True)
    """

    _function = staticmethod(similarity_entropy_loss)

    def __init__(self, *, temperature: float | Tensor | LearnableTemperature = 0.07, normalize: bool = True) -> None:
        super().__init__(temperature, normalize)

    def forward(
        self,
        anchor: Tensor,
        positive: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
        candidate_mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`similarity_entropy_loss`."""
        return similarity_entropy_loss(
            anchor, positive, weight=weight, mask=mask, candidate_mask=candidate_mask, **self._options()
        )

    if TYPE_CHECKING:
        __call__ = forward
