"""From similarities to moments: logits of start, end and inside, and exact decoding of the best spans."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from mmda._core.checks import check_count, check_mask, check_number, check_same_shape
from mmda._core.masking import safe_divide, zero_padding
from mmda._core.reductions import masked_log_softmax
from mmda.metrics import temporal_nms
from mmda.models.mmcda.encoders import MaskedConvBlock


class MomentLogits(NamedTuple):
    """Logits of the localizer for each clip; zero on padding.

    Attributes:
        start: (b, t), logits of a moment's start.
        end: (b, t), logits of its end.
        inside: (b, t), logits of being inside.
    """

    start: Tensor
    end: Tensor
    inside: Tensor


class Localizer(nn.Module):
    """A dilated convolutional network on the similarity profile of a video and its query.

    Its inputs per clip are the similarity, the similarity standardised over the video (which is invariant to offset and
    scale, and so to such differences between domains), and optionally the relative position of the clip.

    Args:
        channels: width.
        layers: number of layers; layer k = 0, 1, ... has dilation 2^k.
        positions: add the clip's centre in the video, (t + 1/2) / T in (0, 1), as an input.
        dropout: dropout inside the blocks.

    Shape:
        ``similarity`` (b, t), ``frame_mask`` (b, t) -> :class:`MomentLogits` of (b, t). Padding may hold anything.

    Raises:
        ValueError: a width or depth below 1, a dropout outside [0, 1).

    Example:
        >>> mask = torch.tensor([[True, True, False]])
        >>> logits = Localizer(channels=8, layers=2)(torch.randn(1, 3), mask)
        >>> logits.start.shape, logits.inside[0, 2].item()
        (torch.Size([1, 3]), 0.0)
    """

    def __init__(self, *, channels: int = 48, layers: int = 3, positions: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        check_count("Localizer", "channels", channels)
        check_count("Localizer", "layers", layers)
        self.positions = positions
        self.enter = nn.Linear(3 if positions else 2, channels)
        self.blocks = nn.ModuleList(
            MaskedConvBlock(channels, dilation=2**depth, dropout=dropout) for depth in range(layers)
        )
        self.leave = nn.Linear(channels, 3)

    def forward(self, similarity: Tensor, frame_mask: Tensor) -> MomentLogits:
        """Logits for each clip."""
        clean = torch.where(frame_mask, similarity, torch.zeros_like(similarity))
        channels = [clean, _standardised(similarity, frame_mask)]
        if self.positions:
            step = torch.arange(clean.shape[1], device=clean.device, dtype=clean.dtype)
            length = frame_mask.sum(1, keepdim=True).to(clean.dtype)
            channels.append(safe_divide((step + 0.5).expand_as(clean), length.expand_as(clean)))
        x = zero_padding(self.enter(torch.stack(channels, -1)), frame_mask)
        for block in self.blocks:
            x = block(x, frame_mask)
        return MomentLogits(*zero_padding(self.leave(x), frame_mask).unbind(-1))

    if TYPE_CHECKING:
        __call__ = forward


class Spans(NamedTuple):
    """The n best spans of each query.

    Attributes:
        windows: (b, n, 2), start and end in seconds.
        scores: (b, n), log-scores, highest first.
        mask: (b, n) bool, False if fewer than n spans are left after suppression.
    """

    windows: Tensor
    scores: Tensor
    mask: Tensor


def span_scores(logits: MomentLogits, similarity: Tensor, frame_mask: Tensor, *, mix: float) -> Tensor:
    r"""Score of every span of clips: the localizer's log-probability plus a z-score of the similarity inside the span.

    .. math::

       score(i, j) = \log p^s_i + \log p^e_j + \mu \, z_{ij}, \qquad
       z_{ij} = \frac{\bar s_{ij} - \bar s}{\hat\sigma \sqrt{\frac{1}{w} \left(1 - \frac{w}{T}\right)}}, \qquad
       w = j - i + 1, \quad i \le j

    with the softmax of the start and end logits over the T valid clips; :math:`\bar s_{ij}` is the mean of the
    similarity inside the span, :math:`\bar s` and :math:`\hat\sigma` mean and standard deviation over the video. So z
    is the excess mean of the span in units of the standard error of the mean of w out of T clips, which makes short and
    long spans comparable; a plain mean would always select a single clip. It does not depend on the offset or scale of
    the similarities. Spans of over 98 % of the video are scored as 98 %.

    Args:
        logits: logits of the localizer.
        similarity: s, frame-query similarity.
        frame_mask: bool, True = valid clip.
        mix: :math:`\mu`, weight of the similarity.

    Shape:
        (b, t) each -> (b, t, t), minus infinity if j < i or a clip is padding.

    Returns:
        Log-scores up to a constant, in the dtype of the logits.

    Raises:
        ValueError: shapes that differ.

    Notes:
        O(b t^2) time and memory, by prefix sums.

    Example:
        >>> flat = torch.zeros(1, 3)
        >>> keep = torch.ones(1, 3, dtype=torch.bool)
        >>> scores = span_scores(MomentLogits(flat, flat, flat), torch.tensor([[0.0, 1.0, 1.0]]), keep, mix=1.0)
        >>> divmod(scores.argmax().item(), 3)  # clips 1 to 2
        (1, 2)
    """
    check_mask("span_scores", "frame_mask", frame_mask, similarity.shape, device=similarity.device)
    check_same_shape("span_scores", "similarity", similarity, "logits.start", logits.start)
    start = masked_log_softmax(logits.start, frame_mask, 1)
    end = masked_log_softmax(logits.end, frame_mask, 1)
    standard = _standardised(similarity, frame_mask)
    t = similarity.shape[1]
    total = nn.functional.pad(standard.cumsum(1), (1, 0))
    inside = total[:, 1:].unsqueeze(1) - total[:, :-1].unsqueeze(2)
    step = torch.arange(t, device=standard.device)
    width = (step.unsqueeze(0) - step.unsqueeze(1) + 1).clamp(min=1).to(standard.dtype)
    length = frame_mask.sum(1).to(standard.dtype).clamp(min=1).view(-1, 1, 1)
    z = inside / (width * (1 - (width / length).clamp(max=0.98))).sqrt()
    scores = start.unsqueeze(2) + end.unsqueeze(1) + mix * z
    valid = (step.unsqueeze(0) >= step.unsqueeze(1)) & frame_mask.unsqueeze(1) & frame_mask.unsqueeze(2)
    return torch.where(valid, scores, torch.full((), -torch.inf, dtype=scores.dtype, device=scores.device))


def _standardised(similarity: Tensor, frame_mask: Tensor) -> Tensor:
    """Standardise over the valid clips of each row; 0 on padding and for a constant profile."""
    zero = torch.zeros((), dtype=similarity.dtype, device=similarity.device)
    clean = torch.where(frame_mask, similarity, zero)
    length = frame_mask.sum(1, keepdim=True).to(clean.dtype)
    centred = torch.where(frame_mask, clean - safe_divide(clean.sum(1, keepdim=True), length), zero)
    return centred / (safe_divide(centred.square().sum(1, keepdim=True), length) + 1e-6).sqrt()


def decode_spans(
    logits: MomentLogits,
    similarity: Tensor,
    frame_mask: Tensor,
    clip_times: Tensor,
    *,
    n: int = 5,
    mix: float = 0.4,
    nms_threshold: float = 0.5,
) -> Spans:
    """The n best spans after greedy non-maximum suppression, from an exhaustive search over all spans.

    Args:
        logits: logits of the localizer.
        similarity: frame-query similarity.
        frame_mask: bool, True = valid clip.
        clip_times: start and end of each clip in seconds.
        n: spans per query.
        mix: weight of the similarity, see :func:`span_scores`.
        nms_threshold: a span whose temporal IoU with a better one exceeds this is dropped; 1 keeps all.

    Shape:
        (b, t) each, ``clip_times`` (b, t, 2) -> :class:`Spans` of (b, n).

    Returns:
        :class:`Spans`, best first, windows in the dtype of ``clip_times``; if fewer than n are left, windows of zeros
        and scores of minus infinity.

    Raises:
        ValueError: shapes that differ, ``n`` below 1, a threshold outside [0, 1].
        TypeError: a mask that is not bool.

    Notes:
        O(b t^2 n) time, O(b t^2) memory.

    Example:
        >>> zeros, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
        >>> clips = torch.tensor([[[0.0, 2.0], [2.0, 4.0]]])
        >>> logits = MomentLogits(zeros, zeros, zeros)
        >>> decode_spans(logits, torch.tensor([[0.0, 2.0]]), mask, clips, n=2, mix=1.0).windows.tolist()
        [[[2.0, 4.0], [0.0, 4.0]]]
    """
    check_count("decode_spans", "n", n)
    check_number("decode_spans", "nms_threshold", nms_threshold, at_least=0, at_most=1)
    scores = span_scores(logits, similarity, frame_mask, mix=mix)
    t = scores.shape[1]
    upper = torch.triu_indices(t, t, device=scores.device)
    flat = scores[:, upper[0], upper[1]]
    spans = torch.stack([clip_times[:, upper[0], 0], clip_times[:, upper[1], 1]], -1)
    chosen, keep = temporal_nms(spans.to(flat.dtype), flat, threshold=nms_threshold, top_n=n, mask=flat > -torch.inf)
    windows = torch.take_along_dim(spans, chosen.unsqueeze(-1), 1)
    windows = torch.where(keep.unsqueeze(-1), windows, torch.zeros_like(windows))
    best = torch.take_along_dim(flat, chosen, 1)
    return Spans(windows, torch.where(keep, best, torch.full_like(best, -torch.inf)), keep)
