"""The supervised loss of moment retrieval: start, end and inside of a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from mmda._core.checks import (
    check_features,
    check_floating,
    check_mask,
    check_same_shape,
    check_weight,
    fail,
    fail_type,
    shape_text,
)
from mmda._core.masking import full_precision, safe_divide, working_dtype
from mmda._core.reductions import masked_log_softmax, masked_mean
from mmda.losses._modules import LossModule


class MomentTargets(NamedTuple):
    """Clip-level targets of moments given in seconds.

    Attributes:
        start: (b, t), fraction of the moments that start in this clip; rows sum to 1, or to 0 without a moment.
        end: (b, t), the same for the ends.
        inside: (b, t) bool, the clip's centre lies in a moment (a moment shorter than a clip marks the clip it is in).
    """

    start: Tensor
    end: Tensor
    inside: Tensor


def moment_targets(windows: Tensor, window_mask: Tensor, clip_times: Tensor, frame_mask: Tensor) -> MomentTargets:
    r"""Clip-level targets for :func:`moment_localization_loss`.

    A window (a, e) covers the clips whose centre lies in [a, e), or if there is none the clip whose centre is nearest
    to (a + e) / 2; its start target is the first of them, its end target the last. Several windows of a query share the
    target mass equally. A window entirely before the first or after the last clip is ignored, because the features do
    not cover it.

    Args:
        windows: starts and ends in seconds.
        window_mask: bool, True = a real window.
        clip_times: start and end of each clip in seconds.
        frame_mask: bool, True = a real clip.

    Shape:
        ``windows`` (b, w, 2), ``window_mask`` (b, w), ``clip_times`` (b, t, 2), ``frame_mask`` (b, t).

    Returns:
        :class:`MomentTargets` of shape (b, t) each.

    Raises:
        ValueError: wrong shapes.
        TypeError: a mask that is not bool.

    Example:
        >>> clips = torch.tensor([[[0.0, 2.0], [2.0, 4.0], [4.0, 6.0]]])
        >>> one = torch.ones(1, 1, dtype=torch.bool)
        >>> moment_targets(torch.tensor([[[2.0, 6.0]]]), one, clips, torch.ones(1, 3, dtype=torch.bool)).start
        tensor([[0., 1., 0.]])
    """
    caller = "moment_targets"
    check_features(caller, "windows", windows, axes="(batch, windows, 2)", ndim=3)
    check_features(caller, "clip_times", clip_times, axes="(batch, clips, 2)", ndim=3)
    if windows.shape[-1] != 2:
        fail(caller, "windows", "have shape (batch, windows, 2)", shape_text(windows))
    if clip_times.shape[-1] != 2:
        fail(caller, "clip_times", "have shape (batch, clips, 2)", shape_text(clip_times))
    check_mask(caller, "window_mask", window_mask, windows.shape[:2], device=windows.device)
    check_mask(caller, "frame_mask", frame_mask, clip_times.shape[:2], device=clip_times.device)
    if windows.shape[0] != clip_times.shape[0]:
        fail(caller, "windows", f"have as many rows as `clip_times` ({clip_times.shape[0]})", shape_text(windows))
    with full_precision(windows):
        zero = torch.zeros((), dtype=windows.dtype, device=windows.device)
        starts, ends = torch.where(window_mask.unsqueeze(-1), windows, zero).unsqueeze(2).unbind(-1)  # (b, w, 1)
        clips = clip_times.to(windows.dtype)
        centre = torch.where(frame_mask, clips.mean(-1), zero).unsqueeze(1)  # (b, 1, t)
        keep = frame_mask.unsqueeze(1)
        owned = (centre >= starts) & (centre < ends) & keep
        distance = torch.where(keep, (centre - (starts + ends) / 2).abs(), torch.full_like(zero, torch.inf))
        steps = torch.arange(clip_times.shape[1], device=windows.device)
        nearest = (steps == distance.argmin(-1, keepdim=True)) & keep
        far = torch.full_like(zero, torch.inf)
        begin = torch.where(frame_mask, clips[..., 0], far).amin(1)[:, None, None]
        end = torch.where(frame_mask, clips[..., 1], -far).amax(1)[:, None, None]
        shown = window_mask.unsqueeze(-1) & (starts < end) & ((ends > begin) | (starts >= begin))  # (b, w, 1)
        owned = torch.where(owned.any(-1, keepdim=True), owned, nearest) & shown
        first = owned & (owned.cumsum(-1) == 1)
        last = owned & (owned.flip(-1).cumsum(-1) == 1).flip(-1)
        count = shown.sum(1).to(windows.dtype)
        return MomentTargets(
            safe_divide(first.sum(1).to(windows.dtype), count.expand(-1, first.shape[-1])),
            safe_divide(last.sum(1).to(windows.dtype), count.expand(-1, last.shape[-1])),
            owned.any(1),
        )


def moment_localization_loss(
    start_logits: Tensor,
    end_logits: Tensor,
    inside_logits: Tensor,
    targets: MomentTargets,
    *,
    frame_mask: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy of start and end plus binary cross-entropy of inside; lower means better localised moments.

    .. math::

       L = \frac{1}{\sum_i w_i} \sum_i w_i \Bigl[ -\sum_t y^s_{it} \log \operatorname{softmax}(z^s_i)_t
           - \sum_t y^e_{it} \log \operatorname{softmax}(z^e_i)_t
           + \frac{1}{T_i} \sum_t \operatorname{BCE}(\sigma(z^m_{it}), y^m_{it}) \Bigr]

    Args:
        start_logits: :math:`z^s`, one per clip.
        end_logits: :math:`z^e`.
        inside_logits: :math:`z^m`.
        targets: :math:`y^s, y^e, y^m` from :func:`moment_targets`. A row without a moment is left out.
        frame_mask: bool, True = keep. Softmax and mean run over the kept clips; padding may hold anything.
        weight: row weights.

    Shape:
        all (b, t); ``weight`` (b,).

    Returns:
        Scalar >= 0, float32 (float64 for float64 input); a zero connected to the autograd graph where no row counts.

    Raises:
        ValueError: wrong shapes.
        TypeError: a mask that is not bool.

    Example:
        >>> start, end = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
        >>> targets = MomentTargets(start, end, torch.tensor([[True, True]]))
        >>> zeros = torch.zeros(1, 2)
        >>> round(moment_localization_loss(zeros, zeros, zeros, targets).item(), 4)  # 3 log 2
        2.0794

    References:
        Zhang et al., "Span-based Localizing Network for Natural Language Video Localization", ACL 2020,
        equations 6 and 9, for the span and inside terms.
    """
    caller = "moment_localization_loss"
    check_features(caller, "start_logits", start_logits, axes="(batch, clips)")
    check_same_shape(caller, "start_logits", start_logits, "end_logits", end_logits)
    check_same_shape(caller, "start_logits", start_logits, "inside_logits", inside_logits)
    check_floating(caller, "end_logits", end_logits)
    check_floating(caller, "inside_logits", inside_logits)
    if not isinstance(targets, MomentTargets):
        fail_type(caller, "targets", "be MomentTargets", targets)
    for name, target in zip(targets._fields, targets):
        check_same_shape(caller, "start_logits", start_logits, f"targets.{name}", target)
    if frame_mask is not None:
        check_mask(caller, "frame_mask", frame_mask, start_logits.shape, device=start_logits.device)
    if weight is not None:
        check_weight(caller, "weight", weight, start_logits.shape[:1], device=start_logits.device)
    dtype = working_dtype(start_logits, end_logits, inside_logits)
    with full_precision(start_logits):
        keep = frame_mask
        if keep is None:
            keep = torch.ones(start_logits.shape, dtype=torch.bool, device=start_logits.device)
        zero = torch.zeros((), dtype=dtype, device=start_logits.device)
        start, end = (torch.where(keep, mass.to(dtype), zero) for mass in (targets.start, targets.end))
        inside = targets.inside.to(dtype)
        counts = (start.sum(1) > 0).to(dtype)
        if weight is not None:
            counts = counts * weight.to(dtype)
        keep = keep & (counts > 0).unsqueeze(1)
        span = -(start * masked_log_softmax(start_logits.to(dtype), keep, 1)).sum(1)
        span = span - (end * masked_log_softmax(end_logits.to(dtype), keep, 1)).sum(1)
        z = torch.where(keep, inside_logits.to(dtype), zero)
        binary = nn.functional.softplus(z) - z * inside
        row = span + masked_mean(binary, keep, 1)
        return safe_divide((row * counts).sum(), counts.sum())


class MomentLocalizationLoss(LossModule):
    """Module form of :func:`moment_localization_loss`, which documents the formula, shapes and errors.

    Example:
        >>> MomentLocalizationLoss()
        MomentLocalizationLoss()
    """

    _function = staticmethod(moment_localization_loss)

    def forward(
        self,
        start_logits: Tensor,
        end_logits: Tensor,
        inside_logits: Tensor,
        targets: MomentTargets,
        *,
        frame_mask: Tensor | None = None,
        weight: Tensor | None = None,
    ) -> Tensor:
        """See :func:`moment_localization_loss`."""
        return moment_localization_loss(
            start_logits, end_logits, inside_logits, targets, frame_mask=frame_mask, weight=weight
        )

    if TYPE_CHECKING:
        __call__ = forward
