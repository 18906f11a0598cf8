"""Minimum class confusion."""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.checks import check_number
from mmda._core.masking import full_precision, working_dtype
from mmda._core.reductions import masked_log_softmax
from mmda._math.logits import as_logit_rows, entropy_of
from mmda.losses._sample_modules import LogitModule


def minimum_class_confusion_loss(
    logits: Tensor, *, temperature: float = 2.5, weight: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    r"""Pairwise confusion between classes in the predictions; lower means better separated classes.

    With rows :math:`z_1 \dots z_n` of logits over K classes, :math:`P_{ij} = \mathrm{softmax}(z_i / T)_j`, entropies
    :math:`H_i` of its rows and row weights :math:`u_i = 1 + \exp(-H_i)`,

    .. math:: C_{jk} = \sum_i u_i P_{ij} P_{ik}, \qquad
              \frac{1}{K} \sum_j \sum_{k \ne j} \frac{C_{jk}}{\sum_{l} C_{jl}}

    The weights :math:`u_i` are constants: no gradient flows through them.

    Args:
        logits: finite scores before the softmax, usually of unlabelled rows.
        temperature: T > 0.
        weight: row weights: 2 counts a row twice, 0 leaves it out.
        mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``logits`` (n, K), or with a mask (b, t, K); weight and mask (n,) or (b, t).

    Returns:
        Scalar in [0, 1], float32 (float64 for float64 input). Zero where no row is left.

    Raises:
        ValueError: wrong shapes, fewer than two classes, a temperature that is not above 0.
        TypeError: a mask that is not bool, logits that are not floating point.

    Notes:
        O(n K) time and memory: rows of P sum to one, so the normalised row j of C is a softmax of :math:`\log u_i +
        \log P_{ij}` over the samples, and C is never formed. The softmax also avoids 0 / 0 for a class that no row
        predicts. The paper scales u to sum to n, which cancels here, and leaves open whether it carries a gradient; the
        authors' code detaches it, as here. A finite-difference derivative includes the change of u and so differs from
        the gradient.

    Example:
        >>> import torch
        >>> print(f"{minimum_class_confusion_loss(100 * torch.eye(3)):.4f}")  # every row certain
        0.0000
        >>> print(f"{minimum_class_confusion_loss(torch.zeros(5, 4)):.4f}")  # 1 - 1 / K
        0.7500

    References:
        Jin, Wang, Long & Wang, "Minimum Class Confusion for Versatile Domain Adaptation", ECCV 2020:
        probability rescaling, class correlation, uncertainty reweighting and category normalisation.
    """
    caller = "minimum_class_confusion_loss"
    check_number(caller, "temperature", temperature, above=0)
    with full_precision(logits):
        rows, counts = as_logit_rows(caller, "logits", logits, dtype=working_dtype(logits), mask=mask, weight=weight)
        log_p = (rows / temperature).log_softmax(1)
        log_u = torch.exp(-entropy_of(log_p.detach())).log1p().unsqueeze(1)
        confused = -torch.expm1(log_p)  # 1 - P
        if counts is None:
            return ((log_p + log_u).softmax(0) * confused).sum(0).mean()
        counted = counts > 0
        log_counts = torch.where(counted, counts, torch.ones_like(counts)).log().unsqueeze(1)
        kept = counted.unsqueeze(1).expand_as(log_p)
        share = masked_log_softmax(log_p + log_u + log_counts, kept, 0).exp()
        return torch.where(kept, share * confused, torch.zeros_like(share)).sum(0).mean()


class MinimumClassConfusionLoss(LogitModule):
    """Module form of :func:`minimum_class_confusion_loss`, which documents the formula, shapes and errors.

    Args:
        temperature: softens the predictions, above 0.

    Example:
        >>> MinimumClassConfusionLoss()
        MinimumClassConfusionLoss(temperature=2.5)
    """

    _function = staticmethod(minimum_class_confusion_loss)

    def __init__(self, *, temperature: float = 2.5) -> None:
        super().__init__()
        check_number("MinimumClassConfusionLoss", "temperature", temperature, above=0)
        self.temperature = temperature
