"""The page on your own videos: its commands and code run unchanged on two small folders."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmda.cli import main

PAGE = Path(__file__).resolve().parent.parent / "docs" / "tutorials" / "own_videos.rst"

if not PAGE.exists():
    pytest.skip("no documentation in this checkout", allow_module_level=True)

#: Options added to keep the run short; those of the page are unchanged.
SHORT = {"table": ["--smoke", "--rows", "full: "], "train": ["--smoke"]}


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^\.\. code-block:: {language}\n\n((?:   .*\n|\n)+)", PAGE.read_text("utf-8"), re.MULTILINE)
    return ["\n".join(line[3:] for line in each.splitlines()) for each in found]


def write_folders() -> None:
    rng = np.random.default_rng(0)
    example = json.loads(blocks("json")[0])
    for name in ("source", "target", "new"):
        Path(name, "video").mkdir(parents=True)
        Path(name, "query").mkdir()
        lines = []
        for i in range(1 if name == "new" else 24):
            vid = "NEW" if name == "new" else f"{name}-{i}"
            np.save(Path(name, "video", f"{vid}.npy"), rng.normal(size=(12, 6)).astype(np.float32))
            np.save(Path(name, "query", f"{i}.npy"), rng.normal(size=(4, 5)).astype(np.float32))
            lines.append(json.dumps({**example, "qid": i, "vid": vid, "duration": 24.0, "relevant_windows": [[4, 12]]}))
        if name != "new":
            Path(name, "annotations.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_the_commands_and_the_six_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_folders()
    commands = [shlex.split(line, comments=True) for line in blocks("sh")[0].splitlines() if line.startswith("mmda")]
    assert [command[1] for command in commands] == ["check", "table", "train", "predict"]
    told = {}
    for _, name, *arguments in commands:
        assert main([name, *arguments, *SHORT.get(name, [])]) in (0, None), name
        told[name] = capsys.readouterr().out
    assert told["check"].endswith("ready for training\n")
    assert Path("outputs/mmcda_vmr/report.html").exists()
    assert "NEW (24.0 s): 'a man cuts an onion'" in told["predict"]

    names: dict[str, Any] = {}
    exec(compile(blocks("python")[0], str(PAGE), "exec"), names)
    capsys.readouterr()
    spans = re.findall(r"^ +(\d+\.\d) s - +(\d+\.\d) s", told["predict"], re.MULTILINE)
    assert names["spans"].windows[0].tolist() == [[float(start), float(end)] for start, end in spans[:3]]

    # after a folder is moved, the model reports it and works with the new path
    Path("target").rename("elsewhere")
    model = str(next(Path("outputs/mmcda_vmr/models").glob("*-full-*.pt")))
    asked = ["predict", "a man cuts an onion", "--video", "target-3", "--checkpoint", model]
    assert main(asked) == 2
    moved = capsys.readouterr().err
    assert f"{model}: its target must lie where it was trained on (--target says where" in moved
    assert moved.endswith(f"got nothing at {tmp_path / 'target'}\n")
    assert main(["predict", *asked[1:4], "--source", "source", "--target", "elsewhere"]) == 2
    assert "--checkpoint must name one" in capsys.readouterr().err
    assert main([*asked, "--source", "source", "--target", "elsewhere"]) in (0, None)
    assert capsys.readouterr().out.startswith(f"model: {model}\ntarget-3 (24.0 s)")


def test_frames_of_a_video_become_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av", reason="PyAV decodes the video")
    h5py = pytest.importorskip("h5py")
    monkeypatch.chdir(tmp_path)
    Path("target").mkdir()
    runpy.run_path(str(PAGE.parents[2] / "examples" / "find_moment.py"))["write_video"](
        "shots.mp4", [("blue", 6), ("red", 4)]
    )
    # the mean colour of each clip stands for an encoder
    names = {"paths": [Path("shots.mp4")], "extractor": lambda clips: clips.float().mean((1, 2))}
    exec(compile(blocks("python")[1], str(PAGE), "exec"), names)
    with h5py.File("target/video.h5") as file:
        features = file["shots"][:]
    assert features.shape == (5, 3)  # ten seconds, a clip every two
    assert features.argmax(1).tolist() == [2, 2, 2, 0, 0]
