"""Baselines without a trained model: from moment locations only, and from the similarity of input features.

A model should beat all of them. Each function returns spans in seconds, best first, ready for
:func:`mmda.vmr.evaluation.evaluate`. Of the target's queries only the video duration is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from mmda._core.checks import check_count, check_features, check_mask, check_number, fail, shape_text
from mmda._core.masking import full_precision, safe_divide, working_dtype, zero_padding
from mmda.metrics import DEFAULT

if TYPE_CHECKING:
    from mmda.vmr.annotations import VMRQuery

# Elements per (spans, moments) block in the search for a constant span.
_BLOCK = 1 << 17


def _durations(queries: Iterable[VMRQuery]) -> Tensor:
    return torch.tensor([query.duration for query in queries], dtype=torch.float64)


def _relative_windows(caller: str, source: Iterable[VMRQuery]) -> tuple[Tensor, Tensor]:
    """All moments as fractions of their video, (moments, 2), and the index of each moment's query."""
    spans, owner = [], []
    for row, query in enumerate(source):
        for start, end in query.windows:
            spans.append((start / query.duration, end / query.duration))
            owner.append(row)
    if not spans:
        fail(caller, "source", "hold at least one moment", "none")
    return torch.tensor(spans, dtype=torch.float64), torch.tensor(owner)


def _stretch(relative: Tensor, duration: Tensor) -> Tensor:
    return relative * duration[:, None, None]


def whole_video(queries: Iterable[VMRQuery]) -> Tensor:
    """The span [0, duration] for every query.

    Args:
        queries: the queries to answer.

    Returns:
        (q, 1, 2), float64, seconds.

    Example:
        >>> from mmda.vmr.annotations import VMRQuery
        >>> whole_video([VMRQuery("q", "v", "a dog runs", 10.0)]).tolist()
        [[[0.0, 10.0]]]
    """
    return constant_rows(torch.tensor([[0.0, 1.0]], dtype=torch.float64), queries)


def random_spans(queries: Iterable[VMRQuery], *, n: int = 5, generator: torch.Generator | None = None) -> Tensor:
    """n independent spans per query, each between two uniform points of the video.

    Args:
        queries: the queries to answer.
        n: spans per query.
        generator: source of randomness, on the CPU.

    Returns:
        (q, n, 2), float64, seconds.

    Raises:
        ValueError: ``n`` is not a positive integer.

    Example:
        >>> from mmda.vmr.annotations import VMRQuery
        >>> query = VMRQuery("q", "v", "a dog runs", 10.0)
        >>> random_spans([query], generator=torch.Generator().manual_seed(0)).shape
        torch.Size([1, 5, 2])
    """
    check_count("random_spans", "n", n)
    duration = _durations(queries)
    points = torch.rand((len(duration), n, 2), dtype=torch.float64, generator=generator)
    return _stretch(points.sort(dim=-1).values, duration)


def prior_spans(
    source: Iterable[VMRQuery],
    queries: Iterable[VMRQuery],
    *,
    n: int = 5,
    generator: torch.Generator | None = None,
) -> Tensor:
    """n spans per query, drawn with replacement from the source's moments as fractions of their video.

    Args:
        source: annotated queries of the source's training set.
        queries: the queries to answer.
        n: spans per query.
        generator: source of randomness, on the CPU.

    Returns:
        (q, n, 2), float64, seconds.

    Raises:
        ValueError: the source has no moment, or ``n`` is not a positive integer.

    Example:
        >>> from mmda.vmr.annotations import VMRQuery
        >>> source = [VMRQuery("s", "v", "a cat", 10.0, ((2.0, 4.0),))]
        >>> prior_spans(source, [VMRQuery("q", "w", "a dog", 50.0)], n=1).tolist()
        [[[10.0, 20.0]]]
    """
    check_count("prior_spans", "n", n)
    relative, _ = _relative_windows("prior_spans", source)
    duration = _durations(queries)
    index = torch.randint(len(relative), (len(duration), n), generator=generator)
    return _stretch(relative[index], duration)


def constant_spans(source: Iterable[VMRQuery], *, n: int = 1, iou: float = 0.5, grid: int = 40) -> Tensor:
    r"""The relative spans that hit most of the source's moments: the best constant prediction.

    Over all :math:`0 \le i < j \le G` the first span is

    .. math:: \arg\max_{(i/G, j/G)} \sum_q \mathbb 1\Big[\max_w \mathrm{IoU}\big((i/G, j/G), g_{qw}/T_q\big)
        \ge m\Big],

    and each further one maximises the same count over the queries not yet hit (greedy, so not always the best set).
    Ties take the lower start, then the lower end.

    Args:
        source: annotated queries of the source's training set.
        n: number of spans, for R@n.
        iou: m, the threshold whose R@1 is maximised, in (0, 1].
        grid: G, number of equal parts of the video; 40 is a step of 2.5 %.

    Returns:
        (n, 2), float64, in [0, 1]; scale them to videos with :func:`constant_rows`.

    Raises:
        ValueError: the source has no moment, or a number is out of range.

    Notes:
        O(G^2 moments) time per span, one bool of memory per pair of span and query. With n = 1, m = 0.5 and G = 40 the
        spans are (0, .3) for Charades-STA, (.3, .95) for ActivityNet Captions and (.625, .925) for TACoS.

    Example:
        >>> from mmda.vmr.annotations import VMRQuery
        >>> source = [VMRQuery(str(k), "v", "a dog", 10.0, ((5.0, 9.0 + k / 4),)) for k in range(5)]
        >>> constant_spans(source, iou=0.7, grid=10).tolist()
        [[0.5, 0.9]]
    """
    caller = "constant_spans"
    check_count(caller, "n", n)
    check_count(caller, "grid", grid)
    check_number(caller, "iou", iou, above=0, at_most=1)
    relative, owner = _relative_windows(caller, source)
    first, last = torch.triu_indices(grid + 1, grid + 1, offset=1)
    candidates = torch.stack([first, last], dim=1).to(torch.float64) / grid
    hits = _hits(candidates, relative, owner, iou)
    open_ = torch.ones(hits.shape[1], dtype=torch.bool)
    chosen: list[int] = []
    for _ in range(n):
        best = int((hits & open_).sum(dim=1).argmax())
        chosen.append(best)
        open_ &= ~hits[best]
    return candidates[chosen]


def _hits(candidates: Tensor, relative: Tensor, owner: Tensor, iou: float) -> Tensor:
    """(candidates, queries) bool: whether the candidate reaches ``iou`` with one of the query's moments."""
    hits = torch.zeros((len(candidates), int(owner.max()) + 1), dtype=torch.bool)
    several = bool((owner[1:] == owner[:-1]).any())
    start, end = relative.unbind(dim=1)
    step = max(1, _BLOCK // len(relative))
    for low in range(0, len(candidates), step):
        s, e = candidates[low : low + step].unsqueeze(-1).unbind(dim=1)
        inter = (torch.minimum(end, e) - torch.maximum(start, s)).clamp_(min=0)
        hit = inter >= (iou - DEFAULT.tolerance) * ((end - start) + (e - s) - inter)
        if several:
            counts = torch.zeros((len(hit), hits.shape[1]), dtype=torch.int32)
            hits[low : low + step] = counts.index_add_(1, owner, hit.to(torch.int32)) > 0
        else:
            hits[low : low + step, owner] = hit
    return hits


def constant_rows(spans: Tensor, queries: Iterable[VMRQuery]) -> Tensor:
    """The same relative spans for every query, scaled to its video.

    Args:
        spans: relative spans, best first (:func:`constant_spans`).
        queries: the queries to answer.

    Shape:
        ``spans`` (n, 2); result (q, n, 2).

    Returns:
        float64, seconds.

    Raises:
        ValueError: ``spans`` has another shape.

    Example:
        >>> from mmda.vmr.annotations import VMRQuery
        >>> constant_rows(torch.tensor([[0.25, 0.5]]), [VMRQuery("q", "v", "a dog runs", 8.0)]).tolist()
        [[[2.0, 4.0]]]
    """
    check_features("constant_rows", "spans", spans, axes="(spans, 2)")
    if spans.shape[1] != 2:
        fail("constant_rows", "spans", "have shape (spans, 2)", shape_text(spans))
    return _stretch(spans.to(torch.float64).unsqueeze(0), _durations(queries))


@torch.no_grad()
def zero_shot_spans(
    frames: Tensor,
    queries: Tensor,
    clip_times: Tensor,
    *,
    frame_mask: Tensor | None = None,
    n: int = 1,
    width: int = 7,
    level: float = 0.3,
) -> tuple[Tensor, Tensor]:
    r"""Spans of high cosine similarity without training, if frames and queries share a feature space.

    The similarities :math:`\cos(f_t, q)` are smoothed by a centred moving mean over ``width`` clips (over the existing
    ones at the ends). The span is the run of clips around the peak whose smoothed similarity is at least :math:`\bar s
    + \ell\,(s_{\max} - \bar s)`, with :math:`\bar s` the mean over the video. For each further span that run is
    removed, and peak and run are searched among the remaining clips.

    Args:
        frames: clip features.
        queries: one feature per query.
        clip_times: start and end of every clip in seconds.
        frame_mask: True where a clip is valid.
        n: spans per query.
        width: window of the moving mean in clips, odd.
        level: :math:`\ell`, fraction of the way from the mean to the peak, in [0, 1].

    Shape:
        ``frames`` (b, t, d), ``queries`` (b, d), ``clip_times`` (b, t, 2), ``frame_mask`` (b, t); results
        (b, n, 2) and (b, n).

    Returns:
        ``(spans, keep)``: spans in seconds, best first, and True where one exists: there is no further span once all
            clips of a video are used.

    Raises:
        TypeError: an input is not a floating-point tensor, or the mask is not bool.
        ValueError: shapes do not fit, or a number is out of range.

    Notes:
        O(b t (d + n)). The defaults were chosen on the training and validation videos of the caption features
        of QVHighlights and NExT-GQA, and nearby values perform similarly.

    Example:
        >>> frames = torch.tensor([[[0.0, 1.0], [1.0, 0.1], [1.0, 0.0], [0.0, 1.0]]])
        >>> times = torch.tensor([[[0.0, 2.0], [2.0, 4.0], [4.0, 6.0], [6.0, 8.0]]])
        >>> spans, keep = zero_shot_spans(frames, torch.tensor([[1.0, 0.0]]), times, width=1)
        >>> spans.tolist(), keep.tolist()
        ([[[2.0, 6.0]]], [[True]])
    """
    caller = "zero_shot_spans"
    check_features(caller, "frames", frames, axes="(batch, time, features)", ndim=3)
    check_features(caller, "queries", queries, axes="(batch, features)")
    check_features(caller, "clip_times", clip_times, axes="(batch, time, 2)", ndim=3)
    batch, time, features = frames.shape
    if queries.shape != (batch, features):
        fail(caller, "queries", f"have shape {(batch, features)}", shape_text(queries))
    if clip_times.shape != (batch, time, 2):
        fail(caller, "clip_times", f"have shape {(batch, time, 2)}", shape_text(clip_times))
    check_count(caller, "n", n)
    check_count(caller, "width", width)
    if width % 2 == 0:
        fail(caller, "width", "be odd", width)
    check_number(caller, "level", level, at_least=0, at_most=1)
    if frame_mask is not None:
        check_mask(caller, "frame_mask", frame_mask, (batch, time), device=frames.device)
    with full_precision(frames):
        dtype = working_dtype(frames, queries)
        mask = frames.new_ones((batch, time), dtype=torch.bool) if frame_mask is None else frame_mask
        clean = F.normalize(zero_padding(frames.to(dtype), mask), dim=-1)
        cosine = torch.einsum("btd,bd->bt", clean, F.normalize(queries.to(dtype), dim=-1))
        return _runs(_smooth(cosine, mask, width), mask, clip_times, n, level)


def _smooth(score: Tensor, mask: Tensor, width: int) -> Tensor:
    """Centred moving mean over the valid clips; expects zero scores at padded clips."""
    both = torch.stack([score, mask.to(score.dtype)], dim=1)
    total, count = F.avg_pool1d(both, width, stride=1, padding=width // 2).unbind(dim=1)
    return safe_divide(total, count)


def _runs(score: Tensor, mask: Tensor, clip_times: Tensor, n: int, level: float) -> tuple[Tensor, Tensor]:
    """The n runs around successive peaks."""
    low = torch.finfo(score.dtype).min
    mean = safe_divide((score * mask).sum(dim=1, keepdim=True), mask.sum(dim=1, keepdim=True).to(score.dtype))
    position = torch.arange(score.shape[1], device=score.device)
    left, spans, keep = mask, [], []
    for _ in range(n):
        peak, at = score.masked_fill(~left, low).max(dim=1, keepdim=True)
        exists = left.any(dim=1)
        # for a peak below the mean (of a late span), the run of clips with at least its similarity
        floor = torch.minimum(peak, mean + level * (peak - mean))
        outside = ~left | (score < floor)
        before = outside & (position < at)
        after = outside & (position > at)
        first = torch.where(before, position + 1, 0).amax(dim=1)
        last = torch.where(after, position - 1, score.shape[1] - 1).amin(dim=1)
        start = clip_times[..., 0].gather(1, first.unsqueeze(1))
        end = clip_times[..., 1].gather(1, last.unsqueeze(1))
        span = torch.cat([start, end], dim=1)
        spans.append(torch.where(exists.unsqueeze(1), span, torch.zeros_like(span)))
        keep.append(exists)
        left = left & ~((position >= first.unsqueeze(1)) & (position <= last.unsqueeze(1)))
    return torch.stack(spans, dim=1), torch.stack(keep, dim=1)


__all__ = [
    "constant_rows",
    "constant_spans",
    "prior_spans",
    "random_spans",
    "whole_video",
    "zero_shot_spans",
]
