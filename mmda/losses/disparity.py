"""Margin disparity discrepancy."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from mmda._core.checks import check_number, check_same_shape, check_same_width
from mmda._core.masking import full_precision, working_dtype
from mmda._core.transforms import values_are_known
from mmda._math.logits import as_logit_rows, log_one_minus, weighted_mean
from mmda.losses._modules import LossModule
from mmda.losses._sample_modules import of_sides


def margin_disparity_loss(
    source_logits: Tensor,
    source_adversary_logits: Tensor,
    target_logits: Tensor,
    target_adversary_logits: Tensor,
    *,
    margin: float = 4.0,
    source_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Tensor:
    r"""Loss of an adversary that should agree with the classifier on the source and disagree with it on the target.

    Lower means that the adversary separates the domains better. With classifier logits f, adversary logits f', the
    classifier's prediction :math:`\hat y = \arg\max_k f_k` for each row and :math:`\sigma = \mathrm{softmax}(f')`,

    .. math:: -D_\gamma = - \frac{\gamma}{n} \sum_{i \in S} \log \sigma_{\hat y_i}(f'(x_i))
              - \frac{1}{m} \sum_{j \in T} \log \bigl(1 - \sigma_{\hat y_j}(f'(x_j))\bigr)

    The adversary minimises it. With a :class:`mmda.layers.GradientReversal` between the features and the adversary, the
    features maximise it: the minimax problem of the paper in one backward pass.

    Args:
        source_logits: the classifier's logits on the source; only their arg max is used.
        source_adversary_logits: the adversary's logits on the same rows.
        target_logits: the classifier's logits on the target; only their arg max is used.
        target_adversary_logits: the adversary's logits on the same rows.
        margin: :math:`\gamma = e^\rho`, for the margin :math:`\rho`; above 0.
        source_weight, target_weight: row weights: 2 counts a row twice, 0 leaves it out.
        source_mask, target_mask: bool, True = keep. Padding may hold anything.

    Shape:
        Source logits (n, K), target logits (m, K), or with a mask (b, t, K); weights and masks (n,) and (m,), or
        (b, t).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input). A sample without rows after masks and weights adds zero.

    Raises:
        ValueError: wrong or different shapes, fewer than two classes, a margin that is not above 0.
        TypeError: a mask that is not bool, logits that are not floating point.

    Notes:
        O((n + m) K). The classifier's logits get no gradient, because of the arg max; ties take the first class. log(1
        - p) is computed as the log-sum-exp of the other classes, so the gradient does not vanish for a confident
        adversary. The sign is that of a loss for the adversary, as in :class:`mmda.losses.DomainAdversarialLoss`; the
        discrepancy of the paper is minus this value.

    Example:
        >>> import torch
        >>> agree, chosen = 9 * torch.eye(3), torch.eye(3)
        >>> print(f"{margin_disparity_loss(chosen, agree, chosen, -agree):.4f}")  # told apart
        0.0010
        >>> print(f"{margin_disparity_loss(chosen, agree, chosen, agree):.4f}")  # both sides alike
        8.3081

    References:
        Zhang, Liu, Long & Jordan, "Bridging Theory and Algorithm for Domain Adaptation", ICML 2019: the
        minimax problem with combined cross-entropy losses, negated.
    """
    caller = "margin_disparity_loss"
    check_number(caller, "margin", margin, above=0)
    check_same_shape(caller, "source_logits", source_logits, "source_adversary_logits", source_adversary_logits)
    check_same_shape(caller, "target_logits", target_logits, "target_adversary_logits", target_adversary_logits)
    check_same_width(caller, "source_logits", source_logits, "target_logits", target_logits, axis="classes")
    dtype = working_dtype(source_logits, source_adversary_logits, target_logits, target_adversary_logits)

    def chosen(
        side: str, logits: Tensor, adversary: Tensor, mask: Tensor | None, weight: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """The adversary's logits, the classifier's predictions, where they are NaN (None: nowhere), and row weights."""

        def rows(argument: str, x: Tensor) -> tuple[Tensor, Tensor | None]:
            return as_logit_rows(caller, argument, x, dtype=dtype, mask=mask, weight=weight, prefix=side + "_")

        classifier_rows = rows(f"{side}_logits", logits)[0].detach()
        adversary_rows, counts = rows(f"{side}_adversary_logits", adversary)
        top, choice = classifier_rows.max(1)
        known = top.device.type == "cpu" and values_are_known(top)
        missing = None if known and not math.isnan(float(top.sum())) else top.isnan()
        return adversary_rows, choice, missing, counts

    def mean(values: Tensor, missing: Tensor | None, counts: Tensor | None) -> Tensor:
        """Mean that propagates NaN logits, which the arg max would hide."""
        return weighted_mean(values if missing is None else values.masked_fill(missing, math.nan), counts)

    with full_precision(source_logits):
        rows, choice, missing, counts = chosen(
            "source", source_logits, source_adversary_logits, source_mask, source_weight
        )
        if missing is None and counts is None:
            agreement = F.cross_entropy(rows, choice)
        else:
            agreement = mean(F.cross_entropy(rows, choice, reduction="none"), missing, counts)
        rows, choice, missing, counts = chosen(
            "target", target_logits, target_adversary_logits, target_mask, target_weight
        )
        return margin * agreement - mean(log_one_minus(rows, choice), missing, counts)


class MarginDisparityLoss(LossModule):
    """Module form of :func:`margin_disparity_loss`, which documents the formula, shapes and errors.

    Args:
        margin: weight of the source term, above 0.

    Example:
        >>> MarginDisparityLoss(margin=2)
        MarginDisparityLoss(margin=2)
    """

    _function = staticmethod(margin_disparity_loss)

    def __init__(self, *, margin: float = 4.0) -> None:
        super().__init__()
        check_number("MarginDisparityLoss", "margin", margin, above=0)
        self.margin = margin

    def forward(
        self,
        source_logits: Tensor,
        source_adversary_logits: Tensor,
        target_logits: Tensor,
        target_adversary_logits: Tensor,
        *,
        source_weight: Tensor | None = None,
        target_weight: Tensor | None = None,
        source_mask: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """See :func:`margin_disparity_loss`."""
        return margin_disparity_loss(
            source_logits,
            source_adversary_logits,
            target_logits,
            target_adversary_logits,
            **of_sides(source_weight, target_weight, source_mask, target_mask),
            **self._options(),
        )

    if TYPE_CHECKING:
        __call__ = forward
