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
    r"""Mean absolute difference of two classifiers' probabilities; lower means that they agree.

    With :math:`p_i, q_i` the softmax of row i of each, over K classes,

    .. math:: \frac{1}{n K} \sum_i \sum_k \lvert p_{ik} - q_{ik} \rvert

    On target rows the two classifiers maximise it (minimise its negative) beside their source loss, and the
    feature extractor minimises it: the second and third step of maximum classifier discrepancy.

    Args:
        first_logits: one classifier's scores before the softmax.
        second_logits: the other's, on the same rows.
        weight: how often each row counts: 2 is a repeated row, 0 an absent one.
        mask: bool, True = keep. Padding may hold anything.

    Shape:
        Both (n, K), or with a mask (b, t, K); weight and mask (n,) or (b, t).

    Returns:
        Scalar in [0, 2 / K], float32 (float64 for float64 input). Zero where no row is left.

    Raises:
        ValueError: wrong or different shapes, fewer than two classes.
        TypeError: a mask that is not bool, logits that are not floating point.

    Notes:
        O(n K). Symmetric in its arguments. The slope of the absolute value at a tie is taken as 0, so two heads
        with equal weights never part: start them differently.

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
    """Module form of :func:`classifier_discrepancy_loss`, which holds the formula, shapes and errors.

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
