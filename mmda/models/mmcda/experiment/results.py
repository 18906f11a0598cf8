"""What a job leaves behind, typed, and its files: JSON without NaN, and JSON lines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from mmda._core.files import read_file, sealed_json, unsealed_json, write_file, write_lines_file
from mmda.vmr.evaluation import Evaluation


class Scores(TypedDict):
    """One evaluation: means, the value of every query, and the query's video."""

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
    """What is kept of an evaluation."""
    return {
        "metrics": evaluation.as_dict(),
        "values": {metric: evaluation.values(metric).tolist() for metric in evaluation.metrics},
        "videos": [str(video) for video in evaluation.videos],
    }


def plain(value: Any) -> Any:
    """The same for JSON, which has no NaN and no infinity: they become ``None``."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def write(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all, and the folder it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, content)


def write_json(path: Path, content: object) -> None:
    """Write plain values as JSON, to be read by people and other programs."""
    write(path, json.dumps(plain(content), indent=1, allow_nan=False).encode())


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain values as JSON that :func:`read_record` verifies."""
    write(path, sealed_json(json.dumps(plain(content), allow_nan=False)))


def read_record(path: Path) -> Any:
    """The content of a file of :func:`write_record`; ``None`` where any bit of it was changed."""
    text = unsealed_json(read_file(path))
    return None if text is None else json.loads(text)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON, a line each, with the digest in a file beside."""
    lines = (json.dumps(plain(row), ensure_ascii=False, allow_nan=False) for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_lines_file(path, "".join(f"{line}\n" for line in lines).encode())
