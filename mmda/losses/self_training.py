"""Self-training: cross-entropy with pseudo-labels, weighted by confidence (ATDOC, SHOT)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from mmda._core.checks import check_integers, check_number, check_weight
from mmda._core.masking import full_precision, working_dtype
from mmda._math.logits import as_logit_rows, weighted_mean
from mmda.losses._modules import LossModule


def self_training_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    confidence: Tensor | None = None,
    smoothing: float = 0.0,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy of predictions with pseudo-labels, weighted by confidence; lower means that they agree.

    With pseudo-labels :math:`\hat y`, confidences c in [0, 1] and :math:`p_i = \mathrm{softmax}(z_i)` over K classes,

    .. math:: L = - \frac{1}{n} \sum_i c_i \Bigl( (1 - \alpha) \log p_{i \hat y_i}
              + \frac{\alpha}{K} \sum_k \log p_{ik} \Bigr)

    Args:
        logits: scores before the softmax, of target rows.
        labels: an integer per row; a negative one means no label, and the row adds 0.
        confidence: c; all ones by default. Detached and not normalised: unconfident rows add less, as in ATDOC.
        smoothing: :math:`\alpha` in [0, 1), the part of the label spread evenly over all classes.
        weight: row weights: 2 counts a row twice, 0 leaves it out.
        mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``logits`` (n, K) and the others (n,), or with a mask (b, t, K) and (b, t).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input). Zero where no row is left.

    Raises:
        ValueError: wrong shapes, fewer than two classes, a smoothing outside 0 to 1.
        TypeError: labels that are not integers, a mask that is not bool, logits that are not floating point.

    Notes:
        O(n K). Confident errors of the model reinforce themselves: start from a trained source model, with a small
        weight. A label of K or more raises an indexing error.

    Example:
        >>> import torch
        >>> labels = torch.tensor([0, -1])
        >>> print(f"{self_training_loss(torch.zeros(2, 4), labels):.4f}")  # log(4) / 2
        0.6931

    References:
        Liang, Hu & Feng, "Domain Adaptation with Auxiliary Target Domain-Oriented Classifier" (ATDOC), CVPR 2021,
        equation 6; Liang, Hu & Feng, "Do We Really Need to Access the Source Data?" (SHOT), ICML 2020, equation 7.
    """
    caller = "self_training_loss"
    check_number(caller, "smoothing", smoothing, at_least=0, below=1)
    dtype = working_dtype(logits)
    with full_precision(logits):
        rows, counts = as_logit_rows(caller, "logits", logits, dtype=dtype, mask=mask, weight=weight)
        check_integers(caller, "labels", labels, logits.shape[:-1], device=logits.device)
        label = labels.reshape(-1).long()
        labelled = label >= 0
        if mask is not None:
            labelled = labelled & mask.reshape(-1)
        loss = F.cross_entropy(rows, torch.where(labelled, label, 0), reduction="none", label_smoothing=smoothing)
        zero = torch.zeros((), dtype=dtype, device=rows.device)
        if confidence is not None:
            check_weight(caller, "confidence", confidence, logits.shape[:-1], device=logits.device)
            sure = torch.where(labelled, confidence.detach().to(dtype).reshape(-1), zero)
            loss = loss * sure
        return weighted_mean(torch.where(labelled, loss, zero), counts)


class SelfTrainingLoss(LossModule):
    """Module form of :func:`self_training_loss`, which documents the formula, shapes and errors.

    Args:
        smoothing: the part of the label spread evenly over all classes.

    Example:
        >>> SelfTrainingLoss(smoothing=0.1)
        SelfTrainingLoss(smoothing=0.1)
    """

    _function = staticmethod(self_training_loss)

    def __init__(self, *, smoothing: float = 0.0) -> None:
        super().__init__()
        check_number("SelfTrainingLoss", "smoothing", smoothing, at_least=0, below=1)
        self.smoothing = smoothing

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        confidence: Tensor | None = None,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`self_training_loss`."""
        return self_training_loss(logits, labels, confidence=confidence, weight=weight, mask=mask, **self._options())

    if TYPE_CHECKING:
        __call__ = forward
