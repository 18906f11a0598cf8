"""Variance, invariance and covariance of two views (VICReg)."""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.checks import check_number
from mmda._core.masking import full_precision, safe_divide
from mmda._math.contrastive import pair_rows
from mmda._math.standardise import centred_rows, off_diagonal, weighted
from mmda.losses._pair_modules import PairedModule


def variance_covariance_loss(
    anchor: Tensor,
    positive: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    margin: float = 1.0,
    eps: float = 1e-4,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Distance of paired rows plus penalties against collapse (VICReg); lower means close and spread out.

    With C the covariance (with 1 / (n - 1)) of the rows z of one view,

    .. math::

       S &= \frac{1}{n d} \sum_r \lVert a_r - p_r \rVert^2, \qquad
       V(z) = \frac{1}{d} \sum_i \max\bigl(0, \gamma - \sqrt{C_{ii} + \epsilon}\bigr), \qquad
       K(z) = \frac{1}{d} \sum_i \sum_{j \ne i} C_{ij}^2 \\
       L &= \lambda\, S + \frac{\mu}{2} \bigl(V(a) + V(p)\bigr) + \nu\, \bigl(K(a) + K(p)\bigr)

    Args:
        anchor: a, features of one view, modality or domain.
        positive: p, features of the other; row i belongs to row i.
        invariance: :math:`\lambda \ge 0`.
        variance: :math:`\mu \ge 0`.
        covariance: :math:`\nu \ge 0`.
        margin: :math:`\gamma > 0`, the target standard deviation.
        eps: :math:`\epsilon > 0`.
        weight: pair weights: 2 counts a pair twice, 0 leaves it out.
        mask: bool, True = valid pair. Padding may hold anything.

    Shape:
        ``anchor``, ``positive`` (n, d), or with a mask (b, t, d); ``weight``, ``mask`` (n,) or (b, t).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input). Zero if no pair is left; for a single pair the variances are
        0.

    Raises:
        ValueError: wrong shapes, a weight that is negative, a margin or ``eps`` that is not above 0.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O(n d^2) time, O(d^2) memory. Differs from the paper's text: S is divided by d and V is averaged over the two
        views, as in the authors' code, for which the default weights were tuned. The hinge is not differentiable at the
        margin.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> print(f"{variance_covariance_loss(rows, rows):.4f}")
        0.0000
        >>> print(f"{variance_covariance_loss(0 * rows, 0 * rows):.4f}")  # collapsed: 25 (1 - sqrt(1e-4))
        24.7500

    References:
        Bardes, Ponce & LeCun, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning",
        ICLR 2022, equations 1 to 6.
    """
    caller = "variance_covariance_loss"
    _check_settings(caller, invariance, variance, covariance, margin, eps)
    with full_precision(anchor):
        pairs = pair_rows(caller, anchor, positive, weight, mask)
        count, width = pairs.a_count, pairs.a.shape[1]
        sides = [centred_rows(rows, count) for rows in (pairs.a, pairs.b)]
        total = sides[0][1]
        gap = weighted((pairs.a - pairs.b).square(), count).sum()
        value = invariance * safe_divide(gap, total * width)
        for rows, _ in sides:
            spread = safe_divide(weighted(rows, count).transpose(0, 1) @ rows, total - 1)
            hinge = torch.relu(margin - (spread.diagonal() + eps).sqrt()).mean()
            value = value + variance / 2 * hinge + covariance * off_diagonal(spread).square().sum() / width
        return value * (total > 0)


def _check_settings(
    caller: str, invariance: float, variance: float, covariance: float, margin: float, eps: float
) -> None:
    for name, number in (("invariance", invariance), ("variance", variance), ("covariance", covariance)):
        check_number(caller, name, number, at_least=0)
    check_number(caller, "margin", margin, above=0)
    check_number(caller, "eps", eps, above=0)


class VarianceCovarianceLoss(PairedModule):
    """Module form of :func:`variance_covariance_loss` (VICReg), which documents the formula, shapes and errors.

    Args:
        invariance: weight of the distance of paired rows.
        variance: weight of the hinge on standard deviations.
        covariance: weight of the covariances between features.
        margin: the target standard deviation.
        eps: added to the variances.

    Example:
        >>> VarianceCovarianceLoss()
        VarianceCovarianceLoss(invariance=25, variance=25, covariance=1, margin=1, eps=0.0001)
    """

    _function = staticmethod(variance_covariance_loss)

    def __init__(
        self,
        *,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
        margin: float = 1.0,
        eps: float = 1e-4,
    ) -> None:
        super().__init__()
        _check_settings("VarianceCovarianceLoss", invariance, variance, covariance, margin, eps)
        self.invariance = invariance
        self.variance = variance
        self.covariance = covariance
        self.margin = margin
        self.eps = eps
