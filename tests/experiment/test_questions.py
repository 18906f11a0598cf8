"""Questions to a trained model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mmda.cli.predict import main as predict
from mmda.models.mmcda import MMCDAConfig, build_mmcda, encode_videos, load_model, save_model
from mmda.models.mmcda.experiment import Place, Problem, load_problem
from mmda.models.mmcda.experiment.domains import numbered
from mmda.models.mmcda.experiment.questions import Checkpoint, queries_of
from mmda.models.mmcda.experiment.tables import MIOU
from mmda.vmr import VMRDataError, open_features
from tests.experiment._folders import change_moments, folders, refused, run, run_folders, write_domain


def test_a_trained_model_answers(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["--smoke", "--output", str(finished), "--predict", "the concept07-a of", "--video", "target-test-3"]
    assert run([*ask, "--top", "3"]) == 0
    model, *lines = capsys.readouterr().out.splitlines()
    assert model == f"model: {finished / 'models' / 'world-language-full-i-ii-iii-0.pt'}"
    assert lines[0].startswith("target-test-3 (")
    *moments, last = lines[1:]
    assert 1 <= len(moments) <= 3
    assert all(" s - " in line and "score" in line for line in moments)
    assert last == "scores rank the moments of one video; they are not probabilities"
    assert "%" not in "".join(lines)


def test_a_corpus_is_ranked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders(tmp_path)
    assert run_folders(tmp_path, "--rows", "full: ") == 0
    (path,) = (tmp_path / "out" / "models").glob("*.pt")
    videos = str(tmp_path / "b" / "set_video.npz")
    capsys.readouterr()
    ask = ["query 3", "--checkpoint", str(path), "--corpus", videos, "--top", "4"]
    assert predict(ask) == 0
    used, title, *lines = capsys.readouterr().out.splitlines()
    assert (used, title) == (f"model: {path}", f"{videos}: 'query 3'")
    model, _ = load_model(path)
    words = torch.from_numpy(np.load(tmp_path / "b" / "set_query.npz")["feat"][3:4])
    ranked = encode_videos(model, open_features(videos)).rank(words, top=4)
    assert [line.split()[-1] for line in lines] == [found.vid for found in ranked]
    assert [float(line.split()[-2]) for line in lines] == pytest.approx([f.score for f in ranked], abs=6e-4)
    assert [float(line.split()[0]) for line in lines] == [float(f.windows[0, 0]) for f in ranked]
    np.savez(tmp_path / "bare.npz", v0=np.ones((4, 6), dtype=np.float32))
    np.savez(tmp_path / "wide.npz", v0=np.ones((4, 9), dtype=np.float32))
    for file, options, message in (
        ("bare.npz", [], "bare.npz: the length of a clip must be known (--clip-seconds says it)"),
        ("wide.npz", ["--clip-seconds", "2"], "have 6 features, got 9"),
        ("none.npz", [], "none.npz"),
    ):
        assert predict([*ask[:3], "--corpus", str(tmp_path / file), *options]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        predict([*ask, "--video", "v1"])


def test_every_query_of_a_file_is_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders(tmp_path)
    assert run_folders(tmp_path) == 0
    (kept,) = (tmp_path / "out" / "predictions").glob("*-full-i-ii-iii-0.jsonl")
    rows = {row["qid"]: row for row in map(json.loads, kept.read_text().splitlines())}
    assert rows
    assert {*rows} <= {*range(24)}  # numbers, as in the file
    result = json.loads((tmp_path / "out" / "jobs" / f"{kept.stem}.json").read_text())
    assert np.mean([row["iou"] for row in rows.values()]) == pytest.approx(result["metrics"][MIOU])
    change_moments(tmp_path / "b" / "set", lambda row: [], [f"v{i}" for i in range(24)])
    ask = ["--output", str(tmp_path / "out"), "--top", "3"]
    assert run([*ask, "--predict-all", str(tmp_path / "b" / "set.jsonl")]) == 0  # unlabelled, with no --target
    (answered,) = (tmp_path / "out" / "predictions").glob("set-by-*.jsonl")
    lines = [json.loads(line) for line in answered.read_text().splitlines()]
    assert [line["qid"] for line in lines] == list(range(24))  # numbers, as in the file
    assert all(set(line) == {"qid", "query", "vid", "pred_relevant_windows"} for line in lines)
    for line in lines:
        windows = line["pred_relevant_windows"]
        assert 1 <= len(windows) <= 3
        if line["qid"] in rows:
            assert [window[:2] for window in windows] == rows[line["qid"]]["spans"][:3]
            assert [window[2] for window in windows] == pytest.approx(rows[line["qid"]]["scores"][:3])
    wide = write_domain(tmp_path / "c", 1, width=7)
    line = refused(capsys, *ask, "--predict-all", str(wide))
    assert "features must be as those" in line
    assert "have 6 features, got 7" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "{here}/none.pt"], "none.pt: the checkpoint must exist"),
        (["--checkpoint", "{here}/torn.pt"], "torn.pt: the checkpoint must be an undamaged file of save_model"),
        (["--video", "nobody"], "`nobody` must be a video of the target"),
        (["--predict", "the dog"], "--predict: encode_sentence: `sentence` must use words such as"),
    ],
)
def test_bad_questions(
    finished: Path,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "torn.pt").write_bytes(b"PK\x03\x04 half a file")
    base = ["--smoke", "--output", str(finished), "--predict", "the concept01-a", "--video", "target-test-0"]
    assert run([*base, *(a.format(here=tmp_path) for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_a_question_takes_the_checkpoints_own_problem(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    question = ["--predict", "the concept07-a of", "--video", "target-test-3"]
    ask = [*question, "--output", str(finished)]
    answers = []
    for named in ([], ["--smoke"], ["--world", "language"], ["--world", "default", "--world", "language"]):
        checkpoint = ["--checkpoint", str(finished / "models" / "world-language-full-i-ii-iii-0.pt")]
        capsys.readouterr()
        assert run([*ask, *named, *(checkpoint if len(named) > 2 else [])]) == 0
        answers.append(capsys.readouterr().out)
    assert len(set(answers)) == 1
    small = load_problem(Problem("world language", world="language", videos=80), 0)[1].pairs["test"]
    assert f"({float(small.duration[small.qids.index('target-test-3')]):.1f} s)" in answers[0]
    checkpoint = finished / "models" / "world-language-full-i-ii-iii-0.pt"
    line = refused(capsys, *ask, "--checkpoint", str(checkpoint), "--world", "noisy")
    assert line == f"error: {checkpoint}: the checkpoint must be of 'world noisy', got 'world language'"
    both = tmp_path / "models"
    both.mkdir()
    for world in ("label", "noisy"):
        (both / f"world-{world}-full-i-ii-iii-0.pt").write_bytes(checkpoint.read_bytes())
    here = [*question, "--output", str(tmp_path)]
    assert "the checkpoint must be of 'world noisy', got 'world language'" in refused(capsys, *here, "--world", "noisy")
    assert "must hold one full model, or --checkpoint must name it, got world-label" in refused(capsys, *here)
    model, _ = load_model(checkpoint)
    config = torch.load(checkpoint, weights_only=True)["config"]
    save_model(tmp_path / "old.pt", model, MMCDAConfig(**config), problem="world language", seed=0)
    line = refused(capsys, *here, "--checkpoint", str(tmp_path / "old.pt"))
    assert "the checkpoint must name what it was trained on" in line


def test_named_features_are_read_and_not_the_checkpoints_word_vectors(tmp_path: Path) -> None:
    prefix = write_domain(tmp_path / "b", 1)
    trained = Problem("p", source=Place(str(prefix)), target=Place(str(prefix), glove=str(tmp_path / "vectors.txt")))
    checkpoint = Checkpoint(tmp_path / "m.pt", build_mmcda(MMCDAConfig(6, 5, hidden=4, joint=4)), trained, 0)
    ((data, numbers),) = queries_of(checkpoint, Place(str(prefix), query=f"{prefix}_query.npz"))
    assert (data.word_width, len(numbers)) == (5, 24)
    with pytest.raises(VMRDataError, match=r"vectors\.txt"):
        queries_of(checkpoint, Place(str(prefix)))


def test_query_ids_of_any_line_of_annotations(tmp_path: Path) -> None:
    file = tmp_path / "notes.jsonl"
    rows = [{"qid": 3, "query": "a\u2028b"}, {"qid": "x"}, {"qid": 4}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_text("\n".join([*lines, '{"qid": 5, "long": ' + "9" * 6000 + "}"]), encoding="utf-8")
    assert numbered(file) == {"3": 3, "4": 4, "5": 5}


def test_answers_that_were_changed_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--smoke", "--rows", "source-only", "--output", str(tmp_path)]
    assert run(options) == 0
    (kept,) = (tmp_path / "predictions").glob("*.jsonl")
    kept.write_text(kept.read_text().replace("0", "1", 1))
    assert "must be the file that" in refused(capsys, *options, "--resume")
