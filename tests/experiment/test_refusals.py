"""Unusable input gives a one-line error and leaves no files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from mmda.cli import main
from mmda.models.mmcda.experiment.locks import only_run
from tests.experiment._folders import folder_options, folders, nan_features, refused, run


def test_what_the_system_refuses_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders(tmp_path)
    command = [*folder_options(tmp_path), "--smoke", "--output", str(tmp_path / "out")]
    assert refused(capsys, *command, "--splits", str(tmp_path)) == f"error: {tmp_path}: must be a file, got a folder"
    assert "--device meta: the device must exist" in refused(capsys, *command, "--device", "meta")


def fewer_queries(prefix: Path) -> None:
    content = dict(np.load(f"{prefix}_query.npz"))
    np.savez(f"{prefix}_query.npz", feat=content["feat"][:-1])


def unknown_video(prefix: Path) -> None:
    path = Path(f"{prefix}.jsonl")
    path.write_text(path.read_text().replace('"v5"', '"nobody"'))


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
    damage: Callable[[Path], None],
    named: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = folders(tmp_path)
    damage(Path(arguments[3]))
    code = run([*arguments, "--epochs", "1", "--workers", "1", "--output", str(tmp_path / "out")])
    error = capsys.readouterr().err.strip().splitlines()
    assert code == 2
    assert len([line for line in error if line.startswith("error: ")]) == 1
    assert named in error[-1]
    assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]


def test_a_shared_space_needs_one_width(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "--smoke", "--shared-space", "--output", str(tmp_path))
    assert line == "error: --shared-space: frames and words must have one width, got 32 and 24 in world language"
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_training_replaces_a_model_only_when_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    command = ["--world", "language", "--smoke", "--output", str(out)]
    assert main(["table", "--rows", "full: ", "--workers", "1", *command]) == 0
    model = out / "models" / "world-language-full-i-ii-iii-0.pt"
    tables = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()

    train = ["train", *command, "--batch-size", "8"]
    assert main(train) == 2
    error = capsys.readouterr().err
    assert f"{model}: the model must not exist yet (--output names another folder, --resume" in error
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == tables
    assert main([*train, "--seed", "1"]) == 0
    assert model.read_bytes() == tables[model]
    assert main([*train, "--resume"]) == 2
    assert "must be of the settings asked for" in capsys.readouterr().err
    assert main([*train, "--overwrite"]) == 0
    assert model.read_bytes() != tables[model]
    assert main([*train, "--output", str(tmp_path / "other")]) == 0


def test_the_help_says_what_resume_needs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["--help"])
    assert "keep finished rows in --output, and resume unfinished ones" in " ".join(capsys.readouterr().out.split())


def test_widths_must_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = folders(tmp_path, width=7)
    assert run([*arguments, "--epochs", "1", "--workers", "1", "--output", str(tmp_path / "out")]) == 2
    assert "must have frames of one width in both domains" in capsys.readouterr().err


def test_an_unwritable_folder_is_found_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    assert run(["--smoke", "--output", str(tmp_path / "file" / "out")]) == 2
    assert "the output folder must be writable" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_disk_that_is_full_for_the_lock_leaves_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*\.running'$"), only_run(tmp_path):
            pass
    assert not list(tmp_path.iterdir())
    with only_run(tmp_path):  # the lock is free
        assert (tmp_path / ".running").read_text()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_device_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--smoke", "--device", "cuda", "--output", str(tmp_path)]) == 2
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
def test_contradictory_options(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(arguments)
    assert ended.value.code == 2
