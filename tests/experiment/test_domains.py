"""Domains on disk: splits, closed moments, and what is left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmda.models.mmcda.experiment import REAL_ROWS, Place
from mmda.models.mmcda.experiment.domains import SPLITS, read_domain, splits_name
from mmda.models.mmcda.experiment.rows import CEILING, FULL
from mmda.models.mmcda.experiment.runs import shuffled
from mmda.vmr import WORLDS, VMRDataError, simulate
from tests.experiment._folders import (
    change_moments,
    folder_options,
    folders,
    job_files,
    nan_features,
    publish,
    refused,
    run,
    run_folders,
    write_domain,
)

MOMENTS: list[Any] = [[[0.0, 2.0]], [], [[9, 3]]]


def test_two_folders_give_the_same_table(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    folders(tmp_path)
    here = ["--source", "a/set", "--target", "b/set"]
    command = [*here, "--epochs", "1", "--seeds", "1", "--workers", "1", "--batch-size", "8"]
    assert run([*command, "--output", str(tmp_path / "out")]) == 0
    rows = [row["row"] for row in json.loads((tmp_path / "out" / "table.json").read_text())["tables"][0]["rows"]]
    assert rows[-7:] == [row.name for row in REAL_ROWS]
    capsys.readouterr()
    ask = [*folders(tmp_path), "--output", str(tmp_path / "out"), "--video", "v3"]
    assert run([*ask, "--predict", "Query  3"]) == 0  # blanks and case do not matter
    model, answer = capsys.readouterr().out.split("\n", 1)
    assert model.startswith("model: ")
    assert answer.startswith("v3 (")
    monkeypatch.chdir(tmp_path.parent)
    assert run([*ask[4:], "--predict", "query 3"]) == 0  # the checkpoint names its data
    assert capsys.readouterr().out.splitlines()[2:] == answer.splitlines()[1:]
    assert run([*ask, "--predict", "another sentence"]) == 2
    assert "must hold the sentence: others than the target's queries have no features" in capsys.readouterr().err


def test_the_targets_training_boundaries_are_closed(tmp_path: Path) -> None:
    """Changing every moment of the target's training videos changes no number of the adapted rows."""
    tables = []
    for shift in (0.0, 2.0):
        here = tmp_path / str(shift)
        arguments = folders(here)
        path = Path(f"{arguments[3]}.jsonl")
        splits = {
            "set": {
                "train": [f"v{i}" for i in range(14)],
                "val": ["v14", "v15", "v16"],
                "test": [f"v{i}" for i in range(17, 24)],
            }
        }
        (here / "splits.json").write_text(json.dumps(splits))
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row in rows:
            if int(row["vid"][1:]) < 17:
                row["relevant_windows"] = [[s + shift, e + shift] for s, e in row["relevant_windows"]]
        path.write_text("\n".join(map(json.dumps, rows)))
        command = [
            "--splits",
            str(here / "splits.json"),
            "--epochs",
            "2",
            "--seeds",
            "1",
            "--workers",
            "1",
            "--batch-size",
            "7",
        ]
        assert run([*arguments, *command, "--output", str(here / "out")]) == 0
        table = json.loads((here / "out" / "table.json").read_text())["tables"][0]["rows"]
        tables.append({row["row"]: row["mean"] for row in table if row["row"] != CEILING and row["kind"] != "labels"})
    assert tables[0] == tables[1]


@pytest.mark.parametrize("held", MOMENTS)
def test_no_weight_depends_on_the_targets_training_moments(tmp_path: Path, held: Any) -> None:
    weights = []
    for change in (None, lambda row: held):
        folders(tmp_path)
        if change is not None:
            domain = read_domain(Place(str(tmp_path / "b" / "set")), SPLITS)
            trained = {domain.videos[qid] for split in ("train", "val") for qid in domain.pairs[split].qids}
            change_moments(tmp_path / "b" / "set", change, sorted(trained)[:3])
        assert run_folders(tmp_path, "--rows", "full: ") == 0
        (model,) = (tmp_path / "out" / "models").glob("*.pt")
        weights.append(torch.load(model, weights_only=True)["model"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_unlabelled_queries_are_left_out_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders(tmp_path)
    domain = read_domain(Place(str(tmp_path / "b" / "set")), SPLITS)
    known = {split: [domain.videos[qid] for qid in domain.pairs[split].qids] for split in SPLITS}
    change_moments(tmp_path / "b" / "set", lambda row: [], [*known["train"], *known["val"], *known["test"][:2]])
    change_moments(tmp_path / "a" / "set", lambda row: [], known["train"][:1])  # the same names in both
    assert run_folders(tmp_path) == 0
    told = capsys.readouterr().out
    assert "set to set: 1 unlabelled queries left out of the source's train split" in told
    assert "set to set: 2 unlabelled queries left out of the target's test split" in told
    (result,) = (tmp_path / "out" / "jobs").glob("*source-only*.json")
    assert sorted(json.loads(result.read_text())["videos"]) == sorted(known["test"][2:])
    every = ["--source", str(tmp_path / "a" / "set"), "--target", str(tmp_path / "b" / "set"), "--smoke"]
    assert run([*every, "--output", str(tmp_path / "every")]) == 0  # no row asked for needs what is not there
    assert "no rows with the target's labels: " in capsys.readouterr().out
    rows = [row["row"] for row in json.loads((tmp_path / "every" / "table.json").read_text())["tables"][0]["rows"]]
    assert CEILING not in rows
    assert FULL in rows
    change_moments(tmp_path / "b" / "set", lambda row: [], known["test"])
    line = refused(capsys, *every, "--output", str(tmp_path / "none"))
    assert "set.jsonl: `test` must hold a query with a moment in this split, got unlabelled ones only" in line


def test_splits_are_those_of_the_data_sets_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = Place("some/qv", splits="s.json")
    assert splits_name(place, ["qv_val", "old_qv", "qv"]) == "qv"
    assert splits_name(place, ["old_qv", "qv_val"]) == "qv_val"
    assert splits_name(Place("some/qv_val_b"), ["old_qv", "qv_val"]) == "qv_val"
    for known, told in ((["qv_a", "qv_b"], "qv_a, qv_b"), (["old_qv"], "old_qv")):
        with pytest.raises(VMRDataError, match=f"name the data set 'qv', or exactly one .* got {told}"):
            splits_name(place, known)
    (tmp_path / "charades").mkdir()
    monkeypatch.chdir(tmp_path / "charades")
    assert Place(".").name == "charades"
    folders(tmp_path)
    parts = {"train": ["v0", "v1", "v2", "v3"], "val": ["v4"], "test": ["v5", "nobody"]}
    (tmp_path / "s.json").write_text(json.dumps({"set": parts}))
    assert run_folders(tmp_path, "--splits", str(tmp_path / "s.json")) == 0
    told = capsys.readouterr().out
    assert "s.json: of 7 videos listed for set, 1 are unknown there" in told
    assert "s.json: of 24 videos of set, 18 are in no split" in told


def test_more_queries_a_step_than_there_are_make_a_pass_one_step(tmp_path: Path) -> None:
    folders(tmp_path)
    assert run_folders(tmp_path, "--batch-size", "64", "--epochs", "9") == 0
    assert json.loads((tmp_path / "out" / "table.json").read_text())["training"]["steps"] == 9


@pytest.mark.parametrize(("videos", "sizes"), [(3, [1, 1, 1]), (4, [2, 1, 1]), (6, [4, 1, 1]), (20, [14, 2, 4])])
def test_every_split_of_few_videos_holds_one(tmp_path: Path, videos: int, sizes: list[int]) -> None:
    domain = read_domain(Place(str(write_domain(tmp_path, 0, videos=videos))), SPLITS)
    assert [len(domain.pairs[split]) for split in SPLITS] == sizes


def test_a_domain_of_few_videos_is_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Six videos: every row, no warning; two are too few to split, with an error."""
    arguments = [*folders(tmp_path, videos=6), "--workers", "1", "--output", str(tmp_path / "out")]
    assert run(arguments) == 0
    rows = {row["row"] for row in json.loads((tmp_path / "out" / "table.json").read_text())["tables"][0]["rows"]}
    assert {FULL, CEILING, "CCA: target pairs"} <= rows
    write_domain(tmp_path / "b", 1, videos=2)
    told = refused(capsys, *folder_options(tmp_path), "--output", str(tmp_path / "none"))
    assert told.endswith("must hold at least 3 videos, one each to train on, to validate and to test, got 2")


def test_published_files_are_the_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path / "a", 0, {"train": 20, "test": 5})
    publish(tmp_path / "b", 1, {"train": 12, "val": 4, "test": 6})
    publish(tmp_path / "c", 1, {"train": 12, "val": 4})
    kept_back = read_domain(Place(str(tmp_path / "c")), SPLITS)
    assert kept_back.told[0].endswith("c: test is val.json, train is train.json")
    assert {name: len(part) for name, part in kept_back.pairs.items()} == {"train": 11, "val": 1, "test": 4}
    two, three = (read_domain(Place(str(tmp_path / name)), SPLITS) for name in "ab")
    assert {name: len(part) for name, part in three.pairs.items()} == {"train": 12, "val": 4, "test": 6}
    assert {name: len(part) for name, part in two.pairs.items()} == {"train": 18, "val": 2, "test": 5}
    assert all(two.videos[qid].startswith("train") for qid in two.pairs["val"].qids)
    assert all(len(two.opened(split)) == len(two.pairs[split]) for split in SPLITS)
    command = ["--source", str(tmp_path / "a"), "--target", str(tmp_path / "b"), "--smoke", "--output"]
    assert run([*command, str(tmp_path / "out"), "--rows", "full: "]) == 0
    assert "no file for val, 2 videos of train are held out as such" in capsys.readouterr().out
    glove = tmp_path / "glove.txt"
    glove.write_text("a 0.1 0.2 0.3\ndog 1 0 0.5\nruns 0.5 0.5 -1\n")
    words = [*command, str(tmp_path / "glove"), "--glove", str(glove)]
    assert run([*words, "--rows", "full: "]) == 0
    ask = ["--output", str(tmp_path / "glove"), "--predict", "the dog runs", "--video", "test1"]
    assert run(ask) == 0  # any sentence has features now
    (tmp_path / "b" / "notes.json").write_text("{}")
    line = refused(capsys, *command, str(tmp_path / "none"))
    assert "hold one file of annotations, or one each with `train` and `test` or `val` in its name" in line
    (tmp_path / "b" / "notes.json").unlink()
    (tmp_path / "b" / "query_old").mkdir()
    assert "hold query features once (or --source-query" in refused(capsys, *command, str(tmp_path / "none"))


def test_annotations_may_be_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders(tmp_path)
    (tmp_path / "b" / "set.jsonl").rename(tmp_path / "notes.jsonl")
    here = ["--source", str(tmp_path / "a" / "set.jsonl"), "--target", str(tmp_path / "notes.jsonl"), "--smoke"]
    command = [*here, "--rows", "full: ", "--output", str(tmp_path / "out")]
    assert "come with features (--source-video and" in refused(capsys, *command)
    features = [
        "--target-video",
        str(tmp_path / "b/set_video.npz"),
        "--target-query",
        str(tmp_path / "b/set_query.npz"),
    ]
    assert run([*command, *features]) == 0
    assert job_files(tmp_path / "out") == {"set-to-notes-full-i-ii-iii-0.json"}


def test_unusable_features_are_left_out_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders(tmp_path)
    nan_features(tmp_path / "b" / "set")
    command = [*folder_options(tmp_path), "--smoke", "--output", str(tmp_path / "none")]
    assert "set_query.npz" in refused(capsys, *command)
    assert run_folders(tmp_path, "--drop") == 0
    assert "queries have unusable features: dropped (3)" in capsys.readouterr().out


def test_shuffled_pairs_share_no_video() -> None:
    batch = simulate(replace(WORLDS["language"], videos=9, test_videos=1)).target_train
    for groups in ([0, 0, 0, 1, 1, 2, 3, 3, 3], [5, 5, 5, 5, 1, 2, 3, 4, 0], list(range(9))):
        named = replace(batch, video_index=torch.tensor(groups), text_index=torch.arange(9))
        orders = set()
        for seed in range(20):
            mixed = shuffled(named, seed)
            assert torch.equal(mixed.words, batch.words[mixed.text_index])  # equal texts have equal indices
            assert sorted(mixed.text_index.tolist()) == list(range(9))
            assert not (named.video_index[mixed.text_index] == named.video_index).any()
            orders.add(tuple(mixed.text_index.tolist()))
        assert len(orders) > 10


def test_a_moment_after_the_end_is_dropped_and_reported(tmp_path: Path) -> None:
    prefix = write_domain(tmp_path, 0)
    moment_after_the_end(prefix)
    place = Place(str(prefix))
    domain = read_domain(place, SPLITS)
    kept = [qid for split in SPLITS for qid in domain.opened(split).qids]
    assert sorted(kept, key=int) == [str(i) for i in range(24) if i != 2]
    pairs = [qid for split in SPLITS for qid in domain.pairs[split].qids]
    assert "2" in pairs  # without its moment the pair is valid


def moment_after_the_end(prefix: Path) -> None:
    path = Path(f"{prefix}.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2]["relevant_windows"] = [[1000.0, 1010.0]]
    path.write_text("\n".join(map(json.dumps, rows)))
