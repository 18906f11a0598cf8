"""Rows without training: the plain decoder, the best that clips allow, and the data that each row may read."""

from __future__ import annotations

import itertools
from dataclasses import replace

import torch

from mmda.metrics import temporal_iou
from mmda.models.mmcda import fit_joint_maps
from mmda.models.mmcda.experiment import Draws, Problem
from mmda.models.mmcda.experiment.closed_rows import (
    BEST_CLIPS,
    CCA_PAIRS,
    CCA_SHUFFLED,
    CCA_SOURCE,
    CCA_TRUE,
    TARGET_CONSTANT,
    best_clip_spans,
    plain_spans,
    untrained_rows,
)
from mmda.vmr import ResidentSplit, World, simulate

WORLD = World(videos=40, test_videos=10, video_width=12, query_width=10)


def split() -> ResidentSplit:
    return ResidentSplit.from_batch(simulate(WORLD, seed=1).source_train)


def test_the_best_span_of_clips_is_that_of_every_pair_of_edges() -> None:
    data = split()
    assert data.windows is not None
    data = replace(data, windows=data.windows + 0.37)  # off the grid, some beyond the end
    found = best_clip_spans(data)
    assert data.windows is not None
    assert data.window_mask is not None
    for i in range(len(data)):
        pair = data.slice([i])
        clips = pair.clip_times[0][pair.frame_mask[0]]
        windows = data.windows[i][data.window_mask[i]]
        every = [
            float(temporal_iou(torch.stack([a, b]).expand_as(windows), windows).max())
            for a, b in itertools.product(clips[:, 0], clips[:, 1])
            if b > a
        ]
        assert abs(float(temporal_iou(found[i, 0].expand_as(windows), windows).max()) - max(every)) < 1e-9


def test_plain_spans_do_not_depend_on_how_the_rows_are_cut() -> None:
    data = split()
    maps = fit_joint_maps(data, None, components=6)
    several = data.select([*range(len(data))] * 8)  # 320 rows: two pieces
    assert torch.equal(plain_spans(maps, several).reshape(8, 40, 1, 2)[7], plain_spans(maps, data))


def test_rows_are_named_and_those_with_labels_come_last() -> None:
    problem, data = Problem("small", world="language", videos=60), Draws()
    rows = {row.name: row for row in untrained_rows(problem, 0, "default", (0.5,), data)}
    assert next(iter(rows)) == CCA_SOURCE
    assert list(rows)[-3:] == [CCA_TRUE, TARGET_CONSTANT, BEST_CLIPS]
    recall = {name: row.as_dict()["R@1, IoU=0.5"] for name, row in rows.items()}
    assert recall[BEST_CLIPS] == max(recall.values())
    assert recall[CCA_SHUFFLED] < recall[CCA_TRUE]
    assert recall[CCA_PAIRS] > 0
