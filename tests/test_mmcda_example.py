"""The main example end to end: a world, two folders, a resumed run, a question to a trained model, and bad input."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
HEADLINE, MIOU = "R@1, IoU=0.5", "mIoU"
SHOWN = ("R@1, IoU=0.3", HEADLINE, "R@1, IoU=0.7", "R@5, IoU=0.5", MIOU)
MOMENTS: list[Any] = [[[0.0, 2.0]], [], [[9, 3]]]
SMOKE = ["--smoke", "--ablation", "--seeds", "2", "--diagnose"]


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mmcda_vmr_example", ROOT / "examples" / "mmcda_vmr.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(example: ModuleType) -> ModuleType:
    """The module beside it that reads."""
    return sys.modules["mmcda_data"]


@pytest.fixture(scope="module")
def finished(example: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished smoke run."""
    folder: Path = tmp_path_factory.mktemp("smoke") / "out"
    assert example.cli([*SMOKE, "--output", str(folder)]) == 0
    return folder


def write_domain(folder: Path, seed: int, *, width: int = 6, videos: int = 24) -> Path:
    """A small data set in the packed layout: PREFIX.jsonl, PREFIX_video.npz, PREFIX_query.npz."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    clips = rng.integers(8, 14, videos)
    offsets = np.concatenate([[0], np.cumsum(clips)])
    vids = np.array([f"v{i}" for i in range(videos)])
    feats = rng.integers(-127, 128, (offsets[-1], width)).astype(np.int8)
    prefix = folder / "set"
    np.savez(
        f"{prefix}_video.npz",
        feat_int8=feats,
        scale=np.full(width, 0.01, dtype=np.float32),
        offsets=offsets,
        vids=vids,
        clip_seconds=np.float32(2.0),
    )
    np.savez(f"{prefix}_query.npz", feat=rng.standard_normal((videos, 5)).astype(np.float32))
    lines = []
    for i in range(videos):
        start = float(rng.integers(0, clips[i] - 4)) * 2
        window = [start, start + 6.0]
        row = {"qid": i, "query": f"query {i}", "duration": 2.0 * int(clips[i]), "vid": f"v{i}"}
        lines.append(json.dumps({**row, "relevant_windows": [window]}))
    Path(f"{prefix}.jsonl").write_text("\n".join(lines) + "\n")
    return prefix


def folders(tmp_path: Path, **sizes: int) -> list[str]:
    source, target = write_domain(tmp_path / "a", 0), write_domain(tmp_path / "b", 1, **sizes)
    return ["--source", str(source), "--target", str(target)]


def test_table_has_every_row_with_intervals(finished: Path, example: ModuleType) -> None:
    content = json.loads((finished / "table.json").read_text())
    rows = {row["row"]: row for row in content["tables"][0]["rows"]}
    blind = ["random span", "sampled source prior", "best constant of the source", "whole video"]
    assert list(rows) == blind + [row.name for row in example.ABLATION]
    for row in rows.values():
        for metric in SHOWN:
            low, high = row["interval"][metric]["seeds"]
            assert low <= row["mean"][metric] <= high
    text = (finished / "table.txt").read_text()
    assert all(name in text for name in rows)
    assert (finished / "table.png").read_bytes().startswith(b"\x89PNG")
    assert not list(finished.rglob("*.part*"))


def test_every_term_is_logged_raw_weighted_and_with_its_gradient(finished: Path, example: ModuleType) -> None:
    runs = json.loads((finished / "table.json").read_text())["runs"]
    full = next(run for run in runs if run["row"] == example.FULL)
    for entry in full["log"]:
        assert (
            set(entry["terms"]) == set(entry["weights"]) == set(entry["gradient_norms"]) == set(example.DEFAULT_WEIGHTS)
        )
        assert all(norm > 0 for norm in entry["gradient_norms"].values())


def test_rows_of_worlds_are_compared_seed_by_seed(finished: Path, example: ModuleType) -> None:
    """Each seed draws videos of its own, whose names say nothing: two seeds have no video in common."""
    table = json.loads((finished / "table.json").read_text())
    (each,) = table["tables"]
    assert all(set(row["interval"][MIOU]) == {"seeds"} for row in each["rows"])
    without = [row.name for row in example.ABLATION if row.name.startswith("full without")]
    against = [example.SOURCE_ONLY, "source-only + source terms", *without]
    assert list(each["compared"]) == [
        f"{example.FULL} less {name}, {metric}" for name in against for metric in (HEADLINE, MIOU)
    ]
    runs = {(run["row"], run["seed"]): run["metrics"][MIOU] for run in table["runs"]}
    gain = sum(runs[example.FULL, seed] - runs[without[1], seed] for seed in range(2)) / 2
    text = each["compared"][f"{example.FULL} less {without[1]}, {MIOU}"]
    assert text.startswith(f"{100 * gain:.1f} [")
    assert text.endswith("] over seeds")


def test_means_and_intervals_are_those_of_the_runs(finished: Path) -> None:
    content = json.loads((finished / "table.json").read_text())
    for row in content["tables"][0]["rows"]:
        values = [run["metrics"]["mIoU"] for run in content["runs"] if run["row"] == row["row"]]
        if values:
            assert row["mean"]["mIoU"] == pytest.approx(np.mean(values))


def test_a_trained_model_answers(finished: Path, example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["--smoke", "--output", str(finished), "--predict", "the concept07-a of", "--video", "target-test-3"]
    assert example.cli([*ask, "--top", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("target-test-3 (")
    assert 1 <= len(lines[1:]) <= 3
    assert lines[1].endswith("100.0 % of the best")
    assert all(" s - " in line and "score" in line for line in lines[1:])


def test_resume_trains_nothing_twice(
    finished: Path, example: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    before = (finished / "table.txt").read_text()
    monkeypatch.setattr(example, "fit", never)
    assert example.cli([*SMOKE, "--resume", "--output", str(finished)]) == 0
    assert (finished / "table.txt").read_text() == before


def refused(example: ModuleType, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that must end with exit code 2."""
    capsys.readouterr()
    assert example.cli(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_resume_refuses_results_of_other_settings(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--smoke", "--rows", "source-only", "--output", str(tmp_path)]
    assert example.cli(run) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(example, "fit", never)
    changed = ["--epochs", "3", "--batch-size", "8"]
    line = refused(example, capsys, *run, "--resume", *changed)
    assert f"--resume: {tmp_path / 'jobs' / 'world-language-source-only-0.json'} must be of the settings asked" in line
    assert "got training.steps 4, not 30; batch_size 32, not 8; target_batch" in line
    for other, told in (
        (["--train-on-val"], "train_on_val False"),
        (["--target-batch-size", "8"], "target_batch_size 32"),
    ):
        assert told in refused(example, capsys, *run, "--resume", *other)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    kept = tmp_path / "jobs" / "world-language-source-only-0.json"
    content = json.loads(kept.read_text())
    del content["settings"]
    kept.write_text(json.dumps(content))
    assert "got a file that does not name its own" in refused(example, capsys, *run, "--resume")
    for damaged in ("[1, 2", "[]", json.dumps({**content, "row": "x"}), json.dumps({**content, "seed": 1}), "{}"):
        kept.write_text(damaged)
        line = refused(example, capsys, *run, "--resume")
        assert line.endswith("must be the whole result of this row and seed, got a damaged one: delete it")


def test_resume_refuses_a_begun_run_of_other_settings(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--smoke", "--rows", "source-only", "--resume", "--output", str(tmp_path)]
    kept = example.save_model
    monkeypatch.setattr(example, "save_model", interrupted)
    assert example.cli(run) == 130
    monkeypatch.setattr(example, "save_model", kept)
    begun = tmp_path / "runs" / "world-language-source-only-0.pt"
    line = refused(example, capsys, *run, "--preset", "vslnet")
    assert f"--resume: {begun} must be of the settings asked for, got preset 'default', not 'vslnet'" in line
    assert example.cli(run) == 0
    (tmp_path / "jobs" / "world-language-source-only-0.json").unlink()
    begun.with_suffix(".json").unlink()
    assert f"{begun} must be of the settings asked for, got a file that does not" in refused(example, capsys, *run)


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def job_files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "jobs").glob("*.json")}


SCRIPT = [sys.executable, str(ROOT / "examples" / "mmcda_vmr.py")]
MANY_JOBS = ["--smoke", "--epochs", "20", "--ablation", "--seeds", "4", "--workers", "2"]


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_an_interrupt_ends_every_job(tmp_path: Path) -> None:
    """Ctrl-C, which the whole process group gets, ends workers and the jobs still waiting, without a trace."""
    # A shell starts what runs in its background with the signal ignored, and programs hand that on.
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [*SCRIPT, *MANY_JOBS, "--output", str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while not job_files(tmp_path) and time.monotonic() < deadline:
                time.sleep(0.05)
            before = job_files(tmp_path)
            assert before
            os.killpg(process.pid, signal.SIGINT)
            _, told = process.communicate(timeout=60)  # of nearly fifty jobs: only one that hangs takes so long
        finally:
            signal.signal(signal.SIGINT, ours)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert "Traceback" not in told
    assert told.splitlines()[-1].startswith("interrupted; --resume keeps")
    assert len(job_files(tmp_path) - before) <= 4  # what was in its last moments


def test_a_failing_job_ends_the_others(tmp_path: Path) -> None:
    (tmp_path / "jobs" / "world-language-source-only-0.json").mkdir(parents=True)  # its result cannot be written
    command = [*SCRIPT, *MANY_JOBS, "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    assert "source-only-0.json" in done.stderr
    assert len(job_files(tmp_path)) < 10


@pytest.mark.parametrize("alignment", ["coral", "energy", "sliced", "adversarial"])
def test_the_alignment_is_swapped(example: ModuleType, alignment: str, tmp_path: Path) -> None:
    assert example.cli(["--smoke", "--alignment", alignment, "--output", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "table.json").read_text())["alignment"] == alignment
    assert (
        (tmp_path / "table.txt")
        .read_text()
        .startswith(f"world language: mean over 1 seed, (i) aligns with {alignment}")
    )
    assert all(name.endswith(f"-0-{alignment}.json") for name in job_files(tmp_path))  # beside those of another


def test_rows_are_chosen_by_the_beginning_of_their_names(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example.cli(["--smoke", "--rows", "full: ", "source-only", "--output", str(tmp_path)]) == 0
    runs = json.loads((tmp_path / "table.json").read_text())["runs"]
    assert [run["row"] for run in runs] == [example.SOURCE_ONLY, example.FULL]  # the exact name wins
    assert example.cli(["--smoke", "--rows", "fulll", "--output", str(tmp_path)]) == 2
    assert example.cli(["--smoke", "--rows", "", "--output", str(tmp_path)]) == 2
    assert "--rows 'fulll': must be a row, or the beginning of one, of 'source-only'" in capsys.readouterr().err


def test_a_target_batch_of_its_own(example: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = []

    def record(*loaders: Any, **_: Any) -> None:
        seen.append([loader.batch_size for loader in loaders[2:]])
        raise example.UnusableError("enough")

    monkeypatch.setattr(example, "fit", record)
    run = ["--smoke", "--batch-size", "8", "--output", str(tmp_path)]
    assert example.cli([*run, "--target-batch-size", "12"]) == 2
    assert example.cli(run) == 2
    assert seen == [[8, 12], [8, 8]]


def test_the_share_of_hidden_features_reaches_the_model(
    example: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = []

    def record(model: torch.nn.Module, *_: Any, **__: Any) -> None:
        seen.append({module.p for module in model.modules() if hasattr(module, "p")})
        raise example.UnusableError("enough")

    monkeypatch.setattr(example, "fit", record)
    run = ["--smoke", "--output", str(tmp_path)]
    assert example.cli([*run, "--dropout", "0.25"]) == 2
    assert example.cli(run) == 2
    assert seen == [{0.25}, {0.0}]


def test_two_folders_give_the_same_table(
    example: ModuleType,
    data: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    folders(tmp_path)
    here = ["--source", "a/set", "--target", "b/set"]
    run = [*here, "--epochs", "1", "--seeds", "1", "--workers", "1", "--batch-size", "8"]
    assert example.cli([*run, "--output", str(tmp_path / "out")]) == 0
    rows = [row["row"] for row in json.loads((tmp_path / "out" / "table.json").read_text())["tables"][0]["rows"]]
    assert rows[-7:] == [row.name for row in example.REAL_ROWS]
    capsys.readouterr()
    ask = [*folders(tmp_path), "--output", str(tmp_path / "out"), "--video", "v3"]
    assert example.cli([*ask, "--predict", "Query  3"]) == 0  # blanks and case do not matter
    answer = capsys.readouterr().out
    assert answer.startswith("v3 (")
    monkeypatch.chdir(tmp_path.parent)
    data.load_draw.cache_clear()
    assert example.cli([*ask[4:], "--predict", "query 3"]) == 0  # the checkpoint knows its data
    assert capsys.readouterr().out.splitlines()[1:] == answer.splitlines()[1:]
    assert example.cli([*ask, "--predict", "another sentence"]) == 2
    assert "must hold the sentence: others than the target's queries have no features" in capsys.readouterr().err


def test_the_targets_training_boundaries_are_closed(example: ModuleType, tmp_path: Path) -> None:
    """Moving every boundary of the target's training videos moves no number of the adapted rows."""
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
        run = [
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
        assert example.cli([*arguments, *run, "--output", str(here / "out")]) == 0
        table = json.loads((here / "out" / "table.json").read_text())["tables"][0]["rows"]
        tables.append({row["row"]: row["mean"] for row in table if row["row"] != example.CEILING})
    assert tables[0] == tables[1]


def folder_options(tmp_path: Path) -> list[str]:
    return ["--source", str(tmp_path / "a" / "set"), "--target", str(tmp_path / "b" / "set")]


def run_folders(example: ModuleType, tmp_path: Path, *options: str) -> int:
    """A run of two rows on the folders ``a`` and ``b``."""
    arguments = [*folder_options(tmp_path), *options]
    rows = ["--rows", "source-only", "full: "] if "--rows" not in options else []
    code: int = example.cli([*arguments, *rows, "--smoke", "--output", str(tmp_path / "out")])
    return code


def change_moments(prefix: Path, change: Callable[[dict[str, Any]], Any], vids: Collection[str]) -> None:
    path = Path(f"{prefix}.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["vid"] in vids:
            row["relevant_windows"] = change(row)
    path.write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize("held", MOMENTS)
def test_no_weight_depends_on_the_targets_training_moments(
    example: ModuleType, data: ModuleType, tmp_path: Path, held: Any
) -> None:
    weights = []
    for change in (None, lambda row: held):
        folders(tmp_path)
        if change is not None:
            domain = data.read_domain(data.Place(str(tmp_path / "b" / "set")), data.SPLITS)
            trained = {domain.videos[qid] for split in ("train", "val") for qid in domain.pairs[split].qids}
            change_moments(tmp_path / "b" / "set", change, sorted(trained)[:3])
        data.load_draw.cache_clear()
        assert run_folders(example, tmp_path, "--rows", "full: ") == 0
        (model,) = (tmp_path / "out" / "models").glob("*.pt")
        weights.append(torch.load(model, weights_only=True)["model"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_unlabelled_queries_are_left_out_and_counted(
    example: ModuleType, data: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders(tmp_path)
    domain = data.read_domain(data.Place(str(tmp_path / "b" / "set")), data.SPLITS)
    known = {split: [domain.videos[qid] for qid in domain.pairs[split].qids] for split in data.SPLITS}
    change_moments(tmp_path / "b" / "set", lambda row: [], [*known["train"], *known["val"], *known["test"][:2]])
    change_moments(tmp_path / "a" / "set", lambda row: [], known["train"][:1])  # the same names in both
    assert run_folders(example, tmp_path) == 0
    told = capsys.readouterr().out
    assert "set to set: 1 unlabelled queries left out of the source's train split" in told
    assert "set to set: 2 unlabelled queries left out of the target's test split" in told
    (result,) = (tmp_path / "out" / "jobs").glob("*source-only*.json")
    assert sorted(json.loads(result.read_text())["videos"]) == sorted(known["test"][2:])
    every = ["--source", str(tmp_path / "a" / "set"), "--target", str(tmp_path / "b" / "set"), "--smoke"]
    assert example.cli([*every, "--output", str(tmp_path / "every")]) == 0  # no row asked for needs what is not there
    assert "no rows with the target's labels: " in capsys.readouterr().out
    rows = [row["row"] for row in json.loads((tmp_path / "every" / "table.json").read_text())["tables"][0]["rows"]]
    assert example.CEILING not in rows
    assert example.FULL in rows
    data.load_draw.cache_clear()
    change_moments(tmp_path / "b" / "set", lambda row: [], known["test"])
    line = refused(example, capsys, *every, "--output", str(tmp_path / "none"))
    assert "set.jsonl: `test` must hold a query with a moment in this split, got unlabelled ones only" in line


def test_splits_are_those_of_the_data_sets_name(
    example: ModuleType,
    data: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = data.Place("some/qv", splits="s.json")
    assert data.splits_name(place, ["qv_val", "old_qv", "qv"]) == "qv"
    assert data.splits_name(place, ["old_qv", "qv_val"]) == "qv_val"
    assert data.splits_name(data.Place("some/qv_val_b"), ["old_qv", "qv_val"]) == "qv_val"
    for known, told in ((["qv_a", "qv_b"], "qv_a, qv_b"), (["old_qv"], "old_qv")):
        with pytest.raises(example.VMRDataError, match=f"name the data set 'qv', or one alone .* got {told}"):
            data.splits_name(place, known)
    (tmp_path / "charades").mkdir()
    monkeypatch.chdir(tmp_path / "charades")
    assert data.Place(".").name == "charades"
    folders(tmp_path)
    parts = {"train": ["v0", "v1", "v2", "v3"], "val": ["v4"], "test": ["v5", "nobody"]}
    (tmp_path / "s.json").write_text(json.dumps({"set": parts}))
    assert run_folders(example, tmp_path, "--splits", str(tmp_path / "s.json")) == 0
    told = capsys.readouterr().out
    assert "s.json: of 7 videos listed for set, 1 are unknown there" in told
    assert "s.json: of 24 videos of set, 18 are in no split" in told


def test_more_queries_a_step_than_there_are_make_a_pass_one_step(example: ModuleType, tmp_path: Path) -> None:
    folders(tmp_path)
    assert run_folders(example, tmp_path, "--batch-size", "64", "--epochs", "9") == 0
    assert json.loads((tmp_path / "out" / "table.json").read_text())["training"]["steps"] == 9


def publish(folder: Path, seed: int, splits: dict[str, int]) -> None:
    """Annotations as ActivityNet Captions has them, a file a split, with features beside."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    videos, queries = {}, {}
    for split, count in splits.items():
        entries = {}
        for i in range(count):
            vid = f"{split}{i}"
            videos[vid], queries[f"{vid}_{split}_1"] = rng.standard_normal((9, 6)), rng.standard_normal((1, 5))
            entries[vid] = {"duration": 18.0, "timestamps": [[2.0, 8.0]], "sentences": [f"a dog {'runs' * (i % 2)}"]}
        (folder / f"{split}.json").write_text(json.dumps(entries))
    np.savez(folder / "video.npz", **{vid: frames.astype(np.float32) for vid, frames in videos.items()})
    np.savez(folder / "query.npz", **{qid: words.astype(np.float32) for qid, words in queries.items()})


def test_published_files_are_the_splits(
    data: ModuleType, tmp_path: Path, example: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(tmp_path / "a", 0, {"train": 20, "test": 5})
    publish(tmp_path / "b", 1, {"train": 12, "val": 4, "test": 6})
    publish(tmp_path / "c", 1, {"train": 12, "val": 4})
    kept_back = data.read_domain(data.Place(str(tmp_path / "c")), data.SPLITS)
    assert kept_back.told[0].endswith("c: test is val.json, train is train.json")
    assert {name: len(part) for name, part in kept_back.pairs.items()} == {"train": 11, "val": 1, "test": 4}
    two, three = (data.read_domain(data.Place(str(tmp_path / name)), data.SPLITS) for name in "ab")
    assert {name: len(part) for name, part in three.pairs.items()} == {"train": 12, "val": 4, "test": 6}
    assert {name: len(part) for name, part in two.pairs.items()} == {"train": 18, "val": 2, "test": 5}
    assert all(two.videos[qid].startswith("train") for qid in two.pairs["val"].qids)
    assert all(len(two.opened(split)) == len(two.pairs[split]) for split in data.SPLITS)
    run = ["--source", str(tmp_path / "a"), "--target", str(tmp_path / "b"), "--smoke", "--output"]
    assert example.cli([*run, str(tmp_path / "out"), "--rows", "full: "]) == 0
    assert "no file for val, 2 videos of train are held out as such" in capsys.readouterr().out
    glove = tmp_path / "glove.txt"
    glove.write_text("a 0.1 0.2 0.3\ndog 1 0 0.5\nruns 0.5 0.5 -1\n")
    words = [*run, str(tmp_path / "glove"), "--glove", str(glove)]
    assert example.cli([*words, "--rows", "full: "]) == 0
    ask = ["--output", str(tmp_path / "glove"), "--predict", "the dog runs", "--video", "test1"]
    assert example.cli(ask) == 0  # any sentence has features now
    (tmp_path / "b" / "notes.json").write_text("{}")
    data.load_draw.cache_clear()
    line = refused(example, capsys, *run, str(tmp_path / "none"))
    assert "hold one file of annotations, or one each with `train` and `test` or `val` in its name" in line
    (tmp_path / "b" / "notes.json").unlink()
    (tmp_path / "b" / "query_old").mkdir()
    data.load_draw.cache_clear()
    assert "hold query features once (or --source-query" in refused(example, capsys, *run, str(tmp_path / "none"))


def test_annotations_may_be_a_file(
    example: ModuleType, data: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders(tmp_path)
    (tmp_path / "b" / "set.jsonl").rename(tmp_path / "notes.jsonl")
    here = ["--source", str(tmp_path / "a" / "set.jsonl"), "--target", str(tmp_path / "notes.jsonl"), "--smoke"]
    run = [*here, "--rows", "full: ", "--output", str(tmp_path / "out")]
    assert "come with features (--source-video and" in refused(example, capsys, *run)
    features = [
        "--target-video",
        str(tmp_path / "b/set_video.npz"),
        "--target-query",
        str(tmp_path / "b/set_query.npz"),
    ]
    assert example.cli([*run, *features]) == 0
    assert job_files(tmp_path / "out") == {"set-to-notes-full-i-ii-iii-0.json"}


def test_every_query_of_a_file_is_answered(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders(tmp_path)
    assert run_folders(example, tmp_path) == 0
    (kept,) = (tmp_path / "out" / "predictions").glob("*-full-i-ii-iii-0.jsonl")
    rows = {row["qid"]: row for row in map(json.loads, kept.read_text().splitlines())}
    result = json.loads((tmp_path / "out" / "jobs" / f"{kept.stem}.json").read_text())
    assert np.mean([row["iou"] for row in rows.values()]) == pytest.approx(result["metrics"][MIOU])
    change_moments(tmp_path / "b" / "set", lambda row: [], [f"v{i}" for i in range(24)])
    ask = ["--output", str(tmp_path / "out"), "--top", "3"]
    assert example.cli([*ask, "--predict-all", str(tmp_path / "b" / "set.jsonl")]) == 0  # unlabelled, with no --target
    (answered,) = (tmp_path / "out" / "predictions").glob("set-by-*.jsonl")
    lines = [json.loads(line) for line in answered.read_text().splitlines()]
    assert [line["qid"] for line in lines] == [str(i) for i in range(24)]
    assert all(set(line) == {"qid", "query", "vid", "pred_relevant_windows"} for line in lines)
    for line in lines:
        windows = line["pred_relevant_windows"]
        assert 1 <= len(windows) <= 3
        if line["qid"] in rows:
            assert [window[:2] for window in windows] == rows[line["qid"]]["spans"][:3]
            assert [window[2] for window in windows] == pytest.approx(rows[line["qid"]]["scores"][:3])
    wide = write_domain(tmp_path / "c", 1, width=7)
    line = refused(example, capsys, *ask, "--predict-all", str(wide))
    assert "features must be as those" in line
    assert "have 6 features, got 7" in line


def test_a_preset_and_thresholds_change_the_table_alone(example: ModuleType, tmp_path: Path) -> None:
    folders(tmp_path)
    assert run_folders(example, tmp_path, "--preset", "2d_tan:tacos", "--iou", "0.1") == 0
    text = (tmp_path / "out" / "table.txt").read_text()
    assert text.splitlines()[0] == "set to set: mean over 1 seed, evaluated as 2d_tan:tacos"
    header = "R@1, 0.1 R@1, 0.3 R@1, 0.5 R@1, 0.7 R@5, 0.5 mIoU gap won"
    assert " ".join(text.splitlines()[2].split()) == header
    for row in json.loads((tmp_path / "out" / "table.json").read_text())["tables"][0]["rows"]:
        assert row["mean"]["R@1, IoU=0.1"] >= row["mean"]["R@1, IoU=0.3"]
        assert row["mean"]["R@5, IoU=0.5"] >= row["mean"][HEADLINE]


def test_unusable_features_are_left_out_on_request(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders(tmp_path)
    nan_features(tmp_path / "b" / "set")
    run = [*folder_options(tmp_path), "--smoke", "--output", str(tmp_path / "none")]
    assert "set_query.npz" in refused(example, capsys, *run)
    assert run_folders(example, tmp_path, "--drop") == 0
    assert "queries have unusable features: dropped (3)" in capsys.readouterr().out


def test_a_world_named_twice_is_trained_once(example: ModuleType, tmp_path: Path) -> None:
    twice = ["--world", "language", "--world", "language", "--rows", "source-only", "--smoke"]
    assert example.cli([*twice, "--output", str(tmp_path)]) == 0
    assert len(json.loads((tmp_path / "table.json").read_text())["tables"]) == 1


def test_what_the_system_refuses_is_one_line(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders(tmp_path)
    run = [*folder_options(tmp_path), "--smoke", "--output", str(tmp_path / "out")]
    assert refused(example, capsys, *run, "--splits", str(tmp_path)) == f"error: {tmp_path}: Is a directory"
    assert "--device meta: the device must exist" in refused(example, capsys, *run, "--device", "meta")


def test_shuffled_pairs_share_no_video(example: ModuleType, data: ModuleType) -> None:
    batch = data.simulate(data.replace(data.WORLDS["language"], videos=9, test_videos=1)).target_train
    for groups in ([0, 0, 0, 1, 1, 2, 3, 3, 3], [5, 5, 5, 5, 1, 2, 3, 4, 0], list(range(9))):
        named = data.replace(batch, video_index=torch.tensor(groups), text_index=torch.arange(9))
        orders = set()
        for seed in range(20):
            mixed = example.shuffled(named, seed)
            assert torch.equal(mixed.words, batch.words[mixed.text_index])  # a text's index goes with its words
            assert sorted(mixed.text_index.tolist()) == list(range(9))
            assert not (named.video_index[mixed.text_index] == named.video_index).any()
            orders.add(tuple(mixed.text_index.tolist()))
        assert len(orders) > 10


def results(row: str, hits: Sequence[Sequence[float]]) -> list[dict[str, Any]]:
    """Results of a row, a list of hits a seed, one query a video."""
    return [
        {
            "row": row,
            "seed": seed,
            "metrics": dict.fromkeys(SHOWN, float(np.mean(hit))),
            "values": dict.fromkeys(SHOWN, hit),
            "videos": [str(i) for i in range(len(hit))],
            "seconds": 1.0,
            "constancy": 0.0,
        }
        for seed, hit in enumerate(hits)
    ]


def test_a_gap_is_told_where_there_is_one(example: ModuleType) -> None:
    def made(high: Sequence[Sequence[float]]) -> dict[str, Any]:
        low = [[0.0, 1.0] * 20] * 2
        rows = [*results(example.SOURCE_ONLY, low), *results(example.FULL, [[1.0, 0.0] + [1.0] * 38] * 2)]
        rows += results("source-only + source terms", low)
        table: dict[str, Any] = example.table("p", [], rows + results(example.CEILING, high), one_test=True)
        return table

    clear = made([[1.0] * 40, [1.0] * 39 + [0.0]])
    assert clear["no_gap"] == {}
    by_name = {row["row"]: row["recovered"][HEADLINE] for row in clear["rows"]}
    assert by_name[example.SOURCE_ONLY] == 0
    assert by_name[example.FULL] == pytest.approx((0.975 - 0.5) / (0.9875 - 0.5))
    noisy = made([[1.0] + [0.0, 1.0] * 19 + [1.0], [0.0, 1.0] * 20])  # seeds disagree whether there is any
    assert all(row["recovered"] == {HEADLINE: None, MIOU: None} for row in noisy["rows"])
    text = example.as_text([{**noisy, "seeds": 2, "rows": [{**noisy["rows"][0], "kind": "blind"}, *noisy["rows"]]}])
    note = "note: no share of the gap: the interval of target-supervised less source-only must lie above 0, got +1.2 ["
    assert sum(line.startswith(note) for line in text.splitlines()) == 1
    told = noisy["compared"]
    assert list(told)[2] == f"{example.FULL} less source-only + source terms, {HEADLINE}"
    first = told[f"{example.FULL} less {example.SOURCE_ONLY}, {HEADLINE}"]
    assert first.startswith("+47.5 [")
    assert "by video; 47.5 [47.5, 47.5] over seeds" in first


def test_the_plot_has_no_label_on_a_whisker(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib.pyplot as plt

    figures = []
    monkeypatch.setattr(plt, "close", figures.append)
    rows = [*results(example.SOURCE_ONLY, [[0.1] * 4, [0.3] * 4]), *results(example.FULL, [[0.2] * 4, [0.25] * 4])]
    example.plot([example.table("p", [], rows, one_test=True)], tmp_path / "plot.png")
    (axis,) = figures[0].axes
    assert axis.get_xlim()[1] <= 115
    ends = [path.vertices[:, 0].max() for line in axis.collections for path in line.get_paths()]
    for text, end in zip(axis.texts, ends):
        assert text.get_position()[0] > end


def nan_features(prefix: Path) -> None:
    content = dict(np.load(f"{prefix}_query.npz"))
    content["feat"][3] = np.nan
    np.savez(f"{prefix}_query.npz", **content)


def fewer_queries(prefix: Path) -> None:
    content = dict(np.load(f"{prefix}_query.npz"))
    np.savez(f"{prefix}_query.npz", feat=content["feat"][:-1])


def unknown_video(prefix: Path) -> None:
    path = Path(f"{prefix}.jsonl")
    path.write_text(path.read_text().replace('"v5"', '"nobody"'))


def moment_after_the_end(prefix: Path) -> None:
    path = Path(f"{prefix}.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[2]["relevant_windows"] = [[1000.0, 1010.0]]
    path.write_text("\n".join(map(json.dumps, rows)))


def torn_file(prefix: Path) -> None:
    path = Path(f"{prefix}_video.npz")
    path.write_bytes(path.read_bytes()[:100])


def missing_file(prefix: Path) -> None:
    Path(f"{prefix}_video.npz").unlink()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (missing_file, "set_video.npz"),
        (torn_file, "set_video.npz"),
        (nan_features, "set_query.npz"),
        (fewer_queries, "set_query.npz"),
        (unknown_video, "nobody"),
    ],
)
def test_bad_data_is_one_line_and_leaves_nothing(
    example: ModuleType,
    damage: Callable[[Path], None],
    named: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = folders(tmp_path)
    damage(Path(arguments[3]))
    code = example.cli([*arguments, "--epochs", "1", "--workers", "1", "--output", str(tmp_path / "out")])
    error = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len([line for line in error if line.startswith("error: ")]) == 1
    assert named in error[-1]
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


def test_a_moment_after_the_end_is_dropped_and_reported(example: ModuleType, data: ModuleType, tmp_path: Path) -> None:
    prefix = write_domain(tmp_path, 0)
    moment_after_the_end(prefix)
    place = data.Place(str(prefix))
    domain = data.read_domain(place, data.SPLITS)
    kept = [qid for split in data.SPLITS for qid in domain.opened(split).qids]
    assert sorted(kept, key=int) == [str(i) for i in range(24) if i != 2]
    pairs = [qid for split in data.SPLITS for qid in domain.pairs[split].qids]
    assert "2" in pairs  # without its boundaries the pair is as good as any


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "{here}/none.pt"], "none.pt: the checkpoint must exist"),
        (["--checkpoint", "{here}/torn.pt"], "torn.pt: the checkpoint must be a file of save_model, whole"),
        (["--video", "nobody"], "`nobody` must be a video of the target"),
        (["--predict", "the dog"], "--predict: encode_sentence: `sentence` must use words such as"),
    ],
)
def test_bad_questions(
    finished: Path,
    example: ModuleType,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 half a file")
    base = ["--smoke", "--output", str(finished), "--predict", "the concept01-a", "--video", "target-test-0"]
    assert example.cli([*base, *(a.format(here=tmp_path) for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_a_question_takes_the_checkpoints_own_problem(
    finished: Path, example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = ["--predict", "the concept07-a of", "--video", "target-test-3"]
    ask = [*question, "--output", str(finished)]
    answers = []
    for named in ([], ["--smoke"], ["--world", "language"], ["--world", "default", "--world", "language"]):
        checkpoint = ["--checkpoint", str(finished / "models" / "world-language-full-i-ii-iii-0.pt")]
        capsys.readouterr()
        assert example.cli([*ask, *named, *(checkpoint if len(named) > 2 else [])]) == 0
        answers.append(capsys.readouterr().out)
    assert len(set(answers)) == 1
    small = example.load(example.Problem("world language", world="language", videos=80), 0)[1].pairs["test"]
    assert f"({float(small.duration[small.qids.index('target-test-3')]):.1f} s)" in answers[0]
    checkpoint = finished / "models" / "world-language-full-i-ii-iii-0.pt"
    line = refused(example, capsys, *ask, "--checkpoint", str(checkpoint), "--world", "noisy")
    assert line == f"error: {checkpoint}: the checkpoint must be of 'world noisy', got 'world language'"
    both = tmp_path / "models"
    both.mkdir()
    for world in ("label", "noisy"):
        (both / f"world-{world}-full-i-ii-iii-0.pt").write_bytes(checkpoint.read_bytes())
    here = [*question, "--output", str(tmp_path)]
    assert "the checkpoint must be of 'world noisy', got 'world language'" in refused(
        example, capsys, *here, "--world", "noisy"
    )
    assert "must hold one full model, or --checkpoint must name it, got world-label" in refused(example, capsys, *here)
    model, _ = example.load_model(checkpoint)
    config = torch.load(checkpoint, weights_only=True)["config"]
    example.save_model(tmp_path / "old.pt", model, example.MMCDAConfig(**config), problem="world language", seed=0)
    line = refused(example, capsys, *here, "--checkpoint", str(tmp_path / "old.pt"))
    assert "the checkpoint must name what it was trained on" in line


def test_a_shared_space_needs_one_width(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(example, capsys, "--smoke", "--shared-space", "--output", str(tmp_path))
    assert line == "error: --shared-space: frames and words must have one width, got 32 and 24 in world language"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_validation_videos_of_a_world_can_be_trained_on(example: ModuleType, tmp_path: Path) -> None:
    assert example.cli(["--smoke", "--rows", "full: ", "--train-on-val", "--output", str(tmp_path)]) == 0


def test_a_note_for_each_metric_where_a_blind_row_is_better(example: ModuleType) -> None:
    def row(name: str, kind: str, headline: float, miou: float) -> dict[str, Any]:
        mean = dict.fromkeys(SHOWN, 0.5) | {HEADLINE: headline, MIOU: miou}
        return {"row": name, "kind": kind, "mean": mean, "interval": {metric: {} for metric in mean}}

    rows = [row("x", "blind", 0.2, 0.3), row("y", "blind", 0.1, 0.4), row("z", "trained", 0.3, 0.35)]
    rows += [row("low", "trained", 0.1, 0.1), row("high", "trained", 0.9, 0.9)]
    text = example.as_text([{"problem": "p", "seeds": 1, "rows": rows}])
    notes = [line for line in text.splitlines() if line.startswith("note: ")]
    told = "does not beat the best blind row at"
    expected = [("z", "mIoU"), ("low", "R@1, IoU=0.5"), ("low", "mIoU")]
    assert notes == [f"note: {name} {told} {metric}" for name, metric in expected]


def test_the_help_says_what_resume_needs(example: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        example.cli(["--help"])
    assert "if it began with --resume too" in " ".join(capsys.readouterr().out.split())


def test_widths_must_agree(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = folders(tmp_path, width=7)
    assert example.cli([*arguments, "--epochs", "1", "--workers", "1", "--output", str(tmp_path / "out")]) == 2
    assert "must have frames of one width in both domains" in capsys.readouterr().err


def test_an_unwritable_folder_is_found_before_training(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert example.cli(["--smoke", "--output", str(tmp_path / "file" / "out")]) == 2
    assert "the output folder must be writable" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_device_is_named(example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert example.cli(["--smoke", "--device", "cuda", "--output", str(tmp_path)]) == 2
    assert "--device cuda: the device must exist on this machine" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--source", "x"],
        ["--seeds", "0"],
        ["--predict", "a"],
        ["--world", "default", "--source", "x", "--target", "y"],
        ["--smoke", "--batch-size", "1"],
        ["--smoke", "--target-batch-size", "1"],
        ["--smoke", "--splits", "x.json"],
        ["--smoke", "--source-video", "x"],
        ["--smoke", "--source-query", "x"],
        ["--smoke", "--target-video", "x"],
        ["--smoke", "--target-query", "x"],
        ["--smoke", "--glove", "x"],
        ["--smoke", "--drop"],
        ["--smoke", "--iou", "1.5"],
        ["--smoke", "--dropout", "1"],
        ["--smoke", "--preset", "mine"],
        ["--predict", "a", "--video", "v", "--predict-all", "x"],
    ],
)
def test_contradictory_options(example: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        example.cli(arguments)
    assert ended.value.code == 2
