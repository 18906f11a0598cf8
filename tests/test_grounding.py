"""The benchmark on real videos: folds by video, rank correlations, and the cost of a selected checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmarks import grounding, grounding_checkpoints
from mmda.models.mmcda.experiment.domains import Domain
from mmda.vmr import ResidentSplit, World, simulate


@pytest.fixture(scope="module")
def domains() -> tuple[Domain, Domain]:
    draw = simulate(World(videos=30, test_videos=4, video_width=12, query_width=10), seed=0)

    def of(batches: dict[str, Any]) -> Domain:
        opened = {name: ResidentSplit.from_batch(batch) for name, batch in batches.items()}
        pairs = {name: split.without_moments() for name, split in opened.items()}
        videos = {qid: f"{name}-{at}" for name, s in opened.items() for qid, at in zip(s.qids, s.video_index.tolist())}
        return Domain(pairs, opened.__getitem__, draw.texts, videos)

    return of({"train": draw.source_train, "val": draw.source_val}), of(
        {"train": draw.target_train, "val": draw.target_val}
    )


def test_folds_share_no_video_and_hold_every_one_once(domains: tuple[Domain, Domain]) -> None:
    target, held_out = domains[1], []
    for number in range(grounding.FOLDS):
        rest, held = grounding.fold(target, number)
        assert rest.windows is None
        assert held.windows is not None
        apart = [{target.videos[qid] for qid in side.qids} for side in (rest, held)]
        assert not apart[0] & apart[1]
        held_out += [target.videos[qid] for qid in held.qids]
    assert sorted(held_out) == sorted(target.videos[q] for s in ("train", "val") for q in target.pairs[s].qids)


def test_few_videos_are_among_the_many(domains: tuple[Domain, Domain], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grounding, "domains", lambda root, direction: domains)
    monkeypatch.setattr(grounding, "SIZES", (0, 5, None))
    monkeypatch.setattr(grounding, "FOLDS", 2)
    records = list(grounding.efficiency(Path(), "N to Q"))
    assert len(records) == 2 * (3 + 3 + 3)
    lines = grounding.efficiency_table(records, (0, 5, None))
    assert [line[1:3] for line in lines[1:]] == [
        ["0", "best constant of the source"],
        ["0", "CCA: source"],
        ["0", "full"],
        *([str(size), row] for size in (5, "all") for row in ("CCA: target pairs", "CCA: source + pairs", "full")),
    ]
    every = grounding.labelled(domains[1])
    few, more = (grounding.of_videos(every, domains[1], lambda at, n=n: at < n) for n in (5, 9))  # type: ignore[misc]
    assert set(few.qids) < set(more.qids)


def test_scores_read_no_moment_of_the_target(domains: tuple[Domain, Domain], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STEPS": 4, "EVERY": 2, "LINEAR_STEPS": 2, "LINEAR_EVERY": 2}.items():
        monkeypatch.setattr(grounding_checkpoints, name, value)
    source, target = domains
    rest, held = grounding.fold(target, 0)
    found = list(
        grounding_checkpoints.checkpoints(source.opened("train"), source.opened("val"), rest, held.without_moments())
    )
    assert [r["family"] for r in found].count("towers") == 3 * 2
    assert len(found) == 6 * len(grounding_checkpoints.SETTINGS) + 2 + 6
    for record in found:
        assert record["spans"].shape == (len(held), 2)
        assert all(np.isfinite(v) for v in record["scores"].values())
        assert ("span_entropy, localizer" in record["scores"]) == (record["family"] == "towers")


def test_what_is_done_is_not_done_again(domains: tuple[Domain, Domain], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"FEW": (5, 9), "FOLDS": 2, "FEW_ASKED": 3, "domains": lambda root, direction: domains}.items():
        monkeypatch.setattr(grounding, name, value)
    whole = list(grounding.few(Path(), "N to Q"))
    assert all(len(record["iou"]) == 3 for record in whole)
    cut = whole[:7]  # two sizes in the first fold, one row in the next
    again = list(grounding.few(Path(), "N to Q", cut))
    assert [r["iou"] for r in again] == [r["iou"] for r in whole[6:]]


def test_ranks_correlate_as_scipy_says() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 5, 20).tolist(), draw.standard_normal(20).tolist()
    assert grounding_checkpoints.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert grounding_checkpoints.spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None
    assert grounding_checkpoints.spearman([1.0, 2.0], [1.0, 2.0]) is None


def test_the_table_says_what_a_choice_costs() -> None:
    def record(score: float, miou: float) -> dict[str, Any]:
        oracle = {"mIoU": miou, "R@1, IoU=0.5": miou}
        return {"direction": "N to Q", "family": "linear", "scores": {"good": miou, "bad": score}, "oracle": oracle}

    header, counts, random, good, bad = grounding.selection_table([record(3, 0.1), record(2, 0.2), record(1, 0.4)])
    assert good[:2] + good[-4:] == ["good", "+1.00", "+1.00", "+1.00", "0.0", "0.0"]
    assert bad[1] == "-1.00"
    assert bad[-2] == "30.0"
    assert header == ["validator", "N to Q", "mean", "lowest", "mIoU lost", "R@1 lost"]
    assert counts[1] == "3"
    assert random[-2:] == ["16.7", "16.7"]


def test_spread_pairs_are_the_number_asked_for(domains: tuple[Domain, Domain]) -> None:
    split = grounding.labelled(domains[1])
    assert len(grounding_checkpoints.some(split, 7)) == 7
    assert grounding_checkpoints.some(split, 10**6).qids == split.qids


def test_without_data_it_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert grounding.main(["shift", "--data", str(tmp_path), "--results", str(tmp_path / "none.json")]) == 0
    assert "skipped" in capsys.readouterr().err


def test_gains_are_those_of_the_committed_tables() -> None:
    found = grounding.gained("N to Q")
    assert list(found) == ["(i)", "(ii)", "(iii)"]
    table = json.loads((grounding.TABLES / "mmcda_linear_n2q.json").read_text(encoding="utf-8"))["tables"][0]
    rows = {row["row"]: row["mean"]["R@1, IoU=0.5"] for row in table["rows"]}
    less = 100 * (rows["full: (i) + (ii) + (iii)"] - rows["full without (iii)"])
    assert found["(iii)"].startswith(f"{less:+.1f} / ")
