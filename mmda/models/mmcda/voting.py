"""Decoding of spans from a similarity profile without learned parameters: runs of high similarity and voting."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmda._core.checks import check_count, check_floating, check_mask, check_number, fail
from mmda.metrics import temporal_iou
from mmda.models.mmcda.linear_head import REFERENCE_CLIPS
from mmda.models.mmcda.localizer import Spans

#: Smoothing widths in clips and levels of the voting runs.
WIDTHS = (5, 7, 9, 11)
LEVELS = (0.15, 0.2, 0.25, 0.3, 0.4)

#: Widest window of a vote, as a fraction of the video: wider ones would make a short video's profile flat.
_WIDEST = 1 / 3

#: Longest clips in seconds whose number, not length, makes a video long: see :func:`smoothed`.
_SECONDS = 2.0


def smoothed(
    similarity: Tensor,
    frame_mask: Tensor,
    width: int,
    *,
    widest: float | None = None,
    clip_times: Tensor | None = None,
) -> Tensor:
    """Moving mean over ``width`` clips, truncated at the ends, with longer windows for videos of over 75 clips.

    Args:
        similarity: s, one number per clip.
        frame_mask: bool, True = valid clip.
        width: window size in clips, rounded down to an odd number; for T > 75 clips it is T / 75 times as wide.
        widest: maximum window size as a fraction of the video, if any.
        clip_times: start and end of each clip in seconds. With them the wider windows span at most ``width`` times 2 s,
            as those of 75 clips of 2 s do: a longer video has more moments, not longer ones.

    Shape:
        ``similarity`` and ``frame_mask`` (b, t), ``clip_times`` (b, t, 2) -> (b, t).

    Returns:
        The means in float64, minus infinity on padding.

    Example:
        >>> smoothed(torch.tensor([[0.0, 3.0, 0.0, 9.0]]), torch.tensor([[True, True, True, False]]), 3).tolist()
        [[1.5, 1.0, 1.5, -inf]]
    """
    clean = torch.where(frame_mask, similarity, torch.zeros_like(similarity)).double()
    length = frame_mask.sum(1, keepdim=True)
    stretch = length.clamp(min=REFERENCE_CLIPS) / REFERENCE_CLIPS
    if clip_times is not None:
        seconds = clip_times[:, :1, 1] - clip_times[:, :1, 0]
        stretch = torch.minimum(stretch, (_SECONDS / seconds).clamp(min=1.0).to(stretch.dtype))
    half = (width * stretch / 2).long()
    if widest is not None:
        half = torch.minimum(half, (widest * length / 2).long())
    total = pad(clean.cumsum(1), (1, 0))
    step = torch.arange(similarity.shape[1], device=similarity.device).unsqueeze(0)
    low, high = (step - half).clamp(min=0), torch.minimum(step + half + 1, length.clamp(min=1))
    low = torch.minimum(low, high - 1)
    mean = (total.gather(1, high) - total.gather(1, low)) / (high - low)
    return torch.where(frame_mask, mean, torch.full_like(mean, -torch.inf))


def high_runs(similarity: Tensor, frame_mask: Tensor, clip_times: Tensor, *, width: int, level: float) -> Tensor:
    r"""The run of clips around the best clip in which the smoothed similarity stays high.

    .. math:: \bar s_t \ge \mu + \lambda (\max_u \bar s_u - \mu)

    with the profile :math:`\bar s` of :func:`smoothed` and its mean :math:`\mu` over the video.

    Args:
        similarity: s, one number per clip.
        frame_mask: bool, True = valid clip; valid clips come first.
        clip_times: start and end of each clip in seconds.
        width: window size in clips.
        level: :math:`\lambda` in [0, 1].

    Shape:
        ``similarity`` and ``frame_mask`` (b, t), ``clip_times`` (b, t, 2) -> (b, 2).

    Returns:
        Start and end in seconds, in the dtype of ``clip_times``.

    Raises:
        ValueError: a width below 1, a level outside [0, 1], shapes that do not fit.

    Example:
        >>> times = torch.tensor([[[0.0, 2.0], [2.0, 4.0], [4.0, 6.0]]])
        >>> high_runs(torch.tensor([[0.0, 0.9, 1.0]]), times[..., 0] >= 0, times, width=1, level=0.5)
        tensor([[2., 6.]])
    """
    _check_runs(similarity, frame_mask, clip_times, (width,), (level,))
    return _runs(similarity, frame_mask, clip_times, (width,), (level,))[:, 0]


def _check_runs(
    similarity: Tensor, frame_mask: Tensor, clip_times: Tensor, widths: Sequence[int], levels: Sequence[float]
) -> None:
    for width in widths:
        check_count("high_runs", "width", width)
    for level in levels:
        check_number("high_runs", "level", level, at_least=0, at_most=1)
    check_floating("high_runs", "similarity", similarity)
    check_mask("high_runs", "frame_mask", frame_mask, similarity.shape, device=similarity.device)
    if tuple(clip_times.shape) != (*similarity.shape, 2):
        fail("high_runs", "clip_times", f"have shape {(*similarity.shape, 2)}", tuple(clip_times.shape))


def _runs(
    similarity: Tensor,
    frame_mask: Tensor,
    clip_times: Tensor,
    widths: Sequence[int],
    levels: Sequence[float],
    widest: float | None = None,
) -> Tensor:
    """The runs for every width and level, grouped by width; (b, widths * levels, 2)."""
    profile = torch.stack(
        [smoothed(similarity, frame_mask, width, widest=widest, clip_times=clip_times) for width in widths], 1
    )
    mask, length = frame_mask.unsqueeze(1), frame_mask.sum(1).clamp(min=1).unsqueeze(1)
    mean = torch.where(mask, profile, torch.zeros_like(profile)).sum(2) / length
    best, at = profile.max(2)
    level = torch.tensor(levels, dtype=profile.dtype, device=profile.device)
    bound = mean.unsqueeze(2) + level * (best - mean).unsqueeze(2)
    low = profile.unsqueeze(2) < bound.unsqueeze(3)
    step = torch.arange(profile.shape[2], device=profile.device)
    before, after = (each.unsqueeze(2) for each in (step < at.unsqueeze(2), step > at.unsqueeze(2)))
    first = (torch.where(low & before, step, -1).amax(3) + 1).flatten(1)
    last = (torch.where(low & after, step, profile.shape[2]).amin(3) - 1).flatten(1)
    last = torch.maximum(torch.minimum(last, length - 1), first)
    return torch.stack([clip_times[..., 0].gather(1, first), clip_times[..., 1].gather(1, last)], 2)


def vote_spans(
    similarity: Tensor,
    frame_mask: Tensor,
    clip_times: Tensor,
    *,
    n: int = 5,
    widths: Sequence[int] = WIDTHS,
    levels: Sequence[float] = LEVELS,
    nms_threshold: float = 0.5,
) -> Spans:
    r"""The span on which the runs of several widths and levels agree most, then further spans in the remaining clips.

    Every width and level proposes a span c by :func:`high_runs`, with windows of at most a third of the video. The one
    with the largest mean temporal IoU with all proposals is selected,

    .. math:: \hat c = \arg\max_c \frac{1}{|C|} \sum_{c' \in C} \operatorname{IoU}(c, c'),

    which minimises the expected loss if all proposals are equally likely (minimum Bayes risk). The next span is found
    in the clips not covered by selected spans.

    Args:
        similarity: s, one number per clip.
        frame_mask: bool, True = valid clip; valid clips come first.
        clip_times: start and end of each clip in seconds.
        n: spans per query.
        widths: window sizes of :func:`high_runs`.
        levels: levels of :func:`high_runs`.
        nms_threshold: a span whose temporal IoU with a better one exceeds this is skipped; 1 keeps all.

    Shape:
        ``similarity`` and ``frame_mask`` (b, t), ``clip_times`` (b, t, 2) -> :class:`Spans` of (b, n).

    Returns:
        :class:`Spans` in order of selection, so a smaller ``n`` gives the first of them; a span's score is the log of
        its mean IoU minus the number of spans before it, and at most that of the span before. Windows of zeros and
        scores of minus infinity if selected spans cover all clips or no other differs enough.

    Raises:
        ValueError: ``n`` below 1, no width or level, or values invalid for :func:`high_runs`.

    Notes:
        O(b k (t c + c^2)) time for c proposals and k spans, including skipped ones.

    Example:
        >>> times = torch.arange(10.0).unfold(0, 2, 1).unsqueeze(0)
        >>> profile = torch.tensor([[0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.9, 0.0]])
        >>> vote_spans(profile, profile >= 0, times, n=2, widths=(1,)).windows.tolist()
        [[[2.0, 4.0], [7.0, 8.0]]]
    """
    check_count("vote_spans", "n", n)
    if not widths or not levels:
        fail("vote_spans", "widths" if not widths else "levels", "hold at least one", "none")
    _check_runs(similarity, frame_mask, clip_times, widths, levels)
    b, device = len(similarity), similarity.device
    rows, places = torch.arange(b, device=device), torch.arange(n, device=device)
    windows = clip_times.new_zeros(b, n, 2)
    scores = clip_times.new_full((b, n), -torch.inf)
    chosen = torch.zeros(b, dtype=torch.long, device=device)
    centre, left = clip_times.mean(2), frame_mask
    floor = torch.where(frame_mask, similarity, torch.full_like(similarity, torch.inf)).amin(1, keepdim=True)
    while bool((wanting := left.any(1) & (chosen < n)).any()):
        free = torch.where(left, similarity, floor.expand_as(similarity))
        found = _runs(free, frame_mask, clip_times, widths, levels, _WIDEST)
        score, at = temporal_iou(found.unsqueeze(2), found.unsqueeze(1)).mean(2).max(1)
        window, place = found[rows, at], chosen.clamp(max=n - 1)
        near = temporal_iou(window.unsqueeze(1), windows) > nms_threshold
        kept = wanting & ~(near & (places < chosen.unsqueeze(1))).any(1)
        windows[rows, place] = torch.where(kept.unsqueeze(1), window, windows[rows, place])
        value = score.clamp(min=1e-6).log().to(scores.dtype) - chosen
        scores[rows, place] = torch.where(kept, value, scores[rows, place])
        chosen = chosen + kept
        free_of_it = left & ~((centre >= window[:, :1]) & (centre <= window[:, 1:]))
        # A span that covers no remaining clip would be selected again, so its best clip is removed instead.
        stuck = (free_of_it == left).all(1, keepdim=True)
        best = torch.where(left, similarity, torch.full_like(similarity, -torch.inf)).argmax(1, keepdim=True)
        left = free_of_it & ~(stuck & (torch.arange(left.shape[1], device=device) == best))
    mask = places < chosen.unsqueeze(1)
    return Spans(windows, scores.cummin(1).values, mask)
