"""Any command line ends with an exit code and at most one line of error, never with a traceback."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmda.cli import COMMANDS, main, predict, table, train
from mmda.models.mmcda.experiment import UnusableError, session

VALUES = ["0", "1", "2", "-1", "3.5", "nan", "inf", "1e9", "", " ", "cpu", "meta", "cuda:9", "mmd", "default"]
PLACES = ["{here}", "{here}/none", "{here}/notes.jsonl", "{here}/damaged.pt", "{here}/bytes.npz", "/dev/null", "é"]
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=8)

#: Valid command lines; paths in them may point to anything.
FORMS = [
    ["table", "--source", "{}", "--target", "{}", "--output", "{here}/out"],
    ["table", "--source", "{here}/notes.jsonl", "--target", "{}", "--source-video", "{}", "--source-query", "{}"],
    ["table", "--source", "{}", "--target", "{}", "--splits", "{}", "--glove", "{}", "--durations", "{}", "--drop"],
    ["table", "--smoke", "--output", "{}", "--device", "{}"],
    ["train", "--source", "{}", "--target", "{}", "--row", "{}", "--output", "{here}/out"],
    ["predict", "{}", "--video", "{}", "--checkpoint", "{}"],
    ["predict", "--all", "{}", "--checkpoint", "{}"],
    ["predict", "{}", "--video", "{}", "--output", "{}", "--target-video", "{}", "--target-query", "{}"],
    ["evaluate", "{}"],
    ["evaluate", "{}", "--annotations", "{}", "--durations", "{}", "--split", "{}"],
    ["check", "--annotations", "{}", "--video", "{}", "--query", "{}", "--clip-seconds", "1"],
    ["shift", "{}", "{}", "--permutations", "2"],
]
FLAGS = [
    *("--world", "--source", "--target", "--source-video", "--target-video", "--source-query", "--target-query"),
    *("--glove", "--splits", "--max-clips", "--drop", "--smoke", "--alignment", "--epochs", "--batch-size"),
    *("--target-batch-size", "--train-on-val", "--shared-space", "--dropout", "--diagnose", "--device", "--resume"),
    *("--ablation", "--rows", "--seeds", "--workers", "--output", "--preset", "--iou", "--predict", "--predict-all"),
    *("--video", "--checkpoint", "--top", "--save-steps", "--save-seconds", "--durations", "--clip-seconds", "--row"),
    *("--seed", "--all", "--annotations", "--split", "--json", "--query", "--layout", "--show", "--permutations"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Unusual files. Commands that would train stop before training."""
    (tmp_path / "notes.jsonl").write_text('{"qid": 1, "query": "a dog", "duration": 9.0, "vid": "v"}\n')
    (tmp_path / "damaged.pt").write_bytes(b"PK\x03\x04 half a file")
    (tmp_path / "bytes.npz").write_bytes(bytes(range(256)))

    def nothing(*_: Any, **__: Any) -> list[Any]:
        return []

    def enough(*_: Any, **__: Any) -> list[Any]:
        raise UnusableError("enough")

    monkeypatch.setattr(session, "train_all", enough)
    monkeypatch.setattr(predict, "write_lines", nothing)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def no_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """These command lines are only parsed; nothing is simulated."""
    monkeypatch.setattr(table, "run_table", lambda *_, **__: [])
    monkeypatch.setattr(train, "run_training", lambda *_, **__: None)


def ended(here: Path, arguments: list[str]) -> tuple[object, str]:
    """Exit code and standard error."""
    told = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
        try:
            return main([word.replace("{here}", str(here)) for word in arguments]), told.getvalue()
        except SystemExit as end:
            return end.code, told.getvalue()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    command=st.sampled_from([*COMMANDS, "tabel"]),
    words=st.lists(st.sampled_from(FLAGS) | st.sampled_from(VALUES) | st.sampled_from(PLACES) | TEXT, max_size=7),
)
def test_any_command_line_ends_well(here: Path, no_tables: None, command: str, words: list[str]) -> None:
    code, told = ended(here, [command, *words])
    assert code in (0, 2), told
    assert code == 0 or "error: " in told


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(form=st.sampled_from(FORMS), data=st.data())
def test_any_place_ends_well(here: Path, form: list[str], data: st.DataObject) -> None:
    arguments = [data.draw(st.sampled_from(PLACES) | TEXT) if word == "{}" else word for word in form]
    code, told = ended(here, arguments)
    assert code in (0, 2), (arguments, told)
    assert code == 0 or "error: " in told


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_file_of_predictions_ends_well(here: Path, content: bytes) -> None:
    (here / "answers.jsonl").write_bytes(content)
    code, told = ended(here, ["evaluate", "{here}/answers.jsonl", "--annotations", "{here}/notes.jsonl"])
    assert code == 2
    assert told.startswith("error: ")
    assert len(told.strip().splitlines()) == 1


def test_lengths_for_a_layout_that_holds_them_are_one_line(here: Path) -> None:
    (here / "answers.jsonl").write_text("{}\n", encoding="utf-8")
    code, told = ended(
        here, ["evaluate", "{here}/answers.jsonl", "--annotations", "{here}/notes.jsonl", "--durations", "{here}"]
    )
    assert code == 2
    assert "`durations` must be left out for 'qvhighlights'" in told


ODD = ("pipe", "zero", "loop", "folder", "empty")


@pytest.mark.skipif(os.name == "nt", reason="pipes and devices")
def test_no_place_hangs_or_ends_in_a_trace(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each path of a command in turn is a pipe, an endless device, a cycle of links, a folder, or an empty file."""
    for suffix in ("", ".npy", ".npz", ".jsonl", ".json", ".txt", ".pt"):
        os.mkfifo(here / f"pipe{suffix}")
        (here / f"zero{suffix}").symlink_to("/dev/zero")
        (here / f"loop{suffix}").symlink_to(here / f"loop{suffix}")
        (here / f"folder{suffix}").mkdir()
        (here / f"empty{suffix}").touch()
    np.save(here / "rows.npy", np.random.default_rng(0).standard_normal((9, 2)))
    good = {"notes": "{here}/notes.jsonl", "rows": "{here}/rows.npy"}
    forms = [
        (["shift", "?.npy", "rows", "--permutations", "2"], ODD),
        (["shift", "rows", "?.npz", "--permutations", "2"], ODD),
        (["shift", "rows", "rows", "--after", "?.npy", "rows", "--permutations", "2"], ODD),
        *((["shift", "rows", "rows", "--permutations", "2", f"--{name}", "?"], ODD[:4]) for name in ("text", "json")),
        (["evaluate", "?.pt"], ODD),
        (["evaluate", "?.jsonl", "--annotations", "notes"], ODD),
        (["evaluate", "notes", "--annotations", "?.json"], ODD),
        (["check", "--annotations", "?.txt"], ODD),
        *((["check", "--annotations", "notes", f"--{name}", "?"], ODD) for name in ("video", "query", "glove")),
        *((["check", "--annotations", "notes", "--video", f"?{suffix}"], ODD) for suffix in (".npy", ".npz")),
        (["table", "--source", "?.jsonl", "--target", "notes"], ODD),
        (["table", "--source", "notes", "--target", "notes", "--source-video", "?.npz"], ODD),
        (["predict", "a dog", "--video", "v", "--checkpoint", "?.pt"], ODD),
        (["table", "--smoke", "--rows", "source-only", "--output", "?"], ("pipe", "zero", "loop", "empty")),
    ]
    for form, places in forms:
        for place in places:
            words = [good.get(word, word.replace("?", f"{{here}}/{place}")) for word in form]
            code, told = ended(here, words)
            assert (code, told.count("error: ")) == (2, 1), (words, told)
            assert (here / "pipe").is_fifo()
            assert (here / "zero").is_symlink()


def test_options_that_would_not_be_read_are_refused(here: Path) -> None:
    two = ["table", "--source", "{here}/notes.jsonl", "--target", "{here}/notes.jsonl"]
    code, told = ended(here, [*two, "--durations", "{here}/none.csv"])
    assert code == 2
    assert "none.csv: must be left out where the annotations contain durations" in told
    code, told = ended(here, [*two, "--glove", "vectors.txt", "--target-query", "query.npz"])
    assert code == 2
    assert "--glove stands in place of query features, --target-query names some" in told
