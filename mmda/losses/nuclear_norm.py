"""Batch nuclear-norm maximisation."""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.checks import check_number
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda._math.logits import as_logit_rows
from mmda._math.spectral import smooth_nuclear_norm
from mmda.losses._sample_modules import LogitModule


def batch_nuclear_norm_loss(
    logits: Tensor, *, smoothing: float = 1e-5, weight: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    r"""Minus the nuclear norm of the predictions, per row; lower means confident and diverse.

    With P the matrix (n, K) of softmax probabilities and :math:`\sigma_1 \dots \sigma_r` its
    :math:`r = \min(n, K)` singular values,

    .. math:: - \frac{1}{n} \sum_i \frac{\sigma_i^2}{\sqrt{\sigma_i^2 + \epsilon^2}}
              \quad \xrightarrow{\epsilon \to 0} \quad - \frac{1}{n} \lVert P \rVert_*

    Args:
        logits: scores before the softmax, usually of unlabelled rows.
        smoothing: :math:`\epsilon > 0`, in units of the singular values.
        weight: row weights: 2 counts a row twice, 0 leaves it out.
        mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``logits`` (n, K), or with a mask (b, t, K); weight and mask (n,) or (b, t).

    Returns:
        Scalar in [-sqrt(min(n, K) / n), 0], float32 (float64 for float64 input). Zero where no row is left.

    Raises:
        ValueError: wrong shapes, fewer than two classes, a smoothing that is not above 0.
        TypeError: a mask that is not bool, logits that are not floating point.

    Notes:
        O(n K min(n, K)). Each singular value is underestimated by at most :math:`\min(0.31 \epsilon, \epsilon^2 / 2
        \sigma)`: 5e-9 at :math:`\sigma = 0.01`. The norm itself has no derivative where a singular value is 0 (repeated
        rows, an unused class), hence the smoothing; there, second derivatives grow as :math:`1 / \epsilon`. Repeated
        singular values are safe, because their differences are never divided by. Derivatives up to third order are
        exact. With weights each row is scaled by the square root of its weight, which is not differentiable at weight
        0; the gradient there is 0.

    Example:
        >>> import torch
        >>> print(f"{batch_nuclear_norm_loss(100 * torch.eye(4)):.4f}")  # certain, all classes
        -1.0000
        >>> print(f"{batch_nuclear_norm_loss(100 * torch.eye(4)[:1].expand(4, 4)):.4f}")  # certain, one class
        -0.5000

    References:
        Cui, Wang, Zhuo, Li, Huang & Tian, "Towards Discriminability and Diversity: Batch Nuclear-norm Maximization
        under Label Insufficient Situations", CVPR 2020: the loss L_bnm.
    """
    caller = "batch_nuclear_norm_loss"
    check_number(caller, "smoothing", smoothing, above=0)
    with full_precision(logits):
        rows, counts = as_logit_rows(caller, "logits", logits, dtype=working_dtype(logits), mask=mask, weight=weight)
        p = rows.softmax(1)
        if counts is None:
            return -smooth_nuclear_norm(p, smoothing) / p.shape[0]
        zero = torch.zeros_like(counts)
        scale = torch.where(counts > 0, torch.where(counts > 0, counts, zero + 1).sqrt(), zero)
        return safe_divide(-smooth_nuclear_norm(p * scale.unsqueeze(1), smoothing), counts.sum())


class BatchNuclearNormLoss(LogitModule):
    """Module form of :func:`batch_nuclear_norm_loss`, which documents the formula, shapes and errors.

    Args:
        smoothing: smooths the norm near vanishing singular values, above 0.

    Example:
        >>> BatchNuclearNormLoss()
        BatchNuclearNormLoss(smoothing=1e-05)
    """

    _function = staticmethod(batch_nuclear_norm_loss)

    def __init__(self, *, smoothing: float = 1e-5) -> None:
        super().__init__()
        check_number("BatchNuclearNormLoss", "smoothing", smoothing, above=0)
        self.smoothing = smoothing
