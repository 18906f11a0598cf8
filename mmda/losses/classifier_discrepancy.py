"""Maximum classifier discrepancy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from mmda._core.checks import check_same_shape
from mmda._core.masking import full_precision, working_dtype
from mmda._math.logits import as_logit_rows, weighted_mean
from mmda.losses._modules import LossModule


def classifier_discrepancy_loss(
    first_logits: Tensor, second_logits: Tensor, *, weight: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    r"""Mean absolute difference of two classifiers' probabilities; lower means closer agreement.

    With :math:`p_i, q_i` the softmax of row i of each, over K classes,

    .. math:: \frac{1}{n K} \sum_i \sum_k \lvert p_{ik} - q_{ik} \rvert

    On target rows the two classifiers maximise it (minimise its negative) together with their source loss, and the
    feature extractor minimises it: steps two and three of maximum classifier discrepancy.

    Args:
        first_logits: one classifier's scores before the softmax.
        second_logits: the other's, on the same rows.
        weight: row weights: 2 counts a row twice, 0 leaves it out.
        mask: bool, True = keep. Padding may hold anything.

    Shape:
        Both (n, K), or with a mask (b, t, K); weight and mask (n,) or (b, t).

    Returns:
        Scalar in [0, 2 / K], float32 (float64 for float64 input). Zero where no row is left.

    Raises:
        ValueError: wrong or different shapes, fewer than two classes.
        TypeError: a mask that is not bool, logits that are not floating point.

    Notes:
        O(n K). Symmetric in its arguments. The gradient where both are equal is 0, so two heads with the same initial
        weights never separate: initialise them differently.

    Example:
        >>> import torch
        >>> first, second = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 50.0]])
        >>> print(f"{classifier_discrepancy_loss(first, second):.4f}")
        1.0000

    References:
        Saito, Watanabe, Ushiku & Harada, "Maximum Classifier Discrepancy for Unsupervised Domain Adaptation",
        CVPR 2018: the discrepancy loss d(p1, p2), averaged over the batch.
    """
    caller = "classifier_discrepancy_loss"
    check_same_shape(caller, "first_logits", first_logits, "second_logits", second_logits)
    dtype = working_dtype(first_logits, second_logits)
    with full_precision(first_logits):
        first, counts = as_logit_rows(caller, "first_logits", first_logits, dtype=dtype, mask=mask, weight=weight)
        second, _ = as_logit_rows(caller, "second_logits", second_logits, dtype=dtype, mask=mask, weight=weight)
        return weighted_mean((first.softmax(1) - second.softmax(1)).abs().mean(1), counts)


class ClassifierDiscrepancyLoss(LossModule):
    """Module form of :func:`classifier_discrepancy_loss`, which documents the formula, shapes and errors.

    Example:
        >>> ClassifierDiscrepancyLoss()
        ClassifierDiscrepancyLoss()
    """

    _function = staticmethod(classifier_discrepancy_loss)

    def forward(
        self,
        first_logits: Tensor,
        second_logits: Tensor,
        *,
        weight: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`classifier_discrepancy_loss`."""
        return classifier_discrepancy_loss(first_logits, second_logits, weight=weight, mask=mask)

    if TYPE_CHECKING:
        __call__ = forward
