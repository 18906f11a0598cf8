"""Choosing a checkpoint without a boundary of the target."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from mmda._core.checks import check_number, fail
from mmda.metrics import mean_iou
from mmda.models.mmcda.model import MMCDA
from mmda.models.mmcda.training import predict_split
from mmda.vmr.batch import VMRBatch


def source_score(model: MMCDA, loader: Iterable[VMRBatch]) -> float:
    """Mean IoU of the best span over the labelled rows of (source) batches; higher is better.

    Args:
        model: in ``eval()`` mode.
        loader: held-out source batches with their moments; read once, and held in memory.

    Returns:
        Mean over the rows with a window of the temporal IoU of the first span and the window it fits best, in [0, 1].

    Raises:
        ValueError: a batch carries no windows, no row has one, or there is no batch.

    Example:
        >>> from mmda.models.mmcda import MMCDAConfig, build_mmcda
        >>> from mmda.vmr import World, simulate
        >>> batch = simulate(World(videos=4, test_videos=1)).source_train
        >>> model = build_mmcda(MMCDAConfig(video_width=32, query_width=24, hidden=16, joint=8)).eval()
        >>> 0.0 <= source_score(model, [batch]) <= 1.0
        True
    """
    batches = list(loader)
    if not batches:
        fail("source_score", "loader", "give at least one batch", "none")
    spans, _ = predict_split(model, batches, n=1)
    total, count, at = 0.0, 0, 0
    for batch in batches:
        if batch.windows is None or batch.window_mask is None:
            raise ValueError("source_score: `loader` must give windows, got a batch without them")
        first, windows, mask = spans.windows[at : at + len(batch)], batch.windows.cpu(), batch.window_mask.cpu()
        at += len(batch)
        labelled = mask.any(1)
        rows = int(labelled.sum())
        if rows:
            total += float(mean_iou(first[labelled], windows[labelled], window_mask=mask[labelled])) * rows
            count += rows
    if not count:
        fail("source_score", "loader", "give at least one row with a window", f"none in {at} rows")
    return total / count


@torch.no_grad()
def pair_score(model: MMCDA, loader: Iterable[VMRBatch], *, top: float = 0.125) -> float:
    """Share of queries whose own video is retrieved first among all videos of the loader; higher is better.

    A video scores by the mean of the best ``top`` share of its frames, as in
    :func:`mmda.losses.multiple_instance_loss`. A video that rows share counts once; windows are never read.

    Args:
        model: in ``eval()`` mode.
        loader: held-out target pairs.
        top: share of the frames that stands for the video, in (0, 1], at least one frame.

    Returns:
        The share, in [0, 1]; chance is one over the number of videos.

    Raises:
        ValueError: a share outside (0, 1], or no batch in the loader.

    Notes:
        One similarity for every video, frame and query of the loader; the joint frames of all videos are held.

    Example:
        >>> from mmda.models.mmcda import MMCDAConfig, build_mmcda
        >>> from mmda.vmr import World, simulate
        >>> batch = simulate(World(videos=1, test_videos=1)).target_train.without_moments()
        >>> model = build_mmcda(MMCDAConfig(video_width=32, query_width=24, hidden=16, joint=8)).eval()
        >>> pair_score(model, [batch])  # the only video is found
        1.0
    """
    check_number("pair_score", "top", top, above=0, at_most=1)
    device = next(model.parameters()).device
    videos: dict[int, torch.Tensor] = {}
    owners: list[int] = []
    queries = []
    for batch in loader:
        output = model(batch.to(device))
        queries.append(output.joint_query)
        for row, video in enumerate(batch.video_index.tolist()):
            owners.append(video)
            if video not in videos:
                videos[video] = output.joint_frames[row][output.frame_mask[row]]
    if not queries:
        fail("pair_score", "loader", "give at least one batch", "none")
    q = torch.cat(queries)
    names = list(videos)

    def best(frames: torch.Tensor) -> torch.Tensor:
        count = max(1, math.ceil(len(frames) * top * (1 - 1e-6)))  # as the loss counts: 15 of 100 for 0.15
        return (frames @ q.T).topk(count, dim=0).values.mean(0)

    scores = torch.stack([best(videos[name]) for name in names])
    own = torch.tensor([names.index(owner) for owner in owners], device=device)
    return float((scores.argmax(0) == own).float().mean())


def selection_score(model: MMCDA, source: Iterable[VMRBatch], target: Iterable[VMRBatch] | None = None) -> float:
    """Source validation's mean IoU, plus the retrieval of held-out target pairs where a target is given.

    The first guards localisation against collapse, the second sees the target; neither reads a target boundary.

    Args:
        model: in ``eval()`` mode.
        source: held-out source batches with their moments, for :func:`source_score`.
        target: held-out target pairs, for :func:`pair_score`.

    Returns:
        The sum, in [0, 2], or in [0, 1] without a target; higher is better.

    Raises:
        ValueError: a source batch carries no windows.

    Example:
        >>> from mmda.models.mmcda import MMCDAConfig, build_mmcda
        >>> from mmda.vmr import World, simulate
        >>> draw = simulate(World(videos=1, test_videos=1))
        >>> model = build_mmcda(MMCDAConfig(video_width=32, query_width=24, hidden=16, joint=8)).eval()
        >>> selection_score(model, [draw.source_val], [draw.target_val]) == 1 + source_score(model, [draw.source_val])
        True
    """
    score = source_score(model, source)
    return score if target is None else score + pair_score(model, target)
