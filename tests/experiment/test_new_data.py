"""Videos, sentences and lengths that the training data does not hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmda.cli import main
from mmda.models.mmcda.experiment import Place
from mmda.models.mmcda.experiment.domains import SPLITS, read_domain
from mmda.models.mmcda.experiment.results import write_json
from tests.experiment._folders import folders, publish, refused, run, run_folders


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders, and a model trained on them."""
    here: Path = tmp_path_factory.mktemp("trained")
    folders(here)
    assert run_folders(here, "--rows", "full: ") == 0
    rng = np.random.default_rng(0)
    np.savez(here / "video.npz", new=rng.standard_normal((10, 6)).astype(np.float32))
    np.save(here / "query.npy", rng.standard_normal((3, 5)).astype(np.float32))
    np.savez(here / "queries.npz", a=np.ones((1, 5), np.float32), b=np.ones((1, 5), np.float32))
    np.save(here / "wide.npy", np.ones((3, 7), np.float32))
    return here


def test_a_new_sentence_in_a_new_video(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["--output", str(trained / "out"), "--predict", "something else", "--video", "new", "--top", "2"]
    new = ["--target-video", str(trained / "video.npz"), "--target-query", str(trained / "query.npy")]
    capsys.readouterr()
    assert run([*ask, *new, "--clip-seconds", "2"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1] == "new (20.0 s): 'something else'"
    assert 1 <= len(told[2:-1]) <= 2
    assert told[-1] == "scores rank the moments of one video; they are not probabilities"
    command = ["predict", "something else", *ask[:2], *ask[4:], *new, "--target-clip-seconds", "2"]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines() == told
    line = refused(capsys, *ask, *new)
    assert "--video new: the length of a clip must be known (--clip-seconds says it)" in line


def test_what_is_missing_names_the_way_out(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["--output", str(trained / "out"), "--predict", "something else", "--clip-seconds", "2", "--video"]
    query, video = ["--target-query", str(trained / "query.npy")], ["--target-video", str(trained / "video.npz")]
    assert "(--target-query FILE gives its own), got 'something else'" in refused(capsys, *ask, "v3")
    line = refused(capsys, *ask, "new", *query)
    assert "(or --target-video must name a file with its frame features), got an unknown one; try 'v" in line
    assert "video.npz: `other` must have frame features, got 1 others: new" in refused(
        capsys, *ask, "other", *query, *video
    )
    several = ["--target-query", str(trained / "queries.npz")]
    assert "queries.npz: must hold the features of one sentence, got 2" in refused(capsys, *ask, "new", *several)
    line = refused(capsys, *ask, "new", *video, "--target-query", str(trained / "wide.npy"))
    assert "features must be as those the model was trained on, got MeanWords: `words` must have 5 features" in line


def test_unknown_words_of_a_sentence_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    publish(tmp_path / "a", 0, {"train": 12, "test": 4})
    publish(tmp_path / "b", 1, {"train": 12, "test": 4})
    glove = tmp_path / "glove.txt"
    glove.write_text("a 0.1 0.2 0.3\ndog 1 0 0.5\nruns 0.5 0.5 -1\n")
    data = ["--source", str(tmp_path / "a"), "--target", str(tmp_path / "b"), "--glove", str(glove)]
    here = ["--output", str(tmp_path / "out")]
    assert run([*data, *here, "--smoke", "--rows", "full: "]) == 0
    capsys.readouterr()
    assert run([*here, "--video", "test1", "--predict", "a zebra runs"]) == 0
    assert capsys.readouterr().out.splitlines()[1] == "no vector for 'zebra': left out"


def charades(folder: Path, seed: int) -> Path:
    """Annotations without lengths, in the layout of Charades-STA, and features of 1 s clips that do not say so."""
    publish(folder, seed, {"train": 12, "test": 4})
    for split, count in (("train", 12), ("test", 4)):
        (folder / f"{split}.json").unlink()
        lines = [f"{split}{i} 2.0 8.0##a dog" for i in range(count)]
        (folder / f"charades_sta_{split}.txt").write_text("\n".join(lines))
    lengths = {f"{split}{i}": 18.0 for split, count in (("train", 12), ("test", 4)) for i in range(count)}
    path = folder.parent / "lengths.json"
    path.write_text(json.dumps(lengths))
    return path


def test_lengths_are_given_as_to_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The other domain's layout holds durations, which are not changed."""
    lengths = charades(tmp_path / "a", 0)
    publish(tmp_path / "b", 1, {"train": 12, "test": 4})
    command = ["--source", str(tmp_path / "a"), "--target", str(tmp_path / "b"), "--smoke", "--rows", "source-only"]
    assert "have its videos' durations next to it" in refused(capsys, *command, "--output", str(tmp_path / "none"))
    assert run([*command, "--output", str(tmp_path / "out"), "--durations", str(lengths)]) == 0
    capsys.readouterr()
    notes = str(tmp_path / "a" / "charades_sta_train.txt")
    assert main(["check", "--annotations", notes, "--durations", str(lengths)]) == 0


def test_the_length_of_a_clip_is_given_as_to_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nine clips of 18 s: 2 s each. Another length contradicts that, here as there."""
    publish(tmp_path / "b", 1, {"train": 12, "test": 4})
    place = str(tmp_path / "b")
    whole = read_domain(Place(place, clip_seconds=2.0), SPLITS).pairs["train"]
    assert whole.clip_times[0, :2].tolist() == [[0.0, 2.0], [2.0, 4.0]]
    command = ["--source", place, "--target", place, "--smoke", "--rows", "source-only", "--output"]
    assert run([*command, str(tmp_path / "out"), "--clip-seconds", "0.25", "--target-clip-seconds", "2"]) == 2
    told = capsys.readouterr().err
    check = ["check", "--annotations", f"{place}/train.json", "--video", f"{place}/video.npz", "--clip-seconds", "0.25"]
    assert main(check) == 2
    assert capsys.readouterr().err.split("must")[1].split("got")[0] in told
    assert run([*command, str(tmp_path / "out"), "--clip-seconds", "2"]) == 0


def test_no_number_that_is_not_json_is_written(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    write_json(tmp_path / "a.json", {"rows": [{"low": nan, "high": (1.5, inf)}], "n": 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"rows": [{"low": None, "high": [1.5, None]}], "n": 2}


def test_a_table_is_json_of_one_seed_too(trained: Path) -> None:
    def refuse(name: str) -> Any:
        raise AssertionError(f"{name} is not JSON")

    for path in (trained / "out").rglob("*.json"):
        json.loads(path.read_text(), parse_constant=refuse)
    table = json.loads((trained / "out" / "table.json").read_text())["tables"][0]
    assert table["seeds"] == 1
    assert all(row["interval"]["mIoU"]["seeds"] is None for row in table["rows"])
