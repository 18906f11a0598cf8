"""Entropy over spans: test-time adaptation of grounding (TENT)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmda._core.checks import check_features, check_floating, check_mask, check_same_shape
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda._core.reductions import masked_log_softmax
from mmda.losses._modules import LossModule


def span_entropy_loss(
    start_logits: Tensor, end_logits: Tensor, *, normalised: bool = True, mask: Tensor | None = None
) -> Tensor:
    r"""Mean entropy of the distribution over spans (TENT for grounding); lower means more confident.

    .. math:: P(s, e) = \frac{\exp(u_s + v_e)}{Z}, \quad s \le e, \qquad
              L = - \frac{1}{n} \sum_{\text{videos}} \sum_{s \le e} P(s, e) \log P(s, e)

    Args:
        start_logits: u, one per clip.
        end_logits: v, one per clip.
        normalised: divide each video's entropy by the log of its number of spans.
        mask: bool, True = valid clip. Padding may hold anything.

    Shape:
        All (b, t).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input): the mean over videos with at least one clip, in [0, 1] if
        normalised, else in nats. Zero if there is none.

    Raises:
        ValueError: wrong or different shapes.
        TypeError: a mask that is not bool, logits that are not floating point.

    Notes:
        O(b t^2), in float64 inside. A differentiable :func:`mmda.validators.span_entropy`. The loss uses no labels, so
        predicting the same span everywhere minimises it too. Train only :func:`~mmda.layers.affine_parameters`, for few
        steps, and monitor :func:`mmda.validators.span_constancy`.

    Example:
        >>> import torch
        >>> print(f"{span_entropy_loss(torch.zeros(1, 3), torch.zeros(1, 3), normalised=False):.4f}")  # log 6
        1.7918

    References:
        Wang, Shelhamer, Liu, Olshausen & Darrell, "Tent: Fully Test-Time Adaptation by Entropy Minimization", ICLR
        2021: the entropy, in the paper of class predictions.
    """
    caller = "span_entropy_loss"
    check_features(caller, "start_logits", start_logits, axes="(batch, time)")
    check_floating(caller, "end_logits", end_logits)
    check_same_shape(caller, "start_logits", start_logits, "end_logits", end_logits)
    dtype = working_dtype(start_logits, end_logits)
    with full_precision(start_logits):
        u, v = start_logits.double(), end_logits.double()
        steps = torch.arange(u.shape[1], device=u.device)
        span = steps.unsqueeze(1) <= steps
        if mask is None:
            kept = span.expand(u.shape[0], -1, -1)
        else:
            check_mask(caller, "mask", mask, start_logits.shape, device=start_logits.device)
            zero = torch.zeros((), dtype=u.dtype, device=u.device)
            u, v = torch.where(mask, u, zero), torch.where(mask, v, zero)
            kept = span & mask.unsqueeze(2) & mask.unsqueeze(1)
        score = (u.unsqueeze(2) + v.unsqueeze(1)).flatten(1)
        kept = kept.flatten(1)
        log_p = masked_log_softmax(score, kept, 1)
        entropy = -torch.where(kept, log_p.exp() * log_p, torch.zeros_like(log_p)).sum(1)
        number = kept.sum(1).to(entropy.dtype)
        if normalised:
            entropy = safe_divide(entropy, torch.where(number > 1, number, torch.ones_like(number)).log())
        some = (number > 0).to(entropy.dtype)
        return safe_divide((entropy * some).sum(), some.sum()).to(dtype)


class SpanEntropyLoss(LossModule):
    """Module form of :func:`span_entropy_loss` (TENT), which documents the formula, shapes and errors.

    Args:
        normalised: divide each video's entropy by the log of its number of spans.

    Example:
        >>> SpanEntropyLoss()
        SpanEntropyLoss(normalised=True)
    """

    _function = staticmethod(span_entropy_loss)

    def __init__(self, *, normalised: bool = True) -> None:
        super().__init__()
        self.normalised = normalised

    def forward(self, start_logits: Tensor, end_logits: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """See :func:`span_entropy_loss`."""
        return span_entropy_loss(start_logits, end_logits, mask=mask, **self._options())

    if TYPE_CHECKING:
        __call__ = forward
