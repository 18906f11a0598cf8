"""Every command works outside the checkout and documents its options."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmda._core.files import write_lines_file
from mmda.cli import COMMANDS, main

ROOT = Path(__file__).resolve().parent.parent


def mmda(*arguments: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "mmda", *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_table_from_another_folder(tmp_path: Path) -> None:
    assert "world language: mean over 1 seed" in mmda("table", "--smoke", "--rows", "source-only", cwd=tmp_path)
    assert (tmp_path / "outputs" / "mmcda_vmr" / "table.json").exists()


def test_a_model_is_trained_asked_and_scored(tmp_path: Path) -> None:
    here = ["--output", str(tmp_path / "out")]
    told = mmda("train", "--smoke", "--world", "language", *here, cwd=tmp_path)
    model = tmp_path / "out" / "models" / "world-language-full-i-ii-iii-0.pt"
    assert told.splitlines()[-1].endswith(str(model))
    asked = mmda("predict", "the concept07-a of", "--video", "target-test-3", "--top", "2", *here, cwd=tmp_path)
    first, second, *_ = asked.splitlines()
    assert first == f"model: {model}"
    assert second.startswith("target-test-3 (")
    scores = json.loads(mmda("evaluate", str(model), "--json", cwd=tmp_path))
    assert f"{'mIoU':14}{100 * scores['mIoU']:6.1f}" in told.splitlines()


def test_predictions_are_scored_by_query(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes, answers = tmp_path / "notes.jsonl", tmp_path / "answers.jsonl"
    rows = [
        {"qid": i, "query": "a dog", "duration": 10.0, "vid": f"v{i}", "relevant_windows": [[2.0, 6.0]]}
        for i in range(2)
    ]
    notes.write_text("\n".join(map(json.dumps, rows)))
    found = [{"qid": 1, "pred_relevant_windows": [[2.0, 6.0, 0.9]]}, {"qid": 0, "pred_relevant_windows": [[2, 4, 1]]}]
    answers.write_text("\n".join(map(json.dumps, found)))
    run = ["evaluate", str(answers), "--annotations", str(notes)]
    assert main([*run, "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert (scores["R@1, IoU=0.7"], scores["mIoU"], scores["queries"]) == (0.5, 0.75, 2)
    answers.write_text(json.dumps(found[0]))
    assert main(run) == 2
    assert "answers.jsonl: `0` must be answered, got none for 1 of 2" in capsys.readouterr().err
    answers.write_text('{"qid": 1}')
    assert main(run) == 2
    assert "`line 1` must have the keys qid, pred_relevant_windows" in capsys.readouterr().err
    write_lines_file(answers, "\n".join(map(json.dumps, found)).encode())
    assert main(run) == 0
    answers.write_bytes(answers.read_bytes().replace(b"0.9", b"0.8"))
    assert main(run) == 2
    assert "must be the file that answers.jsonl.sha256 was written for, got another" in capsys.readouterr().err


def test_checks_and_shifts(tmp_path: Path) -> None:
    row = {"qid": 0, "query": "a dog", "duration": 10.0, "vid": "v", "relevant_windows": [[2.0, 6.0]]}
    (tmp_path / "notes.jsonl").write_text(json.dumps(row))
    assert mmda("check", "--annotations", "notes.jsonl", cwd=tmp_path).endswith(
        "no fault found; not looked at without --video and --query or --glove\n"
    )
    folder = tmp_path / "own"
    (folder / "video").mkdir(parents=True)
    (folder / "notes.jsonl").write_text(json.dumps(row))
    np.save(folder / "video" / "v.npy", np.ones((5, 3)))
    assert mmda("check", "own", cwd=tmp_path).endswith("no fault found; not looked at without --query or --glove\n")
    np.savez(folder / "query.npz", text_0=np.ones((2, 4)))
    assert mmda("check", "own", "--clip-seconds", "2", cwd=tmp_path).endswith("ready for training\n")
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).standard_normal((30, 3)))
    assert "MMD^2" in mmda("shift", "a.npy", "b.npy", "--permutations", "10", cwd=tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: mmda {command} ")


def test_what_is_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert main([]) == 2
    assert main(["tabel"]) == 2
    assert "the command must be one of table, train, predict, evaluate, check, shift, got 'tabel'" in (
        capsys.readouterr().err
    )
    assert main(["check", "own"]) == 2
    assert "own: must be a folder or a file of annotations, got nothing there, nor at own.jsonl" in (
        capsys.readouterr().err
    )
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("mmda ")


def test_evaluate_prints_the_public_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By hand: AP, the first span's IoU is 0.75, a hit at six of the ten thresholds; HIT@1, clip 1."""
    row = {"qid": 7, "query": "a dog", "vid": "v", "duration": 8.0, "relevant_windows": [[0.0, 4.0]]}
    truth = tmp_path / "truth.jsonl"
    scores = {"relevant_clip_ids": [0, 1], "saliency_scores": [[1, 1, 1], [4, 4, 0]]}
    truth.write_text(json.dumps({**row, **scores}) + "\n", encoding="utf-8")
    predictions = tmp_path / "predictions.jsonl"
    answer = {"qid": 7, "query": "a dog", "vid": "v", "pred_relevant_windows": [[0.0, 3.0, 0.9]]}
    predictions.write_text(json.dumps({**answer, "pred_saliency_scores": [0.1, 0.9, 0.2, 0.0]}), encoding="utf-8")
    ask = ["evaluate", str(predictions), "--annotations", str(truth), "--qvhighlights"]
    assert main([*ask, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["MR-full-mAP"], found["MR-full-R1@0.5"], found["MR-full-R1@0.7"]) == (60, 100, 100)
    assert found["HL-min-VeryGood-Hit1"] == 100
    predictions.write_text(json.dumps(answer), encoding="utf-8")
    assert main(ask) == 0
    shown = capsys.readouterr().out
    assert "MR-full-mAP             60.00" in shown
    assert "HL-min" not in shown
    predictions.write_text(json.dumps({**answer, "qid": 8}), encoding="utf-8")
    assert main(ask) == 2
    assert capsys.readouterr().err.startswith("error: ")
