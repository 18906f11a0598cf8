"""Training on the simulated worlds: each parameter opens a gap between domains, and a matching loss closes it.

Single seeds, so the bounds leave room for noise; the documentation's tables hold means and intervals.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import pytest
import torch

from mmda.models.mmcda import MMCDA, MMCDAConfig, MMCDAObjective, TrainingConfig, build_mmcda, fit, predict_split
from mmda.models.mmcda.experiment import ABLATION
from mmda.models.mmcda.experiment.jobs import SMALL
from mmda.models.mmcda.experiment.rows import CEILING, FULL, SOURCE_ONLY
from mmda.models.mmcda.experiment.runs import shuffled
from mmda.vmr import WORLDS, ResidentLoader, Simulation, VMRBatch, VMRQuery, World, simulate
from mmda.vmr.blind import constant_rows, constant_spans, random_spans, whole_video
from mmda.vmr.evaluation import evaluate_windows


@lru_cache(maxsize=2)
def draw(world: World) -> Simulation:
    return simulate(world, seed=0)


@lru_cache(maxsize=16)
def train(world: World, name: str) -> MMCDA:
    """One row of the table, with its sizes and its number of steps."""
    row = next(row for row in ABLATION if row.name == name)
    splits = draw(world)
    labelled = splits.target_train if row.train_on == "target" else splits.source_train
    pairs = shuffled(splits.target_train, 0) if row.shuffled else splits.target_train
    torch.manual_seed(0)
    model = build_mmcda(MMCDAConfig(labelled.frames.shape[-1], labelled.words.shape[-1], **SMALL))
    fit(
        model,
        MMCDAObjective(weights=row.weights(0.5)),
        ResidentLoader(labelled, 32, drop_last=True),
        ResidentLoader(pairs, 32, seed=1, labels=False, drop_last=True),
        config=TrainingConfig(steps=310, evaluations=1),
    )
    return model


def score(model: MMCDA, split: VMRBatch) -> float:
    spans, _ = predict_split(model, ResidentLoader(split, 128, shuffle=False), n=1)
    assert split.windows is not None
    return evaluate_windows(spans.windows, split.windows, n=(1,))["R@1, IoU=0.5"]


def test_the_default_world_has_a_gap_that_pairs_close_and_shuffled_pairs_do_not() -> None:
    world = WORLDS["default"]
    test = draw(world).target_test
    names = (SOURCE_ONLY, FULL, "full, target pairs shuffled", CEILING)
    source_only, full, of_others, ceiling = (score(train(world, name), test) for name in names)
    assert ceiling >= 0.85
    assert source_only < ceiling - 0.3
    assert full > source_only + 0.5 * (ceiling - source_only)  # 0.69 to 0.97 over six starts
    assert of_others < source_only + 0.1


def test_without_shift_adaptation_does_no_harm() -> None:
    world = WORLDS["no_shift"]
    test = draw(world).target_test
    assert score(train(world, FULL), test) > score(train(world, SOURCE_ONLY), test) - 0.05


@pytest.mark.parametrize(
    "knobs",
    [
        {"video_mean": 2.5},
        {"video_scale": 2.0},
        {"video_covariance": 1.5},
        {"video_rotation": 0.8},
        {"query_mean": 1.5},
        {"query_scale": 1.0},
        {"query_covariance": 1.0},
        {"query_rotation": 0.8},
        {"new_synonyms": 1.0},
    ],
    ids=lambda knobs: next(iter(knobs)),
)
def test_each_knob_alone_opens_a_gap(knobs: dict[str, float]) -> None:
    """The source does not depend on these knobs, so one source-only model serves all of the worlds.

    Over six other starts of the network the smallest gap of any knob is 0.17 with these values, so that rounding on
    another processor, which acts like another start, cannot close it.
    """
    plain = WORLDS["no_shift"]
    model = train(plain, SOURCE_ONLY)
    shifted = simulate(replace(plain, **knobs, videos=1, target_videos=1), seed=0)  # type: ignore[arg-type]
    assert score(model, shifted.target_test) < score(model, draw(plain).target_test) - 0.05


@pytest.mark.parametrize("name", ["default", "language", "noisy", "no_shift"])
def test_blind_rows_stay_low(name: str) -> None:
    splits = draw(replace(WORLDS[name], target_videos=1, test_videos=1000, video_width=2, query_width=2))

    def queries(split: VMRBatch) -> list[VMRQuery]:
        assert split.windows is not None
        rows = zip(split.qids, split.duration.tolist(), split.windows[:, 0].tolist())
        return [VMRQuery(qid, qid, "words", duration, ((low, high),)) for qid, duration, (low, high) in rows]

    known, test = queries(splits.source_train), queries(splits.target_test)
    windows = splits.target_test.windows
    assert windows is not None
    generator = torch.Generator().manual_seed(0)
    rows = (constant_rows(constant_spans(known), test), whole_video(test), random_spans(test, generator=generator))
    for spans in rows:
        assert evaluate_windows(spans, windows, n=(1,))["R@1, IoU=0.5"] <= 0.15
