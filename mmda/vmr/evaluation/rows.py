"""One row of a table: recall and mean IoU of predicted spans, with per-query values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmda._core.checks import check_choice, check_floating, check_mask, fail, shape_text
from mmda.metrics import DEFAULT, Preset, best_iou, discounted_recall_at_iou, recall_at_iou, select_spans
from mmda.vmr.evaluation.intervals import Floats, Interval, PairedTest, bootstrap_interval, paired_test

if TYPE_CHECKING:
    from mmda.vmr.annotations import VMRQuery


@dataclass(frozen=True)
class Evaluation:
    """One row of a table, with per-query values.

    Args:
        name: the row's label.
        hits: (queries, n, m) bool, see :class:`mmda.metrics.Recall`.
        ious: (queries,) best IoU of the first prediction.
        videos: (queries,) video of each query, the unit of resampling.
        n: numbers of predictions.
        iou: thresholds.
        preset: the evaluation convention.
        discounts: (queries, n, m) values of dR@n, if requested.
    """

    name: str
    hits: NDArray[np.bool_] = field(repr=False)
    ious: Floats = field(repr=False)
    videos: NDArray[Any] = field(repr=False)
    n: tuple[int, ...]
    iou: tuple[float, ...]
    preset: Preset = DEFAULT
    discounts: Floats | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.ious)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names accepted by :meth:`values`, in the order of the row: ``"R@1, IoU=0.5"``, ..., ``"mIoU"``."""
        cells = [f"R@{n}, IoU={iou:g}" for n in self.n for iou in self.iou]
        discounted = [] if self.discounts is None else [f"d{cell}" for cell in cells]
        return (*cells, *discounted, "mIoU")

    def values(self, metric: str) -> Floats:
        """Per-query values of one metric; their mean is the metric.

        Raises:
            ValueError: the metric is not one of :attr:`metrics`.
        """
        if metric not in self.metrics:
            fail("Evaluation.values", "metric", f"be one of {', '.join(map(repr, self.metrics))}", repr(metric))
        if metric == "mIoU":
            return self.ious
        at = self.metrics.index(metric)
        if self.discounts is not None and metric.startswith("d"):
            return self.discounts.reshape(len(self), -1)[:, at - self.hits[0].size]
        return self.hits.reshape(len(self), -1)[:, at].astype(np.float64)

    def __getitem__(self, metric: str) -> float:
        return float(self.values(metric).mean())

    def as_dict(self) -> dict[str, float]:
        """Every metric, in [0, 1]."""
        return {metric: self[metric] for metric in self.metrics}

    def interval(self, metric: str, *, seed: int = 0, samples: int = 2000, level: float = 0.95) -> Interval:
        """Bootstrap interval of one metric over videos, see :func:`bootstrap_interval`."""
        values = self.values(metric)
        return bootstrap_interval(values, groups=self.videos, seed=seed, samples=samples, level=level)

    def compare(self, other: Evaluation, metric: str, *, seed: int = 0, samples: int = 10_000) -> PairedTest:
        """Paired test against another row on the same queries, see :func:`paired_test`.

        Raises:
            ValueError: the rows have different queries.
        """
        if not np.array_equal(self.videos, other.videos):
            fail("Evaluation.compare", "other", "be over the same queries in the same order", f"{len(other)} rows")
        mine, theirs = self.values(metric), other.values(metric)
        return paired_test(mine, theirs, groups=self.videos, seed=seed, samples=samples)

    def header(self, *, width: int = 28) -> str:
        """The line above :meth:`row`."""
        return f"{'':{width}}" + "".join(f"{metric:>14}" for metric in self.metrics)

    def row(self, *, width: int = 28) -> str:
        """The name and every metric in per cent, in columns."""
        return f"{self.name:{width}}" + "".join(f"{100 * v:14.1f}" for v in self.as_dict().values())

    def __str__(self) -> str:
        """Header and row."""
        return f"{self.header()}\n{self.row()}"


def pad_spans(spans: Iterable[Sequence[Sequence[float]]]) -> tuple[Tensor, Tensor]:
    """Pad ragged lists of spans to a tensor (q, k, 2), float64, with a mask (q, k), True where a span exists.

    Args:
        spans: the spans ``(start, end)`` of each query.

    Returns:
        ``(padded, mask)``; k is the longest list's length, at least 1.

    Raises:
        ValueError: if a span is not a pair. For ``(start, end, score)`` from prediction files use
            :func:`align_predictions`.

    Example:
        >>> padded, mask = pad_spans([[(0.0, 1.0), (2.0, 3.0)], [(4.0, 5.0)]])
        >>> padded.shape, mask.tolist()
        (torch.Size([2, 2, 2]), [[True, True], [True, False]])
    """
    rows = [list(row) for row in spans]
    counts = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
    width = max(1, int(counts.max(initial=0)))
    mask = np.arange(width) < counts[:, None]
    padded = np.zeros((len(rows), width, 2))
    flat = [span for row in rows for span in row]
    longer = next((span for span in flat if len(span) != 2), None)
    if longer is not None:
        fail(
            "pad_spans",
            "spans",
            "hold pairs (start, end); pass scores separately",
            f"{len(longer)} numbers, {list(longer)}",
        )
    if flat:
        padded[mask] = np.asarray(flat, dtype=np.float64)
    return torch.from_numpy(padded), torch.from_numpy(mask)


def evaluate(
    predictions: Tensor,
    queries: Iterable[VMRQuery],
    *,
    scores: Tensor | None = None,
    prediction_mask: Tensor | None = None,
    preset: Preset = DEFAULT,
    n: Sequence[int] = (1, 5),
    iou: Sequence[float] = (0.3, 0.5, 0.7),
    discounted: bool = False,
    no_moment: Literal["raise", "miss"] = "raise",
    name: str = "",
) -> Evaluation:
    """Recall@n at IoU and mean IoU of predicted spans against annotated queries; higher is better.

    The best window of a query counts. Predictions are clipped to [0, duration] if the preset has ``clip``, as the
    default has, unlike those of public evaluators.

    Args:
        predictions: spans of each query in seconds; best first unless ``scores`` says otherwise.
        queries: the annotated queries, in the order of the predictions.
        scores: scores for ranking; by default the given order.
        prediction_mask: True where a prediction exists.
        preset: convention for comparison, union, suppression, clipping and rounding.
        n: numbers of predictions.
        iou: thresholds.
        discounted: add dR@n, IoU=m, see :func:`mmda.metrics.discounted_recall_at_iou`.
        no_moment: how to handle queries without a moment: raise an error, or count a ``"miss"`` in every metric.
            Annotations read with ``unusable="miss"`` have such queries.
        name: label of the row.

    Shape:
        ``predictions`` (q, k, 2) or (q, 2), ``scores`` and ``prediction_mask`` (q, k).

    Returns:
        An :class:`Evaluation`.

    Raises:
        ValueError: a query has no moment and ``no_moment`` is ``"raise"``, a prediction is not finite, a duration is
            not above 0, or shapes do not fit.

    Example:
        >>> from mmda.vmr.annotations import VMRQuery
        >>> query = VMRQuery("q", "v", "a dog runs", 10.0, ((2.0, 6.0),))
        >>> result = evaluate(torch.tensor([[[2.0, 5.0]]]), [query], n=(1,), name="one span")
        >>> result["R@1, IoU=0.7"], result["mIoU"]
        (1.0, 0.75)
    """
    rows = list(queries)
    check_choice("evaluate", "no_moment", no_moment, ("raise", "miss"))
    for query in rows:
        if len(query.windows) == 0 and no_moment == "raise":
            fail("evaluate", "queries", "each have at least one moment", f"none for query {query.qid!r}")
    check_floating("evaluate", "predictions", predictions)
    if predictions.ndim == 0 or len(predictions) != len(rows):
        fail("evaluate", "predictions", f"have one row for each of {len(rows)} queries", shape_text(predictions))
    windows, window_mask = pad_spans([query.windows for query in rows])
    duration = torch.tensor([query.duration for query in rows], dtype=torch.float64)
    return evaluate_windows(
        predictions,
        windows,
        window_mask=window_mask,
        videos=[query.vid for query in rows],
        duration=duration,
        scores=scores,
        prediction_mask=prediction_mask,
        preset=preset,
        n=n,
        iou=iou,
        discounted=discounted,
        no_moment=no_moment,
        name=name,
    )


def evaluate_windows(
    predictions: Tensor,
    windows: Tensor,
    *,
    window_mask: Tensor | None = None,
    videos: Sequence[object] | NDArray[Any] | None = None,
    duration: Tensor | None = None,
    scores: Tensor | None = None,
    prediction_mask: Tensor | None = None,
    preset: Preset = DEFAULT,
    n: Sequence[int] = (1, 5),
    iou: Sequence[float] = (0.3, 0.5, 0.7),
    discounted: bool = False,
    no_moment: Literal["raise", "miss"] = "raise",
    name: str = "",
) -> Evaluation:
    """:func:`evaluate` for windows given as tensors, as in a batch.

    Args:
        predictions: spans of each query; best first unless ``scores`` says otherwise.
        windows: ground-truth moments of each query.
        window_mask: True where a window exists.
        videos: video of each query, the unit of resampling; by default each query is its own unit.
        duration: length of each video, to which a preset with ``clip`` clips predictions.
        scores: scores for ranking.
        prediction_mask: True where a prediction exists.
        preset: evaluation convention.
        n: numbers of predictions.
        iou: thresholds.
        discounted: add dR@n, IoU=m, see :func:`mmda.metrics.discounted_recall_at_iou`.
        no_moment: how to handle queries without a moment: raise an error, or count a ``"miss"`` in every metric.
            Annotations read with ``unusable="miss"`` have such queries.
        name: label of the row.

    Shape:
        ``predictions`` (q, k, 2) or (q, 2), ``windows`` (q, w, 2) or (q, 2), ``duration`` (q,), the others
        (q, k) and (q, w).

    Returns:
        An :class:`Evaluation`.

    Raises:
        ValueError: a query has no window and ``no_moment`` is ``"raise"``, a prediction is not finite, a duration is
            not above 0, or shapes do not fit.

    Example:
        >>> spans = torch.tensor([[0.0, 4.0], [1.0, 2.0]])
        >>> evaluate_windows(spans, torch.tensor([[0.0, 4.0], [4.0, 8.0]]), n=(1,))["mIoU"]
        0.5
    """
    caller = "evaluate_windows"
    check_floating(caller, "predictions", predictions)
    check_floating(caller, "windows", windows)
    found = predictions.detach().to("cpu", torch.float64)
    truth = windows.detach().to("cpu", torch.float64)
    found = found.unsqueeze(1) if found.ndim == 2 else found
    truth = truth.unsqueeze(1) if truth.ndim == 2 else truth
    if found.ndim != 3 or found.shape[-1] != 2:
        fail(caller, "predictions", "have shape (queries, predictions, 2)", shape_text(predictions))
    count = found.shape[0]
    mask = torch.ones(found.shape[:2], dtype=torch.bool)
    if prediction_mask is not None:
        check_mask(caller, "prediction_mask", prediction_mask, found.shape[:2], device=prediction_mask.device)
        mask = prediction_mask.cpu()
    finite = torch.isfinite(found).all(dim=-1) | ~mask
    if not bool(finite.all()):
        row = int((~finite).any(dim=1).nonzero()[0, 0])
        fail(caller, "predictions", "be finite where they are not masked", f"a non-finite span in row {row}")
    if count == 0:
        fail(caller, "predictions", "hold at least one query", shape_text(predictions))
    windows_mask = None
    if truth.ndim != 3 or truth.shape[0] != count or truth.shape[-1] != 2:
        fail(caller, "windows", f"have shape ({count}, windows, 2)", shape_text(windows))
    labelled = torch.full((count,), truth.shape[1] > 0)
    if window_mask is not None:
        check_mask(caller, "window_mask", window_mask, truth.shape[:2], device=window_mask.device)
        windows_mask = window_mask.cpu()
        labelled = windows_mask.any(dim=1)
    if not bool(labelled.all()) and no_moment == "raise":
        fail(caller, "windows", "each have at least one moment", f"none in row {int((~labelled).nonzero()[0, 0])}")
    if duration is not None and not bool((duration > 0).all()):
        fail(caller, "duration", "be above 0", f"{float(duration.min()):g}")
    if scores is None:
        order = -torch.arange(found.shape[1], dtype=torch.float64).expand(count, -1)
    else:
        check_floating(caller, "scores", scores)
        order = scores.detach().to("cpu", torch.float64)
    units = np.arange(count) if videos is None else np.asarray(videos)
    if units.shape != (count,):
        fail(caller, "videos", f"name one video for each of {count} queries", f"{units.shape}")
    ranked, keep = select_spans(
        found,
        order,
        top_n=max(n, default=1),
        preset=preset,
        mask=mask,
        duration=None if duration is None else duration.detach().to("cpu", torch.float64),
    )
    how: dict[str, Any] = {"n": n, "iou": iou, "prediction_mask": keep, "window_mask": windows_mask}
    how |= {"strict": preset.strict, "tolerance": preset.tolerance, "union": preset.union}
    recall = recall_at_iou(ranked, truth, **how)
    discounts = None
    if discounted:
        if duration is None:
            fail(caller, "duration", "be given if `discounted` is True", "none")
        lengths = duration.detach().to("cpu", torch.float64)
        discounts = discounted_recall_at_iou(ranked, truth, lengths, **how).numpy()
    first = best_iou(ranked[:, :1], truth, prediction_mask=keep[:, :1], window_mask=windows_mask, union=preset.union)
    return Evaluation(
        name=name,
        hits=recall.hits.numpy(),
        ious=first[:, 0].numpy(),
        videos=units,
        n=recall.n,
        iou=recall.iou,
        preset=preset,
        discounts=discounts,
    )
