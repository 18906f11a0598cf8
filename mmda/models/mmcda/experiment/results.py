"""Types of a job's results, and their files: JSON without NaN, and JSON lines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from mmda._core.files import read_file, sealed_json, unsealed_json, write_file, write_lines_file
from mmda.vmr.evaluation import Evaluation


class Scores(TypedDict):
    """One evaluation: means, the values per query, and the video of each query."""

    metrics: dict[str, float]
    values: dict[str, list[float]]
    videos: list[str]


class Result(Scores):
    """A finished job."""

    problem: str
    row: str
    seed: int
    constancy: float
    log: list[dict[str, Any]]
    chosen_step: int
    seconds: float
    model: str
    settings: dict[str, Any]


def as_scores(evaluation: Evaluation) -> Scores:
    """The parts of an evaluation that are stored."""
    return {
        "metrics": evaluation.as_dict(),
        "values": {metric: evaluation.values(metric).tolist() for metric in evaluation.metrics},
        "videos": [str(video) for video in evaluation.videos],
    }


def plain(value: Any) -> Any:
    """The value for JSON: NaN and infinity become ``None``."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def write(path: Path, content: bytes) -> None:
    """Write a file atomically, and create its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content)


def write_json(path: Path, content: object) -> None:
    """Write plain values as JSON."""
    write(path, json.dumps(plain(content), indent=1, allow_nan=False).encode())


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain values as JSON with a checksum for :func:`read_record`."""
    write(path, sealed_json(json.dumps(plain(content), allow_nan=False)))


def read_record(path: Path) -> Any:
    """The content of a file of :func:`write_record`; ``None`` if the checksum does not match."""
    text = unsealed_json(read_file(path))
    return None if text is None else json.loads(text)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines, with the checksum in a separate file."""
    lines = (json.dumps(plain(row), ensure_ascii=False, allow_nan=False) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines_file(path, "".join(f"{line}\n" for line in lines).encode())
