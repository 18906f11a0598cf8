"""Checkpoint selection without target moments."""

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
    """Mean IoU of the top span over labelled (source) rows; higher is better.

    Args:
        model: in ``eval()`` mode.
        loader: held-out source batches with moments; read once and kept in memory.

    Returns:
        Mean over rows with a window of the temporal IoU of the first span and its best window, in [0, 1].

    Raises:
        ValueError: a batch has no windows, no row has one, or there is no batch.

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
    """Fraction of queries whose video is ranked first among all videos of the loader; higher is better.

    A video's score is the mean over its best fraction ``top`` of frames, as in
    :func:`mmda.losses.multiple_instance_loss`. Videos shared by several rows count once; windows are not used.

    Args:
        model: in ``eval()`` mode.
        loader: held-out target pairs.
        top: fraction of the frames that represents the video, in (0, 1], at least one frame.

    Returns:
        The fraction, in [0, 1]; chance is one over the number of videos.

    Raises:
        ValueError: ``top`` outside (0, 1], or no batch in the loader.

    Notes:
        Computes the similarities of all frames and queries of the loader; the joint frames of all videos are kept in
        memory.

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
        count = max(1, math.ceil(len(frames) * top * (1 - 1e-6)))  # as in the loss: 15 of 100 for 0.15
        return (frames @ q.T).topk(count, dim=0).values.mean(0)

    scores = torch.stack([best(videos[name]) for name in names])
    own = torch.tensor([names.index(owner) for owner in owners], device=device)
    return float((scores.argmax(0) == own).float().mean())


def selection_score(model: MMCDA, source: Iterable[VMRBatch], target: Iterable[VMRBatch] | None = None) -> float:
    """Mean IoU on source validation data, plus the retrieval score of held-out target pairs if given.

    The first detects a collapse of localisation, the second measures adaptation; neither uses target moments.

    Args:
        model: in ``eval()`` mode.
        source: held-out source batches with moments, for :func:`source_score`.
        target: held-out target pairs, for :func:`pair_score`.

    Returns:
        The sum, in [0, 2], or in [0, 1] without a target; higher is better.

    Raises:
        ValueError: a source batch has no windows.

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
