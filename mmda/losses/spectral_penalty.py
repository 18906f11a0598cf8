"""Batch spectral penalisation (BSP): penalises the largest singular values of a batch of features."""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.checks import check_count
from mmda._core.masking import full_precision
from mmda._core.rows import two_samples
from mmda._math.spectral import largest_squares
from mmda.losses._sample_modules import DiscrepancyModule


def batch_spectral_penalty_loss(
    source: Tensor,
    target: Tensor,
    *,
    singular_values: int = 1,
    source_weight: Tensor | None = None,
    target_weight: Tensor | None = None,
    source_mask: Tensor | None = None,
    target_mask: Tensor | None = None,
) -> Tensor:
    r"""Sum of the largest squared singular values of each domain's features (BSP); lower means a flatter spectrum.

    With :math:`\sigma_1 \ge \sigma_2 \ge \dots` the singular values of a domain's rows as a matrix,

    .. math:: L = \sum_{i=1}^{k} \bigl( \sigma_i^2(X_s) + \sigma_i^2(X_t) \bigr)

    Args:
        source: source features.
        target: target features; the number of rows may differ.
        singular_values: k, how many per domain; all of them if there are fewer.
        source_weight, target_weight: row weights: 2 counts a row twice, 0 leaves it out.
        source_mask, target_mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``source`` (n, d), ``target`` (m, d), or with a mask (b, t, d); weights and masks (n,) and (m,), or (b, t).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input). Zero if either sample is empty after masks and weights.

    Raises:
        ValueError: wrong shapes or widths, ``singular_values`` below 1.
        TypeError: a mask that is not bool, features that are not floating point.

    Notes:
        On its own it does not align domains. Adversarial training favours the directions with the largest singular
        values and loses class information in the others; this penalty, with a small weight (1e-4 in the paper), is
        added to an adversarial loss to preserve it. As in the paper it grows with the number of rows and with the
        square of their scale, and rows are not centred. O(n d min(n, d)) time. Derivatives to second order are exact
        where :math:`\sigma_k > \sigma_{k+1}`; where the two are equal the loss is not differentiable, and a subgradient
        is returned.

    Example:
        >>> import torch
        >>> rows = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
        >>> round(batch_spectral_penalty_loss(rows, torch.eye(2)).item(), 4)  # 3^2 + 1^2
        10.0

    References:
        Chen, Wang, Long & Wang, "Transferability vs. Discriminability: Batch Spectral Penalization for Adversarial
        Domain Adaptation", ICML 2019: the loss L_bsp.
    """
    caller = "batch_spectral_penalty_loss"
    check_count(caller, "singular_values", singular_values)
    with full_precision(source):
        x, y, x_weight, y_weight = two_samples(
            caller, source, target, (source_weight, target_weight), (source_mask, target_mask)
        )
        value = largest_squares(x, x_weight, singular_values) + largest_squares(y, y_weight, singular_values)
        totals = [weight.sum() for weight in (x_weight, y_weight) if weight is not None]
        return torch.where((torch.stack(totals) > 0).all(), value, 0 * value) if totals else value


class BatchSpectralPenaltyLoss(DiscrepancyModule):
    """Module form of :func:`batch_spectral_penalty_loss` (BSP), which documents the formula, shapes and errors.

    Args:
        singular_values: number of singular values per domain.

    Example:
        >>> BatchSpectralPenaltyLoss()
        BatchSpectralPenaltyLoss(singular_values=1)
    """

    _function = staticmethod(batch_spectral_penalty_loss)

    def __init__(self, *, singular_values: int = 1) -> None:
        super().__init__()
        check_count("BatchSpectralPenaltyLoss", "singular_values", singular_values)
        self.singular_values = singular_values
