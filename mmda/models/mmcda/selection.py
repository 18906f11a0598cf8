"""Choosing a checkpoint without a boundary of the target."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from mmda.metrics import mean_iou
from mmda.models.mmcda.model import MMCDA
from mmda.models.mmcda.training import predict_split
from mmda.vmr.batch import VMRBatch


def source_score(model: MMCDA, loader: Iterable[VMRBatch]) -> float:
    """Mean IoU of the best span on labelled (source) batches, in [0, 1]; higher is better.

    Raises:
        ValueError: a batch carries no windows.
    """
    batches = list(loader)
    spans, _ = predict_split(model, batches, n=1)
    total, at = 0.0, 0
    for batch in batches:
        if batch.windows is None or batch.window_mask is None:
            raise ValueError("source_score: `loader` must give windows, got a batch without them")
        rows = slice(at, at + len(batch))
        value = mean_iou(spans.windows[rows], batch.windows.cpu(), window_mask=batch.window_mask.cpu())
        total += float(value) * len(batch)
        at += len(batch)
    return total / at


@torch.no_grad()
def pair_score(model: MMCDA, loader: Iterable[VMRBatch], *, top: float = 0.125) -> float:
    """Share of queries whose own video is retrieved first among all videos of the loader; higher is better.

    A video scores by the mean of the best ``top`` share of its frames, as in
    :func:`mmda.losses.multiple_instance_loss`. A video that rows share counts once; windows are never read.

    Args:
        model: in ``eval()`` mode.
        loader: held-out target pairs.
        top: share of the frames that stands for the video.
    """
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
    q = torch.cat(queries)
    names = list(videos)
    scores = torch.stack(
        [
            (videos[name] @ q.T).topk(max(1, -int(-top * len(videos[name]) // 1)), dim=0).values.mean(0)
            for name in names
        ]
    )
    own = torch.tensor([names.index(owner) for owner in owners], device=device)
    return float((scores.argmax(0) == own).float().mean())


def selection_score(model: MMCDA, source: Iterable[VMRBatch], target: Iterable[VMRBatch] | None = None) -> float:
    """Source validation's mean IoU, plus the retrieval of held-out target pairs where a target is given.

    Both lie in [0, 1]. The first guards localisation against collapse, the second sees the target; neither reads
    a target boundary.
    """
    score = source_score(model, source)
    return score if target is None else score + pair_score(model, target)
