"""Prediction files in the public submission format: reading, alignment with annotations, writing."""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from mmda._core.checks import check_choice, fail_type
from mmda._core.files import text_lines, write_file
from mmda.vmr.annotations import as_name, open_text, parse_json, video_id
from mmda.vmr.evaluation.rows import pad_spans
from mmda.vmr.reports import VMRDataError

if TYPE_CHECKING:
    from mmda.vmr.annotations import VMRQuery


@dataclass(frozen=True)
class Prediction:
    """The prediction for one query, one line of a prediction file.

    Args:
        qid: id of the query.
        spans: ``(start, end, score)`` in the order of the file, which is the ranking for R@n.
        saliency: one score per clip of the video; ``None`` without highlight scores.
        query: the sentence, if given.
        vid: the video id, if given, without a file suffix.
        numeric: the query id is a number in the file, and is written as one.
    """

    qid: str
    spans: tuple[tuple[float, float, float], ...]
    saliency: tuple[float, ...] | None = None
    query: str = ""
    vid: str = ""
    numeric: bool = False


def read_predictions(path: str | Path) -> dict[str, Prediction]:
    """Read a prediction file: JSON lines, or one JSON list, with ``qid`` and ``pred_relevant_windows``.

    Args:
        path: the file.

    Returns:
        The prediction of every query by id (as text), in file order. A span without a score gets minus its rank.

    Raises:
        VMRDataError: if the file has another format, a query is repeated, or a number is missing or not finite.
        OSError: if the file cannot be read.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = Path(folder, "val.jsonl")
        ...     _ = file.write_text('{"qid": 7, "pred_relevant_windows": [[0, 4, 0.9], [6, 8, 0.2]]}', encoding="utf-8")
        ...     read_predictions(file)["7"].spans
        ((0.0, 4.0, 0.9), (6.0, 8.0, 0.2))
    """
    file = Path(path)
    with open_text(file) as stream:
        text = stream.read()
    rows: Iterable[tuple[str, Any]]
    if text.lstrip().startswith("["):
        loaded = parse_json(text, file)
        rows = ((f"entry {number}", row) for number, row in enumerate(loaded, start=1))
    else:
        lines = ((f"line {number}", line) for number, line in enumerate(text_lines(text), start=1))
        rows = ((where, parse_json(line, file, where)) for where, line in lines if line.strip())
    found: dict[str, Prediction] = {}
    for where, row in rows:
        prediction = _prediction(file, where, row)
        if prediction.qid in found:
            raise VMRDataError(file, where, "answer each query once", f"query {prediction.qid} again")
        found[prediction.qid] = prediction
    if not found:
        raise VMRDataError(file, None, "hold at least one prediction", "none")
    return found


def _prediction(file: Path, where: str, row: Any) -> Prediction:
    if not isinstance(row, dict) or "qid" not in row or not {"pred_relevant_windows", "spans"} & set(row):
        came = f"the keys {', '.join(row) or 'none'}" if isinstance(row, dict) else type(row).__name__
        raise VMRDataError(file, where, "have the keys qid, pred_relevant_windows", came)
    spans = row["pred_relevant_windows"] if "pred_relevant_windows" in row else row["spans"]
    if not isinstance(spans, list) or any(not isinstance(span, list) or len(span) not in (2, 3) for span in spans):
        rule = "have a list of [start, end, score] as `pred_relevant_windows`"
        raise VMRDataError(file, where, rule, repr(spans)[:80])
    saliency = row.get("pred_saliency_scores")
    if saliency is not None and not isinstance(saliency, list):
        raise VMRDataError(file, where, "have a list of numbers as `pred_saliency_scores`", repr(saliency)[:80])
    numbers = [[_finite(file, where, value) for value in span] for span in spans]
    return Prediction(
        qid=as_name(file, where, "qid", row["qid"]),
        spans=tuple(
            (span[0], span[1], span[2] if len(span) == 3 else -float(rank)) for rank, span in enumerate(numbers)
        ),
        saliency=None if saliency is None else tuple(_finite(file, where, value) for value in saliency),
        query=_written(row, "query"),
        vid=video_id(_written(row, "vid")),
        numeric=isinstance(row["qid"], int),
    )


def _written(row: Mapping[str, Any], name: str) -> str:
    """An optional text field; null counts as missing."""
    value = row.get(name)
    return "" if value is None else str(value)


def _finite(file: Path, where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise VMRDataError(file, where, "hold finite numbers", repr(value)[:80])
    return float(value)


def by_query(predictions: Mapping[str, Prediction], queries: Iterable[VMRQuery]) -> dict[str, Prediction]:
    """The predictions by the ids of these queries, compared after Unicode normalisation."""
    found = dict(predictions)
    for qid in found:
        if not isinstance(qid, str):
            fail_type("align_predictions", "predictions", "be keyed by query ids as text", qid)
    if all(qid.isascii() for qid in found):
        return found
    composed = {unicodedata.normalize("NFC", qid): prediction for qid, prediction in found.items()}
    for query in queries:
        name = unicodedata.normalize("NFC", query.qid)
        if query.qid not in found and name in composed:
            found[query.qid] = composed[name]
    return found


def align_predictions(
    predictions: Mapping[str, Prediction],
    queries: Iterable[VMRQuery],
    *,
    missing: Literal["raise", "miss"] = "raise",
    source: str | Path = "predictions",
) -> tuple[Tensor, Tensor, Tensor]:
    """Align the spans of a prediction file with queries by id, ready for :func:`evaluate`.

    Args:
        predictions: as returned by :func:`read_predictions`; other queries are ignored.
        queries: the annotated queries.
        missing: how to handle queries without a prediction: raise an error, or count a ``"miss"`` without a span.
        source: the file, for messages.

    Returns:
        ``(spans, scores, mask)``: (q, k, 2) and (q, k), float64, in the order of the file, and True where a span
            exists.

    Raises:
        VMRDataError: if a query has no prediction and ``missing`` is ``"raise"``; if a prediction names another video
            than its query; if no query has one.

    Example:
        >>> from mmda.vmr import VMRQuery
        >>> queries = [VMRQuery("b", "v", "a dog", 9.0), VMRQuery("a", "v", "a cat", 9.0)]
        >>> found = {"a": Prediction("a", ((0.0, 4.0, 0.9),)), "b": Prediction("b", ((1.0, 2.0, 0.5),))}
        >>> spans, scores, mask = align_predictions(found, queries)
        >>> spans[:, 0].tolist(), scores.tolist()
        ([[1.0, 2.0], [0.0, 4.0]], [[0.5], [0.9]])
    """
    check_choice("align_predictions", "missing", missing, ("raise", "miss"))
    rows = list(queries)
    predictions = by_query(predictions, rows)
    absent = [query.qid for query in rows if query.qid not in predictions]
    if absent and (missing == "raise" or len(absent) == len(rows)):
        some = ", ".join(list(predictions)[:3])
        came = f"none for {len(absent)} of {len(rows)}; the file answers {some}, ..."
        raise VMRDataError(source, absent[0], "be answered", came)
    found = [predictions.get(query.qid, Prediction(query.qid, ())) for query in rows]
    for query, prediction in zip(rows, found):
        if prediction.vid and video_id(query.vid) != prediction.vid:
            raise VMRDataError(source, query.qid, f"be about the video {query.vid}", prediction.vid)
    spans, mask = pad_spans([[span[:2] for span in prediction.spans] for prediction in found])
    scores = torch.zeros(mask.shape, dtype=torch.float64)
    scores[mask] = torch.tensor([span[2] for prediction in found for span in prediction.spans], dtype=torch.float64)
    return spans, scores, mask


def write_predictions(path: str | Path, predictions: Iterable[Prediction]) -> Path:
    """Write a prediction file in the public submission format, one JSON object per line.

    Args:
        path: the file to create or replace, written atomically.
        predictions: in the order to write. Those with ``numeric`` are written with a number as ``qid``, as required by
            the public evaluator of QVHighlights.

    Returns:
        The path written.

    Raises:
        ValueError: if a query is repeated, a number is not finite, or ``numeric`` is set for an id that is not a
            number.
        OSError: if the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     file = write_predictions(Path(folder, "p.jsonl"), [Prediction("7", ((0.0, 4.0, 0.9),), numeric=True)])
        ...     print(file.read_text(encoding="utf-8").strip())
        {"qid": 7, "query": "", "vid": "", "pred_relevant_windows": [[0.0, 4.0, 0.9]]}
    """
    lines: dict[str, str] = {}
    for prediction in predictions:
        if prediction.qid in lines:
            raise ValueError(
                f"write_predictions: `predictions` must answer each query once, got {prediction.qid} twice"
            )
        if prediction.numeric and str(_whole(prediction.qid)) != prediction.qid:
            raise ValueError(f"write_predictions: a `numeric` qid must be a whole number, got {prediction.qid!r}")
        row: dict[str, object] = {
            "qid": _whole(prediction.qid) if prediction.numeric else prediction.qid,
            "query": prediction.query,
            "vid": prediction.vid,
            "pred_relevant_windows": [list(span) for span in prediction.spans],
        }
        if prediction.saliency is not None:
            row["pred_saliency_scores"] = list(prediction.saliency)
        try:
            lines[prediction.qid] = json.dumps(row, allow_nan=False, default=_number)
        except ValueError:
            message = f"write_predictions: `predictions` must be finite, got NaN or infinity for {prediction.qid}"
            raise ValueError(message) from None
    target = Path(path)
    write_file(target, "".join(f"{line}\n" for line in lines.values()).encode())
    return target


def _number(value: Any) -> Any:
    """A number of numpy or a tensor of one number as Python's."""
    if not hasattr(value, "item"):
        fail_type("write_predictions", "predictions", "hold numbers", value)
    return value.item()


def _whole(qid: str) -> int | None:
    try:
        return int(qid)
    except ValueError:
        return None


def rank_scores(saliency: Sequence[float], clips: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Highlight scores cut or zero-padded to this number of clips."""
    scores = np.zeros(clips)
    given = np.asarray(saliency[:clips], dtype=np.float64)
    scores[: len(given)] = given
    return scores
