"""Open-set adaptation by backpropagation (OSBP): the last class is for everything absent from the source."""

from __future__ import annotations

import torch
from torch import Tensor

from mmda._core.checks import check_number
from mmda._core.masking import full_precision, working_dtype
from mmda._math.logits import as_logit_rows, log_one_minus, weighted_mean
from mmda.losses._sample_modules import LogitModule


def open_set_loss(
    logits: Tensor, *, boundary: float = 0.5, weight: Tensor | None = None, mask: Tensor | None = None
) -> Tensor:
    r"""Cross-entropy between the unknown class's probability and a boundary (OSBP); lower means nearer to the boundary.

    With :math:`p_i` the softmax probability of the last class, "unknown", in target row i,

    .. math:: L = - \frac{1}{n} \sum_i \bigl( t \log p_i + (1 - t) \log (1 - p_i) \bigr)

    Args:
        logits: scores of the target rows before the softmax; the last class is the unknown one.
        boundary: t, between 0 and 1.
        weight: row weights: 2 counts a row twice, 0 leaves it out.
        mask: bool, True = keep. Padding may hold anything.

    Shape:
        ``logits`` (n, K + 1), or with a mask (b, t, K + 1); weight and mask (n,) or (b, t).

    Returns:
        Scalar >= 0, at least the entropy of (t, 1 - t); float32 (float64 for float64 input). Zero where no row is left.

    Raises:
        ValueError: wrong shapes, fewer than two classes, a boundary outside 0 to 1.
        TypeError: a mask that is not bool, logits that are not floating point.

    Notes:
        O(n K). Put a :class:`mmda.layers.GradientReversal` between the features and the classifier for this loss only:
        the classifier then pulls each target row to the boundary and the features push it away, to known or unknown, in
        one backward pass with the source's cross-entropy. Rows predicted as unknown are rejected.

    Example:
        >>> import torch
        >>> print(f"{open_set_loss(torch.tensor([[0.0, 0.0]])):.4f}")  # on the boundary: log 2
        0.6931
        >>> print(f"{open_set_loss(torch.tensor([[0.0, 10.0]])):.4f}")  # surely unknown
        5.0000

    References:
        Saito, Yamamoto, Ushiku & Harada, "Open Set Domain Adaptation by Backpropagation", ECCV 2018, equation 3.
    """
    caller = "open_set_loss"
    check_number(caller, "boundary", boundary, above=0, below=1)
    with full_precision(logits):
        rows, counts = as_logit_rows(caller, "logits", logits, dtype=working_dtype(logits), mask=mask, weight=weight)
        unknown = torch.full((rows.shape[0],), rows.shape[1] - 1, device=rows.device)
        log_p = rows.log_softmax(1)[:, -1]
        return weighted_mean(-boundary * log_p - (1 - boundary) * log_one_minus(rows, unknown), counts)


class OpenSetLoss(LogitModule):
    """Module form of :func:`open_set_loss` (OSBP), which documents the formula, shapes and errors.

    Args:
        boundary: probability of the unknown class to which the classifier pulls.

    Example:
        >>> OpenSetLoss()
        OpenSetLoss(boundary=0.5)
    """

    _function = staticmethod(open_set_loss)

    def __init__(self, *, boundary: float = 0.5) -> None:
        super().__init__()
        check_number("OpenSetLoss", "boundary", boundary, above=0, below=1)
        self.boundary = boundary
