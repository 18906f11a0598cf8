"""Rows without training: closed-form linear maps with the plain decoder, and rows that use the target's labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmda._core.unit_rows import normalized_rows
from mmda.linear import CCA
from mmda.metrics import temporal_iou
from mmda.models.mmcda.closed_form import fit_joint_maps, sentence_rows
from mmda.models.mmcda.experiment.domains import SPLITS, Draws, Problem
from mmda.models.mmcda.experiment.runs import as_queries, evaluated, joined, shuffled
from mmda.models.mmcda.voting import high_runs
from mmda.vmr import ResidentSplit, VMRDataError
from mmda.vmr.blind import constant_rows, constant_spans
from mmda.vmr.evaluation import Evaluation

CCA_SOURCE, CCA_PAIRS, CCA_BOTH = "CCA: source", "CCA: target pairs", "CCA: source + pairs"
CCA_SHUFFLED, CCA_TRUE = "CCA: pairs shuffled", "CCA: target moments"
TARGET_CONSTANT, BEST_CLIPS = "best constant of the target", "best span of clips"

#: Rows that use no boundaries of the target.
UNSUPERVISED = (CCA_SOURCE, CCA_PAIRS, CCA_BOTH)

#: Rows that use labels of the target: upper bounds, not results.
SEES_LABELS = (CCA_TRUE, TARGET_CONSTANT, BEST_CLIPS)

#: Width and level of the plain decoder, which returns one run of high similarity.
_WIDTH, _LEVEL = 7, 0.3


def plain_spans(maps: CCA, split: ResidentSplit) -> Tensor:
    """The run of high cosine in each video, by :func:`mmda.models.mmcda.high_runs` (width 7, level 0.3).

    Args:
        maps: fitted to (query, frame) rows.
        split: videos and queries.

    Returns:
        (n, 1, 2) in seconds.

    Example:
        >>> from mmda.vmr import World, simulate
        >>> split = ResidentSplit.from_batch(simulate(World(videos=20, test_videos=1)).source_train)
        >>> plain_spans(fit_joint_maps(split, None, components=8), split).shape
        torch.Size([20, 1, 2])
    """
    found = []
    for start in range(0, len(split), 256):
        batch = split.slice(range(start, min(start + 256, len(split))))
        query = normalized_rows(maps.map_x(sentence_rows(ResidentSplit.from_batch(batch))))
        frames = batch.frames.masked_fill(~batch.frame_mask.unsqueeze(2), 0.0)
        cosine = torch.bmm(normalized_rows(maps.map_y(frames)), query.unsqueeze(2)).squeeze(2)
        found.append(high_runs(cosine, batch.frame_mask, batch.clip_times, width=_WIDTH, level=_LEVEL))
    return torch.cat(found).unsqueeze(1)


def best_clip_spans(split: ResidentSplit) -> Tensor:
    """The span of whole clips with the highest IoU to a moment of each query: the best that the clip length allows.

    Args:
        split: a labelled split.

    Returns:
        (n, 1, 2) in seconds.

    Notes:
        Only the two clip edges next to each boundary of a moment are tried; edges further away have a lower IoU.

    Example:
        >>> from mmda.vmr import World, simulate
        >>> split = ResidentSplit.from_batch(simulate(World(videos=4, test_videos=1)).source_train)
        >>> best_clip_spans(split).shape
        torch.Size([4, 1, 2])
    """
    best = []
    for i in range(len(split)):
        pair = split.slice([i])
        assert pair.windows is not None
        assert pair.window_mask is not None
        clips = pair.clip_times[0][pair.frame_mask[0]]
        windows = pair.windows[0][pair.window_mask[0]].to(clips.dtype)
        starts, ends = (clips[:, side].contiguous() for side in (0, 1))
        s, e = (torch.searchsorted(edge, windows[:, side].contiguous()) for side, edge in ((0, starts), (1, ends)))
        s, e = (torch.stack([at - 1, at], 1).clamp(0, len(clips) - 1) for at in (s, e))
        spans = torch.stack([starts[s].unsqueeze(2).expand(-1, 2, 2), ends[e].unsqueeze(1).expand(-1, 2, 2)], -1)
        fit = temporal_iou(spans, windows.view(-1, 1, 1, 2)).flatten()
        best.append(spans.reshape(-1, 2)[fit.argmax()])
    return torch.stack(best).unsqueeze(1)


def untrained_rows(
    problem: Problem, seed: int, preset: str, iou: Sequence[float], data: Draws, *, on_val: bool = True
) -> list[Evaluation]:
    """Closed-form linear maps with the plain decoder, and baselines from the target's own labels without a model.

    Args:
        problem: the two domains.
        seed: seed of a simulated world and of the shuffled control.
        preset: evaluation conventions.
        iou: IoU thresholds.
        data: loads and caches the domains.
        on_val: also fit to the validation videos.

    Returns:
        One evaluation per row: canonical correlation of queries with the source's moments, with the target's pairs,
        with both, with both and the pairs shuffled, and with the target's moments; the best constant of the target's
        training videos; the best span of clips. The rows between the shuffled pairs and the last use labels of the
        target's training videos and are left out without them.

    Example:
        >>> rows = untrained_rows(Problem("small", world="language", videos=40), 0, "default", (0.5,), Draws())
        >>> [row.name for row in rows][:3]
        ['CCA: source', 'CCA: target pairs', 'CCA: source + pairs']
    """
    source, target = data.load(problem, seed)
    splits = SPLITS[:2] if on_val else SPLITS[:1]
    known, pairs = joined(map(source.opened, splits)), joined(target.pairs[split] for split in splits)
    test = target.opened("test")
    found = {
        CCA_SOURCE: plain_spans(fit_joint_maps(known, None), test),
        CCA_PAIRS: plain_spans(fit_joint_maps(None, pairs), test),
        CCA_BOTH: plain_spans(fit_joint_maps(known, pairs), test),
        CCA_SHUFFLED: plain_spans(fit_joint_maps(known, shuffled(pairs, seed)), test),
    }
    try:
        labelled = joined(map(target.opened, splits))
    except VMRDataError:  # only the test split has moments
        labelled = None
    if labelled is not None:
        found[CCA_TRUE] = plain_spans(fit_joint_maps(labelled, None), test)
        constants = constant_spans(as_queries(target, labelled), n=5)
        found[TARGET_CONSTANT] = constant_rows(constants, as_queries(target, test))
    found[BEST_CLIPS] = best_clip_spans(test)
    return [evaluated(spans, target, preset, iou, name=name) for name, spans in found.items()]
