"""The command line: its output for good and bad folders, and its exit codes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmda.vmr import open_features
from mmda.vmr.check import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {"qid": 1, "query": "a dog runs", "vid": "a", "duration": 10, "relevant_windows": [[2, 14]]},
        {"qid": 2, "query": "a cat", "vid": "b", "duration": 10, "relevant_windows": [[4, 2], [0, 3]]},
    ]
    (tmp_path / "val.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for sub in ("video", "query"):
        (tmp_path / sub).mkdir()
    for vid, t in (("a", 5), ("b", 3)):
        np.savez(tmp_path / "video" / f"{vid}.npz", features=np.ones((t, 4), np.float32))
    for qid in (1, 2):
        np.savez(tmp_path / "query" / f"qid{qid}.npz", last_hidden_state=np.ones((3, 6), np.float16))
    (tmp_path / "glove.txt").write_text("a 1 2 3\ndog 1 2 3\n")
    return tmp_path


def check(folder: Path, *more: str) -> list[str]:
    video = ["--video", str(folder / "video")]
    return ["check", "--annotations", str(folder / "val.jsonl"), *video, *more]


def test_a_good_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(check(folder, "--query", str(folder / "query"))) == 0
    said = capsys.readouterr()
    assert said.err == ""
    for fact in (
        "layout qvhighlights, rows 2, queries 2, videos 2, moments 2",
        "clipped           1",
        "inverted          1",
        "folder of npz, 2 ids, width 4",
        "folder of npz, 2 ids, width 6",
        "frame width 4, word width 6, clips 3 to 5",
        "ready for training",
    ):
        assert fact in said.out, fact


def test_annotations_alone_and_glove(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--annotations", str(folder / "val.jsonl")]) == 0
    alone = capsys.readouterr().out
    assert alone.endswith("no fault found; not looked at without --video and --query or --glove\n")
    assert "few videos: 2; a trained model needs some hundreds" in alone
    assert main(check(folder)) == 0
    assert capsys.readouterr().out.endswith("no fault found; not looked at without --query or --glove\n")
    assert main(check(folder, "--glove", str(folder / "glove.txt"))) == 0
    assert "unknown_words     2  words have no vector: skipped (runs, cat)" in capsys.readouterr().out


def test_every_fault_is_listed_and_the_first_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(folder / "video" / "b.npz", features=np.full((3, 4), np.nan))
    (folder / "query" / "qid1.npz").unlink()
    arguments = check(folder, "--query", str(folder / "query"))
    rows = [json.loads(line) for line in (folder / "val.jsonl").read_text().splitlines()]
    rows.append({"qid": 3, "query": "c", "vid": "a", "duration": 10})
    np.savez(folder / "query" / "qid3.npz", last_hidden_state=np.ones((3, 6), np.float16))
    (folder / "val.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "video: `b` must hold finite numbers, got 12 NaN and 0 infinite of 12" in said.err
    assert "1 videos with unusable features" in said.err
    assert "1 queries without features" in said.err
    assert "! " + str(folder / "query") + ": `1` must have query features" in said.out
    assert "ready for training" not in said.out
    assert main([*arguments, "--drop"]) == 0


def test_one_damaged_video_does_not_hide_the_others(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "video" / "a.npz").write_bytes(b"PK")
    (folder / "video" / "._b.npz").write_bytes(b"Mac OS X")
    np.savez(folder / "video" / "0stats.npz", features=np.ones(3))
    assert main(check(folder)) == 2
    said = capsys.readouterr()
    assert "folder of npz, 3 ids, width 4" in said.out
    assert "1 videos with unusable features" in said.err
    assert main(check(folder, "--drop")) == 0


def test_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(check(folder, "--query", str(folder / "query"), "--json")) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["features"]["video"] == {"layout": "folder of npz", "ids": 2, "width": 4}
    assert said["reports"][0]["ids"]["clipped"] == ["1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "--annotations", "{}/nope.json"], "nope.json: must exist, got no such file"),
        (["check", "--annotations", "{}/glove.txt"], "glove.txt: must be in a known layout"),
        (["check", "--annotations", "{}/val.jsonl", "--video", "{}/val.jsonl"], "must be a folder, .npz"),
        (
            ["check", "--annotations", "{}/val.jsonl", "--video", "{}/query"],
            "problem: .*query: `a` must have video",
        ),
        (["check", "--annotations", "{}/val.jsonl", "--video", "{}/video", "--clip-seconds", "0"], "must be above 0"),
        (["pack", "--features", "{}/video", "--out", "{}/query"], "query: must not exist yet"),
        (["pack", "--features", "{}/video", "--out", "{}/glove.txt/x"], "glove.txt"),
        (["pack", "--features", "{}/nope", "--out", "{}/x"], "nope: must exist"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    before = sorted(folder.rglob("*"))
    assert main([part.format(folder) for part in arguments]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert re.search(message, said.err), said.err
    assert sorted(folder.rglob("*")) == before


def test_pack_and_run_as_a_module(folder: Path) -> None:
    command = [sys.executable, "-W", "error", "-m", "mmda.vmr"]
    out = folder / "packed"
    done = subprocess.run(
        [*command, "pack", "--features", str(folder / "video"), "--out", str(out), "--dtype", "float32"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "2 ids, width 4" in done.stdout
    np.testing.assert_array_equal(open_features(out)["a"], np.ones((5, 4)))
    bad = subprocess.run([*command, "check", "--annotations", str(folder)], capture_output=True, text=True)
    assert bad.returncode == 2
    assert bad.stderr.startswith("error: ")
