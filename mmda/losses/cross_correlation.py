"""Cross-correlation of two views (Barlow Twins): each feature correlates with itself and with no other."""

from __future__ import annotations

from torch import Tensor

from mmda._core.checks import check_number
from mmda._core.masking import full_precision, safe_divide
from mmda._math.contrastive import pair_rows
from mmda._math.standardise import centred_rows, off_diagonal, weighted
from mmda.losses._pair_modules import PairedModule


def cross_correlation_loss(
    anchor: Tensor,
    positive: Tensor,
    *,
    redundancy: float = 5e-3,
    eps: float = 1e-5,
    weight: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Distance of the cross-correlation matrix of two views from the identity (Barlow Twins); lower means closer.

    With a and b the features of the two views, each standardised over the n rows by its mean and :math:`\sqrt{\sigma^2
    + \epsilon}`,

    .. math:: C_{ij} = \frac{1}{n} \sum_r a_{ri}\, b_{rj}, \qquad
              L = \sum_i (1 - C_{ii})^2 + \lambda \sum_i \sum_{j \ne i} C_{ij}^2

    Args:
        anchor: features of one view, modality or domain.
        positive: features of the other; row i belongs to row i.
        redundancy: :math:`\lambda \ge 0`.
        eps: :math:`\epsilon > 0`, added to the biased variances.
        weight: pair weights: 2 counts a pair twice, 0 leaves it out.
        mask: bool, True = valid pair. Padding may hold anything.

    Shape:
        ``anchor``, ``positive`` (n, d), or with a mask (b, t, d); ``weight``, ``mask`` (n,) or (b, t).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); d for constant features. Zero if no pair is left.

    Raises:
        ValueError: wrong shapes, a negative ``redundancy``, an ``eps`` that is not above 0.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        O(n d^2) time, O(d^2) memory. Needs no negatives, but enough rows to estimate the correlations, preferably more
        rows than features. ``eps`` is that of the batch normalisation in the authors' code and avoids a division by
        zero for constant features.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
        >>> print(f"{cross_correlation_loss(rows, rows):.3f} {cross_correlation_loss(rows, -rows):.3f}")
        0.000 8.000

    References:
        Zbontar, Jing, Misra, LeCun & Deny, "Barlow Twins: Self-Supervised Learning via Redundancy Reduction", ICML
        2021, equations 1 and 2.
    """
    caller = "cross_correlation_loss"
    _check_settings(caller, redundancy, eps)
    with full_precision(anchor):
        pairs = pair_rows(caller, anchor, positive, weight, mask)
        a, total = centred_rows(pairs.a, pairs.a_count)
        b, _ = centred_rows(pairs.b, pairs.a_count)
        standard = []
        for rows in (a, b):
            top = rows.detach().abs().amax(0).clamp(min=1)  # squares of long rows would overflow
            rows = rows / top
            variance = safe_divide(weighted(rows.square(), pairs.a_count).sum(0), total)
            standard.append(rows * (variance + eps / top.square()).rsqrt())
        correlation = safe_divide(weighted(standard[0], pairs.a_count).transpose(0, 1) @ standard[1], total)
        value = (1 - correlation.diagonal()).square().sum() + redundancy * off_diagonal(correlation).square().sum()
        return value * (total > 0)


def _check_settings(caller: str, redundancy: float, eps: float) -> None:
    check_number(caller, "redundancy", redundancy, at_least=0)
    check_number(caller, "eps", eps, above=0)


class CrossCorrelationLoss(PairedModule):
    """Module form of :func:`cross_correlation_loss` (Barlow Twins), which documents the formula, shapes and errors.

    Args:
        redundancy: weight of the correlations between different features.
        eps: added to the variances.

    Example:
        >>> CrossCorrelationLoss()
        CrossCorrelationLoss(redundancy=0.005, eps=1e-05)
    """

    _function = staticmethod(cross_correlation_loss)

    def __init__(self, *, redundancy: float = 5e-3, eps: float = 1e-5) -> None:
        super().__init__()
        _check_settings("CrossCorrelationLoss", redundancy, eps)
        self.redundancy = redundancy
        self.eps = eps
