"""What a job leaves behind, typed, and its files: JSON without NaN, and JSON lines."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from mmda._core.files import write_file
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


def write_json(path: Path, content: object, *, indent: int | None = None) -> None:
    """Write plain values as JSON."""
    write(path, json.dumps(plain(content), indent=indent, allow_nan=False).encode())


def read_json(path: Path) -> Any:
    """The content of a JSON file; ``None`` where it is damaged."""
    try:
        return json.loads(path.read_text())
    except ValueError:
        return None


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON, a line each."""
    lines = (json.dumps(plain(row), ensure_ascii=False, allow_nan=False) for row in rows)
    write(path, "".join(f"{line}\n" for line in lines).encode())
