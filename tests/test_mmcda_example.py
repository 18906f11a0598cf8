"""The main example end to end: a world, two folders, a resumed run, a question to a trained model, and bad input."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
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
        for metric in example.SHOWN:
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
    assert all(set(row["interval"][example.MIOU]) == {"seeds"} for row in each["rows"])
    without = [row.name for row in example.ABLATION if row.name.startswith("full without")]
    against = [example.SOURCE_ONLY, *without]
    assert list(each["compared"]) == [
        f"{example.FULL} less {name}, {metric}" for name in against for metric in (example.HEADLINE, example.MIOU)
    ]
    runs = {(run["row"], run["seed"]): run["metrics"][example.MIOU] for run in table["runs"]}
    gain = sum(runs[example.FULL, seed] - runs[without[1], seed] for seed in range(2)) / 2
    text = each["compared"][f"{example.FULL} less {without[1]}, {example.MIOU}"]
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
    changed = ["--alignment", "coral", "--epochs", "3", "--batch-size", "8"]
    line = refused(example, capsys, *run, "--resume", *changed)
    assert f"--resume: {tmp_path / 'jobs' / 'world-language-source-only-0.json'} must be of the settings asked" in line
    assert "got alignment 'mmd', not 'coral'; training.steps 4, not 30; batch_size 32, not 8; target_batch" in line
    for other, told in (
        (["--train-on-val"], "train_on_val False"),
        (["--target-batch-size", "8"], "target_batch_size 32"),
    ):
        assert told in refused(example, capsys, *run, "--resume", *other)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    kept = tmp_path / "jobs" / "world-language-source-only-0.json"
    content = json.loads(kept.read_text())
    del content["settings"]
    for damaged in (json.dumps(content), "[1, 2"):
        kept.write_text(damaged)
        assert "got a file that does not name its own" in refused(example, capsys, *run, "--resume")


def test_resume_refuses_a_begun_run_of_other_settings(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = ["--smoke", "--rows", "source-only", "--resume", "--output", str(tmp_path)]
    kept = example.save_model
    monkeypatch.setattr(example, "save_model", interrupted)
    assert example.cli(run) == 130
    monkeypatch.setattr(example, "save_model", kept)
    begun = tmp_path / "runs" / "world-language-source-only-0.pt"
    line = refused(example, capsys, *run, "--alignment", "coral")
    assert f"--resume: {begun} must be of the settings asked for, got alignment 'mmd', not 'coral'" in line
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
            process.wait(timeout=5)
            _, told = process.communicate(timeout=5)
        finally:
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


def test_rows_are_chosen_by_the_beginning_of_their_names(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert example.cli(["--smoke", "--rows", "full: ", "source-only", "--output", str(tmp_path)]) == 0
    runs = json.loads((tmp_path / "table.json").read_text())["runs"]
    assert [run["row"] for run in runs] == [example.SOURCE_ONLY, example.FULL]  # the exact name wins
    assert example.cli(["--smoke", "--rows", "fulll", "--output", str(tmp_path)]) == 2
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


def test_two_folders_give_the_same_table(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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
    example.load_draw.cache_clear()
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


def run_folders(example: ModuleType, tmp_path: Path, *options: str) -> int:
    """A run of two rows on the folders ``a`` and ``b``."""
    arguments = ["--source", str(tmp_path / "a" / "set"), "--target", str(tmp_path / "b" / "set"), *options]
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
def test_no_weight_depends_on_the_targets_training_moments(example: ModuleType, tmp_path: Path, held: Any) -> None:
    weights = []
    for change in (None, lambda row: held):
        folders(tmp_path)
        if change is not None:
            domain = example.read_domain(example.Place(str(tmp_path / "b" / "set")), example.SPLITS)
            trained = {domain.videos[qid] for split in ("train", "val") for qid in domain.pairs[split].qids}
            change_moments(tmp_path / "b" / "set", change, sorted(trained)[:3])
        example.load_draw.cache_clear()
        assert run_folders(example, tmp_path, "--rows", "full: ") == 0
        (model,) = (tmp_path / "out" / "models").glob("*.pt")
        weights.append(torch.load(model, weights_only=True)["model"])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_unlabelled_queries_are_left_out_and_counted(
    example: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders(tmp_path)
    domain = example.read_domain(example.Place(str(tmp_path / "b" / "set")), example.SPLITS)
    known = {split: [domain.videos[qid] for qid in domain.pairs[split].qids] for split in example.SPLITS}
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
    example.load_draw.cache_clear()
    change_moments(tmp_path / "b" / "set", lambda row: [], known["test"])
    line = refused(example, capsys, *every, "--output", str(tmp_path / "none"))
    assert "set.jsonl: `test` must hold a query with a moment in this split, got unlabelled ones only" in line


def test_splits_are_those_of_the_data_sets_name(
    example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = example.Place("some/qv", splits="s.json")
    assert example.splits_name(place, ["qv_val", "old_qv", "qv"]) == "qv"
    assert example.splits_name(place, ["old_qv", "qv_val"]) == "qv_val"
    assert example.splits_name(example.Place("some/qv_val_b"), ["old_qv", "qv_val"]) == "qv_val"
    for known, told in ((["qv_a", "qv_b"], "qv_a, qv_b"), (["old_qv"], "old_qv")):
        with pytest.raises(example.VMRDataError, match=f"name the data set 'qv', or one alone .* got {told}"):
            example.splits_name(place, known)
    (tmp_path / "charades").mkdir()
    monkeypatch.chdir(tmp_path / "charades")
    assert example.Place(".").name == "charades"
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


def test_a_moment_after_the_end_is_dropped_and_reported(example: ModuleType, tmp_path: Path) -> None:
    prefix = write_domain(tmp_path, 0)
    moment_after_the_end(prefix)
    place = example.Place(str(prefix))
    domain = example.read_domain(place, example.SPLITS)
    kept = [qid for split in example.SPLITS for qid in domain.opened(split).qids]
    assert sorted(kept, key=int) == [str(i) for i in range(24) if i != 2]
    pairs = [qid for split in example.SPLITS for qid in domain.pairs[split].qids]
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
        mean = dict.fromkeys(example.SHOWN, 0.5) | {example.HEADLINE: headline, example.MIOU: miou}
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
    ],
)
def test_contradictory_options(example: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        example.cli(arguments)
    assert ended.value.code == 2
