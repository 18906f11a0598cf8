"""What --resume reuses, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmda.models.mmcda import terms, vote_spans
from mmda.models.mmcda.experiment import jobs, runs, settings
from mmda.models.mmcda.experiment.results import read_record, write_record
from tests.experiment._folders import SMOKE, interrupted, refused, run


def test_resume_trains_nothing_twice(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    before = (finished / "table.txt").read_text()
    monkeypatch.setattr(runs, "fit", never)
    assert run([*SMOKE, "--resume", "--output", str(finished)]) == 0
    assert (finished / "table.txt").read_text() == before


def test_resume_refuses_results_of_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--smoke", "--rows", "source-only", "--output", str(tmp_path)]
    assert run(command) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(runs, "fit", never)
    changed = ["--epochs", "3", "--batch-size", "8"]
    line = refused(capsys, *command, "--resume", *changed)
    assert f"--resume: {tmp_path / 'jobs' / 'world-language-source-only-0.json'} must be of the settings asked" in line
    assert "got training.steps 4, not 30; batch_size 32, not 8; target_batch" in line
    for other, told in (
        (["--train-on-val"], "train_on_val False"),
        (["--target-batch-size", "8"], "target_batch_size 32"),
    ):
        assert told in refused(capsys, *command, "--resume", *other)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    kept = tmp_path / "jobs" / "world-language-source-only-0.json"
    content = read_record(kept)
    del content["settings"]
    write_record(kept, content)
    assert "got a file that does not name its own" in refused(capsys, *command, "--resume")
    for other_job in ({**content, "row": "x"}, {**content, "seed": 1}, {"row": 0}):
        write_record(kept, other_job)
        line = refused(capsys, *command, "--resume")
        assert line.endswith("must be the whole result of this row and seed, got a damaged one: delete it")
    for damaged in ("[1, 2", "[]", json.dumps({**content, "row": "x"}), json.dumps({**content, "seed": 1}), "{}"):
        kept.write_text(damaged)
        line = refused(capsys, *command, "--resume")
        assert line.endswith("must be the whole result of this row and seed, got a damaged one: delete it")


def test_resume_refuses_results_of_other_defaults(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*SMOKE, "--resume", "--output", str(finished)]
    monkeypatch.setattr(settings, "RECIPE", (vote_spans, changed_rounds))
    assert "got recipe.changed_rounds.rounds None, not 5; recipe.attended_rows.temp" in refused(capsys, *command)
    monkeypatch.undo()
    monkeypatch.setitem(jobs.SMALL, "neighbours", 0.75)
    assert "got model.neighbours 0.25, not 0.75" in refused(capsys, *command)
    monkeypatch.undo()
    monkeypatch.setitem(terms.DEFAULT_WEIGHTS, "moment", 2.0)
    assert "got weights.moment 1.0, not 2.0" in refused(capsys, *command)
    monkeypatch.undo()
    kept = next((finished / "jobs").iterdir())
    content, before = read_record(kept), kept.read_bytes()
    del content["settings"]["recipe"]
    write_record(kept, content)
    try:
        assert "got a file of an earlier version, without the defaults of its recipe" in refused(capsys, *command)
    finally:
        kept.write_bytes(before)


def changed_rounds(*, rounds: int = 5) -> int:
    return rounds


def test_resume_refuses_a_begun_run_of_other_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--smoke", "--rows", "source-only", "--resume", "--output", str(tmp_path)]
    kept = runs.save_model
    monkeypatch.setattr(runs, "save_model", interrupted)
    assert run(command) == 130
    monkeypatch.setattr(runs, "save_model", kept)
    begun = tmp_path / "runs" / "world-language-source-only-0.pt"
    line = refused(capsys, *command, "--preset", "vslnet")
    assert f"--resume: {begun} must be of the settings asked for, got preset 'default', not 'vslnet'" in line
    whole = begun.with_suffix(".json").read_bytes()
    begun.with_suffix(".json").unlink()
    assert f"{begun} must be of the settings asked for, got a file that does not" in refused(capsys, *command)
    begun.with_suffix(".json").write_bytes(whole.replace(b"default", b"defauld"))
    assert f"{begun} must be of the settings asked for, got a file that does not" in refused(capsys, *command)
    begun.with_suffix(".json").write_bytes(whole)
    damaged = bytearray(begun.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    begun.write_bytes(damaged)
    assert "world-language-source-only-0.pt: the checkpoint must be an undamaged file of fit(resume=...)" in refused(
        capsys, *command
    )
    assert run([word for word in command if word != "--resume"]) == 0  # which starts from the beginning
    assert not begun.exists()
