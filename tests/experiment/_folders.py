"""Small data sets on disk, and the command on them."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmda.cli.table import main

SHOWN = ("R@1, IoU=0.3", "R@1, IoU=0.5", "R@1, IoU=0.7", "R@5, IoU=0.5", "mIoU")
SMOKE = ["--smoke", "--ablation", "--seeds", "2", "--diagnose"]


def run(arguments: Sequence[str]) -> int:
    """The command `mmda table`, with the options of `mmda predict`, as the example has them."""
    return main(arguments, asking=True)


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


def folder_options(tmp_path: Path) -> list[str]:
    return ["--source", str(tmp_path / "a" / "set"), "--target", str(tmp_path / "b" / "set")]


def run_folders(tmp_path: Path, *options: str) -> int:
    """A run of two rows on the folders ``a`` and ``b``."""
    arguments = [*folder_options(tmp_path), *options]
    rows = ["--rows", "source-only", "full: "] if "--rows" not in options else []
    code: int = run([*arguments, *rows, "--smoke", "--output", str(tmp_path / "out")])
    return code


def change_moments(prefix: Path, change: Callable[[dict[str, Any]], Any], vids: Collection[str]) -> None:
    path = Path(f"{prefix}.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["vid"] in vids:
            row["relevant_windows"] = change(row)
    path.write_text("\n".join(map(json.dumps, rows)))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of a command that must end with exit code 2."""
    capsys.readouterr()
    assert run(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def job_files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "jobs").glob("*.json")}


def publish(folder: Path, seed: int, splits: dict[str, int]) -> None:
    """Annotations in the format of ActivityNet Captions, one file per split, with features."""
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


def nan_features(prefix: Path) -> None:
    content = dict(np.load(f"{prefix}_query.npz"))
    content["feat"][3] = np.nan
    np.savez(f"{prefix}_query.npz", **content)


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
