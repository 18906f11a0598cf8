"""Average precision of ranked moments and highlights, as the public evaluator of QVHighlights computes it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmda._core.checks import check_count, fail
from mmda.vmr.annotations import as_name, open_text, parse_json
from mmda.vmr.evaluation.files import Prediction, rank_scores
from mmda.vmr.reports import VMRDataError

if TYPE_CHECKING:
    from mmda.vmr.annotations import VMRQuery

Floats = NDArray[np.float64]

#: Thresholds of the average: 0.5, 0.55, ..., 0.95.
MAP_THRESHOLDS: tuple[float, ...] = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
#: Ranges of moment lengths in seconds: above the first number, up to the second.
LENGTHS: Mapping[str, tuple[float, float]] = {
    "short": (0.0, 10.0),
    "middle": (10.0, 30.0),
    "long": (30.0, 150.0),
    "full": (0.0, math.inf),
}
#: Minimum score (0 to 4) of a clip that counts as a highlight.
HIGHLIGHTS: Mapping[str, int] = {"Fair": 2, "Good": 3, "VeryGood": 4}
#: Limit on the clips of a video, against wrong durations.
_MOST_CLIPS = 1_000_000


def average_precision(
    spans: ArrayLike, scores: ArrayLike, windows: ArrayLike, iou: Sequence[float] = MAP_THRESHOLDS
) -> Floats:
    r"""Interpolated average precision of one query's ranked spans, at each IoU threshold; higher is better.

    Spans are processed by descending score. Each is matched to its best unmatched window, and is correct if their IoU
    (by true union) is at least the threshold m. With :math:`p_r` the precision of the first r spans and W windows,

    .. math:: \mathrm{AP}_m = \frac1W \sum_{r\ \mathrm{right}} \max_{r' \ge r} p_{r'}.

    Args:
        spans: predicted spans, (k, 2).
        scores: (k,); equal scores keep their order.
        windows: ground-truth moments, (w, 2), at least one.
        iou: thresholds.

    Returns:
        One value per threshold, in [0, 1]; 0 without spans.

    Raises:
        ValueError: no window, or shapes that do not fit.

    Example:
        >>> average_precision([[0, 4], [9, 10], [6, 8]], [0.9, 0.5, 0.2], [[0, 4], [6, 8]], iou=(0.5,)).round(3)
        array([0.833])

    References:
        Everingham et al., "The Pascal Visual Object Classes Challenge", IJCV 2010 (interpolation); Lei et al.,
        "QVHighlights", NeurIPS 2021 (thresholds).
    """
    found = np.asarray(spans, dtype=np.float64).reshape(-1, 2)
    ranks, truth = np.asarray(scores, dtype=np.float64), np.asarray(windows, dtype=np.float64).reshape(-1, 2)
    if not len(truth):
        fail("average_precision", "windows", "hold at least one moment", "none")
    if ranks.shape != found.shape[:1]:
        fail("average_precision", "scores", f"have shape {found.shape[:1]}", f"{ranks.shape}")
    found = found[np.argsort(-ranks, kind="stable")]
    overlap = _cross_iou(found, truth)
    right = np.zeros((len(iou), len(found)), dtype=bool)
    preferred = np.argsort(overlap, axis=1)[:, ::-1]
    for at, level in enumerate(iou):
        free = np.ones(len(truth), dtype=bool)
        for row in np.flatnonzero(overlap.max(axis=1, initial=-1.0) >= level):
            for window in preferred[row]:
                if overlap[row, window] < level:
                    break
                if free[window]:
                    free[window] = False
                    right[at, row] = True
                    break
    if not len(found):
        return np.zeros(len(iou))
    precision = np.cumsum(right, axis=1) / np.arange(1, len(found) + 1)
    best_from_here = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return np.asarray((best_from_here * right).sum(axis=1) / len(truth), dtype=np.float64)


def _cross_iou(a: Floats, b: Floats) -> Floats:
    inter = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0])
    inter = np.clip(inter, 0, None)
    union = (a[:, 1] - a[:, 0])[:, None] + (b[:, 1] - b[:, 0])[None] - inter
    return np.asarray(np.divide(inter, union, out=np.zeros_like(inter), where=union != 0), dtype=np.float64)


def _first_iou(span: Sequence[float], windows: Floats) -> float:
    """IoU (by hull) of a query's first span with its best window."""
    best = windows[int(np.argmax(_cross_iou(np.asarray([span[:2]], dtype=np.float64), windows)[0]))]
    hull = max(span[1], best[1]) - min(span[0], best[0])
    inter = max(0.0, min(span[1], best[1]) - max(span[0], best[0]))
    return float(inter / hull) if hull else 0.0


def moment_scores(
    predictions: Mapping[str, Prediction],
    queries: Iterable[VMRQuery],
    *,
    max_spans: int = 10,
    lengths: Mapping[str, tuple[float, float]] = LENGTHS,
) -> dict[str, dict[str, float]]:
    """mAP and R@1 of ranked moments, overall and by moment length; higher is better.

    For each range only moments of such lengths count, and only queries with such a moment; all spans of a query are
    used.

    Args:
        predictions: predictions by query id, see :func:`read_predictions`; required for every query.
        queries: the annotated queries, each with a moment.
        max_spans: number of spans per query used for mAP, in file order.
        lengths: named ranges with bounds in seconds: above the first, up to the second.

    Returns:
        For each range ``{"mAP@0.5": ..., ..., "mAP@0.95": ..., "mAP": their mean, "R1@0.5": ..., ..., "queries":
        count}``, in [0, 1]; ranges without a query are left out.

    Raises:
        ValueError: a query has no moment or no prediction.

    Example:
        >>> from mmda.vmr import VMRQuery
        >>> query = VMRQuery("7", "v", "a dog", 60.0, ((0.0, 8.0), (20.0, 60.0)))
        >>> found = {"7": Prediction("7", ((0.0, 8.0, 0.9), (20.0, 50.0, 0.5)))}
        >>> scores = moment_scores(found, [query])
        >>> sorted(scores), scores["full"]["mAP@0.75"], scores["long"]["R1@0.5"]
        (['full', 'long', 'short'], 1.0, 0.0)

    References:
        Lei et al., "QVHighlights: Detecting Moments and Highlights in Videos via Natural Language Queries", NeurIPS
        2021; its evaluator is ``standalone_eval`` in github.com/jayleicn/moment_detr.
    """
    caller = "moment_scores"
    check_count(caller, "max_spans", max_spans)
    rows = list(queries)
    for query in rows:
        if not query.windows:
            fail(caller, "queries", "each have at least one moment", f"none for query {query.qid!r}")
        if query.qid not in predictions or not predictions[query.qid].spans:
            fail(caller, "predictions", "answer every query with a span", f"none for query {query.qid!r}")
    result: dict[str, dict[str, float]] = {}
    for name, (low, high) in lengths.items():
        precisions, firsts = [], []
        for query in rows:
            windows = np.asarray([(s, e) for s, e in query.windows if low < e - s <= high], dtype=np.float64)
            if not len(windows):
                continue
            spans = np.asarray(predictions[query.qid].spans, dtype=np.float64)
            ranked = spans[:max_spans]
            precisions.append(average_precision(ranked[:, :2], ranked[:, 2], windows))
            firsts.append(_first_iou(predictions[query.qid].spans[0], windows))
        if not precisions:
            continue
        levels = np.mean(precisions, axis=0)
        scores = {f"mAP@{level:g}": float(value) for level, value in zip(MAP_THRESHOLDS, levels)}
        scores["mAP"] = float(levels.mean())
        scores |= {f"R1@{level:g}": float(np.mean(np.asarray(firsts) >= level)) for level in MAP_THRESHOLDS}
        result[name] = {**scores, "queries": float(len(precisions))}
    return result


def read_saliency(path: str | Path, *, clip_seconds: float = 2.0) -> dict[str, Floats]:
    """Read the highlight annotations of QVHighlights: clip scores of three annotators.

    Args:
        path: the annotation file with ``relevant_clip_ids`` and ``saliency_scores``.
        clip_seconds: length of a clip.

    Returns:
        Arrays (clips, annotators) by query id, with scores 0 to 4; 0 for clips without annotation.

    Raises:
        VMRDataError: if a line has no scores, they do not match the video, or it is of more than a million clips.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> row = '{"qid": 7, "duration": 6, "relevant_clip_ids": [1], "saliency_scores": [[4, 3, 2]]}'
        >>> with TemporaryDirectory() as folder:
        ...     _ = Path(folder, "val.jsonl").write_text(row, encoding="utf-8")
        ...     read_saliency(Path(folder, "val.jsonl"))["7"].tolist()
        [[0.0, 0.0, 0.0], [4.0, 3.0, 2.0], [0.0, 0.0, 0.0]]
    """
    file, found = Path(path), dict[str, Floats]()
    with open_text(file) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = f"line {number}"
            row: Any = parse_json(line, file, where)
            try:
                clips = np.asarray(row["relevant_clip_ids"], dtype=np.int64)
                scores = np.asarray(row["saliency_scores"], dtype=np.float64)
                count = int(row["duration"] / clip_seconds)
                if (clips < 0).any() or len(clips) != len(scores) or count > _MOST_CLIPS:
                    raise ValueError
                table = np.zeros((count, scores.shape[1]))
                table[clips] = scores
            except (KeyError, TypeError, ValueError, IndexError, OverflowError):
                rule = "have `relevant_clip_ids` within its `duration` and as many rows of `saliency_scores`"
                raise VMRDataError(file, where, rule, line.strip()[:80]) from None
            found[as_name(file, where, "qid", row.get("qid"))] = table
    if not found:
        raise VMRDataError(file, None, "hold highlight scores", "none")
    return found


def highlight_scores(
    predictions: Mapping[str, Prediction], saliency: Mapping[str, NDArray[Any]]
) -> dict[str, dict[str, float]]:
    r"""HIT@1 and mAP of highlight scores, for three levels of what counts as a highlight; higher is better.

    HIT@1 is the fraction of queries whose top-scored clip is a highlight for some annotator. mAP is the mean
    interpolated average precision over queries and annotators, with tied scores as one step; 0 if no clip is a
    highlight, 1 if all are.

    Args:
        predictions: predictions by query id, with :attr:`Prediction.saliency`.
        saliency: the annotations of :func:`read_saliency`.

    Returns:
        For each of ``"Fair"``, ``"Good"`` and ``"VeryGood"`` ``{"HIT@1": ..., "mAP": ...}``, in [0, 1].

    Raises:
        ValueError: a query has no highlight scores.

    Example:
        >>> found = {"7": Prediction("7", (), saliency=(0.1, 0.9, 0.3))}
        >>> highlight_scores(found, {"7": np.array([[0, 0, 0], [4, 3, 2], [0, 4, 0]])})["VeryGood"]["HIT@1"]
        1.0

    References:
        Lei et al., "QVHighlights", NeurIPS 2021, sec. 5.1.
    """
    for qid in saliency:
        if qid not in predictions or not predictions[qid].saliency:
            fail("highlight_scores", "predictions", "hold highlight scores of every query", f"none for query {qid!r}")
    result: dict[str, dict[str, float]] = {}
    for name, least in HIGHLIGHTS.items():
        hits, precisions = [], []
        for qid, table in saliency.items():
            highlight = np.asarray(table) >= least
            given = predictions[qid].saliency or ()
            top = int(np.argmax(given))
            hits.append(top < len(highlight) and bool(highlight[top].any()))
            scores = rank_scores(given, len(highlight))
            precisions.append([_clip_precision(column, scores) for column in highlight.T])
        result[name] = {"HIT@1": float(np.mean(hits)), "mAP": float(np.mean(precisions))}
    return result


def _clip_precision(highlight: NDArray[np.bool_], scores: Floats) -> float:
    """Average precision of clip scores for one annotator; tied clips form one step."""
    if highlight.all() or not highlight.any():
        return float(highlight.all())
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)  # the last clip of each score
    right = np.cumsum(highlight[order])[last]
    precision = right / (np.flatnonzero(last) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    return float(best_from_here[np.diff(right, prepend=0) > 0].mean())


def qvhighlights_scores(
    predictions: Mapping[str, Prediction],
    queries: Iterable[VMRQuery],
    saliency: Mapping[str, NDArray[Any]] | None = None,
) -> dict[str, float]:
    """The brief table of the public QVHighlights evaluator, with its names and rounding: per cent, two digits.

    Args:
        predictions: predictions by query id, see :func:`read_predictions`.
        queries: the annotated queries.
        saliency: highlight annotations, see :func:`read_saliency`; without them the highlight rows are left out.

    Returns:
        ``{"MR-full-R1@0.5": ..., "MR-full-mAP": ..., "MR-short-mAP": ..., "HL-min-VeryGood-Hit1": ..., ...}``.

    Raises:
        ValueError: a query has no moment or no prediction.

    Example:
        >>> from mmda.vmr import VMRQuery
        >>> query = VMRQuery("7", "v", "a dog", 60.0, ((0.0, 8.0),))
        >>> qvhighlights_scores({"7": Prediction("7", ((0.0, 6.0, 0.9),))}, [query])["MR-full-mAP"]
        60.0

    References:
        Lei et al., "QVHighlights", NeurIPS 2021; ``standalone_eval`` in github.com/jayleicn/moment_detr.
    """
    moments = moment_scores(predictions, queries)
    full = moments["full"]
    brief = {f"MR-{name}-mAP": scores["mAP"] for name, scores in moments.items()}
    brief |= {f"MR-full-mAP@{level}": full[f"mAP@{level}"] for level in ("0.5", "0.75")}
    brief |= {f"MR-full-R1@{level}": full[f"R1@{level}"] for level in ("0.5", "0.7")}
    if saliency is not None:
        for name, scores in highlight_scores(predictions, saliency).items():
            brief |= {f"HL-min-{name}-mAP": scores["mAP"], f"HL-min-{name}-Hit1": scores["HIT@1"]}
    return {name: round(100 * value, 2) for name, value in sorted(brief.items())}
